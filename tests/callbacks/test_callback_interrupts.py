"""Ctrl-C at every point of each call: what was asked for happens, or it was not asked for.

Whoever interrupts a program, and goes on with it, must not have to ask for the same thing again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from callbacks.clients import GUARD, QUICK, Heard, opened, peered, served, wait_until

from anyws import Status
from anyws.callbacks import Client, Closed, Event, Message, Opened, Pong, _run

if TYPE_CHECKING:
    from interrupts import Sweep

    import anyws.sync

pytestmark = pytest.mark.timeout(60)


def test_an_interrupt_in_send_sends_the_message_or_does_not(sweep: Sweep) -> None:
    received: list[Any] = []

    def take(ws: anyws.sync.WebSocket) -> None:
        received.extend(ws)

    sent: list[str] = []
    with served(take) as url, opened(url) as (client, _):
        for at in sweep:
            sweep.interrupt(at, lambda at=at: client.send(str(at)))
            # Nobody has to call anything for that.
            wait_until(lambda: not client.pending_bytes)
            if not sweep.interrupted:
                sent.append(str(at))
        for number in range(10):
            client.send(f"and {number}")
            sent.append(f"and {number}")
        wait_until(lambda: received[-1:] == sent[-1:])
    assert received[-11:] == sent
    assert len(set(received)) == len(received)
    assert received[:-10] == sorted(received[:-10], key=int)


def test_an_interrupt_of_a_send_that_waits_for_room_leaves_nothing(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_run, "MAX_OUTBOX_MESSAGES", 1)
    with peered() as (url, peer), opened(url, peer=peer) as (client, _):
        client.send(b"x" * 30_000_000)
        for at in sweep:
            sweep.interrupt(at, lambda: client.send("y", timeout=0.002))
            assert client._run._senders == []
            assert client.pending_bytes == 30_000_000


def test_an_interrupt_in_ping_sends_it_or_does_not(sweep: Sweep) -> None:
    with served() as url, opened(url) as (client, heard):
        for at in sweep:
            sweep.interrupt(at, client.ping)
            # Where the loop is about to look anyway, a ping is over too soon to be interrupted.
            wait_until(lambda: not (client._run._pings or client._run._poked))
        # What is echoed comes after the pongs of all the pings before it.
        client.send("and then")
        heard.wait_for(Message)
        pongs = len(heard.of(Pong))
        assert 1 <= pongs <= at
        client.ping()
        heard.wait_for(Pong, pongs + 1)


@pytest.mark.parametrize("polled", [False, True])
def test_an_interrupt_in_close_closes_or_does_not(sweep: Sweep, polled: bool) -> None:
    with served() as url:
        for at in sweep:
            heard = Heard()
            client = Client(url, heard, config=QUICK, polled=polled)
            client.open()
            if polled:
                assert client.poll(GUARD)
            heard.wait_for(Opened)
            sweep.interrupt(at, lambda client=client: client.close(4000, "enough"))
            if client.is_open:
                client.close(4000, "enough")
            if polled:
                while not heard.ends:
                    assert client.poll(GUARD)
            closed = heard.wait_for(Closed)
            assert closed.clean
            assert closed.code == 4000


def test_an_interrupt_in_open_opens_or_does_not(sweep: Sweep) -> None:
    with served(lambda ws: list(ws)) as url:
        for at in sweep:
            heard = Heard()
            client = Client(url, heard, config=QUICK)
            sweep.interrupt(at, client.open)
            if client.status is Status.CLOSED and not heard.events:
                client.open()
            heard.wait_for(Opened)
            client.close()
            heard.wait_for(Closed)


def test_an_interrupt_in_poll_loses_no_event_and_tells_none_twice(sweep: Sweep) -> None:
    number = 3

    def send(ws: anyws.sync.WebSocket) -> None:
        for index in range(number):
            ws.send(str(index))
        ws.close()

    with served(send) as url:
        for at in sweep:
            told: list[Event] = []
            client = Client(url, told.append, config=QUICK, polled=True)
            client.open()
            deadline = time.monotonic() + GUARD

            def poll(client: Client = client, told: list[Event] = told) -> None:
                while client.status is not Status.CLOSED or client.poll():
                    client.poll(1)
                    assert time.monotonic() < deadline  # noqa: B023 - called in this round

            sweep.interrupt(at, poll)
            poll()
            assert [type(event) for event in told] == [Opened, *[Message] * number, Closed]
            # One that waits is interrupted in many places: they are enough.
            if at > 400:
                break

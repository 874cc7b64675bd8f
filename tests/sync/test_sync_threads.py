"""Several threads at one blocking connection: one receives, many send, any of them closes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import pytest
from anyio import BusyResourceError
from bars.peers import CONT, PONG, TEXT
from bars.raw import GUARD
from sync.peers import LARGE, both_ends, client_of_peer, connected, pair, stream_of

import anyws
from anyws import Config, Role, Status
from anyws._transports import blocking, blocking_stream

pytestmark = pytest.mark.timeout(40)

every_role = pytest.mark.parametrize("role", list(Role))

PATIENT = Config(close_timeout=20)


# --- Sending ---


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_messages_of_many_threads_arrive_whole_and_each_sender_s_in_order(kind: str, run) -> None:
    senders, messages = 6, 60
    sizes = [0, 10, 1000, 70_000]

    def send_all(ws: anyws.sync.WebSocket, sender: int) -> None:
        for number in range(messages):
            ws.send(f"{sender} {number} " + "x" * sizes[(sender + number) % len(sizes)])

    def receive_all(ws: anyws.sync.WebSocket) -> dict[int, list[int]]:
        seen: dict[int, list[int]] = {}
        for _ in range(senders * messages):
            sender, number, filling = ws.receive(20).split(" ")
            assert len(filling) == sizes[(int(sender) + int(number)) % len(sizes)]
            seen.setdefault(int(sender), []).append(int(number))
        return seen

    with connected(kind) as (client, server):
        receiving = [run(receive_all, ws) for ws in (client, server)]
        sending = [run(send_all, ws, n) for ws in (client, server) for n in range(senders)]
        for one in sending:
            one.result(30)
        for one in receiving:
            assert one.result(30) == {n: list(range(messages)) for n in range(senders)}


def test_messages_never_come_between_the_fragments_of_another(run) -> None:
    def send_whole(ws: anyws.sync.WebSocket) -> None:
        for _ in range(40):
            ws.send("whole" * 1000)

    def send_in_fragments(ws: anyws.sync.WebSocket) -> None:
        for _ in range(10):
            ws.send_fragments(["frag", "ments" * 1000, "", "!"])

    with both_ends() as (client, server):
        sending = [run(f, client) for f in (send_whole, send_in_fragments) for _ in range(3)]
        received = [server.receive(20) for _ in range(3 * 50)]
        assert {message[:4] for message in received} == {"whol", "frag"}
        assert {len(message) for message in received} == {5000, 5005}
        assert received.count("frag" + "ments" * 1000 + "!") == 30
        for one in sending:
            one.result(20)


@every_role
def test_fragments_of_one_thread_hold_up_the_messages_of_others_but_not_pings(
    role: Role, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    # So that a reader who comes back by itself does so far too late.
    for module in (blocking, blocking_stream):
        monkeypatch.setattr(module, "_PATIENCE", 100.0)
    with pair(role) as (ws, peer):
        with ws.open_message() as message:
            message.send("begun")
            other = run(ws.send, "whole")
            third = run(ws.send_fragments, ["a", "b"])
            pinging = run(ws.ping)
            assert peer.next() == (TEXT, b"begun", False)
            peer.send(PONG, peer.next_frame().payload)
            pinging.result(5)
            # Meanwhile those who wait serve the connection.
            peer.send(9, b"x")
            assert peer.next()[:2] == (PONG, b"x")
            assert not wait([other, third], 0).done
        other.result(5)
        third.result(5)
        assert peer.next() == (CONT, b"", True)
        rest = [peer.next() for _ in range(4)]
        whole = (TEXT, b"whole", True)
        parts = [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"", True)]
        assert rest in ([whole, *parts], [*parts, whole])


def test_a_message_that_waits_for_its_turn_is_released_by_the_end(run) -> None:
    with pair() as (ws, peer):
        with pytest.raises(anyws.ConnectionBroken):
            with ws.open_message() as message:
                message.send("begun")
                waiting = [run(ws.send, "whole"), run(ws.open_message().__enter__)]
                peer.close()
                for one in waiting:
                    with pytest.raises(anyws.ConnectionBroken):
                        one.result(5)


def test_large_messages_both_ways_do_not_wait_for_one_another(run) -> None:
    """Neither end receives before it has sent, as long as their inboxes have room."""

    def send_and_receive(ws: anyws.sync.WebSocket) -> int:
        ws.send(b"x" * LARGE)
        return len(ws.receive(20))

    for connecting in (both_ends, connected):
        with connecting() as (client, server):
            exchanging = [run(send_and_receive, ws) for ws in (client, server)]
            assert [one.result(20) for one in exchanging] == [LARGE, LARGE]


def test_a_write_goes_on_where_another_thread_reads(run) -> None:
    """The peer takes nothing until it is rid of what it sends itself."""

    def send_and_receive(ws: anyws.sync.WebSocket) -> int:
        for _ in range(3):
            ws.send(b"y" * LARGE)
        return len(ws.receive(20))

    with both_ends() as (client, server):
        receiving = run(lambda: [len(client.receive(20)) for _ in range(3)])
        assert stream_of(client).reads.wait(GUARD)
        exchanging = run(send_and_receive, server)
        client.send(b"x" * LARGE)
        assert receiving.result(20) == [LARGE] * 3
        assert exchanging.result(20) == LARGE


@every_role
def test_a_peer_that_takes_nothing_breaks_the_write_after_its_timeout(role: Role, run) -> None:
    with pair(role, Config(write_timeout=0.3)) as (ws, peer):
        began = time.monotonic()
        waiting = []
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        waiting = [run(ws.send, "behind it"), run(ws.receive)]
        for one in (sending, *waiting):
            with pytest.raises(anyws.ConnectionBroken, match=r"took nothing for 0\.3 s"):
                one.result(10)
        assert 0.25 < time.monotonic() - began < 5
        assert peer.until_end() == []  # half a frame, and none behind it


def test_a_slow_reader_is_waited_for_as_long_as_it_takes_something(run) -> None:
    with pair(config=Config(write_timeout=1)) as (ws, peer):
        began = time.monotonic()
        sending = run(ws.send, b"x" * 220_000)
        received = 0
        pause = threading.Event()
        while received < 220_000:
            chunk = peer.raw.recv(8192)
            assert chunk, "the write was given up"
            received += len(chunk)
            pause.wait(0.05)  # it is slow
        sending.result(5)
        assert time.monotonic() - began > 1


# --- Receiving ---


@every_role
def test_one_thread_receives_at_a_time(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        receiving = run(ws.receive)
        assert stream_of(ws).reads.wait(GUARD)
        for call in (ws.receive, lambda: ws.receive(0), lambda: ws.receive_fragments().__enter__()):
            with pytest.raises(BusyResourceError):
                call()
        peer.send(TEXT, b"x")
        assert receiving.result(5) == "x"
        peer.send(TEXT, b"y")
        assert ws.receive(5) == "y"


def test_what_one_thread_reads_another_receives(run) -> None:
    """A thread that waits for a pong reads for the one that waits for a message."""
    with pair() as (ws, peer):
        pinging = run(ws.ping)
        assert stream_of(ws).reads.wait(GUARD)
        receiving = run(ws.receive)
        ping = peer.next_frame()
        peer.send(TEXT, b"x")
        assert receiving.result(5) == "x"
        peer.send(PONG, ping.payload)
        pinging.result(5)


# --- The end ---


@every_role
@pytest.mark.parametrize("answers", [True, False])
def test_close_releases_a_receiver_soon(role: Role, answers: bool, run) -> None:
    with pair(role, PATIENT) as (ws, peer):
        receiving = run(ws.receive)
        assert stream_of(ws).reads.wait(GUARD)
        closing = run(ws.close)
        if answers:
            peer.next_frame()
            peer.send(8, b"\x03\xe8")
            peer.raw.shutdown(1)
        with pytest.raises(anyws.ClosedByUs):
            receiving.result(3)
        peer.close()
        assert closing.result(5).clean is answers


@every_role
def test_abort_releases_every_thread_at_once(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        waiting = [run(ws.send, b"x" * LARGE)]
        assert stream_of(ws).writes.wait(GUARD)
        waiting += [run(ws.receive), run(ws.send, "x"), run(ws.ping)]
        began = time.monotonic()
        ws.abort()
        for one in waiting:
            with pytest.raises(anyws.ClosedByUs):
                one.result(5)
        assert time.monotonic() - began < 2
        assert stream_of(ws).socket.fileno() == -1
        assert peer.until_end() == []


def test_any_number_of_threads_may_close(run) -> None:
    with client_of_peer(config=PATIENT) as (ws, peer):
        closing = [run(ws.close, 1000 + n) for n in range(4) if n != 4]
        first = peer.next_frame()
        peer.send(8, first.payload)
        peer.close()
        closures = {one.result(5) for one in closing}
        assert len(closures) == 1
        assert closures.pop().clean
        assert ws.status is Status.CLOSED


def test_leaving_the_block_waits_for_nobody_s_receive(run) -> None:
    with connected() as (client, server):
        receiving = [run(client.receive), run(server.receive)]
    for one in receiving:
        with pytest.raises(anyws.ConnectionClosed):
            one.result(5)

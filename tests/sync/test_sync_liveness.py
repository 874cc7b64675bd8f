"""Pings with calls that wait: the program's own, the peer's, and those of keepalive."""

from __future__ import annotations

import threading
import time

import pytest
from bars.peers import PING, PONG, TEXT
from bars.raw import GUARD
from sync.peers import LARGE, Peer, both_ends, pair, stream_of

import anyws
from anyws import Config, Role

pytestmark = pytest.mark.timeout(30)

every_role = pytest.mark.parametrize("role", list(Role))

# Asks soon, and gives up soon.
IMPATIENT = Config(ping_interval=0.1, ping_timeout=0.1, close_timeout=1)


def flood(peer: Peer, data: bytes) -> None:
    try:
        while True:
            peer.push(data)
    except OSError:
        pass


# --- The program's ---


def test_a_ping_takes_some_seconds_and_says_how_many(run) -> None:
    with both_ends() as (client, server):
        for one, other in [(client, server), (server, client)]:
            receiving = run(other.receive)
            seconds = one.ping(10)
            assert 0 <= seconds < 5
            assert one.latency == seconds
            one.send("x")
            assert receiving.result(10) == "x"


@every_role
def test_a_ping_given_up_is_forgotten_and_its_late_pong_means_nothing(role: Role) -> None:
    with pair(role) as (ws, peer):
        for timeout in (0, 0.02):
            with pytest.raises(TimeoutError, match=f"no pong came within {timeout} s"):
                ws.ping(timeout)
            peer.send(PONG, peer.next_frame().payload)
        peer.send(PONG, b"unasked")
        peer.send(TEXT, b"fine")
        assert ws.receive(5) == "fine"
        assert ws.latency is None
        assert not ws._keepalive._pings


@every_role
def test_pings_of_several_threads_are_answered_each_or_by_the_last(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        pinging = [run(ws.ping, 10) for _ in range(4)]
        sent = [peer.next_frame().payload for _ in range(4)]
        peer.send(PONG, sent[-1])
        assert all(one.result(5) >= 0 for one in pinging)


def test_a_ping_is_released_by_the_end_of_the_connection(run) -> None:
    for end, error in [
        (lambda peer: peer.close(), anyws.ConnectionBroken),
        (lambda peer: peer.send(8, b"\x03\xe8"), anyws.ClosedByPeer),
    ]:
        with pair() as (ws, peer):
            pinging = run(ws.ping)
            peer.next_frame()
            end(peer)
            with pytest.raises(error):
                pinging.result(5)
            with pytest.raises(error):
                ws.ping()


@every_role
def test_a_ping_that_waits_for_room_goes_out_although_nothing_may_be_read(role: Role, run) -> None:
    """Messages that nobody takes are no reason not to write."""
    with pair(role, Config(inbox_size=1, ping_interval=None)) as (ws, peer):
        for word in (b"first", b"second"):
            peer.send(TEXT, word)
        asked = 0
        while not ws._transport._unsent:
            asked += 1
            with pytest.raises(TimeoutError):
                ws.ping(0)
        pinging = run(ws.ping, 20)
        assert stream_of(ws).writes.wait(GUARD)
        assert [peer.next_frame().opcode for _ in range(asked + 1)] == [PING] * (asked + 1)
        ws.abort()
        with pytest.raises(anyws.ClosedByUs):
            pinging.result(5)


# --- The peer's ---


@every_role
def test_pings_are_answered_while_a_call_waits_for_something_else(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        for call in (ws.receive, ws.ping):
            waiting = run(call)
            if call == ws.ping:
                asked = peer.next_frame()
            for payload in (b"", b"x" * 125):
                peer.send(PING, payload)
                assert peer.next()[:2] == (PONG, payload)
            if call == ws.ping:
                peer.send(PONG, asked.payload)
            else:
                peer.send(TEXT, b"done")
            waiting.result(5)


@every_role
def test_behind_a_stuck_write_the_latest_of_many_pings_is_answered(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        peer.push(b"".join(peer.frame(PING, b"%d" % n) for n in range(50)))
        peer.send(TEXT, b"all were read")
        assert ws.receive(5) == "all were read"
        assert len(peer.next_frame().payload) == LARGE
        assert peer.next()[:2] == (PONG, b"49")
        sending.result(5)
        # Now each has its own again.
        peer.push(b"".join(peer.frame(PING, b"%d" % n) for n in range(3)))
        with pytest.raises(TimeoutError):
            ws.receive(0)
        assert [peer.next_frame().payload for _ in range(3)] == [b"0", b"1", b"2"]


@every_role
def test_pings_behind_a_message_are_answered_while_a_write_is_stuck(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        peer.push(peer.frame(TEXT, b"first") + peer.frame(PING, b"behind"))
        assert len(peer.next_frame().payload) == LARGE
        assert peer.next()[:2] == (PONG, b"behind")
        sending.result(5)
        assert ws.receive(0) == "first"


@every_role
@pytest.mark.parametrize("call", ["receive", "send"])
def test_a_flood_of_pings_from_a_peer_that_does_not_read_costs_little(
    role: Role, call: str, run
) -> None:
    with pair(role, Config(write_timeout=0.5, ping_interval=None)) as (ws, peer):
        flooding = run(flood, peer, peer.frame(PING, b"x" * 125) * 500)
        if call == "receive":
            with pytest.raises(TimeoutError):
                ws.receive(0.5)
            assert len(ws._transport._unsent) < 1 << 16
        else:
            sending = run(ws.send, b"x" * LARGE)
            assert stream_of(ws).writes.wait(GUARD)
            sizes: list[int] = []
            while not (sizes and sending.done()):
                sizes.append(ws._protocol.unparsed_bytes + 131 * len(ws._protocol.replies))
            assert max(sizes) < 1 << 19
            with pytest.raises(anyws.ConnectionBroken, match="stalled"):
                sending.result(5)
        ws.abort()
        flooding.result(5)


def test_a_flood_of_pongs_is_read_and_means_nothing(run) -> None:
    with pair(config=Config(ping_interval=0.1, ping_timeout=0.1)) as (ws, peer):
        data = peer.frame(PONG, b"x" * 100) * 1000
        begun = threading.Event()

        def push() -> None:
            for _ in range(50):
                peer.push(data)
                begun.set()
            peer.send(TEXT, b"end")

        pushing = run(push)
        assert begun.wait(GUARD)
        assert ws.receive(20) == "end"
        pushing.result(5)
        assert ws.is_open


# --- Keepalive ---


@every_role
@pytest.mark.parametrize("call", ["receive", "ping", "send"])
def test_a_silent_peer_is_found_out_in_whatever_call_waits(role: Role, call: str) -> None:
    with pair(role, IMPATIENT) as (ws, peer):
        began = time.monotonic()
        with pytest.raises(anyws.ConnectionBroken, match="no sign of life") as caught:
            if call == "send":
                ws.send(b"x" * LARGE)
            else:
                getattr(ws, call)()
        assert 0.15 < time.monotonic() - began < 5
        assert caught.value.closure.code == 1006
        if call != "send":
            assert {f.opcode for f in peer.until_end()} == {PING}
        with pytest.raises(anyws.ConnectionBroken):
            ws.send("x")


def test_a_peer_is_asked_after_each_interval_of_silence(run) -> None:
    with pair(config=Config(ping_interval=0.05, ping_timeout=100)) as (ws, peer):

        def answering() -> None:
            for _ in range(5):
                received = peer.next_frame()
                assert received.opcode == PING
                peer.send(PONG, received.payload)
            peer.send(TEXT, b"enough")

        answers = run(answering)
        assert ws.receive(20) == "enough"
        answers.result(5)


@pytest.mark.parametrize("answer", [PONG, TEXT])
def test_a_peer_that_gives_any_sign_of_life_is_kept(answer: int, run) -> None:
    with pair(config=Config(ping_interval=0.1, ping_timeout=1, inbox_size=None)) as (ws, peer):

        def answering() -> int:
            pings = 0
            while True:
                received = peer.next_frame()
                if received.opcode != PING:
                    return pings
                pings += 1
                peer.send(answer, received.payload if answer == PONG else b"alive")

        answers = run(answering)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            try:
                assert ws.receive(0.2) == "alive"
            except TimeoutError:
                pass
        assert ws.is_open
        ws.send("done")
        assert answers.result(5) >= 3


def test_no_keepalive_asks_nothing() -> None:
    with pair(config=Config(ping_interval=None)) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.receive(0.2)
        ws.abort()
        assert peer.until_end() == []


def test_a_peer_is_not_blamed_for_the_time_that_the_program_was_elsewhere() -> None:
    with pair(config=Config(ping_interval=0.1, ping_timeout=0.8, close_timeout=1)) as (ws, peer):
        for _ in range(2):
            sent = ws._keepalive.pings_sent
            while ws._keepalive.pings_sent == sent:
                with pytest.raises(TimeoutError):
                    ws.receive(0.2)
            peer.send(PONG, peer.next_frame().payload)
            time.sleep(0.9)  # this is the time elsewhere
        peer.send(TEXT, b"alive")
        assert ws.receive(5) == "alive"


@pytest.mark.parametrize("call", ["ping", "send"])
def test_a_peer_is_not_blamed_for_a_full_inbox(call: str) -> None:
    """What it has said stands behind messages that nobody takes."""
    config = Config(ping_interval=0.1, ping_timeout=0.5, inbox_size=1, write_timeout=1.5)
    with pair(config=config) as (ws, peer):
        for word in (b"first", b"second", b"third"):
            peer.send(TEXT, word)
        if call == "ping":
            with pytest.raises(TimeoutError):
                ws.ping(1.5)
            assert [ws.receive(1) for _ in range(3)] == ["first", "second", "third"]
        else:
            with pytest.raises(anyws.ConnectionBroken, match="stalled"):
                ws.send(b"x" * LARGE)


def test_a_connection_that_closes_is_asked_for_no_sign_of_life() -> None:
    with pair(config=Config(ping_interval=0.1, ping_timeout=0.1, close_timeout=0.5)) as (ws, peer):
        closure = ws.close()
        assert "did not come in time" in closure.cause
        assert [f.opcode for f in peer.until_end()] == [8]

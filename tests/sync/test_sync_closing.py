"""How a blocking connection ends: who said what on the wire, and what the calls say afterwards."""

from __future__ import annotations

import gc
import re
import time
import warnings
import weakref

import pytest
from bars.peers import BINARY, CLOSE, PING, TEXT
from frames import close_frame, frame
from sync.peers import LARGE, QUICK, Peer, RawServer, client_of_peer, connected, pair, stream_of

import anyws
import anyws.sync
from anyws import Close, Config, Role, Status

pytestmark = pytest.mark.timeout(30)

every_network = pytest.mark.parametrize("kind", ["tcp", "tls"])
every_role = pytest.mark.parametrize("role", list(Role))

NORMAL = (1000).to_bytes(2, "big")
# The peer may take its time.
PATIENT = Config(cancel_grace=20, close_timeout=20)


def code_of(payload: bytes) -> int:
    return int.from_bytes(payload[:2], "big")


def sent_to(peer: Peer) -> list[tuple[int, bytes]]:
    """All that the other end has sent, to its end; the last frame must be whole."""
    frames = [(f.opcode, f.payload) for f in peer.until_end()]
    assert peer.received == b"", "the stream ended inside a frame"
    return frames


# --- The block ---


@every_network
def test_a_body_that_returns_closes_with_1000_and_waits_for_the_answer(kind: str, run) -> None:
    with RawServer(kind) as server:

        def answer() -> tuple[list[tuple[int, bytes]], Status]:
            peer = server.peer()
            first = peer.next_frame()
            status = ws.status
            peer.send(CLOSE, first.payload)
            peer.close()
            return (first.opcode, first.payload), status

        with anyws.sync.open_websocket(
            server.url, ssl_context=server.ssl_context, config=QUICK
        ) as ws:
            server.peer()
            assert ws.status is Status.OPEN
            answering = run(answer)
        assert answering.result(10) == ((CLOSE, NORMAL), Status.CLOSING)
        assert ws.status is Status.CLOSED
        assert ws.closure == anyws.Closure(
            Close(1000),
            Close(1000),
            "ours",
            clean=True,
            cause="this end closed the connection with 1000 (normal)",
        )
        assert "closed" in repr(ws)


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), ExceptionGroup("a", [OSError()])],
)
def test_a_body_that_raises_closes_with_1001_and_its_error_leaves_as_it_is(error, run) -> None:
    with RawServer() as server:
        with pytest.raises(type(error)) as caught:
            with anyws.sync.open_websocket(server.url, config=PATIENT) as ws:
                closing = run(server.peer().until_close)
                raise error
        assert caught.value is error
        assert (error.__cause__, error.__context__) == (None, None)
        assert [code_of(f.payload) for f in closing.result(10)] == [1001]
        assert ws.closure.clean


@pytest.mark.parametrize("grace", [0, 0.2])
def test_a_body_that_raises_waits_no_longer_than_its_grace(grace: float) -> None:
    with RawServer() as server:
        began = time.monotonic()
        with pytest.raises(ValueError, match="mine"):
            with anyws.sync.open_websocket(
                server.url, config=Config(cancel_grace=grace, close_timeout=20)
            ) as ws:
                peer = server.peer()
                raise ValueError("mine")
        assert time.monotonic() - began < 5
        assert [code_of(payload) for _, payload in sent_to(peer)] == [1001]
        assert not ws.closure.clean
        assert ws.closure.received is None
        assert "did not come in time" in ws.closure.cause


def test_a_server_that_does_not_answer_is_given_up_after_the_close_timeout() -> None:
    with RawServer() as server:
        began = time.monotonic()
        with anyws.sync.open_websocket(server.url, config=Config(close_timeout=0.3)) as ws:
            peer = server.peer()
        assert 0.25 < time.monotonic() - began < 5
        assert sent_to(peer) == [(CLOSE, NORMAL)]
        assert ws.closure == anyws.Closure(
            Close(1000),
            None,
            "ours",
            clean=False,
            cause="this end closed the connection with 1000 (normal); the peer's Close did not "
            "come in time",
        )
        assert ws.closure.code == 1006


def test_a_peer_that_sends_without_end_does_not_hold_up_the_end(run) -> None:
    with RawServer() as server:
        with anyws.sync.open_websocket(server.url, config=Config(close_timeout=0.5)) as ws:
            flooding = run(flood, server.peer(), frame(TEXT, b"x" * 1000) * 100)
        assert ws.status is Status.CLOSED
        flooding.result(10)


def flood(peer: Peer, data: bytes) -> None:
    try:
        while True:
            peer.push(data)
    except OSError:
        pass


# --- close() ---


@every_role
def test_close_returns_how_the_connection_ended(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        closing = run(peer.until_close)
        closure = ws.close(4001, "enough")
        assert closing.result(10)[0].payload == (4001).to_bytes(2, "big") + b"enough"
        assert closure.clean
        assert closure.first == "ours"
        assert closure.sent == Close(4001, "enough")
        assert closure == ws.closure == ws.close(1002, "again")
        assert ws.status is Status.CLOSED


@every_role
def test_calls_on_a_connection_that_we_closed_say_so(role: Role) -> None:
    with pair(role) as (ws, peer):
        peer.send(TEXT, b"unread")
        peer.send(CLOSE, NORMAL)
        peer.close()
        ws.close()
        # They were first; what they sent before is dropped, since this end has closed.
        for call in (
            lambda: ws.send("x"),
            ws.ping,
            lambda: ws.open_message().__enter__(),
            lambda: ws.send_fragments(["x"]),
        ):
            with pytest.raises(anyws.ConnectionClosed):
                call()
        assert not ws.is_open


@every_role
def test_our_own_close_is_told_as_ours(role: Role, run) -> None:
    with pair(role) as (ws, peer):
        closing = run(peer.until_close)
        ws.close()
        closing.result(10)
        for call in (ws.receive, ws.ping, lambda: ws.send("x"), lambda: list(ws)):
            with pytest.raises(anyws.ClosedByUs) as caught:
                call()
            assert caught.value.closure == ws.closure


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (1000, "x" * 124), (5000, "")])
def test_what_cannot_be_said_in_a_close_is_refused_and_nothing_sent(code, reason) -> None:
    with pair() as (ws, peer):
        with pytest.raises(ValueError, match="close"):
            ws.close(code, reason)
        assert ws.is_open
        ws.send("x")
        assert peer.next_frame().payload == b"x"


def test_a_client_waits_for_the_server_to_close_tcp_first(run) -> None:
    with client_of_peer(config=PATIENT) as (ws, peer):
        closing = run(ws.close)
        peer.send(CLOSE, peer.next_frame().payload)
        # It is still there.
        peer.raw.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.raw.recv(1)
        peer.close()
        assert closing.result(10).clean


def test_a_client_waits_for_that_no_longer_than_its_timeout() -> None:
    with client_of_peer(config=Config(close_timeout=0.3)) as (ws, peer):
        peer.send(CLOSE, NORMAL)
        began = time.monotonic()
        assert ws.close().clean
        assert 0.25 < time.monotonic() - began < 5


@every_network
def test_a_server_closes_tcp_first(kind: str, run) -> None:
    with connected(kind) as (client, server):
        with pytest.raises(anyws.ClosedByPeer):
            closing = run(server.close)
            client.receive(10)
        closure = closing.result(10)
        assert (closure.first, closure.clean) == ("ours", True)
        assert client.close() == client.closure
        assert (client.closure.first, client.closure.clean) == ("theirs", True)


# --- The peer's end ---


@every_role
@pytest.mark.parametrize(
    ("close", "error", "answer"),
    [
        (close_frame(1000, b"bye"), anyws.ClosedByPeer, NORMAL),
        (close_frame(1001), anyws.ClosedByPeer, (1001).to_bytes(2, "big")),
        (close_frame(), anyws.ClosedByPeer, b""),
        (close_frame(1011, b"oops"), anyws.ClosedWithError, (1011).to_bytes(2, "big")),
        (close_frame(4000), anyws.ClosedWithError, (4000).to_bytes(2, "big")),
    ],
)
def test_the_peer_s_close_comes_behind_its_messages_and_is_answered(
    role: Role, close: bytes, error: type[Exception], answer: bytes
) -> None:
    with pair(role) as (ws, peer):
        peer.send(TEXT, b"first")
        peer.send(BINARY, b"second")
        peer.push(close if peer.is_server else masked(close))
        assert ws.receive(5) == "first"
        assert ws.receive(5) == b"second"
        for _ in range(2):
            with pytest.raises(error) as caught:
                ws.receive(5)
            assert caught.value.closure.clean
            assert caught.value.closure.first == "theirs"
        with pytest.raises(error):
            ws.send("x")
        assert ws.status is Status.CLOSING
        assert peer.next_frame().payload == answer
        peer.close()
        ws.close()
        assert ws.status is Status.CLOSED


def masked(close: bytes) -> bytes:
    return frame(CLOSE, close[2:], mask=True)


def test_iterating_ends_where_the_peer_closes_normally() -> None:
    with pair() as (ws, peer):
        for word in (b"a", b"b"):
            peer.send(TEXT, word)
        peer.send(CLOSE, NORMAL)
        assert list(ws) == ["a", "b"]
        assert list(ws) == []


def test_iterating_raises_where_the_peer_closes_with_an_error() -> None:
    with pair() as (ws, peer):
        peer.send(CLOSE, (1011).to_bytes(2, "big"))
        with pytest.raises(anyws.ClosedWithError):
            list(ws)


@every_role
def test_a_stream_that_ends_without_a_close_is_broken(role: Role) -> None:
    with pair(role) as (ws, peer):
        peer.send(TEXT, b"whole")
        peer.push(peer.frame(TEXT, b"half of it")[:7])
        peer.close()
        assert ws.receive(5) == "whole"
        with pytest.raises(anyws.ConnectionBroken, match="without a Close") as caught:
            ws.receive(5)
        assert caught.value.closure.code == 1006
        assert not caught.value.closure.clean
        with pytest.raises(anyws.ConnectionBroken):
            ws.send("x")


def test_a_stream_that_is_reset_is_broken() -> None:
    with client_of_peer() as (ws, peer):
        peer.raw.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: close resets
        peer.close()
        with pytest.raises(anyws.ConnectionBroken, match="reset") as caught:
            ws.receive(5)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(3), 1002),
        (frame(TEXT, b"x", mask=True), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"", length=2 << 20), 1009),
        (frame(CLOSE, b"\3"), 1002),
    ],
)
def test_a_violation_is_answered_with_its_code_and_breaks_the_connection(wrong, code) -> None:
    with RawServer() as server, anyws.sync.open_websocket(server.url, config=QUICK) as ws:
        peer = server.peer()
        peer.push(frame(TEXT, b"before") + wrong + frame(TEXT, b"behind"))
        assert ws.receive(5) == "before"
        with pytest.raises(anyws.ConnectionBroken) as caught:
            ws.receive(5)
        assert caught.value.closure.sent.code == code
        ws.close()
        assert [code_of(payload) for _, payload in sent_to(peer)] == [code]
        assert not peer.reset


@every_network
def test_a_write_that_fails_because_the_peer_has_closed_reports_its_close(kind: str) -> None:
    with client_of_peer(kind) as (ws, peer):
        for _ in range(3):
            peer.send(TEXT, b"unread")
        peer.send(CLOSE, (4000).to_bytes(2, "big"))
        ws.send("x")  # a peer that closes over this resets the connection
        peer.close()
        with pytest.raises(anyws.ClosedWithError) as caught:
            while True:
                ws.send("y")
        assert caught.value.closure.received == Close(4000)


def test_a_close_that_comes_while_a_write_is_stuck_is_answered_behind_it(run) -> None:
    with pair() as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(10)
        # Behind a message, as it may be.
        peer.push(frame(TEXT, b"first") + close_frame(4000))
        frames = [peer.next_frame(), peer.next_frame()]
        assert [len(f.payload) for f in frames] == [LARGE, 2]
        assert frames[1].opcode == CLOSE
        sending.result(10)
        assert ws.receive(5) == "first"
        with pytest.raises(anyws.ClosedWithError):
            ws.send("more")


def test_close_waits_for_a_write_that_is_stuck_and_no_longer_than_its_timeout(run) -> None:
    with pair(config=Config(close_timeout=0.3)) as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(10)
        began = time.monotonic()
        closure = ws.close()
        assert 0.25 < time.monotonic() - began < 5
        assert closure.sent is None
        assert not closure.clean
        with pytest.raises(anyws.ConnectionClosed):
            sending.result(10)
        assert peer.until_end() == []


# --- Without a handshake ---


@every_role
def test_abort_ends_the_stream_at_once(role: Role) -> None:
    with pair(role) as (ws, peer):
        ws.abort()
        assert ws.status is Status.CLOSED
        assert sent_to(peer) == []
        with pytest.raises(anyws.ClosedByUs, match="this end cut the connection"):
            ws.receive()
        ws.abort()
        assert not ws.close().clean


@every_network
def test_a_connection_that_is_dropped_warns_and_is_cut(kind: str) -> None:
    with RawServer(kind) as server:
        opening = anyws.sync.open_websocket(
            server.url, ssl_context=server.ssl_context, config=QUICK
        )
        opening.__enter__()
        peer = server.peer()
        gc.collect()  # what other tests have left
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del opening
            gc.collect()
        [warning] = caught
        assert warning.category is ResourceWarning
        assert re.search("WebSocket client of .* without being closed", str(warning.message))
        assert sent_to(peer) == []


@every_role
def test_a_connection_lives_no_longer_than_who_uses_it(role: Role) -> None:
    """No garbage collection is needed, whatever it ended by."""
    gc.collect()
    gc.disable()
    try:
        for end in ("close", "reset", "write", "violation", "timeout"):
            with pair(role) as (ws, peer):
                if end == "close":
                    peer.send(CLOSE, NORMAL)
                elif end == "violation":
                    peer.send(3)
                elif end in {"reset", "write"}:
                    peer.close()
                try:
                    while True:
                        ws.send("x") if end == "write" else ws.receive(0.01)
                except (anyws.ConnectionClosed, TimeoutError):
                    pass
            kept = [weakref.ref(ws), weakref.ref(ws._transport), weakref.ref(ws._protocol)]
            del ws, peer
            assert [one() for one in kept] == [None, None, None], end
    finally:
        gc.enable()


def test_pings_that_come_behind_our_close_are_not_answered(run) -> None:
    with pair() as (ws, peer):
        closing = run(ws.close)
        assert peer.next_frame().opcode == CLOSE
        peer.send(PING, b"late")
        peer.send(CLOSE, NORMAL)
        peer.raw.shutdown(1)
        assert closing.result(10).clean
        assert sent_to(peer) == []

"""Time and several threads: whose deadline holds, what is a sign of life, and what waits for none."""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from bars.peers import BINARY, CLOSE, PING, TEXT
from bars.raw import GUARD
from sync.peers import (
    LARGE,
    QUICK,
    Peer,
    RawServer,
    Watched,
    client_of_peer,
    made,
    pair,
    served,
    stream_of,
)

import anyws
import anyws.sync
from anyws import Close, Config, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(40)

every_role = pytest.mark.parametrize("role", list(Role))

NORMAL = (1000).to_bytes(2, "big")
# Nobody waits for this long.
LONG = 100.0


def seconds_since(began: float) -> float:
    return time.monotonic() - began


# --- The closing handshake ---


@every_role
def test_a_write_stuck_behind_the_peer_s_close_is_cut_when_its_time_is_over(
    role: Role, run
) -> None:
    with pair(role, Config(close_timeout=0.3)) as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        began, worked = time.monotonic(), time.process_time()
        peer.send(CLOSE, NORMAL)
        with pytest.raises(anyws.ClosedByPeer):
            sending.result(5)
        assert 0.25 < seconds_since(began) < 5
        assert time.process_time() - worked < 0.2
        assert peer.until_end() == []


@every_role
def test_a_close_that_only_begins_has_its_time_too(role: Role, run) -> None:
    """As where a message of the wrong type came; nobody waits for the end yet."""
    with pair(role, Config(close_timeout=0.3)) as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        peer.send(TEXT, b"text")
        began = time.monotonic()
        with pytest.raises(anyws.ClosedByUs):
            ws.receive_bytes(5)
        with pytest.raises(anyws.ClosedByUs):
            sending.result(5)
        assert 0.25 < seconds_since(began) < 5


def test_an_answer_that_came_while_the_program_was_elsewhere_is_in_time() -> None:
    with pair(Role.SERVER, Config(close_timeout=0.1)) as (ws, peer):
        ws._begin_close(4000, "")
        assert peer.next_frame().opcode == CLOSE
        peer.push(peer.frame(TEXT, b"before") + peer.frame(CLOSE, NORMAL))
        time.sleep(0.2)  # this is the time elsewhere
        assert ws.close().clean


@pytest.mark.parametrize(("opcode", "number"), [(TEXT, 1), (TEXT, 3000), (PING, 600)])
def test_an_answer_behind_other_frames_that_came_meanwhile_is_in_time_too(
    opcode: int, number: int
) -> None:
    """What the same read has brought as the message before it counts as well."""
    with pair(Role.SERVER, Config(close_timeout=0.1)) as (ws, peer):
        frames = peer.frame(BINARY, b"x") + peer.frame(opcode, b"y") * number
        peer.push(frames + peer.frame(CLOSE, NORMAL))
        with pytest.raises(anyws.ClosedByUs):
            ws.receive_text()
        time.sleep(0.2)  # this is the time elsewhere
        assert ws.close().clean


def test_a_second_closer_with_less_time_brings_the_deadline_nearer(run) -> None:
    """The first waits for the server to close TCP."""
    config = Config(close_timeout=LONG, cancel_grace=0.2)
    with client_of_peer(config=config) as (ws, peer):
        closing = run(ws.close)
        peer.send(CLOSE, peer.next_frame().payload)
        while ws.closure.received is None:
            pass
        began = time.monotonic()
        ws._leave(Close(1001), ValueError("mine"))
        assert seconds_since(began) < 5
        assert closing.result(5).clean


@pytest.mark.parametrize(("grace", "timeout"), [(LONG, 0.2), (0.2, LONG), (0.2, None)])
def test_a_body_that_raises_has_the_smaller_of_grace_and_close_timeout(
    grace: float, timeout: float | None
) -> None:
    with RawServer() as server:
        began = time.monotonic()
        with pytest.raises(ValueError, match="mine"):
            with anyws.sync.open_websocket(
                server.url, config=Config(cancel_grace=grace, close_timeout=timeout)
            ):
                server.peer()
                raise ValueError("mine")
        assert 0.15 < seconds_since(began) < 5


def answer_late(peer: Peer) -> None:
    close = peer.next_frame()
    assert close.opcode == CLOSE
    time.sleep(0.4)  # longer than the grace
    peer.send(CLOSE, close.payload)
    peer.close()


HASTY = Config(cancel_grace=0.05, close_timeout=20, drain_timeout=20)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_body_that_is_told_of_our_close_gives_the_peer_all_of_its_time(
    wrapped: bool, run
) -> None:
    with RawServer() as server:
        with pytest.raises((anyws.ClosedByUs, ExceptionGroup)):
            with anyws.sync.open_websocket(server.url, config=HASTY) as ws:
                peer = server.peer()
                peer.send(TEXT, b"text")
                answering = run(answer_late, peer)
                try:
                    ws.receive_bytes(5)
                except anyws.ClosedByUs as error:
                    if wrapped:
                        raise ExceptionGroup("of a task", [error]) from None
                    raise
        answering.result(5)
        assert ws.closure.clean


def test_a_handler_that_is_told_of_the_server_s_end_gives_the_peer_all_of_its_time(run) -> None:
    arrived: list[WebSocket] = []

    def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        while ws.is_open:
            pass
        ws.receive()

    with served(handler, config=HASTY) as server:
        peer = Peer.connect(server.port)
        answering = run(answer_late, peer)
        while not arrived:
            pass
        server.close()
    answering.result(5)
    assert arrived[0].closure.sent == Close(1001)
    assert arrived[0].closure.clean


# --- Signs of life ---


def is_silent_for_long(ws: WebSocket) -> None:
    """Have keepalive think that the peer owes an answer since long ago."""
    now = time.monotonic()
    ws._keepalive.heard(now - 10 * LONG)
    ws._keepalive.check(now - 5 * LONG)
    ws._keepalive._looked_at = now


PATIENT = Config(ping_interval=LONG, ping_timeout=LONG, cancel_grace=0.2, close_timeout=2)


class Noting(Watched):
    """A stream that takes note of how long each of its readers may wait."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.deadlines: list[float] = []

    def fetch(self, deadline: float) -> bool:
        self.deadlines.append(deadline)
        return super().fetch(deadline)


def test_a_message_found_by_the_look_for_a_sign_of_life_is_returned_at_once() -> None:
    with pair(config=PATIENT, stream=Noting) as (ws, peer):
        is_silent_for_long(ws)
        peer.send(TEXT, b"here")
        assert ws.receive(10) == "here"
        # The look itself does not wait, and nobody has read after it.
        stream: Any = ws._transport._stream
        assert stream.deadlines == [0]


class Paused(Watched):
    """A stream whose reader, having read something, is not scheduled for a while."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.fetched, self.resumed = threading.Event(), threading.Event()

    def fetch(self, deadline: float) -> bool:
        came = super().fetch(deadline)
        if came and not self.fetched.is_set():
            self.fetched.set()
            assert self.resumed.wait(GUARD)
        return came


@pytest.mark.parametrize("call", ["ping", "send"])
def test_what_another_thread_has_just_read_is_a_sign_of_life(call: str, run) -> None:
    with pair(config=PATIENT, stream=Paused) as (ws, peer):
        stream: Any = ws._transport._stream
        receiving = run(ws.receive)
        assert stream.reads.wait(GUARD)
        is_silent_for_long(ws)
        peer.send(TEXT, b"alive")
        assert stream.fetched.wait(GUARD)
        worked = time.process_time()
        if call == "ping":
            with pytest.raises(TimeoutError, match="no pong"):
                ws.ping(0.3)
        else:
            sending = run(ws.send, b"x" * LARGE)
            with pytest.raises(TimeoutError):
                sending.result(0.3)
        assert time.process_time() - worked < 0.2
        stream.resumed.set()
        assert receiving.result(5) == "alive"
        assert ws.is_open


def test_a_peer_that_takes_a_large_message_slowly_is_alive(run) -> None:
    """Our ping waits behind the message, so that it cannot answer."""
    with pair(config=Config(ping_interval=0.4, ping_timeout=0.8)) as (ws, peer):
        sending = run(ws.send, b"x" * 300_000)
        received = 0
        pause = threading.Event()
        while received < 300_000:
            chunk = peer.raw.recv(8192)
            assert chunk, "the peer was given up"
            received += len(chunk)
            pause.wait(0.05)  # it is slow
        sending.result(5)
        assert ws.is_open


# --- What the system calls a time-out ---


class Dead(socket.socket):
    """A socket whose peer has answered nothing for so long that the system has given up."""

    def give_up(self, *args: object) -> Any:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    recv = give_up


class Mute(Dead):
    recv = socket.socket.recv
    send = Dead.give_up


@contextmanager
def dead_end(kind: type[socket.socket]) -> Iterator[WebSocket]:
    near, far = socket.socketpair()
    with far:
        far.sendall(b"x")  # readable
        ws = made(kind(fileno=near.detach()), config=QUICK)
        yield ws
        ws.abort()


@pytest.mark.parametrize(("kind", "call"), [(Dead, "receive"), (Mute, "send"), (Mute, "ping")])
@pytest.mark.parametrize("timeout", [0.2, 2])
def test_a_network_that_has_timed_out_is_lost(kind, call: str, timeout: float) -> None:
    with dead_end(kind) as ws:
        with pytest.raises(anyws.ConnectionBroken, match="timed out") as caught:
            ws.send("x") if call == "send" else getattr(ws, call)(timeout)
        assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_network_that_times_out_while_opening_is_not_our_time_out(
    monkeypatch: pytest.MonkeyPatch, run
) -> None:
    me = threading.current_thread()

    class Lost(socket.socket):
        def recv(self, *args: int) -> bytes:
            if threading.current_thread() is me:
                raise OSError(errno.ETIMEDOUT, "Connection timed out")
            return super().recv(*args)

    def accept() -> socket.socket:
        sock, _ = listening.accept()
        sock.sendall(b"x")  # readable
        return sock

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = run(accept)
        port = listening.getsockname()[1]
        monkeypatch.setattr(socket, "socket", Lost)
        with pytest.raises(anyws.HandshakeInvalid, match="lost during the opening") as caught:
            anyws.sync.open_websocket(f"ws://127.0.0.1:{port}/", config=QUICK).__enter__()
        accepting.result(5).close()
        assert isinstance(caught.value.__cause__, TimeoutError)

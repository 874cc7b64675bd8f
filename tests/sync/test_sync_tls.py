"""TLS with calls that wait: what it says of its own accord, in which direction, and how it ends."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
from bars.peers import CLOSE, TEXT, client_tls, server_tls
from bars.raw import GUARD, HOST
from frames import frame
from sync.peers import LARGE, QUICK, Watched, client_of_peer, made, stream_of

import anyws
from anyws import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyws._transports.blocking_stream import BlockingStream
    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(30)

NORMAL = (1000).to_bytes(2, "big")


def soon() -> float:
    return time.monotonic() + 5


class Engine:
    """The TLS of a peer, whose records a test sends as it likes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = server_tls().wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(1 << 16))
        self.sock.sendall(self.outgoing.read())

    def records(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.records(data))

    def receive(self) -> bytes:
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self.incoming.write(self.sock.recv(1 << 16))

    def read_to_the_end(self) -> None:
        """Raises what TLS says about its end."""
        while chunk := self.sock.recv(1 << 16):
            self.incoming.write(chunk)
        self.incoming.write_eof()
        while self.tls.read():
            pass


GARBAGE = b"\x17\x03\x03\x00\x20" + b"garbage!" * 4


@pytest.fixture
def ends(run) -> Iterator[tuple[BlockingStream, Engine]]:
    near, far = socket.socketpair()
    far.settimeout(GUARD)
    stream, engine = Watched(near), Engine(far)
    shaking = run(engine.shake_hands)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    shaking.result(5)
    # The tickets of TLS 1.3, say.
    for _ in iter(lambda: stream.fetch(0), False):
        assert stream.take() == b""
    yield stream, engine
    stream.close()
    far.close()


def test_what_was_deciphered_before_an_error_of_tls_is_taken_first(ends) -> None:
    stream, engine = ends
    engine.sock.sendall(engine.records(b"word") + GARBAGE)
    assert stream.fetch(soon())
    assert stream.take() == b"word"
    assert stream.wait(soon(), read=True)[0]
    assert stream.fetch(soon())
    with pytest.raises(ssl.SSLError):
        stream.take()
    # And TLS has something to say about it.
    assert stream.speaks
    stream.send_all(stream.wrap(b""), soon())
    stream.cut()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        engine.read_to_the_end()


def test_a_message_before_an_error_of_tls_is_received_and_the_peer_hears_of_the_error(run) -> None:
    near, far = socket.socketpair()
    far.settimeout(GUARD)
    engine = Engine(far)
    shaking = run(engine.shake_hands)
    ws = made(near)
    stream_of(ws).start_tls(client_tls(), soon(), server_hostname=HOST)
    shaking.result(5)
    far.sendall(engine.records(frame(TEXT, b"word")) + GARBAGE)
    assert ws.receive(5) == "word"
    with pytest.raises(anyws.ConnectionBroken) as caught:
        ws.receive(5)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    ws.abort()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        engine.read_to_the_end()
    far.close()


# --- TLS within TLS ---


class Through:
    """A socket for an engine, within the TLS of another."""

    def __init__(self, outer: Engine) -> None:
        self.sendall = outer.send
        self._outer = outer

    def recv(self, size: int) -> bytes:
        return self._outer.receive()


@pytest.fixture
def nested(ends, run) -> tuple[BlockingStream, Engine, Engine]:
    """A stream, and the engines that it has to do with: that of a proxy, and that of a server."""
    stream, outer = ends
    inner = Engine(Through(outer))  # type: ignore[arg-type]
    shaking = run(inner.shake_hands)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    shaking.result(5)
    for _ in iter(lambda: stream.fetch(0), False):
        assert stream.take() == b""
    return stream, outer, inner


def test_tls_within_tls_may_begin_behind_what_nobody_has_taken(run) -> None:
    near, far = socket.socketpair()
    far.settimeout(GUARD)
    stream, outer = Watched(near), Engine(far)
    inner = Engine(Through(outer))  # type: ignore[arg-type]

    def shake_hands() -> None:
        outer.shake_hands()  # with tickets behind it
        inner.shake_hands()
        inner.send(b"word")

    shaking = run(shake_hands)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    shaking.result(5)
    taken = b""
    while not taken:
        assert stream.fetch(soon())
        taken = stream.take()
    assert taken == b"word"
    stream.close()
    far.close()


def test_tls_within_tls_carries_both_ways(nested, run) -> None:
    stream, _, inner = nested
    inner.send(b"word")
    assert stream.fetch(soon())
    assert stream.take() == b"word"
    hearing = run(inner.receive)
    stream.send_all(stream.wrap(b"answer"), soon())
    assert hearing.result(5) == b"answer"
    assert not stream.backlog
    assert not stream.speaks


def test_what_came_before_the_outer_tls_failed_is_taken_first(nested) -> None:
    stream, outer, inner = nested
    outer.sock.sendall(outer.records(inner.records(b"word")) + GARBAGE)
    assert stream.fetch(soon())
    assert stream.take() == b"word"
    assert stream.fetch(soon())
    with pytest.raises(ssl.SSLError):
        stream.take()
    # And the outer one has something to say about it.
    assert stream.speaks
    stream.send_all(stream.wrap(b""), soon())
    stream.cut()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        outer.read_to_the_end()


def test_the_end_of_the_inner_tls_is_that_of_the_stream(nested, run) -> None:
    stream, outer, inner = nested
    ending = run(inner.receive)
    stream.end_our_half()
    assert ending.result(5) == b""
    inner.tls.unwrap()
    outer.send(inner.outgoing.read())
    while not stream.eof:
        assert stream.fetch(soon())
        assert stream.take() == b""


@pytest.mark.parametrize("before", [True, False])
def test_a_client_answers_the_close_notify_of_a_server_that_closes_first(before, run) -> None:
    """Python's `unwrap` waits for that."""
    with client_of_peer("tls") as (ws, peer):
        closing = run(ws.close)
        close = peer.next_frame()
        assert close.opcode == CLOSE
        peer.send(CLOSE, close.payload)
        if not before:
            time.sleep(0.1)  # the client waits for it already
        peer.raw.unwrap()
        assert closing.result(5).clean


class Renegotiating:
    """A TLS that ciphers nothing: a context, and its own engine.

    A ``?`` of the peer's asks for new keys: that is answered, and nothing can be written until
    they are there, with a ``!``.
    """

    def __init__(self) -> None:
        self.waits = False

    def wrap_bio(self, incoming: Any, outgoing: Any, **_: object) -> Renegotiating:
        self.incoming, self.outgoing = incoming, outgoing
        return self

    def do_handshake(self) -> None:
        pass

    def read(self, size: int) -> bytes:
        data: bytes = self.incoming.read(size)
        if data[:1] == b"?":
            self.waits = True
            self.outgoing.write(b"new keys, please;")
            data = data[1:]
        if data[:1] == b"!":
            self.waits = False
            data = data[1:]
        if not data and not self.incoming.eof:
            raise ssl.SSLWantReadError
        return data

    def write(self, data: bytes) -> int:
        if self.waits:
            raise ssl.SSLWantReadError
        return self.outgoing.write(data)

    def unwrap(self) -> None:
        self.outgoing.write(b";end")


@pytest.fixture
def renegotiating() -> Iterator[tuple[WebSocket, socket.socket]]:
    near, far = socket.socketpair()
    far.settimeout(GUARD)
    ws = made(near, Role.SERVER, QUICK)
    context: Any = Renegotiating()
    stream_of(ws).start_tls(context, soon())
    yield ws, far
    ws.abort()
    far.close()


def exactly(sock: socket.socket, data: bytes) -> None:
    received = b""
    while len(received) < len(data):
        received += sock.recv(1 << 16)
    assert received == data


def test_what_tls_says_of_its_own_accord_goes_out_while_a_message_is_waited_for(
    renegotiating, run
) -> None:
    ws, far = renegotiating
    receiving = run(ws.receive)
    far.sendall(b"?")
    exactly(far, b"new keys, please;")
    far.sendall(b"!")
    far.sendall(frame(TEXT, b"x", mask=True))
    assert receiving.result(5) == "x"


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("reader", ["the writer", "another thread"])
def test_a_write_for_which_tls_has_to_read_waits_for_that(
    renegotiating, run, reader: str, size: int
) -> None:
    ws, far = renegotiating
    far.sendall(b"?")
    with pytest.raises(TimeoutError):
        ws.receive(0)
    exactly(far, b"new keys, please;")
    receiving = run(ws.receive) if reader == "another thread" else None
    worked = time.process_time()
    sending = run(ws.send, b"x" * size)
    with pytest.raises(TimeoutError):
        sending.result(0.3)
    # It waits for the right direction: the socket could be written all the time.
    assert time.process_time() - worked < 0.2
    far.sendall(b"!")
    exactly(far, frame(2, b"x" * size))
    sending.result(5)
    if receiving is not None:
        far.sendall(frame(TEXT, b"y", mask=True))
        assert receiving.result(5) == "y"
    ws.send("z")
    exactly(far, frame(TEXT, b"z"))


def test_a_ping_for_which_tls_has_to_read_goes_out_behind_that(renegotiating, run) -> None:
    ws, far = renegotiating
    far.sendall(b"?")
    with pytest.raises(TimeoutError):
        ws.receive(0)
    exactly(far, b"new keys, please;")
    pinging = run(ws.ping, 5)
    far.sendall(b"!")
    ping = far.recv(100)
    assert ping[:2] == b"\x89\x04"
    far.sendall(frame(10, ping[2:], mask=True))
    assert pinging.result(5) >= 0


def test_new_keys_that_never_come_break_the_write_after_its_time(renegotiating) -> None:
    ws, far = renegotiating
    ws._transport._write_timeout = 0.2
    far.sendall(b"?")
    with pytest.raises(TimeoutError):
        ws.receive(0)
    with pytest.raises(anyws.ConnectionBroken, match="stalled"):
        ws.send("x")
    ws.close()


def test_a_peer_that_leaves_while_tls_waits_for_it_ends_the_write(renegotiating, run) -> None:
    ws, far = renegotiating
    far.sendall(b"?")
    with pytest.raises(TimeoutError):
        ws.receive(0)
    sending = run(ws.send, "x")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(anyws.ConnectionBroken, match="without a Close"):
        sending.result(5)

"""The stream below a blocking connection: what it reads, writes and waits for."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import time
from typing import TYPE_CHECKING

import pytest
from bars.peers import client_tls, server_tls
from bars.raw import HOST

from anyws._transports.blocking_stream import BlockingStream, _as_timeval

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=["poll", "select"])
def ends(request, monkeypatch) -> Iterator[tuple[BlockingStream, socket.socket]]:
    """A stream and the socket at its other end, on systems with poll and on those without."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    near, far = socket.socketpair()
    far.settimeout(10)
    stream = BlockingStream(near)
    yield stream, far
    stream.close()
    far.close()


def soon() -> float:
    return time.monotonic() + 5


def test_what_was_fetched_is_taken_in_one(ends) -> None:
    stream, far = ends
    assert not stream.fetch(0)
    for word in (b"one ", b"two"):
        far.sendall(word)
    assert stream.fetch(soon())
    assert stream.take() == b"one two"
    assert not stream.fetch(0)


def test_what_was_fetched_and_not_taken_is_still_there(ends) -> None:
    stream, far = ends
    far.sendall(b"x")
    assert stream.fetch(soon())
    # An interrupt, and another call.
    assert stream.wait(soon(), read=True) == (True, True)
    assert stream.fetch(soon())
    assert stream.take() == b"x"


def test_the_end_of_the_stream_comes_behind_what_was_sent(ends) -> None:
    stream, far = ends
    far.sendall(b"last")
    far.close()
    assert stream.fetch(soon())
    assert (stream.take(), stream.eof) == (b"last", False)
    assert stream.fetch(soon())
    assert (stream.take(), stream.eof) == (b"", True)


def test_a_fetch_comes_back_when_its_time_is_over(ends, run) -> None:
    """In a thread where a long one is for the socket to give up, a little earlier."""
    stream, _ = ends
    assert 0.9 < run(seconds_of_fetch, stream, 1.2).result() < 10
    # The others do not leave it to the socket.
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _as_timeval(100))
    assert 0.04 < run(seconds_of_fetch, stream, 0.05).result() < 10
    for seconds in (-1, 0):
        assert run(seconds_of_fetch, stream, seconds).result() < 10


def seconds_of_fetch(stream: BlockingStream, seconds: float) -> float:
    """How long it takes to find nothing where it may take so long."""
    began = time.monotonic()
    assert not stream.fetch(began + seconds)
    return time.monotonic() - began


def test_a_write_is_as_much_as_the_system_takes(ends) -> None:
    stream, far = ends
    data = bytes(range(256)) * 10_000
    sent = stream.send_now(data)
    assert 0 < sent < len(data)
    assert stream.send_now(data) == 0
    assert stream.wait(time.monotonic() + 0.05) == (False, False)
    assert stream.wait(time.monotonic() + 0.05, read=True) == (False, False)
    received = b""
    while len(received) < sent:
        received += far.recv(1 << 20)
    assert received == data[:sent]
    assert stream.wait(soon()) == (False, True)
    far.sendall(b"x")
    assert stream.wait(soon(), read=True) == (True, True)


def test_all_is_written_or_the_time_is_over(ends) -> None:
    stream, far = ends
    with pytest.raises(TimeoutError, match="took nothing in time"):
        stream.send_all(b"x" * 10_000_000, time.monotonic() + 0.05)
    far.close()
    with pytest.raises(BrokenPipeError):
        stream.send_all(b"x" * 10_000_000, soon())


def test_cut_wakes_whoever_waits_and_may_be_repeated(ends) -> None:
    stream, _ = ends
    stream.cut()
    stream.cut()
    stream.end_our_half()
    assert stream.fetch(soon())
    assert (stream.take(), stream.eof) == (b"", True)
    with pytest.raises(BrokenPipeError):
        stream.send_now(b"x")


def test_our_half_ends_and_the_other_goes_on(ends) -> None:
    stream, far = ends
    stream.send_now(b"last")
    stream.end_our_half()
    assert (far.recv(10), far.recv(10)) == (b"last", b"")
    far.sendall(b"x")
    assert stream.fetch(soon())
    assert stream.take() == b"x"


# --- TLS ---


def tls_peer(far: socket.socket, run, *, server_side: bool):
    if server_side:
        return run(server_tls().wrap_socket, far, server_side=True)
    return run(client_tls().wrap_socket, far, server_hostname=HOST)


@pytest.mark.parametrize("server_side", [False, True])
def test_tls_carries_what_is_wrapped_and_ends_by_its_own_word(ends, server_side: bool, run) -> None:
    stream, far = ends
    wrapping = tls_peer(far, run, server_side=not server_side)
    context = server_tls() if server_side else client_tls()
    stream.start_tls(
        context, soon(), server_side=server_side, server_hostname=None if server_side else HOST
    )
    peer = wrapping.result(5)
    assert stream.ssl_object is not None
    # What came with the handshake, the tickets of TLS 1.3, say, is nothing to take.
    while stream.fetch(0):
        assert stream.take() == b""
    message = bytes(range(256)) * 2000
    receiving = run(all_of, peer, len(message))
    stream.send_all(stream.wrap(message), soon())
    assert receiving.result(5) == message
    sending = run(peer.sendall, message)
    received = b""
    while len(received) < len(message):
        assert stream.fetch(soon())
        received += stream.take()
    sending.result(5)
    assert received == message
    leaving = run(peer.unwrap)
    while not stream.eof:
        assert stream.fetch(soon())
        assert stream.take() == b""
    stream.end_our_half()
    leaving.result(5).close()


def all_of(peer: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += peer.recv(1 << 20)
    return received


def test_garbage_in_the_place_of_tls_is_an_error_of_the_network(ends, run) -> None:
    stream, far = ends
    wrapping = tls_peer(far, run, server_side=True)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    peer = wrapping.result(5)
    while stream.fetch(0):
        stream.take()
    raw = socket.socket(fileno=peer.detach())
    raw.sendall(b"garbage" * 10)
    assert stream.fetch(soon())
    with pytest.raises(ssl.SSLError):
        stream.take()
    raw.close()


def test_tls_that_is_cut_off_is_an_end(ends, run) -> None:
    stream, far = ends
    wrapping = tls_peer(far, run, server_side=True)
    stream.start_tls(client_tls(), soon(), server_hostname=HOST)
    wrapping.result(5).close()
    while not stream.eof:
        assert stream.fetch(soon())
        stream.take()


def test_a_server_whose_certificate_is_refused_hears_of_it(run) -> None:
    near, far = socket.socketpair()
    stream = BlockingStream(near)
    wrapping = tls_peer(far, run, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        stream.start_tls(client_tls(), soon(), server_hostname="else.test")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        wrapping.result(5).recv(1)
    stream.close()
    far.close()


class Leaving(BlockingStream):
    """Its peer is gone by the time of the second write."""

    writes = 0

    def send_now(self, data: bytes | memoryview) -> int:
        self.writes += 1
        if self.writes > 1:
            raise BrokenPipeError
        return super().send_now(data)


def test_where_a_refused_server_is_gone_already_the_reason_is_still_the_reason(run) -> None:
    near, far = socket.socketpair()
    stream = Leaving(near)
    wrapping = tls_peer(far, run, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        stream.start_tls(client_tls(), soon(), server_hostname="else.test")
    stream.close()
    with pytest.raises(ssl.SSLError):
        wrapping.result(5).recv(1)
    far.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there it is a number of milliseconds")
def test_the_patience_of_a_socket_is_told_as_the_system_has_it() -> None:
    assert _as_timeval(1.5) == struct.pack("@ll", 1, 500_000)

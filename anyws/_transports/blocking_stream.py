"""A connected socket for programs without an event loop, with TLS or without.

**Who may do what.** What is named `fetch`, `wait` and `send_now` calls the system; one thread may
`fetch` while another sends. `take`, `wrap` and the rest touch TLS, whose state is not for two
threads at once: they are for whoever holds the connection's lock, and never wait.

**Interrupts.** A signal handler that raises, as that of Ctrl-C, runs between two instructions of
Python; were the result of `recv` a value on its way into a variable, it could vanish there, and
with it a piece of the stream. So `fetch` has it put into `_chunks` by the call that made it.
What such a handler raises may be an `OSError`, too; `is_interruption` tells that from what the
system has to say.

**Waiting.** A read that may take long is one system call: the socket itself gives up after
`_PATIENCE` seconds. Whoever has less time asks first whether there is anything to read. So does the
main thread, which gets the signals: behind each, Python has that call wait for all of its time anew
(PEP 475), and they may follow one another for ever. A `TimeoutError` of the system's is none of
that: the network has given up (ETIMEDOUT). Where it is our time that is over, that is `OutOfTime`.

**TLS** (`blocking_tls.py`) has to say something now and then that nobody asked for. Then `speaks` is
set, and the next `wrap` has it. While it renegotiates, it takes nothing until it has read; what it
has not taken is `backlog`, and goes with the next `wrap`, too. **TLS within TLS** is what a server
behind a proxy with TLS has. The one with the proxy is `_outer` then: what comes goes through it
first, and what goes out, last.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from .._config import CHUNK_BYTES
from .blocking_tls import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["BlockingStream", "OutOfTime", "is_interruption", "network_may_fail"]

# Seconds after which a read comes back with nothing.
_PATIENCE: Final = 1.0
_READ_BYTES: Final = (CHUNK_BYTES,)
# Where there is no such flag, the socket is never allowed to block.
_DO_NOT_WAIT: int | None = getattr(socket, "MSG_DONTWAIT", None)
_NOTHING_YET = (BlockingIOError, InterruptedError)


class OutOfTime(TimeoutError):
    """The caller's time is over; the network may be well."""


def is_interruption(error: BaseException) -> bool:
    """Whether a signal handler has raised it, wherever that came in between.

    A handler is called with the frame that it interrupts, and no other function is with the frame
    that calls it. So this holds below any module, and for nothing that just passes through.
    """
    traceback = error.__traceback__
    interrupted: FrameType | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        if interrupted is not None and _is_shown(frame, interrupted):
            return True
        interrupted = frame
        traceback = traceback.tb_next
    return False


def _is_shown(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a function was called with this frame as an argument."""
    return any(
        value is interrupted or (type(value) is tuple and any(one is interrupted for one in value))
        for value in frame.f_locals.values()
    )


class BlockingStream:
    """eof: the peer has ended its half; what came before is still to be taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.eof: bool = False
        self.speaks: bool = False  # TLS has something for `wrap` to give out
        self.backlog: bytes = b""  # what TLS takes only when it has read something
        self.socket: socket.socket = sock
        self._chunks: deque[bytes] = deque()
        self._tls: Layer | None = None
        self._outer: Layer | None = None
        # There is more to take: what came with the last of TLS's handshake, or `_failure`.
        self._has_more = False
        self._failure: ssl.SSLError | None = None  # behind what was deciphered before it
        if _DO_NOT_WAIT is None:
            sock.setblocking(False)
        else:
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _as_timeval(_PATIENCE))
        self._recv: Callable[[int], bytes] = sock.recv
        self._readable = _Waiter(sock, read=True)

    # --- TLS ---

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        return None if self._tls is None else self._tls.ssl_object

    def start_tls(
        self,
        context: ssl.SSLContext,
        deadline: float,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        """Do the handshake of TLS. Raises OSError, of which ssl.SSLError and OutOfTime are.

        A second time, it is TLS within that TLS.
        """
        assert self._outer is None
        self._outer = self._tls
        tls = Layer(context, server_side=server_side, server_hostname=server_hostname)
        self._tls = tls
        if self._outer is not None:
            # What came behind its handshake, and was not taken.
            self._has_more = False
            self._outer.decipher(tls.put)
        try:
            while not tls.is_up():
                self.send_all(self._through_outer(tls.said()), deadline)
                if self.fetch_in_time(deadline):
                    self._decrypt_later(tls)
        except ssl.SSLError:
            # It has something to say about that.
            with network_may_fail():
                self.send_now(self._through_outer(tls.said()))
            raise
        self.send_all(self._through_outer(tls.said()), deadline)
        self._has_more = True

    def _decrypt_later(self, tls: Layer) -> None:
        while self._chunks:
            chunk = self._chunks[0]
            is_end = not chunk
            if self._outer is None:
                tls.put(chunk, is_end=is_end)
            else:
                self._outer.put(chunk, is_end=is_end)
                is_end = self._outer.decipher(tls.put)
                tls.put(b"", is_end=is_end)
            self._chunks.popleft()

    # --- Reading ---

    def fetch(self, deadline: float) -> bool:
        """Wait for something to read, and keep it for `take`; tell whether anything came.

        It may come back early. Raises OSError.
        """
        if self._chunks or self._has_more:
            # An interrupt came before it was taken, or it came with TLS's handshake.
            return True
        wait = deadline - time.monotonic()
        asks_first = wait < _PATIENCE or _DO_NOT_WAIT is None or _may_be_signalled()
        if asks_first and not self._readable.wait(min(wait, _PATIENCE)):
            return False
        try:
            self._chunks.extend(map(self._recv, _READ_BYTES))
        except _NOTHING_YET as error:
            if is_interruption(error):
                raise
            return False
        return True

    def fetch_in_time(self, deadline: float) -> bool:
        """Do as `fetch` does, and raise OutOfTime after the deadline, whatever there is to read.

        For the handshakes, in which a peer may send without end what comes to nothing.
        """
        if time.monotonic() >= deadline:
            raise OutOfTime("the handshake was not over in time")
        return self.fetch(deadline)

    def take(self) -> bytes:
        """Return what was fetched, deciphered; empty where that was nothing. Sets `eof`.

        Raises OSError where it cannot be deciphered, or where TLS was cut off.
        """
        if self._tls is not None:
            return self._decrypt(self._tls)
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if not chunks[-1]:
            self.eof = True
        chunks.clear()
        return data

    def _decrypt(self, tls: Layer) -> bytes:
        self._has_more = False
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        pieces: list[bytes] = []
        try:
            self._decipher(tls, pieces)
        except ssl.SSLError as error:
            if not pieces or is_interruption(error):
                raise
            # What came before it is the peer's word. Its frames would keep this stream.
            error.__traceback__ = None
            self._failure, self._has_more = error, True
        finally:
            self.speaks = tls.speaks or (self._outer is not None and self._outer.speaks)
        return b"".join(pieces)

    def _decipher(self, tls: Layer, pieces: list[bytes]) -> None:
        try:
            self._decrypt_later(tls)
        except ssl.SSLError as error:
            if is_interruption(error):
                raise
            # That with the proxy has failed; what it has let through before is the server's word.
            with contextlib.suppress(ssl.SSLError):
                tls.decipher(pieces.append)
            raise
        if tls.decipher(pieces.append):
            self.eof = True

    # --- Writing ---

    def wrap(self, data: bytes) -> bytes:
        """Return what is to be sent for this, behind what TLS itself has to say.

        Nothing of it, where TLS has to read first: then it is in `backlog`.
        """
        if self._tls is None:
            return data
        self.speaks = False
        return self._through_outer(self._tls.encipher(data))

    def _through_outer(self, data: bytes) -> bytes:
        """Return what is to be sent for what TLS has given out."""
        assert self._tls is not None
        if self._outer is not None:
            data = self._outer.encipher(data)
            self.backlog = self._tls.backlog or self._outer.backlog
        else:
            self.backlog = self._tls.backlog
        return data

    def send_now(self, data: bytes | memoryview) -> int:
        """Write what the system takes at once, and return how much that was. Raises OSError."""
        if not data:
            return 0
        try:
            return self.socket.send(data, _DO_NOT_WAIT or 0)
        except _NOTHING_YET as error:
            if is_interruption(error):
                raise
            return 0

    def send_all(self, data: bytes, deadline: float) -> None:
        """Write all of it. Raises OSError, of which OutOfTime is. For the handshakes."""
        rest = memoryview(data)
        while rest:
            sent = self.send_now(rest)
            rest = rest[sent:]
            if rest and not self.wait(deadline)[1]:
                raise OutOfTime("the peer took nothing in time")

    def wait(self, deadline: float, *, read: bool = False) -> tuple[bool, bool]:
        """Wait until the system takes more or, with `read`, there is something to read."""
        if read and (self._chunks or self._has_more):
            return True, _Waiter(self.socket, write=True).wait(0)
        return _Waiter(self.socket, read=read, write=True).wait_for_each(
            deadline - time.monotonic()
        )

    # --- The end ---

    def end_our_half(self) -> None:
        """Tell the peer that nothing follows, as far as that can be said."""
        with network_may_fail():  # the peer was faster
            if self._tls is not None:
                self._tls.say_the_end()
                self.send_now(self._through_outer(self._tls.said()))
            else:
                self.socket.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Wake whoever waits for this socket: nothing is sent or received any more."""
        with network_may_fail():  # it is not connected any more
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Nobody may be waiting for it."""
        self.socket.close()


@contextlib.contextmanager
def network_may_fail() -> Iterator[None]:
    """Return a context in which an error of the network's means nothing, other than an interrupt."""
    try:
        yield
    except OSError as error:
        if is_interruption(error):
            raise


class _Waiter:
    """Waits for a socket. Not for two threads at once."""

    def __init__(self, sock: socket.socket, *, read: bool = False, write: bool = False) -> None:
        self._socket = sock
        self._read = read
        self._write = write
        self._poll = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock, read * select.POLLIN | write * select.POLLOUT)

    def wait(self, seconds: float) -> bool:
        """Wait for anything; less than nothing does not wait."""
        if self._poll is not None:
            return bool(self._poll.poll(_milliseconds(seconds)))
        return any(self.wait_for_each(seconds))

    def wait_for_each(self, seconds: float) -> tuple[bool, bool]:
        """Wait for anything; tell whether it can be read, and whether it can be written."""
        if self._poll is not None:
            events = [event for _, event in self._poll.poll(_milliseconds(seconds))]
            # An error is for the next call to find out.
            return (
                self._read and any(event & ~select.POLLOUT for event in events),
                self._write and any(event & ~select.POLLIN for event in events),
            )
        sockets = [self._socket]
        wait = None if seconds > 1e6 else max(seconds, 0)
        readable, writable, _ = select.select(sockets * self._read, sockets * self._write, [], wait)
        return bool(readable), bool(writable)


def _may_be_signalled() -> bool:
    """Whether this is the thread that the system gives a signal to, if it can."""
    return threading.get_ident() == threading.main_thread().ident


def _milliseconds(seconds: float) -> float | None:
    # Rounded up: what comes back too early would only come again.
    return None if seconds > 1e6 else max(0, int(seconds * 1000) + 1 if seconds > 0 else 0)


def _as_timeval(seconds: float) -> bytes | int:
    if sys.platform == "win32":
        return int(seconds * 1000)
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))

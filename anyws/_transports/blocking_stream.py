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
`_PATIENCE` seconds. Whoever has less time asks first whether there is anything to read.

**TLS within TLS** is what a server behind a proxy with TLS has. The one with the proxy is `_outer`
then: what comes goes through it first, and what goes out, last.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from .._config import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlockingStream", "is_interruption"]

_PACKAGE: Final = __name__.partition(".")[0]

# Seconds after which a read comes back with nothing.
_PATIENCE: Final = 1.0
_READ_BYTES: Final = (CHUNK_BYTES,)
# Where there is no such flag, the socket is never allowed to block.
_DO_NOT_WAIT: int | None = getattr(socket, "MSG_DONTWAIT", None)
_NOTHING_YET = (BlockingIOError, InterruptedError, TimeoutError)


def is_interruption(error: OSError) -> bool:
    """Whether a signal handler has raised it: below a call of ours there is a frame of another's."""
    traceback = error.__traceback__
    is_ours = False
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if is_ours and not module.startswith((_PACKAGE, "ssl")):
            return True
        is_ours = module == __name__
        traceback = traceback.tb_next
    return False


class BlockingStream:
    """eof: the peer has ended its half; what came before is still to be taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.eof: bool = False
        self.socket: socket.socket = sock
        self._chunks: deque[bytes] = deque()
        self._tls: ssl.SSLObject | None = None
        self._outer: _Outer | None = None
        self._is_undeciphered = False  # with the last of TLS's handshake, more may have come
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
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
        return self._tls

    def start_tls(
        self,
        context: ssl.SSLContext,
        deadline: float,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        """Do the handshake of TLS. Raises OSError, ssl.SSLError among them, and TimeoutError.

        A second time, it is TLS within that TLS.
        """
        if self._tls is not None:
            assert self._outer is None
            self._outer = _Outer(self._tls, self._incoming, self._outgoing)
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        try:
            while not self._is_tls_up():
                self.send_all(self._ciphertext(), deadline)
                if self.fetch(deadline):
                    self._decrypt_later()
                elif time.monotonic() >= deadline:
                    raise TimeoutError("the TLS handshake was not over in time")
        except ssl.SSLError:
            # It has something to say about that.
            with contextlib.suppress(OSError):
                self.send_now(self._ciphertext())
            raise
        self.send_all(self._ciphertext(), deadline)
        self._is_undeciphered = True

    def _is_tls_up(self) -> bool:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._incoming.eof:
                raise ConnectionError("the peer left during the TLS handshake") from None
            return False
        return True

    def _decrypt_later(self) -> None:
        while self._chunks:
            chunk = self._chunks[0]
            is_end = not chunk
            if self._outer is not None:
                chunk, is_end = self._outer.unwrap(chunk)
            if chunk:
                self._incoming.write(chunk)
            if is_end:
                self._incoming.write_eof()
            self._chunks.popleft()

    # --- Reading ---

    def fetch(self, deadline: float) -> bool:
        """Wait for something to read, and keep it for `take`; tell whether anything came.

        It may come back early. Raises OSError.
        """
        if self._chunks or self._is_undeciphered:
            # An interrupt came before it was taken, or it came with TLS's handshake.
            return True
        wait = deadline - time.monotonic()
        if (wait < _PATIENCE or _DO_NOT_WAIT is None) and not self._readable.wait(wait):
            return False
        try:
            self._chunks.extend(map(self._recv, _READ_BYTES))
        except _NOTHING_YET as error:
            if is_interruption(error):
                raise
            return False
        return True

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

    def _decrypt(self, tls: ssl.SSLObject) -> bytes:
        self._is_undeciphered = False
        self._decrypt_later()
        data, is_end = _read_all(tls)
        if is_end:
            self.eof = True
        return data

    # --- Writing ---

    def wrap(self, data: bytes) -> bytes:
        """Return what is to be sent for this, behind what TLS itself has to say."""
        if self._tls is None:
            return data
        if data:
            self._tls.write(data)
        return self._ciphertext()

    def _ciphertext(self) -> bytes:
        data = self._outgoing.read()
        return data if self._outer is None else self._outer.wrap(data)

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
        """Write all of it. Raises OSError, TimeoutError among them. For the handshakes."""
        rest = memoryview(data)
        while rest:
            sent = self.send_now(rest)
            rest = rest[sent:]
            if rest and not self.wait(deadline)[1]:
                raise TimeoutError("the peer took nothing in time")

    def wait(self, deadline: float, *, read: bool = False) -> tuple[bool, bool]:
        """Wait until the system takes more or, with `read`, there is something to read."""
        if read and (self._chunks or self._is_undeciphered):
            return True, _Waiter(self.socket, write=True).wait(0)
        return _Waiter(self.socket, read=read, write=True).wait_for_each(
            deadline - time.monotonic()
        )

    # --- The end ---

    def end_our_half(self) -> None:
        """Tell the peer that nothing follows, as far as that can be said."""
        try:
            if self._tls is not None:
                try:
                    self._tls.unwrap()
                except ssl.SSLError:
                    pass  # it goes out all the same, or cannot be said any more
                self.send_now(self._ciphertext())
            else:
                self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def cut(self) -> None:
        """Wake whoever waits for this socket: nothing is sent or received any more."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more

    def close(self) -> None:
        """Close the socket. Nobody may be waiting for it."""
        self.socket.close()


class _Outer:
    """TLS with a proxy, around that with the server."""

    def __init__(
        self, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing

    def unwrap(self, chunk: bytes) -> tuple[bytes, bool]:
        """Take what was received, nothing at its end; return what is in it, and if it has ended."""
        if chunk:
            self._incoming.write(chunk)
        else:
            self._incoming.write_eof()
        return _read_all(self._tls)

    def wrap(self, data: bytes) -> bytes:
        if data:
            self._tls.write(data)
        return self._outgoing.read()


def _read_all(tls: ssl.SSLObject) -> tuple[bytes, bool]:
    """Return what can be read now, and whether nothing follows. Raises ssl.SSLError."""
    pieces = []
    is_end = False
    try:
        while piece := tls.read(CHUNK_BYTES):
            pieces.append(piece)
        is_end = True
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLZeroReturnError:
        is_end = True
    except ssl.SSLEOFError:
        # Cut off; whether something is missing, the closing handshake tells.
        is_end = True
    return b"".join(pieces), is_end


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


def _milliseconds(seconds: float) -> float | None:
    # Rounded up: what comes back too early would only come again.
    return None if seconds > 1e6 else max(0, int(seconds * 1000) + 1 if seconds > 0 else 0)


def _as_timeval(seconds: float) -> bytes | int:
    if sys.platform == "win32":
        return int(seconds * 1000)
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))

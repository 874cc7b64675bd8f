"""A socket on asyncio's loops, before it carries a WebSocket: a byte stream for the handshake.

A `Link` is the first protocol of a transport of the loop's. While the opening handshake goes on it
has the interface of an AnyIO stream; then `take_over` gives the transport of the loop, and what
has arrived, to the protocol that serves the connection. AnyIO's own stream would keep both.

The loop does TLS: its transports look the same with it.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
)
from anyio.abc import SocketStream
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from anyio.streams.tls import TLSAttribute

from .._config import CHUNK_BYTES, LINGER
from .._protocol.fields import tls_name
from .base import LateEvent

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Mapping

__all__ = ["BufferedProtocol", "Link", "leave"]

# What is read at once, at most.
_READ_BYTES = 4 * CHUNK_BYTES


class _ReadBuffer(threading.local):
    """What the loop of this thread reads into, whatever the connection: it is emptied at once.

    The loop would make a new one of this size for each read, which is what reading costs then.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_BYTES))


_read_buffer = _ReadBuffer()


class BufferedProtocol(asyncio.BufferedProtocol):
    """A protocol that reads into the buffer of its thread."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _read_buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_read_buffer.view[:nbytes])

    def data_received(self, data: memoryview) -> None:
        """Take what was received, which is gone after this call. Here, it is dropped."""


# Takes the place of a protocol that has lost its connection.
_nobody = BufferedProtocol()


def leave(sink: asyncio.Transport) -> None:
    """Have a transport of the loop's, whose connection is lost, forget its protocol.

    One with TLS would keep bound methods of it, and so a cycle.
    """
    sink.set_protocol(_nobody)


class Link(BufferedProtocol, SocketStream):
    """One task receives at a time, and one sends."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sink: asyncio.Transport
        self._ssl_object: ssl.SSLObject | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._eof = False
        self._closed = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._blocked: LateEvent | None = None  # while the system takes no more
        self._lost = LateEvent()
        self._successor: BufferedProtocol | None = None

    @classmethod
    async def make(
        cls,
        sock: socket.socket,
        ssl_context: ssl.SSLContext | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> Link:
        """Return a link over a connected socket, TLS being up. On failure the loop closes that.

        Raises OSError, ssl.SSLError among them.
        """
        loop = asyncio.get_running_loop()
        link = cls(sock)
        options: dict[str, Any] = {}
        if ssl_context is not None:
            # How long its handshake may take is for the caller to say.
            options = {"ssl": ssl_context, "ssl_handshake_timeout": 86400.0}
            options["ssl_shutdown_timeout"] = LINGER
        if server_side:
            await loop.connect_accepted_socket(lambda: link, sock, **options)
        else:
            if ssl_context is not None:
                options["server_hostname"] = server_hostname and tls_name(server_hostname)
            await loop.create_connection(lambda: link, sock=sock, **options)
        return link

    # --- What the loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sink = cast("asyncio.Transport", transport)
        # "Sent" is to mean that the system has it. With 0, TLS would pause for no bytes at all.
        self._sink.set_write_buffer_limits(high=1, low=0)
        self._ssl_object = transport.get_extra_info("ssl_object")

    def data_received(self, data: memoryview) -> None:
        self._chunks.append(bytes(data))
        self._buffered += len(data)
        if self._buffered > CHUNK_BYTES:
            self._sink.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        # Open still, for the other half. TLS has no halves.
        return self._ssl_object is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._error = exc
        self._lost.set()
        self.resume_writing()
        self._wake()
        if self._successor is not None:
            # It was on its way already when the other protocol took over.
            self._successor.connection_lost(exc)
        else:
            leave(self._sink)

    def pause_writing(self) -> None:
        self._blocked = LateEvent()

    def resume_writing(self) -> None:
        if self._blocked is not None:
            self._blocked.set()
            self._blocked = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- The stream ---

    async def receive(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        if self._chunks:
            await checkpoint()
        while not self._chunks:
            if self._closed:
                raise ClosedResourceError
            if self._error is not None:
                raise BrokenResourceError from self._error
            if self._eof:
                await checkpoint()
                raise EndOfStream
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        # The loop brings a few chunks at most before reading pauses.
        chunk = self._chunks.pop(0)
        if len(chunk) > max_bytes:
            self._chunks.insert(0, chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        if self._buffered > CHUNK_BYTES >= self._buffered - len(chunk) and not self._closed:
            self._sink.resume_reading()
        self._buffered -= len(chunk)
        return chunk

    async def send(self, item: bytes) -> None:
        # Before the write, and not after it: what has been said cannot be taken back.
        await checkpoint_if_cancelled()
        if self._closed:
            raise ClosedResourceError
        if self._lost.is_set():
            raise BrokenResourceError from self._error
        self._sink.write(item)
        if self._blocked is not None:
            await self._blocked.wait()

    async def send_eof(self) -> None:
        if not self._sink.can_write_eof():
            raise NotImplementedError("TLS has no end of one half")
        if not self._closed and not self._lost.is_set():
            self._sink.write_eof()
        await checkpoint()

    async def aclose(self) -> None:
        self._closed = True
        if not self._sink.is_closing():
            self._sink.close()
        self._wake()
        try:
            await self._lost.wait()
            await checkpoint()
        except BaseException:
            if not self._lost.is_set():
                # Afterwards, a transport of the loop's does not bear it.
                self._sink.abort()
                with CancelScope(shield=True):
                    await self._lost.wait()
            raise

    # --- Handing over ---

    def take_over(self, protocol: BufferedProtocol) -> tuple[asyncio.Transport, bytes]:
        """Give the loop's transport to another protocol; return it and what it has received.

        What happens from now on it is told; of what has happened, `is_at_end` and `is_lost` tell.
        """
        received = b"".join(self._chunks)
        if self._buffered > CHUNK_BYTES and not self._lost.is_set():
            self._sink.resume_reading()
        self._chunks.clear()
        self._buffered = 0
        self._sink.set_protocol(protocol)
        self._successor = protocol
        return self._sink, received

    def let_go(self) -> None:
        """Forget the other protocol: no cycle is left behind."""
        self._successor = None

    @property
    def is_at_end(self) -> bool:
        """Whether the peer has ended its half, or the connection is lost."""
        return self._eof

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    @property
    def error(self) -> Exception | None:
        """What the connection was lost by."""
        return self._error

    # --- What it is like ---

    @property
    def _raw_socket(self) -> socket.socket:
        return self._socket

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes = super().extra_attributes
        tls = self._ssl_object
        if tls is None:
            return attributes
        return {
            **attributes,
            TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
            TLSAttribute.channel_binding_tls_unique: tls.get_channel_binding,
            TLSAttribute.cipher: tls.cipher,
            TLSAttribute.peer_certificate: lambda: tls.getpeercert(False),
            TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(True),
            TLSAttribute.server_side: lambda: tls.server_side,
            TLSAttribute.shared_ciphers: lambda: tls.shared_ciphers() if tls.server_side else None,
            TLSAttribute.standard_compatible: lambda: True,
            TLSAttribute.ssl_object: lambda: tls,
            TLSAttribute.tls_version: tls.version,
        }

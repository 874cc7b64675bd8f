"""A connection as a stream of bytes, for what knows nothing of messages.

Where one message ends and the next begins means nothing here: bytes are sent in binary messages of
a bounded size, and received as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from anyio import BrokenResourceError, BusyResourceError, EndOfStream
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from ._close import CloseCode
from ._config import CHUNK_BYTES, check_range
from ._errors import ClosedByPeer, ClosedByUs
from ._protocol.outgoing import as_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._websocket import WebSocket

__all__ = ["WebSocketByteStream"]


class WebSocketByteStream(ByteStream):
    """A `WebSocket` seen as an AnyIO byte stream: to carry SSH, a database's protocol, TLS.

    ::

        async with open_websocket("wss://example.com/tunnel", subprotocols=["binary"]) as ws:
            stream = WebSocketByteStream(ws)
            await stream.send(b"bytes")
            data = await stream.receive(1024)

    Closing the stream closes the connection, with 1000. Typed attributes are the connection's.

    :param ws: an open connection, in either role, which nobody else sends to or receives from
    :param message_size: the most bytes of one message that is sent, from 1. Default 64 KiB, which
        is below every limit on messages that is in use
    :param compress: as for `WebSocket.send`. Default ``False``: what is tunnelled is encrypted,
        mostly, and does not get smaller

    One task may send and one receive at a time.
    """

    def __init__(
        self,
        ws: WebSocket,
        *,
        message_size: int = CHUNK_BYTES,
        compress: bool | None = False,
    ) -> None:
        check_range("message_size", message_size, 1, None)
        self._ws = ws
        self._message_size = message_size
        self._compress = compress
        self._rest = memoryview(b"")  # of the latest message, to be received
        self._sending = False
        self._receiving = False
        self._violation: str | None = None
        self._has_ended = False  # our half, by `send_eof`
        self._is_closed = False

    async def send(self, item: bytes) -> None:
        """Send bytes, in as many messages as it takes; none for no bytes.

        :raises anyio.BrokenResourceError: the peer has closed, or the connection is broken
        :raises anyio.ClosedResourceError: this end had closed
        :raises anyio.BusyResourceError: another task is sending (the caller's fault)

        Cancelled, the first messages of a large item may be sent and the others not, as over any
        byte stream; one of up to `message_size` bytes is sent whole or not at all.
        """
        data = as_binary(item)
        if self._sending:
            raise BusyResourceError("sending to")
        self._sending = True
        try:
            if not data:
                await checkpoint()
                if not self._ws.is_open:
                    raise self._ws._protocol.exception()
            for start in range(0, len(data), self._message_size):
                piece = data[start : start + self._message_size]
                await self._ws.send(piece, compress=self._compress)
        except ClosedByPeer as error:
            # Which is an EndOfStream as well, and that is what a `receive` raises.
            raise BrokenResourceError(str(error)) from error
        finally:
            self._sending = False

    async def receive(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Return the next bytes, at least one.

        :param max_bytes: the most that are returned, from 1; more of a message waits for the next
            call
        :raises anyio.EndOfStream: the peer closed with 1000 or no code
        :raises anyio.BrokenResourceError: the connection ended in any other way, so that bytes may
            be missing; or the peer sent a text message (its fault), for which the connection is
            closed with 1003
        :raises anyio.ClosedResourceError: this end had closed
        :raises anyio.BusyResourceError: another task is receiving (the caller's fault)

        Cancelled, no byte is lost: the next call returns it.
        """
        check_range("max_bytes", max_bytes, 1, None)
        if self._receiving:
            raise BusyResourceError("receiving from")
        self._receiving = True
        try:
            if self._rest:
                await checkpoint()
            while not self._rest:
                await self._receive_message()
        finally:
            self._receiving = False
        data = bytes(self._rest[:max_bytes])
        self._rest = self._rest[max_bytes:]
        return data

    async def _receive_message(self) -> None:
        if self._violation is not None:
            await checkpoint()
            raise BrokenResourceError(self._violation)
        try:
            message = await self._ws.receive()
        except ClosedByPeer as error:
            if error.closure.code == CloseCode.GOING_AWAY:
                # It was stopped: an end of the stream would make the bytes look complete.
                raise BrokenResourceError(str(error)) from error
            # Which is an EndOfStream, but not that alone.
            raise EndOfStream(str(error)) from error
        except ClosedByUs as error:
            if self._has_ended and not self._is_closed:
                # Only one half was, and what was to come on the other did not.
                raise BrokenResourceError(str(error)) from error
            raise
        if isinstance(message, str):
            self._refuse()
        self._rest = memoryview(message)

    def _refuse(self) -> NoReturn:
        words = "the peer sent a text message, where bytes are carried in binary ones"
        self._violation = words
        if self._ws.is_open:
            self._ws._begin_close(CloseCode.UNSUPPORTED_DATA, words)
        raise BrokenResourceError(words)

    async def send_eof(self) -> None:
        """Send no more: close the connection with 1000, and go on receiving what is on its way.

        WebSocket has no end of one half. A peer answers the Close and can send nothing behind
        that: `receive` returns what it had sent before, and then raises `anyio.EndOfStream`. A
        protocol in which one end goes on sending after the other's end of file is not for this.
        """
        self._has_ended = True
        await self._ws.send_eof()

    async def aclose(self) -> None:
        """Close the connection with 1000, like `WebSocket.aclose`."""
        self._is_closed = True
        self._rest = memoryview(b"")
        await self._ws.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._ws.extra_attributes

"""Keeping a stream from reading ahead without bound.

AnyIO's stream on asyncio reads from the moment it is connected, into a queue of its own, until a
`receive` has had to wait. Where a peer sends without pause, none ever has to. So its transport is
paused at once, and one that is paused reads only while a `receive` waits.

Even then, uvloop reads up to 32 chunks of 256 KiB before that task runs. Hence a protocol that
stands in front of AnyIO's, and pauses the transport again with the first of them.

There is no public way to either. What is not as expected here is left as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anyio.streams.tls import TLSStream

if TYPE_CHECKING:
    from anyio.abc import AnyByteStream

__all__ = ["hold_back"]


def hold_back(stream: AnyByteStream) -> None:
    """Keep a new stream from reading more than what is asked for, but for one chunk."""
    while isinstance(stream, TLSStream):
        stream = stream.transport_stream
    transport: Any = getattr(stream, "_transport", None)
    # Of a type of the event loop's own.
    if not hasattr(transport, "pause_reading"):
        return
    protocol = getattr(stream, "_protocol", None)
    try:
        transport.pause_reading()
        if isinstance(protocol, asyncio.Protocol) and transport.get_protocol() is protocol:
            transport.set_protocol(_OneChunk(transport, protocol))
    except RuntimeError:
        pass  # closed already


class _OneChunk(asyncio.Protocol):
    """Hands everything on, until the event loop lets go of it with the connection."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

"""A `WebSocket` from what its opening handshake has settled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._keepalive import Keepalive
from .._observed import note_opened
from .._protocol.tracing import make_protocol
from .._transports.blocking import BlockingTransport
from ._websocket import WebSocket

if TYPE_CHECKING:
    from .._close import Role
    from .._config import Config
    from .._handshake import Handshake
    from .._protocol.negotiation import Negotiated
    from .._transports.blocking_stream import BlockingStream

__all__ = ["make_websocket"]


def make_websocket(
    role: Role,
    stream: BlockingStream,
    config: Config,
    handshake: Handshake,
    negotiated: Negotiated | None,
    trailing_data: bytes,
) -> WebSocket:
    protocol = make_protocol(role, config, negotiated, time.monotonic)
    note_opened(protocol, handshake)
    if trailing_data:
        protocol.receive_data(trailing_data)
    keepalive = Keepalive(protocol, config, time.monotonic())
    protocol.on_pong = keepalive.receive_pong
    transport = BlockingTransport(stream, protocol, config, keepalive)
    return WebSocket(transport, keepalive, handshake, config)

"""What the opening handshake settled, and what of it a connection shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import TypedAttributeSet, typed_attribute

if TYPE_CHECKING:
    from ._protocol.http import Request, Response

__all__ = ["Handshake", "WebSocketAttribute"]


class Handshake:
    """What the opening handshake settled."""

    __slots__ = ("peer", "request", "response", "subprotocol")

    def __init__(
        self,
        request: Request,
        response: Response,
        *,
        subprotocol: str | None,
        peer: str,
    ) -> None:
        self.request: Request = request
        self.response: Response = response
        self.subprotocol: str | None = subprotocol
        self.peer: str = peer  # who is at the other end, fit for a log


class WebSocketAttribute(TypedAttributeSet):
    """Typed attributes of a `WebSocket`, beside those of the stream below it."""

    #: the `WebSocket`'s request
    request: Request = typed_attribute()
    #: the `WebSocket`'s response
    response: Response = typed_attribute()
    #: the subprotocol, or ``None``
    subprotocol: str | None = typed_attribute()

"""What a client tells its listeners: values, made when they are delivered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._errors import HandshakeRejected

if TYPE_CHECKING:
    from .._close import Closure
    from .._protocol.http import Request, Response
    from ._client import Client

__all__ = ["EVENTS", "Closed", "Event", "Failed", "Listener", "Message", "Opened", "Pong"]


@dataclass(frozen=True, slots=True)
class Event:
    """What all events have in common. A listener for `Event` gets every one of them.

    client:
        Whose event it is: the `Client` to send with, or to close.
    """

    client: Client = field(repr=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Opened(Event):
    """The connection is open. The first event, if it comes at all.

    request, response:
        The two halves of the opening handshake; the response has the status and the headers.
    subprotocol:
        The one that both ends agreed on, if any.
    """

    request: Request
    response: Response
    subprotocol: str | None


@dataclass(frozen=True, slots=True)
class Message(Event):
    """A message came.

    data:
        A `str` for a text message, `bytes` for a binary one.
    """

    data: str | bytes

    @property
    def is_text(self) -> bool:
        """Whether it is a text message."""
        return isinstance(self.data, str)


@dataclass(frozen=True, slots=True)
class Pong(Event):
    """The answer to a `Client.ping`.

    latency:
        Seconds from the ping to its pong.
    """

    latency: float


@dataclass(frozen=True, slots=True)
class Closed(Event):
    """The connection has ended, or this end closed it before it was open. The last event.

    closure:
        How it ended: both Closes, who was first, and the cause in words.
    """

    closure: Closure

    @property
    def code(self) -> int:
        """The peer's close code, or 1006 when no Close came."""
        return self.closure.code

    @property
    def reason(self) -> str:
        """The peer's close reason, empty when there was none."""
        return self.closure.reason

    @property
    def clean(self) -> bool:
        """Whether both ends sent a Close."""
        return self.closure.clean


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The connection could not be opened. The only event, then.

    what:
        What happened, in words for a person.
    error:
        The exception that `anyws.open_websocket` would have raised.
    """

    what: str
    error: Exception

    @property
    def response(self) -> Response | None:
        """What the server answered, with status, headers and body, where it refused."""
        return self.error.response if isinstance(self.error, HandshakeRejected) else None


Listener: TypeAlias = Callable[[Any], object]
ListenersLike: TypeAlias = Listener | Mapping[type[Event], Listener]

EVENTS: Final[tuple[type[Event], ...]] = (Opened, Message, Pong, Closed, Failed)

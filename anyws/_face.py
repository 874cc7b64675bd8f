"""What a program can ask a connection without waiting, whichever way it waits otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ._close import Role, Status
from ._observed import counters_of

if TYPE_CHECKING:
    from ._close import Closure
    from ._config import Config
    from ._counters import Counters
    from ._handshake import Handshake
    from ._keepalive import Keepalive
    from ._protocol.http import Request, Response
    from ._protocol.protocol import Protocol

__all__ = ["Face"]


class Face(ABC):
    def __init__(
        self, protocol: Protocol, keepalive: Keepalive, handshake: Handshake, config: Config
    ) -> None:
        self._protocol = protocol
        self._keepalive = keepalive
        self._handshake = handshake
        self._config = config

    @abstractmethod
    def _is_closed(self) -> bool:
        """Whether the stream is closed."""

    @property
    def status(self) -> Status:
        """Where the connection is in its life: open, closing or closed."""
        if self._is_closed():
            return Status.CLOSED
        return Status.OPEN if self._protocol.sendable else Status.CLOSING

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: neither end has closed, and nothing is known to fail."""
        return self._protocol.sendable

    @property
    def closure(self) -> Closure | None:
        """How the connection ended; ``None`` while it is open."""
        return None if self._protocol.sendable else self._protocol.ending.closure()

    @property
    def latency(self) -> float | None:
        """Seconds that the latest answered ping took, keepalive's included; ``None`` before."""
        return self._keepalive.latency

    @property
    def counters(self) -> Counters:
        """What went over the connection so far, also when it is closed. Costs nothing until asked."""
        return counters_of(self._protocol, self._keepalive)

    @property
    def role(self) -> Role:
        """Which end this is."""
        return self._protocol.role

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that both ends agreed on, if any."""
        return self._handshake.subprotocol

    @property
    def request(self) -> Request:
        """The client's half of the opening handshake, as sent or received."""
        return self._handshake.request

    @property
    def response(self) -> Response:
        """The server's half of the opening handshake, as received or sent."""
        return self._handshake.response

    @property
    def extensions(self) -> tuple[str, ...]:
        """The names of the extensions in use."""
        return self._protocol.extensions

    def __repr__(self) -> str:
        end = "client of" if self.role is Role.CLIENT else "server of"
        kind = type(self)
        name = f"{kind.__module__}.{kind.__qualname__}"
        words = [f"<{name} {end} {self._handshake.peer}: {self.status.value}"]
        if self.subprotocol is not None:
            words.append(f"subprotocol {self.subprotocol!r}")
        if (closure := self.closure) is not None:
            words.append(closure.cause)
        return ", ".join(words) + ">"

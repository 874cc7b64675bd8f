"""How a connection ended: who ended it, what both ends said, and which exception tells."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal

from .._close import Close, CloseCode, Closure
from .._errors import ClosedByPeer, ClosedByUs, ClosedWithError, ConnectionBroken

if TYPE_CHECKING:
    from .._errors import ConnectionClosed

__all__ = ["By", "Ending"]

# Codes after which `async for` just ends.
_ORDINARY = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED)


class By(enum.Enum):
    """Who ended the connection."""

    NOBODY = "nobody"
    US = "us"
    PEER = "peer"
    BREAK = "break"  # a violation, a limit, the network, a timeout


class Ending:
    """What is known of the end so far; the first to end a connection stays the one who did."""

    def __init__(self) -> None:
        self.by: By = By.NOBODY
        self.sent: Close | None = None
        self.received: Close | None = None
        self.error: Exception | None = None  # of the network, where that was what failed
        self._detail = ""  # what happened, where neither Close tells
        self._token = object()

    @property
    def clean(self) -> bool:
        """Whether both ends sent a Close (RFC 6455, section 7.1.4)."""
        return self.sent is not None and self.received is not None

    def note(self, by: By, detail: str, error: Exception | None = None) -> None:
        """Take note of who ended the connection; what comes later is a detail at most."""
        if self.by is By.NOBODY:
            self.by = by
        self._detail = self._detail or detail
        self.error = self.error or error

    def note_loss(self, error: Exception | None, otherwise: str) -> None:
        """Take note that the network failed, with `error`, or as `otherwise` says.

        The traceback of an error that is kept must not lead back to the connection.
        """
        # AnyIO's errors say little; what they were raised from says what the system said.
        known = error and (error.__cause__ or error)
        detail = f"{type(known).__name__}: {known}".rstrip(": ") if known else otherwise
        self.note(By.BREAK, f"the connection was lost: {detail}", error)

    def closure(self) -> Closure:
        """Return how the connection ended, as far as it has."""
        first: Literal["ours", "theirs"] | None = None
        if self.by is By.PEER:
            first = "theirs"
        elif self.by is By.US or self.sent is not None:
            first = "ours"
        return Closure(self.sent, self.received, first, self.clean, self._cause())

    def _cause(self) -> str:
        if self.by is By.PEER:
            return f"the peer closed the connection with {self.received}"
        if self.by is By.US and self.sent is not None:
            cause = f"this end closed the connection with {self.sent}"
            return f"{cause}; {self._detail}" if self._detail else cause
        return self._detail or "the connection is open"

    def exception(self, *, delivered: bool = False) -> ConnectionClosed:
        """Return a new exception for a call that the end makes impossible.

        delivered:
            The caller went on receiving after our Close, and has now met the peer's end.
        """
        closure = self.closure()
        kind: type[ConnectionClosed] = ConnectionBroken
        if self.by is By.US and not (delivered and self.received is not None):
            kind = ClosedByUs
        elif self.by is not By.BREAK:
            kind = ClosedByPeer if closure.code in _ORDINARY else ClosedWithError
        exception = kind(closure)
        exception._token = self._token
        exception.__cause__ = self.error
        return exception

    def is_told_by(self, exception: BaseException) -> bool:
        """Whether this is an exception of `exception`'s, of this connection, or a group of such."""
        if isinstance(exception, BaseExceptionGroup):
            return all(self.is_told_by(one) for one in exception.exceptions)
        return getattr(exception, "_token", None) is self._token

"""How a connection stands and how it ended: plain values, no behaviour."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "MAX_REASON_BYTES",
    "Close",
    "CloseCode",
    "Closure",
    "Role",
    "Status",
    "check_close",
    "is_wire_code",
]


class Role(enum.Enum):
    """Which end of the connection we are."""

    CLIENT = "client"
    SERVER = "server"


class Status(enum.Enum):
    """Where a connection is in its life: the one answer to "is it open?"."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class CloseCode(enum.IntEnum):
    """The registered close codes (RFC 6455, section 7.4.1, and the IANA registry).

    Three of them never travel in a frame: ``NO_STATUS_RECEIVED`` stands for a Close without a
    code, ``ABNORMAL_CLOSURE`` for a connection that ended without a Close, ``TLS_HANDSHAKE`` for
    one that never got as far as HTTP.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


# RFC 6455, section 5.5: a control frame carries at most 125 bytes, two of which are the code.
MAX_REASON_BYTES = 123


@dataclass(frozen=True, slots=True)
class Close:
    """A close code and a close reason (RFC 6455, sections 7.1.5 and 7.1.6).

    The reason comes from the peer when the Close does: show it to a person only as the untrusted
    text it is.
    """

    code: int
    reason: str = ""

    def __str__(self) -> str:
        try:
            name = CloseCode(self.code).name.lower().replace("_", " ")
        except ValueError:
            name = "application" if 3000 <= self.code <= 4999 else "unknown"
        text = f"{self.code} ({name})"
        # repr: a reason may hold control characters, and this text goes into logs.
        return f"{text} {self.reason!r}" if self.reason else text


@dataclass(frozen=True, slots=True)
class Closure:
    """How a connection ended.

    sent, received:
        The Close that each end sent, ``None`` where it sent none. A Close without a code is
        ``Close(1005)``.
    first:
        Who ended it: ``"ours"`` or ``"theirs"``; ``None`` when neither end did, as when the
        network failed.
    clean:
        Whether both ends sent a Close (RFC 6455, section 7.1.4).
    cause:
        What happened, in words.
    """

    sent: Close | None
    received: Close | None
    first: Literal["ours", "theirs"] | None
    clean: bool
    cause: str

    @property
    def code(self) -> int:
        """The close code: the peer's, or 1006 when no Close came (RFC 6455, section 7.1.5)."""
        return CloseCode.ABNORMAL_CLOSURE if self.received is None else self.received.code

    @property
    def reason(self) -> str:
        """The peer's close reason, empty when there was none (RFC 6455, section 7.1.6)."""
        return "" if self.received is None else self.received.reason


def is_wire_code(code: int) -> bool:
    """Tell whether a Close frame may carry this code (RFC 6455, section 7.4; IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def check_close(code: object, reason: object, role: Role) -> Close:
    """Return the Close that a caller of ours asked for, or raise what is wrong with it."""
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"the close code must be an int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"the close reason must be a str, not {type(reason).__name__}")
    if not is_wire_code(code):
        raise ValueError(
            f"close code {int(code)} cannot be sent: use 1000-1003, 1007-1014 or 3000-4999"
        )
    if code == CloseCode.MANDATORY_EXTENSION and role is Role.SERVER:
        raise ValueError("close code 1010 is sent by clients only (RFC 6455, section 7.4.1)")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"the close reason is not valid text: {error}") from None
    if size > MAX_REASON_BYTES:
        raise ValueError(
            f"the close reason is {size} bytes of UTF-8, and a Close holds {MAX_REASON_BYTES}"
        )
    return Close(int(code), reason)

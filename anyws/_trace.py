"""What a program is shown of a connection that it traces: plain values, no behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from ._close import Role

__all__ = ["Trace", "TraceEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """Something that happened on a connection, for ``Config.trace``.

    kind:
        ``"open"``: the opening handshake is over. ``"received"``: the head of a frame has arrived.
        ``"sent"``: a frame was handed to the network, or, by `broadcast`, put in line for it.
        ``"closed"``: the stream is closed, and nothing follows. ``"refused"``: a client of a server
        got no WebSocket, but an answer or none; nothing else is told of it.
    time:
        Seconds, on the clock of the event loop (`anyio.current_time`), or in `anyws.sync` that of
        `time.monotonic`.
    connection:
        A number that stands for the connection, in the order of their making in this process.
    role:
        Which end of it this is.
    opcode:
        Of a frame (RFC 6455, section 5.2): 0 continuation, 1 text, 2 binary, 8 Close, 9 ping,
        10 pong; else ``None``.
    length:
        Bytes of the frame's payload, as on the wire: compressed where it is.
    final:
        Whether the frame ends its message.
    compressed:
        Whether the frame begins a compressed message.
    detail:
        Words for ``"open"``: who is at the other end, and what was agreed on; for ``"closed"``: how
        it ended; and for ``"refused"``: who it was, and why. No query, no header of a request and no
        message is in it.
    """

    kind: Literal["open", "received", "sent", "closed", "refused"]
    time: float
    connection: int
    role: Role
    opcode: int | None = None
    length: int = 0
    final: bool = True
    compressed: bool = False
    detail: str = ""


Trace: TypeAlias = Callable[[TraceEvent], object]

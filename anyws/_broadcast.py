"""One message to many connections at once, without waiting for any.

`broadcast` is no coroutine: it hands each connection its frame, and returns. What a peer does not
take waits in its connection, whole frames in line with everything else that is sent there; a bound
on that, `Backlog`, decides what becomes of a peer that is slower than what it is sent.

A connection in the middle of a message in fragments keeps what is broadcast until that message has
ended: frames of two messages never mix (RFC 6455, section 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._config import Backlog
from ._protocol.outgoing import as_message
from ._protocol.shared import SharedMessage
from ._websocket import WebSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BroadcastResult", "broadcast"]

_DEFAULT = Backlog()
_REASON = "too far behind"


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What became of a message for each of the connections, in their order.

    sent:
        Those that it was handed to. It goes out whole, unless the connection ends before.
    skipped:
        Those that are behind, and do not get it.
    dropped:
        Those that are behind, and that this call has begun to close for it.
    closed:
        Those that were closed, or closing, before.
    """

    sent: tuple[WebSocket, ...]
    skipped: tuple[WebSocket, ...]
    dropped: tuple[WebSocket, ...]
    closed: tuple[WebSocket, ...]


def broadcast(
    connections: Iterable[WebSocket],
    message: str | bytes,
    *,
    compress: bool | None = None,
    backlog: Backlog | None = None,
) -> BroadcastResult:
    """Send one message to many connections, now, without waiting for any of their peers.

    ::

        result = broadcast(server.connections, "the shop opens")
        for ws in result.dropped:
            ...

    It is encoded once for all connections of one kind, and handed to the network or, where a peer
    has not taken what it got before, put behind that: each gets it in line with what is sent to it
    otherwise. One that is behind by more than `Backlog.max_bytes` is closed with 1013 or skipped,
    as `backlog` says.

    :param connections: open ones of this event loop, in either role; any that are closed count as
        that
    :param message: `str` for a text message, `bytes`, `bytearray` or `memoryview` for a binary one
    :param compress: as for `WebSocket.send`. Compressed, it costs each connection the history of
        what it has sent before
    :param backlog: how far a peer may be behind; default: `Backlog()`
    :raises TypeError: the message, or a connection, is of another type (the caller's fault);
        nothing was sent
    :raises ValueError: the text has a lone surrogate (the caller's fault); nothing was sent

    It awaits nothing, so nobody else runs meanwhile: that takes microseconds for each connection.
    To be called in the thread of the event loop; a program that broadcasts without a pause has to
    let that run now and then, or everybody is behind. What becomes of a connection afterwards is
    told to whoever uses it: nothing is raised for it here.
    """
    backlog = _DEFAULT if backlog is None else backlog
    if not isinstance(backlog, Backlog):
        raise TypeError(f"backlog must be a Backlog, not {type(backlog).__name__}")
    shared = SharedMessage(as_message(message), compress)
    # Ending a connection may change the collection that they came from.
    everybody = tuple(connections)
    for ws in everybody:
        if not isinstance(ws, WebSocket):
            raise TypeError(f"broadcast takes connections (WebSocket), not {type(ws).__name__}")
    sent: list[WebSocket] = []
    skipped: list[WebSocket] = []
    dropped: list[WebSocket] = []
    closed: list[WebSocket] = []
    for ws in everybody:
        if not ws._protocol.sendable:
            closed.append(ws)
        elif not _is_behind(ws, backlog):
            _send(ws, shared)
            sent.append(ws)
        elif backlog.close_code is None:
            ws._is_skipped = True
            skipped.append(ws)
        else:
            ws._begin_close(backlog.close_code, _REASON)
            dropped.append(ws)
    return BroadcastResult(tuple(sent), tuple(skipped), tuple(dropped), tuple(closed))


def _is_behind(ws: WebSocket, backlog: Backlog) -> bool:
    waiting = ws._transport.backlog
    if ws._fragmented is not None:
        waiting += ws._fragmented.held_bytes
    if ws._is_skipped:
        # Not served again before it has caught up by a good deal.
        ws._is_skipped = waiting > backlog.resume_at
        return ws._is_skipped
    return waiting >= backlog.max_bytes


def _send(ws: WebSocket, message: SharedMessage) -> None:
    if ws._fragmented is not None:
        ws._fragmented.hold(message)
    else:
        ws._transport.push(ws._protocol.encode_shared(message))

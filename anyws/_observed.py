"""What is told of a connection: its counters at any time, its beginning and its end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ._close import Role
from ._counters import Counters
from ._errors import HandshakeRejected
from ._protocol.http import FIRST_ERROR
from ._protocol.tracing import TracedProtocol, tell_refused

if TYPE_CHECKING:
    from ._config import Config
    from ._counters import Tally
    from ._handshake import Handshake
    from ._keepalive import Keepalive
    from ._protocol.http import Response
    from ._protocol.protocol import Protocol

__all__ = ["count_refused", "counters_of", "note_end", "note_opened", "note_refused"]

_LOGGERS = {
    Role.CLIENT: logging.getLogger("anyws.client"),
    Role.SERVER: logging.getLogger("anyws.server"),
}


def counters_of(protocol: Protocol, keepalive: Keepalive) -> Counters:
    """Return what was counted so far."""
    inbox = protocol.inbox
    return Counters(
        messages_received=protocol.messages_received,
        messages_sent=protocol.messages_sent,
        bytes_received=inbox.received_bytes,
        bytes_sent=protocol.bytes_sent,
        pings_received=protocol.pings_received,
        pings_sent=keepalive.pings_sent,
        latency=keepalive.latency,
        inbox_messages=inbox.most_messages,
        inbox_bytes=inbox.most_bytes,
    )


def note_opened(protocol: Protocol, handshake: Handshake) -> None:
    """Tell of a connection that begins, where somebody traces it."""
    if not isinstance(protocol, TracedProtocol):
        return
    words = [handshake.peer]
    if protocol.role is Role.SERVER:
        words.append(repr(handshake.request.raw_path))
    if handshake.subprotocol is not None:
        words.append(f"subprotocol {handshake.subprotocol!r}")
    words += protocol.extensions
    protocol.tell("open", detail=", ".join(words))


def note_end(protocol: Protocol, handshake: Handshake, seconds: float) -> None:
    """Tell of a connection whose stream is closed, after so many seconds."""
    cause = protocol.ending.closure().cause
    _LOGGERS[protocol.role].info(
        "%s: %s, after %.1f s, %d messages in, %d out",
        handshake.peer,
        cause,
        seconds,
        protocol.messages_received,
        protocol.messages_sent,
    )
    if isinstance(protocol, TracedProtocol):
        protocol.tell("closed", detail=cause)


def count_refused(tally: Tally, error: BaseException) -> None:
    """Count a client of a server that got no WebSocket."""
    if _answer_in(error) is None:
        tally.refused += 1
    else:
        tally.answered += 1


def _answer_in(error: BaseException | str) -> Response | None:
    """Return the program's own answer to a request, as a health check's, if it is no refusal."""
    if isinstance(error, HandshakeRejected) and error.response.status < FIRST_ERROR:
        return error.response
    return None


def note_refused(config: Config, peer: str, error: BaseException | str, now: float) -> None:
    """Tell of a client of a server that got no WebSocket, and why."""
    answer = _answer_in(error)
    if answer is not None:
        words = f"answered with {answer.describe()}"
    else:
        words = f"no WebSocket: {str(error) or repr(error)}"
    _LOGGERS[Role.SERVER].info("%s: %s", peer, words)
    if config.trace is not None:
        tell_refused(config.trace, now, f"{peer}: {words}")

"""One client of a server: from the accepted stream to its end, in one task.

The task does the opening handshake, runs the handler and closes. It is shielded from whatever
cancels the server: how a client is sent away is for the server to say, in steps. `refuse` ends a
handshake that is not over, `send_away` closes the connection while the handler goes on, or as soon as
the handshake is over, and `cut_off` cancels the handler and cuts the stream.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import CancelScope, current_time, get_cancelled_exc_class

from ._accept import WaysOut, accept, turn_away
from ._connection import is_cancellation, is_cancelled, split_cancellations
from ._counters import Tally
from ._errors import HandshakeError, HandshakeTimeout
from ._observed import count_refused, note_refused
from ._policy import NO_ROOM, TOO_MANY, peer_of
from ._transports.errors import STREAM_ERRORS

if TYPE_CHECKING:
    import ssl

    from ._close import CloseCode
    from ._config import Config
    from ._connection import Connection
    from ._handlers import Handler
    from ._policy import Policy
    from ._routes import Table
    from ._transports.sockets import Accepted
    from ._websocket import WebSocket

__all__ = ["Served", "Service"]

_logger = logging.getLogger("anyws.server")

_NO_TIME = HandshakeTimeout("the server had no more time")


@dataclass(frozen=True)
class Service:
    """What a server has for each of its clients."""

    handlers: Table[Handler]
    policy: Policy
    config: Config
    ssl_context: ssl.SSLContext | None
    tally: Tally = field(default_factory=Tally)


class Served:
    def __init__(self, service: Service) -> None:
        self.websocket: WebSocket | None = None  # while the handler runs
        self._service = service
        self._connection: Connection | None = None
        self._scope = CancelScope(shield=True)
        self._ways_out: WaysOut | None = WaysOut()  # of the opening handshake
        self._sent_away: CloseCode | None = None
        self._is_told_of_no_room: bool | None = None  # where there is none

    def refuse(self) -> None:
        """Answer with 503 where the opening handshake is not over."""
        if self._ways_out is not None:
            self._ways_out.refuse()

    def send_away(self, seconds: float | None, code: CloseCode) -> None:
        """Close while the handler goes on, and cut the stream after that time."""
        self._sent_away = code
        if self._connection is not None:
            self._connection.send_away(seconds, code)

    def cut_off(self) -> None:
        """Cancel the handler, and cut the stream."""
        self._scope.cancel()
        if self._connection is not None:
            self._connection.transport.give_up("the server had no more time")

    def turn_away(self, *, tell: bool) -> None:
        """Let `run` send the client away for want of room; or, where it is not told, just close."""
        tally = self._service.tally
        tally.refused += 1
        tally.turned_away += 1
        self._is_told_of_no_room = tell

    async def run(self, accepted: Accepted) -> None:
        """Serve the client. Raises nothing but what ends the program."""
        try:
            with self._scope:
                if self._is_told_of_no_room is None:
                    await self._serve(accepted)
                else:
                    await self._turn_away(accepted, tell=self._is_told_of_no_room)
        except get_cancelled_exc_class():
            if is_cancelled():
                raise
            # Somebody has cancelled this task, not the server: to the task group, it would look
            # like its own.
            _logger.info("the task that served a client was cancelled")
        except Exception as error:
            _logger.error("anyws failed while serving a client", exc_info=error)

    async def _turn_away(self, accepted: Accepted, *, tell: bool) -> None:
        peer = peer_of(accepted.remote_address)
        note_refused(self._service.config, peer, NO_ROOM, current_time())
        try:
            if tell:
                await turn_away(accepted, TOO_MANY, self._service.ssl_context)
            else:
                await accepted.cut()
        except STREAM_ERRORS:
            pass  # it was gone

    async def _serve(self, accepted: Accepted) -> None:
        service = self._service
        # Not every stream knows its peer once it is closed.
        peer = peer_of(accepted.remote_address)
        ways_out = self._ways_out
        assert ways_out is not None
        try:
            connection = await accept(
                accepted,
                service.policy,
                service.config,
                ssl_context=service.ssl_context,
                ways_out=ways_out,
            )
        except (HandshakeError, *STREAM_ERRORS) as error:
            self._note_refused(peer, error)
            return
        except Exception as error:
            self._note_refused(peer, ways_out.told or error)
            raise
        except BaseException:
            # The server had no more time for it, mostly: its client may have the answer, and be
            # about to leave.
            self._note_refused(peer, ways_out.told or _NO_TIME)
            raise
        finally:
            self._ways_out = None
            del ways_out  # the connection may be a long one
        websocket = connection.websocket()
        handler = service.handlers.handler(websocket.request, websocket.subprotocol)
        service.tally.accepted += 1
        self._connection = connection
        try:
            async with connection:
                self.websocket = websocket
                if self._sent_away is not None:
                    connection.send_away(service.config.close_timeout, self._sent_away)
                await _run_handler(handler, websocket)
        except Exception as error:  # noqa: BLE001 - it is logged
            _note_end(connection, websocket, error)
        except BaseExceptionGroup as group:
            raise _without_failures(connection, websocket, group) from None
        finally:
            self.websocket = None
            service.tally.add(websocket.counters)

    def _note_refused(self, peer: str, error: Exception) -> None:
        """Count a client that got no WebSocket, and tell of it."""
        service = self._service
        count_refused(service.tally, error)
        note_refused(service.config, peer, error, current_time())


async def _run_handler(handler: Handler, websocket: WebSocket) -> None:
    try:
        await handler(websocket)
    except get_cancelled_exc_class() as error:
        if is_cancellation(error):
            raise
        # The end of something that it waited for. To a task group, it would look like its own.
        raise RuntimeError("the handler ended with a cancellation that was not its own") from error


def _note_end(connection: Connection, websocket: WebSocket, failure: Exception) -> None:
    """Log how a handler ended."""
    # Of its own end, the connection has told.
    if not connection.is_own_end(failure):
        _logger.error("the handler of %r failed", websocket, exc_info=failure)


def _without_failures(
    connection: Connection, websocket: WebSocket, group: BaseExceptionGroup[BaseException]
) -> BaseException:
    """Log what failed while the handler was cancelled, and return the cancellations alone."""
    cancellations, others = split_cancellations(group)
    if cancellations is None or not isinstance(others, Exception):
        return group
    _note_end(connection, websocket, others)
    return cancellations

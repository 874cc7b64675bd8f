"""Who owns a connection: from the end of the opening handshake to the closed stream.

`Connection` is the one context manager behind every way in. Entered, it starts the tasks that
serve the connection in a task group of its own. Left, it closes the connection as the body's end
asks for: with 1000 where it returned, 1011 where it raised on a server, 1001 otherwise. Then it
waits until the stream is closed, and lets the task group go, which is empty by then. The body's
exception never passes through that group, so it leaves as it is.

The library's tasks are shielded. What can still end them from outside is a cancellation that
AnyIO does not know of (`asyncio.Task.cancel`); one while the closing handshake runs ends it.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from anyio import (
    CancelScope,
    create_task_group,
    current_effective_deadline,
    current_time,
    get_cancelled_exc_class,
)

from ._close import Close, CloseCode, Role, check_close
from ._keepalive import Keepalive
from ._observed import note_end, note_opened
from ._protocol.ending import By
from ._protocol.notes import call_on_end
from ._protocol.tracing import make_protocol
from ._transports.sockets import make_transport
from ._websocket import WebSocket

if TYPE_CHECKING:
    from types import TracebackType

    from anyio import Event
    from anyio.abc import ByteStream, TaskGroup

    from ._config import Config
    from ._handshake import Handshake
    from ._protocol.negotiation import Negotiated
    from ._transports.base import LateEvent

__all__ = [
    "Connection",
    "Opening",
    "is_cancellation",
    "is_cancelled",
    "leave_task_group",
    "split_cancellations",
]


class Connection:
    """The owner of one open connection. Entering returns nothing: `websocket` makes the face."""

    def __init__(
        self,
        role: Role,
        stream: ByteStream,
        config: Config,
        handshake: Handshake,
        *,
        negotiated: Negotiated | None,
        trailing_data: bytes,
    ) -> None:
        self._protocol = make_protocol(role, config, negotiated, current_time)
        note_opened(self._protocol, handshake)
        self._protocol.receive_data(trailing_data)
        self._config = config
        self._handshake = handshake
        self._keepalive = Keepalive(self._protocol, config, current_time())
        self._protocol.on_pong = self._keepalive.receive_pong
        self.transport = make_transport(stream, self._protocol, config, self._keepalive)
        self._task_group: TaskGroup | None = None

    def websocket(self) -> WebSocket:
        return WebSocket(self.transport, self._keepalive, self._handshake, self._config)

    def is_own_end(self, error: BaseException) -> bool:
        """Whether an exception, or every one in a group, says that this connection has ended."""
        if isinstance(error, BaseExceptionGroup):
            return all(self.is_own_end(one) for one in error.exceptions)
        return self._protocol.ending.is_told_by(error)

    def send_away(self, seconds: float | None, code: CloseCode = CloseCode.GOING_AWAY) -> None:
        """Begin to close, while the body goes on; cut the stream after that time."""
        self._protocol.close(Close(code))
        self.transport.close_within(self._config.close_timeout)
        self.transport.close_within(seconds)

    async def __aenter__(self) -> Connection:
        if self.transport.needs_task_group:
            self._task_group = create_task_group()
            await self._task_group.__aenter__()
        self.transport.start(self._task_group)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cancelled = get_cancelled_exc_class()
        try:
            if exc is None:
                await self._close(CloseCode.NORMAL, self._config.close_timeout)
            else:
                was_cancelled = split_cancellations(exc)[1] is None
                crashed = self._protocol.role is Role.SERVER and not was_cancelled
                code = CloseCode.INTERNAL_ERROR if crashed else CloseCode.GOING_AWAY
                # The grace is for a cancellation that has come; one that is still to come ends it.
                shield = was_cancelled or is_cancelled()
                seconds: float | None = self._grace()
                if not shield and self._is_told_of_our_close(exc):
                    # The body has only taken note of it; how long that may take is settled.
                    seconds = None
                with CancelScope(shield=shield):
                    await self._close(code, seconds)
        except cancelled:
            # Never in the place of the body's own exception.
            if exc is None:
                raise
        finally:
            try:
                await leave_task_group(self._task_group, self.transport.closed, exc)
            finally:
                seconds = current_time() - self._keepalive.opened_at
                note_end(self._protocol, self._handshake, seconds)
                if self._protocol.role is Role.SERVER:
                    call_on_end(self._handshake.request)

    def _is_told_of_our_close(self, exc: BaseException) -> bool:
        return self._protocol.ending.by is By.US and self.is_own_end(exc)

    def _grace(self) -> float:
        """What closing may take where the body did not return: never more than where it did."""
        grace, timeout = self._config.cancel_grace, self._config.close_timeout
        return grace if timeout is None else min(grace, timeout)

    async def _close(self, code: CloseCode, seconds: float | None) -> None:
        transport = self.transport
        self._protocol.close(check_close(code, "", self._protocol.role))
        transport.close_within(seconds)
        try:
            await transport.closed.wait()
        except BaseException:
            transport.give_up("the closing handshake was cancelled")
            raise


class Opening(ABC):
    """What the ways in have in common: a context manager that opens, owns and closes."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._entered = False
        self._websocket: WebSocket | None = None

    @abstractmethod
    async def connect(self) -> Connection:
        """Do the opening handshake; on failure the stream is closed."""

    async def __aenter__(self) -> WebSocket:
        if self._entered:
            raise RuntimeError("this context manager is entered already: make another")
        self._entered = True
        try:
            self._connection = await self.connect()
        except BaseException:
            self._entered = False
            raise
        await self._connection.__aenter__()
        # Held here as well: within the block, the program need not hold it itself.
        self._websocket = self._connection.websocket()
        return self._websocket

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            await connection.__aexit__(exc_type, exc, traceback)
        finally:
            self._entered = False
            self._websocket = None


def is_cancellation(error: BaseException) -> bool:
    """Whether this is the cancellation of the task that it has reached.

    On asyncio it may be that of something else, which the task has waited for.
    """
    return isinstance(error, get_cancelled_exc_class()) and (
        is_cancelled() or _is_cancelled_natively()
    )


def is_cancelled() -> bool:
    """Whether a cancel scope around the current task is cancelled, and not shielded from."""
    return current_effective_deadline() == -math.inf


def _is_cancelled_natively() -> bool:
    """Whether somebody called `asyncio.Task.cancel`, of which AnyIO's scopes know nothing."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def split_cancellations(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Return what of an exception, or of a group of them, is cancellations, and what is not.

    A nursery of Trio's own raises its children's cancellations in a group.
    """
    cancelled = get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return error.split(cancelled)
    return (error, None) if isinstance(error, cancelled) else (None, error)


async def leave_task_group(
    task_group: TaskGroup | None, finished: Event | LateEvent, exc: BaseException | None
) -> None:
    """Leave a task group of the library's, if there is one, once `finished` is set.

    `exc` is what the body raised. It is not given to the group, which would wrap it, and nothing
    that happens here takes its place.
    """
    if task_group is None and finished.is_set():
        return
    cancelled = get_cancelled_exc_class()
    try:
        with CancelScope(shield=True):
            await finished.wait()
    except cancelled:
        # A native one, which no scope keeps away.
        if exc is None:
            raise
    finally:
        try:
            if task_group is not None:
                await task_group.__aexit__(None, None, None)
        except cancelled:
            # On its way already, or to be delivered again where the body's exception stops.
            if exc is None:
                raise
        except BaseExceptionGroup as group:
            # Tasks of ours raise nothing; this is an interrupt that hit one of them.
            raise _only(group) from None


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    exception: BaseException = group
    while isinstance(exception, BaseExceptionGroup) and len(exception.exceptions) == 1:
        exception = exception.exceptions[0]
    return exception

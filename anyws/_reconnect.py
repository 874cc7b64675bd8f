"""Ways in: a URL becomes one connection after another.

**Who owns what.** `Reconnecting` is entered once, and then has one task group. Each connection
lives in a task of that group, which enters it, waits until it is closed, and leaves it. So whoever
iterates holds no scope and no task group between two steps: the loop may be left by `break`, by an
exception or by a cancellation, a timeout may begin within the loop or around it, and nothing that
was entered by one is left by another.

**Steps.** One task at a time asks for the next connection. It closes the one before, waits for its
delay, and opens. Each may be cancelled, and the next call goes on from there: the end of a
connection counts once, and a delay is the time at which it is over, not a wait that begins anew.

What is decided, and how long is waited, is in `_protocol/retry.py`.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import (
    TASK_STATUS_IGNORED,
    BusyResourceError,
    CancelScope,
    EndOfStream,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    sleep_until,
)
from anyio.lowlevel import checkpoint_if_cancelled

from ._client import open_websocket
from ._close import CloseCode
from ._config import Backoff
from ._connection import leave_task_group
from ._errors import HandshakeRejected, ProxyError
from ._protocol import retry
from ._protocol.url import parse_url
from ._transports.base import LateEvent
from ._transports.errors import STREAM_ERRORS, is_tls_verdict

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio.abc import TaskGroup, TaskStatus

    from ._close import Closure
    from ._config import Config
    from ._protocol.http import HeadersLike
    from ._protocol.proxies import ProxyLike
    from ._websocket import WebSocket

__all__ = ["Interruption", "Reconnecting", "reconnecting"]

_logger = logging.getLogger("anyws.client")

_NETWORK = (*STREAM_ERRORS, EndOfStream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Why there is no connection, and what `Reconnecting` is about to do.

    attempt:
        Which attempt comes next, counted from 1 since the last stable connection.
    delay:
        Seconds until then; negative where that time has passed already.
    error:
        What the last attempt failed with; ``None`` where a connection had been open.
    closure:
        How the last connection ended; ``None`` where none had been open.
    transient:
        Whether the default is to try again: after an attempt that the network, a timeout, the
        server's 429 or 5xx, or a proxy (`ProxyError.transient`) had fail, and after every
        connection that had been open.
    """

    attempt: int
    delay: float
    error: Exception | None
    closure: Closure | None
    transient: bool


def reconnecting(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeadersLike | None = None,
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: ProxyLike = True,
    port: int | None = None,
    config: Config | None = None,
    backoff: Backoff | None = None,
    should_retry: Callable[[Interruption], bool] | None = None,
) -> Reconnecting:
    """Connect, and connect again whenever the connection has ended.

    ::

        async with reconnecting("wss://example.com/feed") as connections:
            async for ws in connections:
                try:
                    async for message in ws:
                        ...
                except anyws.ConnectionClosed:
                    continue

    The arguments, but for the last two, and the errors are those of `open_websocket`; the rest is
    told at `Reconnecting`.

    :param backoff: how long to wait before each attempt
    :param should_retry: asked before each but the first whether there is to be one; default:
        `Interruption.transient`
    """
    # What is wrong with the arguments is raised here. Once left, it may be entered again.
    opening = open_websocket(
        url,
        subprotocols=subprotocols,
        headers=headers,
        origin=origin,
        ssl_context=ssl_context,
        proxy=proxy,
        port=port,
        config=config,
    )
    name = parse_url(url).safe
    return Reconnecting(lambda: opening, backoff=backoff, should_retry=should_retry, name=name)


class Reconnecting:
    """One connection after another; what `reconnecting` returns.

    Entered once, with ``async with``, which owns the connections; then an iterator over them,
    without an end of its own. Each step closes the connection of the step before, with 1000, and
    waits as `Backoff` says before it connects. The first step waits for nothing.

    ``break``, exceptions and timeouts may leave the loop anywhere. The latest connection stays
    open until the next step, or until the block is left, which closes it as leaving
    `open_websocket` does.

    :param open_one: called for each connection, returns what `open_websocket` or
        `wrap_client_stream` return; so headers may change from one to the next
    :param backoff: how long to wait before each attempt
    :param should_retry: asked before each attempt but the first; ``False`` ends the iteration
        or, where an attempt failed, has its error raised. It is not awaited; what it raises is
        raised by the step
    :param name: what to call the other end in the log

    One task at a time may take a step. Log records go to ``anyws.client``.
    """

    def __init__(
        self,
        open_one: Callable[[], AbstractAsyncContextManager[WebSocket]],
        *,
        backoff: Backoff | None = None,
        should_retry: Callable[[Interruption], bool] | None = None,
        name: str = "the server",
    ) -> None:
        if backoff is not None and not isinstance(backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff, not {type(backoff).__name__}")
        self._open_one = open_one
        self._backoff = backoff or Backoff()
        self._should_retry = should_retry
        self._name = name
        self._task_group: TaskGroup | None = None
        self._entered = False
        self._stopped = False
        self._step: CancelScope | None = None  # of the step in progress, from its delay on
        self._stepping = False
        self._attempt = 0  # failed or short-lived ones since the last stable connection
        self._not_before = -math.inf
        self._websocket: WebSocket | None = None  # until its end has been counted
        self._opened_at = 0.0
        # Of the latest connection's task.
        self._ended_at = 0.0
        self._ended = LateEvent()
        self._ended.set()

    async def __aenter__(self) -> Reconnecting:
        if self._entered:
            raise RuntimeError("a Reconnecting is entered once: make another")
        self._entered = True
        group = create_task_group()
        await group.__aenter__()
        self._task_group = group
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        group, self._task_group = self._task_group, None
        assert group is not None
        try:
            if exc is not None:
                self._end_steps()
                # The task of the connection closes it as that of `connect_websocket` does.
                group.cancel_scope.cancel()
            else:
                self.stop()
                if self._websocket is not None:
                    await self._websocket.close()
        finally:
            try:
                await self._wait_until_ended(exc)
            finally:
                await leave_task_group(group, self._ended, exc)
                self._websocket = None

    async def _wait_until_ended(self, exc: BaseException | None) -> None:
        try:
            try:
                with CancelScope(shield=True):
                    await self._ended.wait()
            finally:
                # A native cancellation, which no scope keeps away, ends the grace.
                if not self._ended.is_set() and self._websocket is not None:
                    self._websocket.abort()
        except get_cancelled_exc_class():
            # Never in the place of the body's own exception.
            if exc is None:
                raise

    # --- The loop ---

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> WebSocket:
        """Close the connection before, wait, connect, and return the new connection.

        Tries as often as it takes. The iteration ends after `stop`, with the block, and where
        `should_retry` says so of a connection that had been open.

        :raises Exception: what an attempt failed with, as told at `open_websocket`, where that is
            not to be tried again
        :raises anyio.BusyResourceError: another task takes a step (the caller's fault)
        :raises RuntimeError: not entered with ``async with`` (the caller's fault)

        Cancelled, the connection before is closed or open, and nothing else is: the next step
        goes on from there.
        """
        if self._stepping:
            raise BusyResourceError("taking connections from")
        if not self._entered:
            raise RuntimeError("connections are to be had within `async with` only")
        self._stepping = True
        try:
            await checkpoint_if_cancelled()
            ws = await self._next()
        finally:
            self._stepping = False
            self._step = None
        if ws is None:
            raise StopAsyncIteration
        return ws

    async def run(self, handler: Callable[[WebSocket], Awaitable[object]]) -> None:
        """Run a handler for each connection, until `stop` is called.

        ::

            async with reconnecting("wss://example.com/feed") as connections:
                await connections.run(handler)

        A handler ends by returning, or with the `ConnectionClosed` of its own connection; then
        its connection is closed, and the next one opened. Anything else that it raises is raised
        here. Otherwise like the loop.
        """
        async for ws in self:
            try:
                await handler(ws)
            except Exception as error:
                if not ws._protocol.ending.is_told_by(error):
                    raise

    def stop(self) -> None:
        """Close the connection with 1000, without waiting for that, and open no other.

        A step in progress ends, and with it the iteration. To be called in the event loop's
        thread, from anywhere in it; any number of times.
        """
        self._end_steps()
        if self._websocket is not None and self._websocket.is_open:
            self._websocket._begin_close(CloseCode.NORMAL, "")

    def _end_steps(self) -> None:
        self._stopped = True
        if self._step is not None:
            self._step.cancel()

    # --- A step ---

    async def _next(self) -> WebSocket | None:
        # The end of the block, in another task, may let go of it meanwhile.
        websocket = self._websocket
        if websocket is not None:
            await websocket.close()
            await self._ended.wait()
            if not self._count_end(websocket):
                return None
        while not self._stopped:
            # Entered and left within one call: nothing of it is open between two steps.
            with CancelScope() as self._step:
                if self._not_before > current_time():
                    await sleep_until(self._not_before)
                try:
                    await self._connect()
                except Exception as error:
                    if not self._count_failure(error):
                        raise
            if self._websocket is not None and not self._stopped:
                return self._websocket
        # It may have opened at the moment when it was stopped.
        self.stop()
        return None

    async def _connect(self) -> None:
        """Have a task open a connection and live for it."""
        assert self._task_group is not None
        # Not through `started`, as in `connect_websocket`.
        made: list[WebSocket] = []
        try:
            name = f"anyws connection to {self._name}"
            await self._task_group.start(self._live, made.append, name=name)
        except BaseException:
            for websocket in made:
                websocket.abort()
            raise
        self._websocket = made.pop()
        self._opened_at = current_time()
        if self._attempt:
            _logger.info("%s: connected again, at attempt %d", self._name, self._attempt)

    async def _live(
        self,
        hand_over: Callable[[WebSocket], None],
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Be the task of a connection, which enters and leaves it."""
        self._ended = ended = LateEvent()
        is_open = False
        try:
            async with self._open_one() as websocket:
                closed = websocket._transport.closed
                hand_over(websocket)
                is_open = True
                task_status.started()
                await closed.wait()
        except Exception as error:
            if not is_open:
                raise
            _logger.error("%s: closing a connection failed", self._name, exc_info=error)
        finally:
            self._ended_at = current_time()
            ended.set()

    # --- Between two connections ---

    def _count_end(self, websocket: WebSocket) -> bool:
        """Take note of the end of a connection; tell whether there is to be another."""
        self._websocket = None
        if self._ended_at - self._opened_at >= self._backoff.stable_after:
            self._attempt = 0
        closure = websocket.closure
        assert closure is not None
        if self._stopped:
            return False
        interruption = self._interrupt(self._ended_at, None, closure, None, transient=True)
        # Why it has ended, the connection itself has told the log.
        if self._asked(interruption):
            delay = max(interruption.delay, 0)
            _logger.info("%s: connecting again in %.1f s", self._name, delay)
            return True
        _logger.info("%s: not connecting again", self._name)
        self._stopped = True
        return False

    def _count_failure(self, error: Exception) -> bool:
        """Take note of an attempt that failed; tell whether there is to be another."""
        told = None
        if isinstance(error, (HandshakeRejected, ProxyError)) and error.response is not None:
            told = retry.retry_after(error.response, time.time())
        transient = retry.is_transient(
            error, network=_NETWORK, is_tls_failure=is_tls_verdict(error)
        )
        interruption = self._interrupt(current_time(), error, None, told, transient=transient)
        words = f"{type(error).__name__}: {error}"
        if self._asked(interruption):
            _logger.warning(
                "%s: connecting failed: %s; trying again in %.1f s (attempt %d)",
                self._name,
                words,
                interruption.delay,
                interruption.attempt,
            )
            return True
        _logger.info("%s: connecting failed: %s; not trying again", self._name, words)
        return False

    def _interrupt(
        self,
        since: float,
        error: Exception | None,
        closure: Closure | None,
        told: float | None,
        *,
        transient: bool,
    ) -> Interruption:
        self._attempt += 1
        # How many clients come at the same moment is no secret.
        delay = retry.next_delay(self._backoff, self._attempt, random.random(), told)  # noqa: S311
        self._not_before = since + delay
        return Interruption(
            attempt=self._attempt,
            delay=self._not_before - current_time(),
            error=error,
            closure=closure,
            transient=transient,
        )

    def _asked(self, interruption: Interruption) -> bool:
        if self._should_retry is None:
            return interruption.transient
        return self._should_retry(interruption)

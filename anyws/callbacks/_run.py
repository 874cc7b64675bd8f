"""One run of a client: from opening to the last event.

**Tasks**, on whichever event loop the run lives: one that opens, attends to what the program wants
and ends the run; one that receives; one that sends; and for as long as there is something to do, one
that pings and one that closes. None waits for another, so a peer that takes nothing can be closed.

**Threads.** The program's call `send`, `ping` and `close`. They leave what they want (in the outbox,
as a number, as a `Close`) and poke: at most one call of `_wake` is on its way to the loop at any
time, so a burst of messages costs one wake-up. Ctrl-C may come between the two, and at the start of
`poke`; so who pokes does it once more where anything is raised. The lock keeps the count of what
waits; it is never held while anything else is called, and what a garbage collection may call,
`close`, does without.

**Who refers to whom.** The event loop holds the run, and a run knows its client by the inbox, weakly:
so a client that the program has dropped is gone, and closes the run behind it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, create_task_group, move_on_after

from .._close import Close, CloseCode, Closure, Status
from .._config import MAX_OUTBOX_BYTES, MAX_OUTBOX_MESSAGES
from .._errors import ClosedByUs, ConnectionClosed, WebSocketError
from .._protocol.inbox import size_of
from ._events import Closed, Failed, Message, Opened, Pong

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from .._config import Config
    from .._websocket import WebSocket
    from ._events import Event as AnyEvent
    from ._inbox import Inbox

    Post = Callable[[Callable[[], object]], object]

__all__ = ["LEAVING", "Run", "not_open", "seconds_left"]

_logger = logging.getLogger("anyws.client")

# Seconds that a thread waits at once: on Windows, a wait without an end cannot be interrupted.
PIECE = 0.5
# What a run is closed with that the program has dropped, or left behind at its end.
LEAVING = Close(CloseCode.GOING_AWAY)


class Run:
    def __init__(
        self,
        opening: AbstractAsyncContextManager[WebSocket],
        config: Config,
        inbox: Inbox,
    ) -> None:
        self.websocket: WebSocket | None = None  # from the end of the opening handshake on
        self.closing: Close | None = None  # what this end asked for
        self.ended = False  # the last event is in the inbox, or nobody is to be told
        # How to have something called by the loop; set before the run begins.
        self.post: Post = _nowhere
        self._opening = opening
        self._close_timeout = config.close_timeout
        self._inbox = inbox
        self._failure: str | None = None
        self._lock = threading.RLock()
        self._outbox: deque[tuple[str | bytes, bool | None, int]] = deque()
        self._pending_bytes = 0
        self._senders: list[SimpleQueue[None]] = []  # threads that wait for room
        self._pings = 0
        # The loop's.
        self._thread = 0
        self._poked = False
        self._scope: CancelScope | None = None
        self._is_pinging = False
        self._something_to_do = _Bell()
        self._something_to_send = _Bell()
        self._all_is_sent = _Bell()
        self._room = _Bell()

    # --- Any thread ---

    @property
    def status(self) -> Status:
        websocket = self.websocket
        if self.ended:
            return Status.CLOSED
        if self.closing is not None:
            return Status.CLOSING
        if websocket is None:
            return Status.CONNECTING
        return Status.OPEN if websocket.is_open else Status.CLOSING

    @property
    def is_taken(self) -> bool:
        """Whether there is a loop that runs it, or will."""
        return self.post is not _nowhere

    def give_back(self) -> None:
        """No loop will run it."""
        self.post = _nowhere

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    def is_of_interest(self, kind: type[AnyEvent]) -> bool:
        """Whether such an event is still to be told: behind `close`, only the last one is."""
        return self.closing is None or kind is Closed or kind is Failed

    def send(self, data: str | bytes, compress: bool | None, timeout: float | None) -> None:
        size = size_of(data)
        if self._thread == threading.get_ident():
            timeout = 0  # the loop cannot wait for itself
        try:
            if not self._add(data, compress, size):
                self._add_when_there_is_room(data, compress, size, timeout)
            self.poke()
        except BaseException:
            # An interrupt may have come between the two.
            self.poke()
            raise

    def _add_when_there_is_room(
        self, data: str | bytes, compress: bool | None, size: int, timeout: float | None
    ) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        room: SimpleQueue[None] = SimpleQueue()
        try:
            self._senders.append(room)
            # No condition of the loop: `_transports/blocking.py` says why.
            while True:
                if self._add(data, compress, size):
                    return
                left = seconds_left(deadline)
                if left <= 0:
                    raise TimeoutError(
                        f"{len(self._outbox)} messages wait to be sent already, "
                        f"{self._pending_bytes} bytes, and the peer did not take enough of them"
                        + (f" within {timeout:g} s" if timeout else "")
                    )
                try:
                    room.get(timeout=left)
                except Empty:
                    pass
        finally:
            if room in self._senders:
                self._senders.remove(room)

    def _add(self, data: str | bytes, compress: bool | None, size: int) -> bool:
        with self._lock:
            if self.status is not Status.OPEN:
                raise self.exception()
            if self._outbox and (
                self._pending_bytes + size > MAX_OUTBOX_BYTES
                or len(self._outbox) >= MAX_OUTBOX_MESSAGES
            ):
                return False
            # No interrupt comes between the two; behind a call one may.
            self._pending_bytes += size
            self._outbox.append((data, compress, size))
            return True

    def ping(self) -> None:
        try:
            with self._lock:
                if self.status is not Status.OPEN:
                    raise self.exception()
                self._pings += 1
            self.poke()
        except BaseException:
            self.poke()
            raise

    def close(self, close: Close) -> None:
        if self.closing is None and not self.ended:
            try:
                self.closing = close
                self._wake_senders()
                self.poke()
            except BaseException:
                self._wake_senders()
                self.poke()
                raise

    def exception(self) -> ConnectionClosed:
        """Return what tells why nothing can be sent."""
        websocket = self.websocket
        if websocket is not None and not websocket.is_open:
            return websocket._protocol.exception()
        if self.closing is not None:
            return ClosedByUs(_closed_by_us("this end is closing the connection"))
        if self.ended:
            why = self._failure or "that was cancelled"
            return not_open(f"the connection could not be opened: {why}")
        return not_open("the connection is not open yet: the Opened event says when")

    def poke(self) -> None:
        """Have the loop attend to what has changed."""
        if self._poked:
            return
        try:
            self._poked = True
            self.post(self._wake)
        except BaseException:
            # An interrupt came, before that perhaps; and once more does no harm.
            self.post(self._wake)
            raise

    def _wake_senders(self) -> None:
        for room in list(self._senders):
            room.put(None)

    # --- The loop ---

    def _wake(self) -> None:
        # First: whoever changes something from here on has to poke anew.
        self._poked = False
        if self._outbox:
            self._something_to_send.ring()
        self._room.ring()
        if self.closing is not None or self._pings:
            self._something_to_do.ring()
        if self.closing is not None and self.websocket is None and self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Open, receive, and put the last event into the inbox. Only a cancellation is raised."""
        self._thread = threading.get_ident()
        try:
            with CancelScope() as self._scope:
                if self.closing is None:
                    async with self._opening as websocket:
                        await self._live(websocket)
        except Exception as error:
            if self.websocket is not None or not isinstance(error, (WebSocketError, OSError)):
                _logger.error("anyws failed in the background", exc_info=error)
            self._end(error)
        else:
            self._end(None)
        finally:
            # Behind the last event, so that what has ended has told so; who delivers that sets this,
            # too, if it is faster. Where the run was cancelled from outside, no event tells.
            self.ended = True
            self._drop_outbox()
            self._wake_senders()

    def _end(self, error: Exception | None) -> None:
        if self.websocket is not None:
            self._inbox.put(self, Closed, (self.websocket.closure,))
        elif error is not None:
            self._failure = _words_of(error)
            self._inbox.put(self, Failed, (self._failure, error))
        else:
            closure = _closed_by_us("this end closed the connection before it was open")
            self._inbox.put(self, Closed, (closure,))

    async def _live(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self._inbox.put(
            self, Opened, (websocket.request, websocket.response, websocket.subprotocol)
        )
        async with create_task_group() as task_group:
            task_group.start_soon(self._receive_all, websocket, task_group.cancel_scope)
            task_group.start_soon(self._send_all, websocket)
            is_closing = False
            while True:
                if self.closing is not None and not is_closing:
                    is_closing = True
                    task_group.start_soon(self._close, websocket, self.closing)
                if self._pings and not self._is_pinging:
                    self._is_pinging = True
                    task_group.start_soon(self._ping_all, websocket)
                await self._something_to_do.wait()

    async def _receive_all(self, websocket: WebSocket, everything: CancelScope) -> None:
        try:
            while True:
                message = await websocket.receive()
                await self._tell(Message, message, size=size_of(message))
        except ConnectionClosed:
            pass
        await websocket.wait_closed()
        everything.cancel()

    async def _tell(self, kind: type[AnyEvent], *arguments: object, size: int) -> None:
        while self.closing is None and self._inbox.wants_room(self.poke):
            await self._room.wait()
        if self.is_of_interest(kind):
            self._inbox.put(self, kind, arguments, size)

    async def _send_all(self, websocket: WebSocket) -> None:
        try:
            while True:
                while self._outbox:
                    data, compress, size = self._outbox[0]
                    await websocket.send(data, compress=compress)
                    with self._lock:
                        self._outbox.popleft()
                        self._pending_bytes -= size
                    if self._senders:
                        self._wake_senders()
                self._all_is_sent.ring()
                await self._something_to_send.wait()
        except ConnectionClosed:
            pass  # who receives notices, too
        finally:
            self._drop_outbox()
            self._all_is_sent.ring()

    def _drop_outbox(self) -> None:
        # Also when all is over: a run that is cancelled counts as open for some turns yet.
        with self._lock:
            self._outbox.clear()
            self._pending_bytes = 0

    async def _close(self, websocket: WebSocket, close: Close) -> None:
        """Close behind what waits to be sent; one deadline is over both."""
        with move_on_after(self._close_timeout) as scope:
            while self._outbox:
                await self._all_is_sent.wait()
            await websocket.close(close.code, close.reason)
        if scope.cancelled_caught:
            websocket.abort()

    async def _ping_all(self, websocket: WebSocket) -> None:
        """Send the pings one after the other, so that any number of them costs one task."""
        try:
            while self._pings:
                latency = await websocket.ping()
                with self._lock:
                    self._pings -= 1
                await self._tell(Pong, latency, size=0)
        except ConnectionClosed:
            pass
        finally:
            self._is_pinging = False


class _Bell:
    """Wakes the tasks that wait or, where none does, the next one to come."""

    def __init__(self) -> None:
        self._event: Event | None = None
        self._rung = False

    def ring(self) -> None:
        if self._event is None:
            self._rung = True
        else:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._rung:
            self._rung = False
            return
        if self._event is None:
            self._event = Event()
        await self._event.wait()


def seconds_left(deadline: float | None) -> float:
    """Return how long a thread may wait now: until the deadline, but no longer than a piece."""
    return PIECE if deadline is None else min(deadline - time.monotonic(), PIECE)


def not_open(cause: str) -> ConnectionClosed:
    return ConnectionClosed(Closure(None, None, None, False, cause))


def _words_of(error: Exception) -> str:
    """Say what kept a connection from opening; the system's numbers are not for a person."""
    return getattr(error, "strerror", None) or str(error) or repr(error)


def _closed_by_us(cause: str) -> Closure:
    return Closure(None, None, "ours", False, cause)


def _nowhere(call: Callable[[], object]) -> None:
    pass

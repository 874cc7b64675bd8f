"""Events that no listener has had yet: in order, bounded, and lost by nothing.

**Who does what.** The event loop's thread alone puts events in. One thread at a time takes them
out: whoever polls, or whoever has claimed them for a delivery in the background. Each of the two
counts for itself (`_put_*`, `_taken_*`), so neither needs a lock.

**Interrupts.** An event stays at the head until each of its listeners has been called, and with it
the listeners that are still to come. Ctrl-C may come anywhere in between: the next delivery goes on
where this one stopped. (CPython looks for signals behind calls and at jumps back, not between
two stores: what is written here in one breath is not torn apart.)

**The bound** is that of the inbox below, `Config.inbox_size` and the message limit. When it is
full, the run waits for room before it receives on, then that inbox fills, and then the network.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from anyio import Event as AsyncEvent

from ._events import Closed, Failed

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from .._config import Config
    from ._client import Client
    from ._events import Event, Listener
    from ._run import Run

__all__ = ["Inbox"]

_logger = logging.getLogger("anyws.client")
_FAILED = "a listener for %s failed"


class _Entry:
    """An event to be, and once its delivery has begun, the listeners that are still to come."""

    __slots__ = ("arguments", "event", "kind", "left", "run", "size")

    def __init__(self, run: Run, kind: type[Event], arguments: tuple[Any, ...], size: int) -> None:
        self.run = run
        self.kind = kind
        self.arguments = arguments
        self.size = size
        self.event: Event | None = None
        self.left: list[Listener] | None = None  # the next one is the last


class Inbox:
    def __init__(self, client: weakref.ref[Client], config: Config) -> None:
        self.is_dropped = False  # the client is being finalized, where it can still be got at
        self._client = client
        # Calls, on the loop's thread, for whoever delivers.
        self.notify: Callable[[], object] = _nothing
        self._max_messages = config.inbox_size
        self._max_bytes = config.inbox_bytes
        self._entries: deque[_Entry] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0
        self._room_wanted: Callable[[], None] | None = None
        self._is_calling = False

    def __len__(self) -> int:
        """Return how many events there are to deliver."""
        return len(self._entries)

    def client(self) -> Client | None:
        """Return whose events these are, if anybody still holds it."""
        return None if self.is_dropped else self._client()

    @property
    def is_calling(self) -> bool:
        """Whether a listener is being called just now."""
        return self._is_calling

    # --- The loop's thread ---

    def put(self, run: Run, kind: type[Event], arguments: tuple[Any, ...], size: int = 0) -> None:
        if self.client() is not None:
            self._put_bytes += size
            self._entries.append(_Entry(run, kind, arguments, size))
            self.notify()

    def wants_room(self, call: Callable[[], None]) -> bool:
        """Tell whether it is full; if so, `call` is called, in any thread, when half is taken.

        Another object each time: that is what tells one wish from the next.
        """
        if not self._is_over(1):
            return False
        self._room_wanted = call
        # Some may have been taken meanwhile, by somebody who saw no such wish.
        return self._is_over(1)

    def _is_over(self, divisor: int) -> bool:
        return (
            self._max_messages is not None
            and len(self._entries) > (self._max_messages - 1) // divisor
        ) or (self._put_bytes - self._taken_bytes) * divisor >= self._max_bytes

    # --- Whoever delivers ---

    def deliver(self, client: Client, limit: int) -> int:
        """Call the listeners of so many events at most; return of how many they were called."""
        delivered = 0
        # Where the last delivery was interrupted before it did so.
        self._offer_room()
        while delivered < limit and (entry := self._head(client)) is not None:
            while entry.left:
                begun = False
                try:
                    listener = entry.left[-1]
                    self._is_calling = begun = True
                    _refuse_coroutine(listener(entry.event))
                except Exception as error:
                    _logger.error(_FAILED, entry.kind.__name__, exc_info=error)
                finally:
                    self._is_calling = False
                    if begun:
                        entry.left.pop()
            self._remove(entry)
            delivered += 1
        return delivered

    async def serve(self, client: Client) -> Closed | Failed:
        """Call listeners, and await what is to be awaited; return the last event after that."""
        while True:
            come = AsyncEvent()
            self.notify = come.set
            if (last := await self._serve_what_is_there(client)) is not None:
                return last
            await come.wait()

    async def _serve_what_is_there(self, client: Client) -> Closed | Failed | None:
        while (entry := self._head(client)) is not None:
            while entry.left:
                try:
                    result = entry.left.pop()(entry.event)
                    if inspect.isawaitable(result):
                        await result
                except Exception as error:
                    _logger.error(_FAILED, entry.kind.__name__, exc_info=error)
            self._remove(entry)
            if isinstance(entry.event, (Closed, Failed)):
                return entry.event
        return None

    def drop_all(self) -> None:
        """Nobody is there any more who could be told."""
        while self._entries:
            self._remove(self._entries[0])

    def _head(self, client: Client) -> _Entry | None:
        """Return the entry whose listeners are next; it stays where it is."""
        while self._entries:
            entry = self._entries[0]
            if entry.left is None and not entry.run.is_of_interest(entry.kind):
                self._remove(entry)
                continue
            if entry.left is None:
                if entry.kind is Closed or entry.kind is Failed:
                    entry.run.ended = True
                entry.event = entry.kind(*entry.arguments, client=client)
                entry.left = client._listeners_for(entry.kind)
            return entry
        return None

    def _remove(self, entry: _Entry) -> None:
        self._taken_bytes += entry.size
        self._entries.popleft()
        self._offer_room()

    def _offer_room(self) -> None:
        if (call := self._room_wanted) is not None and not self._is_over(2):
            # An interrupt may come before it does anything: then the next delivery calls again.
            call()
            if self._room_wanted is call:  # or there is a new wish already
                self._room_wanted = None


def _nothing() -> None:
    pass


def _refuse_coroutine(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the listener is async: that is for Client.run alone")

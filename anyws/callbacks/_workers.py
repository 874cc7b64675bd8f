"""Threads that call listeners: one for all clients, and more only where listeners are slow.

The event loop's thread must never run what a program may block in, so it puts an inbox that has
something into the line, and a worker takes it from there. An inbox is in the line, or with a worker,
at most once: whoever holds its claim. So the events of one client stay in order.

One worker is enough as long as it gets on. A watch on the loop looks every `_PATIENCE` seconds
while somebody stands in line: where not one turn has ended since, all workers are in slow listeners,
and there will be as many again. Workers that have nothing to do end after `_IDLE` seconds.

The loop ends when nobody stands in line, and the watch with it. Somebody may come yet: a listener
is slow in the last event, or what was dispatched is called late. From then on each gets a worker.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._delivery import Delivery

__all__ = ["Workers"]

_PATIENCE = 0.05
_IDLE = 1.0


class Workers:
    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        # Calls a function on the loop's thread, after some time; may be called on any.
        self._call_later = call_later
        self._changed = threading.Condition()
        self._line: deque[Delivery] = deque()
        self._number = 0
        self._idle = 0
        self._turns = 0
        self._turns_seen = 0
        self._is_watched = False
        self._is_over = False

    def put(self, delivery: Delivery) -> None:
        with self._changed:
            self._line.append(delivery)
            if self._is_over:
                self._start()
            elif self._idle:
                self._changed.notify()
            elif not self._number:
                self._start()
            watch = not self._is_watched
            self._is_watched = True
        if watch:
            self._turns_seen = self._turns
            self._call_later(_PATIENCE, self._watch)

    def end_if_done(self) -> bool:
        """End unless somebody stands in line, who needs the watch; tell whether it is over."""
        with self._changed:
            if not self._line:
                self.end()
            return self._is_over

    def end(self) -> None:
        """Have the workers end as soon as nobody stands in line."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _watch(self) -> None:
        with self._changed:
            self._is_watched = bool(self._line)
            if self._line and self._turns == self._turns_seen:
                for _ in range(min(len(self._line), self._number or 1)):
                    self._start()
            self._turns_seen = self._turns
            again = self._is_watched
        if again:
            self._call_later(_PATIENCE, self._watch)

    def _start(self) -> None:
        self._number += 1
        try:
            threading.Thread(target=self._work, name="anyws listeners", daemon=True).start()
        except RuntimeError:
            # The system has no more threads; the watch, if there still is one, tries again.
            self._number -= 1

    def _work(self) -> None:
        try:
            self._take_turns()
        except BaseException:
            # A listener has raised SystemExit, say: that ends its thread, and no other.
            with self._changed:
                self._number -= 1
            raise

    def _take_turns(self) -> None:
        while (delivery := self._next()) is not None:
            delivery.take_turn()
            self._turns += 1
            # Or the client would live until the next one comes.
            del delivery

    def _next(self) -> Delivery | None:
        with self._changed:
            if not self._line and not self._is_over:
                self._idle += 1
                self._changed.wait(_IDLE)
                self._idle -= 1
            if self._line:
                return self._line.popleft()
            self._number -= 1
            return None

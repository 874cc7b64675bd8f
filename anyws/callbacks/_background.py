"""The one thread that all clients share: an event loop for their runs.

It begins with the first run and ends with the last, when nobody waits for a listener any more. It
is a daemon, so it keeps no program from ending; at the end of the interpreter the connections that
are left are closed with 1001, and have `_GRACE` seconds for it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

import anyio

from ._run import LEAVING
from ._workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._delivery import Delivery
    from ._run import Run

__all__ = ["start"]

_logger = logging.getLogger("anyws.client")

_GRACE = 1.0

_lock = threading.Lock()
_current: Background | None = None
_is_exiting = False


def start(run: Run, delivery: Delivery | None) -> None:
    """Start a run in the background thread, and that thread if there is none.

    Raises RuntimeError where there can be none: at the interpreter's end, or for lack of threads.
    """
    global _current
    with _lock:
        if _is_exiting:
            raise RuntimeError("the interpreter is exiting: no connection can be opened any more")
        background = _current
        if background is None:
            _current = background = Background()
        try:
            background.take(run, delivery)
            if background.thread.ident is None:
                background.thread.start()
        except BaseException:
            # It cannot be started; or an interrupt came, behind the start perhaps.
            if background.thread.ident is None:
                _current = None
                background.drop(run)
            elif not run.is_taken:
                background.drop(run)
            else:
                background.look_again()
            raise


class Background:
    def __init__(self) -> None:
        self.thread = threading.Thread(target=self._main, name="anyws callbacks", daemon=True)
        self._workers = Workers(self._call_later)
        self._runs: set[Run] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: deque[Callable[[], object]] = deque()  # posted before there was a loop
        # The loop's.
        self._new: deque[Run] = deque()
        self._changed: anyio.Event | None = None
        self._is_done = False
        self._scope: anyio.CancelScope | None = None

    # --- Any thread ---

    def take(self, run: Run, delivery: Delivery | None) -> None:
        """Let a run live here; `_lock` is held."""
        self._runs.add(run)
        if delivery is not None:
            delivery.line_up = self._workers.put
        run.post = self.post
        # No interrupt comes between the two.
        self._new.append(run)
        self.look_again()

    def look_again(self) -> None:
        """See to it that what was taken is begun."""
        self.post(self._look)

    def drop(self, run: Run) -> None:
        """Let a run not live here after all, unless it has begun; `_lock` is held."""
        try:
            self._new.remove(run)
        except ValueError:
            if run.is_taken:
                return
        run.give_back()
        self._runs.discard(run)
        self.post(self._end_if_done)

    def post(self, call: Callable[[], object]) -> None:
        """Have something called on the loop's thread, in order; nowhere if that has ended."""
        if self._loop is None:
            self._early.append(call)
            if self._loop is None:
                return  # found there as soon as the loop is
            call = self._call_early
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop is closed, and so is everything that lived on it

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.post(lambda: asyncio.get_running_loop().call_later(seconds, self._call, call))

    def leave(self) -> None:
        """Close what is left, and wait for the thread to end."""
        for run in list(self._runs):
            run.close(LEAVING)
        self.thread.join(_GRACE)
        if self.thread.is_alive():
            self.post(self._cancel)
            self.thread.join(_GRACE)

    # --- The thread ---

    def _main(self) -> None:
        try:
            anyio.run(self._serve, backend="asyncio")
        finally:
            self._workers.end()

    async def _serve(self) -> None:
        async with anyio.create_task_group() as task_group:
            self._scope = task_group.cancel_scope
            self._loop = asyncio.get_running_loop()
            self._call_early()
            while not self._is_done:
                self._changed = anyio.Event()
                while self._new:
                    task_group.start_soon(self._own, self._new.popleft())
                await self._changed.wait()

    def _call_early(self) -> None:
        while self._early:
            self._early.popleft()()

    def _look(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _call(self, call: Callable[[], None]) -> None:
        call()
        self._end_if_done()

    def _cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _own(self, run: Run) -> None:
        try:
            await run.run()
        finally:
            with _lock:
                self._runs.discard(run)
            self._end_if_done()

    def _end_if_done(self) -> None:
        global _current
        with _lock:
            if self._runs or not self._workers.end_if_done():
                return
            if _current is self:
                _current = None
        self._is_done = True
        self._look()


@atexit.register
def _leave() -> None:
    global _is_exiting
    with _lock:
        _is_exiting = True
        background = _current
    if background is not None:
        background.leave()

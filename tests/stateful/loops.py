"""Event loops that run until there is nothing left to do, and clocks that only move when told.

Both run in the thread that calls them: a test starts one, gives it something to do, has it run until
it would wait, looks around, and goes on. Nothing depends on real time or on another thread, so the
same calls in the same order have the same outcome. asyncio takes what is ready in order; Trio
shuffles it, with a generator that Hypothesis seeds for each example.

A *turn* is each time that the loop runs something: a callback on asyncio, a step of a task on Trio.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

import anyio
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

# More than anything here takes; what needs more never comes to rest.
MANY_TURNS = 500_000
# Less than any timer is set for; what Trio and float arithmetic may round off.
INSTANT = 1e-9

# Runs that could not be brought to an end: collecting them would only make noise.
_stuck: list[object] = []


class NeverAtRestError(AssertionError):
    """Something goes on and on without waiting for anything."""


class ManualLoop(ABC):
    """What the two have in common.

    now:
        Seconds on its clock, from 0.
    turns:
        How many there have been.
    on_turn:
        Called before each of them.
    finished:
        Whether the main function has returned.
    errors:
        What no task could be told.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        self.on_turn: Callable[[], None] = lambda: None
        self.finished = False
        self.errors: list[str] = []

    @abstractmethod
    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Make the task of the main function, which `run` then runs."""

    @abstractmethod
    def run(self) -> None:
        """Run until the loop would wait, or the main function has returned."""

    @abstractmethod
    def next_deadline(self) -> float:
        """When the next timer will go off."""

    @abstractmethod
    def task_names(self) -> list[str]:
        """The names of the tasks there are, but for those of the loop itself."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; one that has not finished stays as it is, in the middle of everything."""

    def advance(self, seconds: float, *, leap: bool = False) -> Iterator[None]:
        """Move the clock, and run; yield each time that the loop has come to rest.

        leap: in one go, as when a machine was asleep, and not from one timer to the next
        """
        goal = self.now + seconds
        while not leap and (deadline := self.next_deadline()) <= goal:
            self.now = max(self.now + INSTANT, deadline)
            self.run()
            yield
        self.now = max(self.now, goal)
        self.run()
        yield

    def _turn(self) -> None:
        self.turns += 1
        self.on_turn()


class _Selector(selectors.DefaultSelector):
    on_idle: Callable[[], None]

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self.on_idle()
        return super().select(0)


class _SteppedLoop(asyncio.SelectorEventLoop):
    def __init__(self, owner: AsyncioLoop) -> None:
        self._owner = owner
        selector = _Selector()
        super().__init__(selector)
        selector.on_idle = self.stop

    def time(self) -> float:
        return self._owner.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_soon(self._owner.step, callback, args, context=context)


class AsyncioLoop(ManualLoop):
    def __init__(self) -> None:
        super().__init__()
        self._loop = _SteppedLoop(self)
        self._loop.set_exception_handler(self._note)
        self._task: asyncio.Task[None] | None = None
        self._limit = 0

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(f"{context['message']}: {context.get('exception')!r}")

    def step(self, callback: Any, args: Any) -> None:
        self._turn()
        if self.turns > self._limit:
            self._loop.stop()
        callback(*args)

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._task = self._loop.create_task(main(), name="main")

    def run(self) -> None:
        assert self._task is not None
        self._limit = self.turns + MANY_TURNS
        self._loop.run_forever()
        if self.turns > self._limit:
            raise NeverAtRestError(f"{MANY_TURNS} turns, and no rest")
        self.finished = self._task.done()
        if self.finished:
            self._task.result()

    def next_deadline(self) -> float:
        timers = self._loop._scheduled  # type: ignore[attr-defined]
        return min((one.when() for one in timers if not one.cancelled()), default=math.inf)

    def task_names(self) -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks(self._loop) if task is not self._task]

    def close(self) -> None:
        if not self.finished:
            _stuck.append(self)
        elif not self._loop.is_closed():
            self._loop.close()


class _Clock(trio.abc.Clock):
    def __init__(self, owner: TrioLoop) -> None:
        self._owner = owner

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._owner.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        # Never waits: whether there is anything to do is for `TrioLoop.run` to see.
        return 0


class TrioLoop(ManualLoop, trio.abc.Instrument):
    """A guest run whose host does nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._ticks: deque[Callable[[], object]] = deque()
        self._main: trio.lowlevel.Task | None = None
        self._outcome: Any = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._turn()

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            self._main = trio.lowlevel.current_task()
            await main()

        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=self._ticks.append,
            done_callback=self._finish,
            host_uses_signal_set_wakeup_fd=True,
            clock=_Clock(self),
            instruments=[self],
        )

    def _finish(self, outcome: Any) -> None:
        self.finished = True
        self._outcome = outcome

    def run(self) -> None:
        limit = self.turns + MANY_TURNS
        turns = -1
        # A tick in which no task took a step had nothing to do.
        while not self.finished and turns != self.turns:
            turns = self.turns
            self._ticks.popleft()()
            if turns > limit:
                raise NeverAtRestError(f"{MANY_TURNS} turns, and no rest")
        if self.finished:
            self._outcome.unwrap()

    def next_deadline(self) -> float:
        return self.now + trio.lowlevel.current_statistics().seconds_to_next_deadline

    def task_names(self) -> list[str]:
        assert self._main is not None
        return [task.name for task in _descendants(self._main) if task is not self._main]

    def close(self) -> None:
        if not self.finished:
            _stuck.append(self)
            # Trio refuses a second run in a thread that has one.
            trio._core._run.GLOBAL_RUN_CONTEXT.__dict__.clear()


def _descendants(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _descendants(child)


LOOPS: dict[str, Callable[[], ManualLoop]] = {"asyncio": AsyncioLoop, "trio": TrioLoop}


class Conductor:
    """A task group in such a loop, and a task in it that does what it is told.

    tasks:
        The task group. Once the main function has ended, its last state.
    """

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.tasks: anyio.abc.TaskGroup
        self._wake: anyio.Event
        self._action: Callable[[], object] | None = None
        self._error: BaseException | None = None
        loop.start(self._main)
        loop.run()

    async def _main(self) -> None:
        async with anyio.create_task_group() as self.tasks:
            while True:
                self._wake = anyio.Event()
                await self._wake.wait()
                if self._action is None:
                    return
                try:
                    self._action()
                except Exception as error:  # noqa: BLE001 - raised where the action was given
                    self._error = error

    def do(self, action: Callable[[], object]) -> None:
        """Call the function in a task of the loop, and run until the loop is at rest."""
        self._action = action
        self._wake.set()
        self.loop.run()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def end(self) -> None:
        """Have the main function return, when its tasks have; close the loop if it has."""
        self._action = None
        self._wake.set()
        self.loop.run()

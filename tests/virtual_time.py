"""Time that passes when nothing else happens: an hour of timeouts in milliseconds.

Only for what is in memory: a program that waits for the network would see its timers go off.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

import anyio
import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if not events and timeout is not None and timeout > 0:
            self.loop.now += timeout
        elif not events and timeout is None:
            return super().select(None)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that, when nothing is ready, moves its clock to the next timer."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_in_virtual_time(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` to its end, and see that it leaves no task behind."""

    async def watched() -> None:
        before = _tasks()
        await main()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert _tasks() == before

    options: dict[str, Any] = {"loop_factory": VirtualTimeLoop}
    if backend == "trio":
        options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    anyio.run(watched, backend=backend, backend_options=options)


def _tasks() -> set[object]:
    try:
        return set(asyncio.all_tasks())
    except RuntimeError:
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        return set(nursery.child_tasks)

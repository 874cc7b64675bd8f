"""A test's main function, run to its end in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import trio

from anyws.testing import virtual_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def run_in_virtual_time(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` to its end, and see that it leaves no task behind."""

    async def watched() -> None:
        before = _tasks()
        await main()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert _tasks() == before

    name, options = virtual_time(backend)
    anyio.run(watched, backend=name, backend_options=dict(options))


def _tasks() -> set[object]:
    try:
        return set(asyncio.all_tasks())
    except RuntimeError:
        nursery = trio.lowlevel.current_task().parent_nursery
        assert nursery is not None
        return set(nursery.child_tasks)

"""Time that passes when nothing else happens: an hour of timeouts in milliseconds.

Only for what is in memory. Where a program waits for the network, a thread or a process, nothing
happens in the event loop meanwhile: time would jump, and timeouts go off that have not happened.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

try:
    from trio.testing import MockClock
except ImportError:
    MockClock = None  # type: ignore[assignment,misc]

__all__ = ["VirtualTimeLoop", "virtual_time"]


class _Selector(selectors.DefaultSelector):
    """Never waits for a timer: says instead how long the wait would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: float = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            # No timer will ever go off; only a thread or a signal can bring something.
            return super().select(None)
        events = super().select(0)
        if not events and timeout > 0:
            self.slept += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio that, when nothing is ready, moves its clock to the next timer.

    `time` starts at 0. Made by `virtual_time`, or by hand as a ``loop_factory``.
    """

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.slept


def virtual_time(backend: str) -> tuple[str, Mapping[str, Any]]:
    """Return a backend and its options, with a clock that moves when nothing else does.

    ::

        backend, options = virtual_time("trio")
        anyio.run(main, backend=backend, backend_options=options)

    It is also what an ``anyio_backend`` fixture may return. For Trio it is Trio's `MockClock`, for
    asyncio a `VirtualTimeLoop`; both are new for each call, and used once.

    For what runs in memory alone: waiting for a socket, a thread or a process takes no time on
    this clock, or all of it.

    :param backend: ``"asyncio"`` or ``"trio"``
    :raises ValueError: it is another (uvloop has a clock of its own, which cannot be moved)
    """
    if backend == "asyncio":
        return backend, {"loop_factory": VirtualTimeLoop}
    if backend == "trio":
        if MockClock is None:
            raise ValueError("trio is not installed")
        return backend, {"clock": MockClock(autojump_threshold=0)}
    raise ValueError(f"virtual time is for asyncio and trio, not for {backend!r}")

"""What every test gets: the backends, and a look at what it left running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest
import trio
from hypothesis import HealthCheck, settings
from interop import summary
from interrupts import Sweep

import anyws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if sys.platform == "win32":
    del BACKENDS["uvloop"]

# The servers of the tests are on this machine, and no proxy knows the way to them.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

# What a shell runs in its background ignores Ctrl-C, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example runs says something about the machine, nothing about the code.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def pytest_report_header() -> str:
    return f"anyws: {anyws.__file__}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Here and not beside its tests: where processes share them, this one has none of those.
    summary.report(terminalreporter)


@pytest.fixture(params=[pytest.param(value, id=name) for name, value in BACKENDS.items()])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest) -> None:
    """After each async test: no task that was not there before."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("no_task_is_left")


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    before = living_tasks()
    yield
    # A task that has nothing left to do but to end may take a few turns for it.
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    left = living_tasks() - before
    assert not left, f"still running after the test: {left}"


def living_tasks() -> set[object]:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return set(_descendants(trio.lowlevel.current_root_task()))
    # AnyIO runs each fixture and test from a task of its own making.
    return {t for t in tasks if t.get_coro().__qualname__ != "TestRunner._call_in_runner_task"}


def _descendants(task: Any) -> Iterator[Any]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _descendants(child)


@pytest.fixture
def sweep() -> Iterator[Sweep]:
    sweep = Sweep()
    yield sweep
    assert sweep.points > 10, "there was nothing to interrupt"

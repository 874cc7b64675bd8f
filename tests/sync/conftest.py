"""What every test of the blocking face gets: threads to run in, and a look at what is left."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("sync.peers", "bars.peers", "bars.raw")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

_DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no thread and no socket that was not there before.

    A socket that was dropped without being closed warns, and a warning is an error.
    """
    threads, sockets = set(threading.enumerate()), _sockets()
    yield
    gc.collect()
    # A thread that has nothing left to do but to end may take a moment for it.
    for thread in set(threading.enumerate()) - threads:
        thread.join(1)
    left = set(threading.enumerate()) - threads
    assert not left, f"still running after the test: {left}"
    assert _sockets() <= sockets


def _sockets() -> set[str]:
    if not _DESCRIPTORS.exists():
        return set()
    found = set()
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # that of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs another one in a thread, which ends with the test."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit

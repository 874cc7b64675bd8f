"""What every test of the blocking face gets: threads to run in, and a look at what is left."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from leftovers import sockets, threads_beside

pytest.register_assert_rewrite("sync.peers", "bars.peers", "bars.raw")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no thread and no socket that was not there before.

    A socket that was dropped without being closed warns, and a warning is an error.
    """
    threads_before, sockets_before = threading.enumerate(), sockets()
    yield
    gc.collect()
    assert not threads_beside(threads_before, threading.enumerate)
    assert sockets() <= sockets_before


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """A function that runs another one in a thread, which ends with the test."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit

"""After each test: none of the library's threads is left."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest
from leftovers import threads_beside

pytest.register_assert_rewrite("callbacks.clients")

from callbacks.clients import GUARD, threads_of_ours  # noqa: E402 - after that is known

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual, and so in places where they seldom do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    # A failed test holds its clients; another one drops them here at the latest.
    gc.collect()
    assert not threads_beside([], threads_of_ours, within=GUARD)

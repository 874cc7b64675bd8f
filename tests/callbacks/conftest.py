"""After each test: none of the library's threads is left."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("callbacks.clients")

from callbacks.clients import GUARD, threads_of_ours  # noqa: E402 - after that is known

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    # A failed test holds its clients; another one drops them here at the latest.
    gc.collect()
    for thread in threads_of_ours():
        thread.join(GUARD)
    assert threads_of_ours() == []

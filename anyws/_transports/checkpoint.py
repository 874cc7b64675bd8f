"""AnyIO's check for cancellation, for those who make it with every message.

`anyio.lowlevel.checkpoint_if_cancelled` first finds out which event loop it runs on, which takes
longer than the check. A connection stays on one loop, and so finds out once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import AsyncBackend

__all__ = ["find_checkpoint_if_cancelled"]


def find_checkpoint_if_cancelled() -> Callable[[], Awaitable[None]]:
    """Return what `anyio.lowlevel.checkpoint_if_cancelled` calls on the event loop that runs."""
    return _method_of(current_token().backend_class)


@lru_cache
def _method_of(backend: type[AsyncBackend]) -> Callable[[], Awaitable[None]]:
    # Bound once for all connections: it takes memory.
    return backend.checkpoint_if_cancelled

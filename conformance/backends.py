"""What the echo programs run on, by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# "blocking" is `anyws.sync`.
BACKENDS = ("asyncio", "uvloop", "trio", "blocking")
if sys.platform == "win32":
    BACKENDS = ("asyncio", "trio", "blocking")


def run(backend: str, function: Callable[..., Awaitable[Any]], *args: object) -> None:
    """Run an asynchronous program; "blocking" has none."""
    if backend == "uvloop":
        anyio.run(function, *args, backend_options={"use_uvloop": True})
    else:
        anyio.run(function, *args, backend=backend)

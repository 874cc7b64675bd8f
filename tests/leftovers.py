"""What a test left behind: threads and sockets."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["sockets", "threads", "threads_beside"]

_DESCRIPTORS = Path("/proc/self/fd")


def threads() -> set[threading.Thread]:
    """All but those that Trio keeps for its next program."""
    return {one for one in threading.enumerate() if not one.name.startswith("Trio thread")}


def threads_beside(
    before: Collection[threading.Thread],
    now: Callable[[], Collection[threading.Thread]] = threads,
    *,
    within: float = 1,
) -> list[threading.Thread]:
    """Return those that are there and were not before, after so many seconds to end in.

    They are looked at, not joined: one that another thread is about to start is there already, and
    cannot be joined.
    """
    deadline = time.monotonic() + within
    while (left := [one for one in now() if one not in before]) and time.monotonic() < deadline:
        time.sleep(0.005)
    return left


def sockets() -> set[str]:
    """The sockets that this process has open, where the system tells."""
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

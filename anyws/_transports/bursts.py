"""Messages in a row: which of them are worth holding for those that follow.

A write costs a system call, and most of what a small message costs. Where a program sends one after
another, they may as well go out together, as soon as other tasks have run. The first ones cannot
know of the others and go out at once, and so does whatever comes by itself.
"""

from __future__ import annotations

from time import perf_counter

from .._config import BURST

__all__ = ["Burst"]


class Burst:
    """The messages sent since anything was received.

    messages:
        How many there are; whoever receives sets it to 0.
    """

    __slots__ = ("_latest", "_most_at_once", "messages")

    def __init__(self, most_at_once: int) -> None:
        """`most_at_once` go out at once, two at least, and what follows on their heels is held."""
        self.messages: int = 0
        self._most_at_once = most_at_once
        self._latest = 0.0

    def holds(self) -> bool:
        """Take note of another message; tell whether it is to be held."""
        self.messages += 1
        if self.messages == 1:
            # Most often there is no other: the clock is not asked.
            return False
        # Not `monotonic`, which on some systems goes on by leaps of 16 ms.
        before, self._latest = self._latest, perf_counter()
        if self.messages > 2 and self._latest - before >= BURST:
            self.messages = 2
        return self.messages > self._most_at_once

"""Ctrl-C at every point of a call at which Python runs signal handlers, one after the other.

Those are the start of a function and the return of one in C, which is where a profile function is
called.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Sweep"]

TESTS = str(Path(__file__).parent)
# What they define are callbacks: of weak references, and that of Hypothesis of the collector.
FINALIZERS = {"weakref.py", "_weakrefset.py", "junkdrawer.py"}


class Sweep:
    """Interrupts a call at one point after the other, a call for each."""

    def __init__(self) -> None:
        self.points = 0
        self.broken = 0
        self.error: type[BaseException] = KeyboardInterrupt  # or what a handler raises

    def __iter__(self) -> Iterator[int]:
        for at in range(1, 3000):
            yield at
            if not self.interrupted:
                return
            self.points = at
        raise AssertionError("the call has no end")

    def interrupt(self, at: int, call: Callable[[], object]) -> object:
        """Call it, and interrupt it there; return what it does, if it gets so far."""
        left = at
        self.interrupted = False

        def profile(frame: Any, event: str, arg: object) -> None:
            nonlocal left
            code = frame.f_code
            if event not in {"call", "c_return"} or code.co_filename.startswith(TESTS):
                return
            # What is raised there is lost; and no statement can see to a block that is left where
            # its `__exit__` has not begun.
            if code.co_name in {"__del__", "__exit__"} and event == "call":
                return
            left -= 1
            if not left and is_within_finalizer(frame):
                left = 1
            if not left:
                sys.setprofile(None)
                self.interrupted = True
                raise self.error

        sys.setprofile(profile)
        try:
            return call()
        except (self.error, TimeoutError):
            return None
        finally:
            sys.setprofile(None)


def is_within_finalizer(frame: Any) -> bool:
    """Whether what is raised there is lost."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or Path(code.co_filename).name in FINALIZERS:
            return True
        frame = frame.f_back
    return False

"""Signals that come when all is done, and are no reason for another exit code.

Who wants a program to end may say so more than once: `timeout` does, so do shells and service
managers, and people. The second signal may come while the interpreter ends, when nobody listens to
it any more, and would kill. So signals are held back before whoever listens leaves, and, once the
exit code is known, are taken for what they are: the wish that it end at once.

A thread can hold them back from itself alone, and the program may have others. What comes to one of
these is noted, from when whoever listens has left.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading

__all__ = ["end_at_signals", "hold_signals", "note_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def hold_signals() -> None:
    """Let no signal reach this thread, until `end_at_signals`."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def note_signals() -> None:
    """Have a signal that comes to another thread do nothing, until `end_at_signals`."""
    for one in _SIGNALS:
        signal.signal(one, _note)


def _note(number: int, _: object) -> None:
    # Sent again to all of the process, it would come to the other thread again.
    if sys.platform != "win32":
        signal.pthread_kill(threading.get_ident(), number)


def end_at_signals(code: int) -> None:
    """Have a signal that comes from now on, or has come meanwhile, end the process with that code."""

    def end(*_: object) -> None:
        # Not by `sys.exit`: it may be a finalizer that this interrupts.
        os._exit(code)

    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue  # it was closed before the interpreter started
        try:
            stream.flush()
        except OSError:
            pass
    for one in _SIGNALS:
        signal.signal(one, end)
    # The interpreter takes handlers away before its last steps, but what is ignored stays so.
    atexit.register(_ignore_signals)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _ignore_signals() -> None:
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)

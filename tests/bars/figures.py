"""What the tests of the bars have measured, and the table of it.

A figure has a name, and here its form and which of several is the worst: a test runs in both roles,
over TCP and TLS, and the table has what was worst among them.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BACKENDS = ("asyncio", "uvloop", "trio")

MIB = 1 << 20

#: name -> its form, and the worst of several
FORMS: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "seconds": ("{:.2f} s", max),
    "seconds_stalled": ("{:.2f} s with `write_timeout=1`", max),
    "seconds_late": ("{:.2f} s after it", max),
    "seconds_open": ("open after {:.1f} s", min),
    "mib_at_peak": ("{:.1f} MiB", max),
    "cpu_gap_ms": ("{:.1f} ms of CPU time", max),
    "wall_gap_ms": ("{:.1f} ms by the clock", max),
    "slowest_ms": ("slowest answer to others {:.0f} ms", max),
    "mib_pushed": ("{:.0f} MiB of pings", min),
    "messages": ("{:,.0f} messages", min),
    "cancellations": ("{:,.0f} cancellations", min),
    "warnings": ("{:.0f} warnings", max),
    "ms_each": ("{:.1f} ms of CPU time for each `broadcast`", max),
}

#: row -> what is tested, and the bar
BARS: dict[str, tuple[str, str]] = {
    "P1": (
        "The peer stops reading; a `send` of 50 MB is cancelled after 0.5 s; another message is "
        "sent, and the peer reads on. TCP and TLS",
        "the wire is intact: both messages, whole. Shown: when the caller was released",
    ),
    "P2": (
        "The peer never reads; one task is blocked in a `send` of 50 MB, another calls `close` "
        "with `close_timeout=1`",
        "closed within 1.5 s; the sender gets `ConnectionClosed`",
    ),
    "P3": (
        "A peer sends pings of 125 bytes for 10 s and never reads",
        "less than 8 MiB of memory more, at any time",
    ),
    "P4": (
        "A peer never reads, messages of 1 MB are sent to it in a loop; ping 1 s / 1 s",
        "the connection is dropped within 3 s, and the sender gets an exception",
    ),
    "P5": (
        "A healthy peer sends without pause, the application takes 0.3 s for each message; "
        "ping 1 s / 1 s",
        "open after 12 s",
    ),
    "P6": (
        "A peer sends empty text messages without pause; another task wakes up every millisecond",
        "never more than 50 ms of CPU time between two wakes",
    ),
    "P7": (
        "A server is left while a handler sleeps for an hour",
        "it has ended within `drain_timeout` + 0.5 s; the handler was cancelled",
    ),
    "P8": (
        "A compressed message that ends with a final block (RFC 7692, 7.2.3.4), then a usual one",
        "both arrive",
    ),
    "P9": (
        "Pings between the fragments of a compressed message",
        "the message arrives, and so do the pongs",
    ),
    "P10": (
        "The body of `open_websocket` raises, and the peer never answers the Close",
        "that exception, itself, within 1.25 s",
    ),
    "P11": (
        "The same, and a deadline of 0.5 s around it passes during the closing handshake",
        "left within 0.6 s",
    ),
    "P12": (
        "`async for` left by `break`, and all references dropped",
        "no warning, nothing unraisable",
    ),
    "P13": (
        "A message received in pieces is left half way; then `receive`",
        "the next message arrives",
    ),
    "P14": (
        "Both ends send 60 messages of 900 kB and do not receive; ping 2 s / 2 s; the client has "
        "a timeout of 12 s (`asyncio.timeout`, `anyio.fail_after`)",
        "the timeout gets through: out within 13.5 s (with the second of `cancel_grace`); without "
        "one, `write_timeout` ends it",
    ),
    "P15": (
        "The last reference to a connection of `connect_websocket` is dropped while its task "
        "group lives",
        "a `ResourceWarning` that names the class and the peer, and no task is left",
    ),
    "P16": (
        "`receive` is cancelled after 1 to 40 turns, while messages arrive in three fragments",
        "no message lost, none twice, in order",
    ),
    "P17": (
        "400 messages of 1 KiB by `broadcast` to 500 peers that read and 5 that never do; another "
        "task wakes up every millisecond. The 5 are dropped, or skipped",
        "the 500 get everything, in order; less than 8 MiB of memory more, at any time; never more "
        "than 50 ms of CPU time between two wakes",
    ),
}


@dataclass
class Cell:
    """What the tests of one row on one backend have measured."""

    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: bool = False

    def __str__(self) -> str:
        words = [
            FORMS[name][0].format(FORMS[name][1](self.measured[name]))
            for name in FORMS
            if name in self.measured
        ]
        return ", ".join(words) + (" **FAILED**" if self.failed else "")


class Table:
    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Cell] = defaultdict(Cell)

    def add(self, row: str, backend: str, measured: dict[str, float], *, failed: bool) -> None:
        cell = self.cells[row, backend]
        cell.failed = cell.failed or failed
        for name, value in measured.items():
            cell.measured[name].append(value)

    def lines(self) -> Iterator[str]:
        for row, (_, bar) in BARS.items():
            for backend in BACKENDS:
                if (row, backend) in self.cells:
                    yield f"{row:<4} {backend:<8} {self.cells[row, backend]}   [{bar}]"

    def markdown(self) -> Iterator[str]:
        yield "| | what is tested | the bar | " + " | ".join(BACKENDS) + " |"
        yield "|---" * (3 + len(BACKENDS)) + "|"
        for row, (what, bar) in BARS.items():
            cells = [str(self.cells.get((row, backend), "")) for backend in BACKENDS]
            if any(cells):
                yield f"| {row} | {what} | {bar} | " + " | ".join(cells) + " |"


# --- Measuring ---


STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def _give_back() -> None:
    """Let the system have what is free, so that growth does not hide in it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class PeakMemory:
    """How much more memory than at the start the process has held at any time.

    A thread looks: the event loop is what may be too busy for it.
    """

    def __enter__(self) -> PeakMemory:
        _give_back()
        self._start = self._peak = resident_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """In MiB."""
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self._peak = max(self._peak, resident_mib())


class Ticker:
    """A task that wants to run every millisecond, and the longest that it had to wait.

    In CPU time of this thread: how long other programs had the processor says nothing about us.
    """

    def __init__(self) -> None:
        self.cpu_gap_ms = 0.0
        self.wall_gap_ms = 0.0
        self.ticks = 0

    async def run(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            cpu_before, cpu = cpu, time.thread_time()
            wall_before, wall = wall, time.perf_counter()
            self.cpu_gap_ms = max(self.cpu_gap_ms, (cpu - cpu_before) * 1000)
            self.wall_gap_ms = max(self.wall_gap_ms, (wall - wall_before) * 1000)
            self.ticks += 1


class Stopwatch:
    seconds: float


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block, however it ends."""
    watch = Stopwatch()
    start = time.perf_counter()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - start

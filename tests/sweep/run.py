"""The sweep: every scenario, on every backend and stream, struck at every step.

    python tests/sweep/run.py [--backend NAME] [--kind KIND] [--scenario PART] [--every N] ...

Each scenario is run once to count its steps, and then once for each step k, struck there: by
cancelling a scope, by `Task.cancel()` where there is such a thing, or by an exception in the body.
Every run has an event loop of its own. After each, the oracles: what the peer parsed, what the
connection says, messages, tasks, timers, file descriptors, time, and the exception itself.

Real time belongs to the machine as well. A violation counts whatever the machine did; but it says
for how long the process was kept from running, for whoever has to find the cause.

At the end there is a table, a row for each scenario, backend and stream; and the awaits of the
package at which no task ever stood, or was cancelled, when a strike came.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import anyio  # noqa: E402
from scenarios import BACKENDS, SCENARIOS, Scenario  # noqa: E402
from steps import (  # noqa: E402
    AWAIT,
    CALL,
    PACKAGE,
    TURN,
    Stepper,
    awaits_of_the_package,
    backend_with,
)
from world import (  # noqa: E402
    KINDS,
    NATIVE,
    RAISE,
    Census,
    Setting,
    Violation,
    World,
    open_files,
)

# More than any scenario has; a sweep that gets there does not end.
MANY = 3000
# Violations of one scenario, after which no more are looked for.
ENOUGH = 5
# The short form strikes every so manieth step, and each row in so manieth a part of its ways, each
# in the ones that are next: most of the time goes into runs that only count, one for each way.
SHORT_STEP = 16
SHORT_SHARE = 4


@dataclass
class Row:
    """What became of one scenario on one backend and kind of stream."""

    scenario: str
    backend: str
    kind: str
    points: int = 0
    seconds: float = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    awaits: list[tuple[str, int]] = field(default_factory=list)


def run_once(scenario: Scenario, setting: Setting, strike_at: int | None) -> World:
    stepper = Stepper(setting.source, strike_at)
    world = World(setting, stepper)
    before = open_files()

    async def main() -> None:
        census = await Census.take()
        with anyio.fail_after(60), stepper.watching_awaits():
            await scenario.run(world)
        await census.check()
        if not world.outcome:
            raise Violation("the scenario has attacked nothing")

    with warnings.catch_warnings(), nothing_unraisable():
        warnings.simplefilter("error")
        anyio.run(main, **backend_with(stepper, setting.backend, virtual=setting.virtual))
        if open_files() - before:
            # A loop of asyncio is a cycle, and holds its own.
            gc.collect()
        if left := open_files() - before:
            raise Violation(f"{len(left)} file descriptors are left open")
    return world


class Pauses(threading.Thread):
    """Watches how long the process is kept from running: time in which it gets none of the CPU's.

    What keeps its own threads waiting for one another, the product's code included, is none.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0

    def run(self) -> None:
        while True:
            wall, used = time.monotonic(), time.process_time()
            time.sleep(0.005)
            pause = (time.monotonic() - wall) - (time.process_time() - used)
            self.longest = max(self.longest, pause)


@contextmanager
def nothing_unraisable() -> Iterator[None]:
    """What cannot be raised, as a warning of something that was not closed, is a violation."""
    seen: list[str] = []

    def note(unraisable: Any) -> None:
        words = f"{unraisable.exc_type.__name__}: {unraisable.exc_value} in {unraisable.object!r}"
        # Seen on a busy machine, while connections are accepted: uvloop tells of a transport that
        # it made for nobody any more, and closes it itself.
        if "UVHandle" not in words:
            seen.append(words)

    before, sys.unraisablehook = sys.unraisablehook, note
    try:
        yield
    finally:
        sys.unraisablehook = before
    if seen:
        raise Violation(seen[0])


def sweep(
    scenario: Scenario,
    backend: str,
    kind: str,
    ways: list[tuple[str, str]],
    otherwise: list[tuple[str, str]],
    *,
    every: int,
    offset: int,
    stop_at_first: bool,
) -> Row:
    row = Row(scenario.name, backend, kind)
    outcomes: Counter[str] = Counter()
    awaits: set[tuple[str, int]] = set()
    start = time.monotonic()
    for index, (how, source) in enumerate([*ways, *otherwise]):
        if index >= len(ways) and row.points:
            break  # a native stream has no calls to strike at, say: then another way has to do
        if len(row.violations) >= (1 if stop_at_first else ENOUGH):
            break
        setting = Setting(backend, kind, how, source, scenario.role)
        note = partial(_run_and_note, row, outcomes, awaits)
        if not note(partial(run_once, scenario, setting, None)):
            continue
        first = -1 if source == TURN and how != RAISE else 0
        for step in range(first, MANY):
            if step > 0 and (step + offset) % every:
                continue
            run = partial(run_once, scenario, setting, step)
            world = note(run, f"{how} at {source} {step}: ")
            if world is not None and not world.struck:
                break
            row.points += 1
            if len(row.violations) >= (1 if stop_at_first else ENOUGH):
                break
        else:
            row.violations.append(f"{how}: not over after {MANY} {source}s")
    row.seconds = time.monotonic() - start
    row.outcomes = dict(outcomes)
    row.awaits = sorted(awaits)
    return row


def _run_and_note(
    row: Row,
    outcomes: Counter[str],
    awaits: set[tuple[str, int]],
    run: partial[World],
    where: str = "not struck: ",
) -> World | None:
    _pauses.longest = 0.0
    try:
        world = run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        text = "".join(traceback.format_exception(error))
        paused = f"the longest pause of the machine: {_pauses.longest:.3f} s"
        row.violations.append(f"{where}{_words(error)} ({paused})\n{text}")
        return None
    outcomes[world.outcome] += 1
    awaits |= world.awaits
    return world


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


# --- Awaits ---


def awaits_never_struck(rows: list[Row]) -> list[str]:
    seen = {tuple(one) for row in rows for one in row.awaits}
    missing = []
    for (path, first), (last, words) in awaits_of_the_package().items():
        if not any((path, line) in seen for line in range(first, last + 1)):
            missing.append(f"{Path(path).relative_to(PACKAGE)}:{first}: {words}")
    return missing


# --- The command ---


def hows_of(scenario: Scenario, backend: str) -> list[str]:
    """Return the ways to strike a scenario that there are on a backend."""
    return [how for how in scenario.hows if how != NATIVE or backend != "trio"]


def ways_of(scenario: Scenario, backend: str) -> list[tuple[str, str]]:
    """Return how to strike, and what the steps are that are counted to do it."""
    return [
        (how, source)
        for how in hows_of(scenario, backend)
        for source in ((TURN,) if how in {NATIVE, RAISE} else (TURN, CALL, AWAIT))
    ]


def jobs(options: argparse.Namespace) -> list[tuple[Scenario, str, str]]:
    return [
        (scenario, backend, kind)
        for scenario in SCENARIOS
        for kind in scenario.kinds
        for backend in scenario.backends
        if hows_of(scenario, backend)
        and options.scenario in scenario.name
        and options.backend in {None, backend}
        and options.kind in {None, kind}
    ]


def warm_up() -> None:
    """Have each backend open what it keeps for the life of the process."""
    _pauses.start()
    for backend in BACKENDS:
        anyio.run(anyio.sleep, 0, **backend_with(Stepper(TURN, None), backend, virtual=False))


def work(number: int, every: int, share: int, offset: int, stop_at_first: bool) -> Row:
    scenario, backend, kind = _JOBS[number]
    ways = ways_of(scenario, backend)
    # The next row begins with the next way; each has at least one.
    chosen = ways[(number + offset) % min(share, len(ways)) :: share]
    others = [way for way in ways if way not in chosen]
    return sweep(
        scenario,
        backend,
        kind,
        chosen,
        others,
        every=every,
        offset=offset,
        stop_at_first=stop_at_first,
    )


_JOBS: list[tuple[Scenario, str, str]] = []
_pauses = Pauses()


def main() -> int:
    parser = argparse.ArgumentParser(description="Strike every scenario at every step.")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--scenario", default="", help="only those with this in their name")
    parser.add_argument("--every", type=int, default=1, help="only every nth step")
    parser.add_argument("--offset", type=int, default=0, help="which of them")
    parser.add_argument(
        "--short", action="store_true", help="a part of each row: two minutes in all"
    )
    parser.add_argument("--jobs", type=int, default=4 * (os.cpu_count() or 1))
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("--summary", type=Path, help="write the rows there, as JSON")
    parser.add_argument("--min-points", type=int, default=0, help="fail below, for each backend")
    parser.add_argument("--all-awaits", action="store_true", help="fail where one is missing")
    options = parser.parse_args()
    share = 1
    if options.short:
        options.every, share = SHORT_STEP, SHORT_SHARE
    for name in ("anyws", "asyncio", "anyio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _JOBS[:] = jobs(options)
    run = partial(
        work,
        every=options.every,
        share=share,
        offset=options.offset,
        stop_at_first=options.first,
    )
    rows: list[Row] = []
    fork = multiprocessing.get_context("fork")
    # Not a `Pool`, which waits for ever where a worker dies.
    with ProcessPoolExecutor(options.jobs, fork, warm_up) as executor:
        for done in as_completed([executor.submit(run, number) for number in range(len(_JOBS))]):
            row = done.result()
            rows.append(row)
            print_row(row)
            if row.violations and options.first:
                executor.shutdown(wait=False, cancel_futures=True)
                break
    return report(rows, options)


def print_row(row: Row) -> None:
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items()))
    say(
        f"{row.scenario:52} {row.backend:8} {row.kind:12} {row.points:5} points "
        f"{len(row.violations):3} violations {row.seconds:6.1f} s  {outcomes}"
    )
    for violation in row.violations[:2]:
        say("    " + violation.replace("\n", "\n    "))
    for violation in row.violations[2:]:
        say("    " + violation.partition("\n")[0])


def report(rows: list[Row], options: argparse.Namespace) -> int:
    failed = False
    for backend in BACKENDS:
        of_backend = [row for row in rows if row.backend == backend]
        if not of_backend:
            continue
        points = sum(row.points for row in of_backend)
        violations = sum(len(row.violations) for row in of_backend)
        empty = [row.scenario for row in of_backend if not row.points]
        say(f"{backend}: {len(of_backend)} rows, {points} points, {violations} violations in all")
        if empty:
            say(f"  nothing was struck in: {', '.join(empty)}")
        failed |= bool(violations or empty) or points < options.min_points
    missing = awaits_never_struck(rows)
    say(f"awaits of the package: {len(awaits_of_the_package())}, never struck: {len(missing)}")
    for one in missing:
        say(f"  {one}")
    failed |= bool(missing) and options.all_awaits
    if options.summary:
        options.summary.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(failed)


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

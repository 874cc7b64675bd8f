"""Mutants of the promises: whether the harness sees a promise that is broken.

    python tests/mutants/run.py [--only PART] [--jobs N] [--quick] [--strict] [--list]

For each mutant of `mutants.py` the installed package is copied, the copy changed, and the harness
run on it, in stages, until one kills it. Every stage is run on an unchanged copy as well: what fails
there proves nothing, and kills nobody. The stages are in tables below; the first ones, of the
scenarios that a mutant names, take a second or two, the others are for what those do not see.

A row is printed for each mutant: what killed it, where and with which words, and the seconds. The
program fails where one survives, does not apply any more, or was killed by nothing but the time
limit of a stage while `--strict` is given: what hangs is to be noticed by the harness itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mutants import KINDS, MUTANTS, SOCKET_LIKE, TCP, TIMED_KINDS, Mutant

TESTS = Path(__file__).resolve().parent.parent
# Runs a program, and only on the copy that it is told of.
LAUNCHER = """
import runpy, sys
import anyws
package, program, *sys.argv = sys.argv[1:]
sys.argv.insert(0, program)
if anyws.__file__ != package + "/__init__.py":
    sys.exit(f"not the copy but {anyws.__file__}")
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Stage:
    """A run of a harness, whose command knows `{tests}`, `{scenario}` and `{summary}`.

    needs:
        A folder beside this one, without which the stage is left out.
    limit:
        Seconds, and then it hangs.
    """

    name: str
    command: tuple[str, ...]
    needs: str
    limit: float = 45
    deterministic: bool = True


def sweep(backend: str, kind: str, *options: str, limit: float = 45) -> Stage:
    return Stage(
        name=" ".join(["sweep", backend, kind, *options]),
        command=(
            *("{tests}/sweep/run.py", "--jobs", "1", "--first", "--summary", "{summary}"),
            *("--scenario", "{scenario}", "--backend", backend, "--kind", kind, *options),
        ),
        needs="sweep",
        limit=limit,
        # Trio runs its tasks in random order; elsewhere, time is the machine's.
        deterministic=backend == "asyncio" and kind not in TIMED_KINDS,
    )


BACKENDS = ("asyncio", "trio")
QUICKLY = ("--every", "5")
# How often a failure is asked for again where the order of tasks is random, or time real.
ATTEMPTS = 3
# What takes so many times as long as without the mutant will never end.
MUCH_LONGER = 6


def suite(name: str, *files: str) -> Stage:
    """Tests of the suite. The launcher imports anyws, which pytest would rather do itself."""
    return Stage(
        name=name,
        command=(
            *("pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
            *(f"{{tests}}/{file}" for file in files),
        ),
        needs=".",
        limit=120,
    )


# In virtual time, and so in little time.
TIMED = suite("the tests of time", "test_timeouts.py", "test_drain.py")
STATEFUL = suite("the property test", "stateful")
# What no interleaving shows: a check that is missing, a turn that is not given.
TESTS_AS_WELL = suite("the tests", "test_pressure.py", "test_cancellation.py", "test_bursts.py")
SUITES = (TIMED, STATEFUL, TESTS_AS_WELL)


def stages_of(mutant: Mutant, *, quick: bool) -> list[tuple[Stage, str]]:
    """Return the stages, in order, each with the part of the names of its scenarios."""
    stages = [
        (sweep(backend, mutant.kind, *options), mutant.scenario)
        for options in (QUICKLY, ())
        for backend in BACKENDS
    ]
    if quick:
        return stages
    stages.append((TIMED, ""))
    for kind in (SOCKET_LIKE, TCP):
        if kind != mutant.kind:
            stages += [(sweep(b, kind, *QUICKLY, limit=200), mutant.scenario) for b in BACKENDS]
    stages += [(stage, "") for stage in (STATEFUL, TESTS_AS_WELL)]
    for kind in KINDS:
        if kind not in TIMED_KINDS:
            stages += [(sweep(b, kind, limit=300), "") for b in BACKENDS]
    return stages


@dataclass
class Verdict:
    """What a stage said of a copy: whether it failed, and with which words."""

    failed: bool
    words: str = ""
    scenario: str = ""
    hung: bool = False
    seconds: float = 0.0


@dataclass
class Row:
    mutant: Mutant
    killed_by: str = ""
    problem: str = ""
    hung: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class HarnessError(Exception):
    """The harness could not be run, which says nothing of the mutant."""


# --- Copies ---


def installed_package() -> Path:
    spec = importlib.util.find_spec("anyws")
    if spec is None or spec.origin is None:
        raise SystemExit("anyws is not installed")
    return Path(spec.origin).parent


def copy_package(room: Path) -> Path:
    copy = room / "anyws"
    shutil.copytree(installed_package(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def apply(mutant: Mutant, package: Path) -> str:
    """Change the copy; return why that cannot be done any more, or nothing."""
    path = package / mutant.file
    text = path.read_text() if path.exists() else ""
    for old, new in ((mutant.old, mutant.new), *mutant.also):
        if (count := text.count(old)) != 1:
            return f"the mutant no longer applies: {count} times in {mutant.file}: {old.strip()!r}"
        text = text.replace(old, new)
    compile(text, mutant.file, "exec")
    path.write_text(text)
    return ""


# --- Running a stage ---


class Harness:
    """Runs stages on copies; what the unchanged copy says is asked once."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._original = room / "original"
        copy_package(self._original)
        self._originals: dict[tuple[Stage, str, int], Verdict] = {}
        self._locks: dict[tuple[Stage, str, int], threading.Lock] = {}
        self._lock = threading.Lock()

    def of_original(self, stage: Stage, scenario: str, attempt: int = 0) -> Verdict:
        key = (stage, scenario, attempt)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._originals:
                limit = MUCH_LONGER * stage.limit
                self._originals[key] = self.run(stage, scenario, self._original, limit)
            return self._originals[key]

    def run(self, stage: Stage, scenario: str, room: Path, limit: float | None = None) -> Verdict:
        start = time.monotonic()
        verdict = self._run(stage, scenario, room, limit or stage.limit)
        verdict.seconds = time.monotonic() - start
        return verdict

    def _run(self, stage: Stage, scenario: str, room: Path, limit: float) -> Verdict:
        # The original is asked by several at once.
        summary = Path(tempfile.mkdtemp(dir=room)) / "summary.json"
        places = {"tests": str(TESTS), "scenario": scenario, "summary": str(summary)}
        command = [part.format(**places) for part in stage.command]
        code, output = self._execute([str(room / "anyws"), *command], room, limit)
        if code is None:
            return Verdict(True, f"not over after {limit:.0f} s", hung=True)
        if stage in SUITES:
            return _verdict_of_pytest(stage, code, output)
        if not summary.exists():
            raise HarnessError(f"{stage.name} broke off: {_last_line(output)}")
        return _verdict_of_sweep(json.loads(summary.read_text()))

    def _execute(self, arguments: list[str], room: Path, limit: float) -> tuple[int | None, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(room),
            "PYTHONPYCACHEPREFIX": str(self._room / "pycache"),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(room / "hypothesis"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        process = subprocess.Popen(
            # -P: the folder it is started in has no say in what is imported.
            [sys.executable, "-P", "-c", LAUNCHER, *arguments],
            cwd=room,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # And those that it has started, which are of its session.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
        return process.returncode, output


def _verdict_of_sweep(rows: list[dict[str, object]]) -> Verdict:
    if not rows:
        raise HarnessError("no scenario has such a name, on such a stream")
    for row in rows:
        for violation in row["violations"]:
            where = f"{row['scenario']}, {row['backend']}, {row['kind']}"
            words = str(violation).partition("\n")[0]
            return Verdict(True, f"{where}: {words}", str(row["scenario"]))
    return Verdict(False)


def _verdict_of_pytest(stage: Stage, code: int, output: str) -> Verdict:
    if code not in {0, 1}:
        raise HarnessError(f"pytest ended with {code}: {_last_line(output)}")
    failures = re.findall(r"^FAILED (?:.*/)?(.*)$", output, re.MULTILINE)
    return Verdict(code == 1, f"{stage.name}: {failures[0] if failures else _last_line(output)}")


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1]


# --- A mutant ---


def judge(mutant: Mutant, harness: Harness, room: Path, *, quick: bool) -> Row:
    row = Row(mutant)
    start = time.monotonic()
    try:
        copy = copy_package(room)
        row.problem = apply(mutant, copy)
        if not row.problem:
            _hunt(row, harness, room, quick=quick)
    except (HarnessError, SyntaxError) as error:
        row.problem = str(error)
    row.seconds = time.monotonic() - start
    shutil.rmtree(room)
    return row


def _hunt(row: Row, harness: Harness, room: Path, *, quick: bool) -> None:
    for number, (stage, scenario) in enumerate(stages_of(row.mutant, quick=quick)):
        if not (TESTS / stage.needs).is_dir():
            continue
        try:
            verdict = harness.run(stage, scenario, room)
        except HarnessError as error:
            # Other kinds of stream need not have it.
            if number and scenario and "no scenario" in str(error):
                continue
            raise
        if not verdict.failed:
            continue
        # Only what the harness says of this mutant, and not of the package as it is, kills it.
        scenario = verdict.scenario or scenario
        if doubt := _doubt(verdict, stage, scenario, harness, room):
            row.notes.append(doubt)
            continue
        row.killed_by = verdict.words
        row.hung = verdict.hung
        if verdict.hung:
            row.killed_by += f" ({stage.name}, {scenario})"
        return
    row.problem = "it survives"


def _doubt(verdict: Verdict, stage: Stage, scenario: str, harness: Harness, room: Path) -> str:
    """Say why a failure may not be the mutant's, if it may not."""
    original = harness.of_original(stage, scenario)
    if original.failed:
        return f"fails without any mutant: {stage.name}, {scenario}"
    if verdict.hung:
        if verdict.seconds > MUCH_LONGER * original.seconds:
            return ""
        # The machine may have had other things to do.
        again = harness.run(stage, scenario, room, limit=MUCH_LONGER * original.seconds)
        verdict.words, verdict.hung = again.words, again.hung
        return "" if again.failed else f"slow: {stage.name}, {scenario}"
    if stage.deterministic:
        return ""
    # What fails now and then has to do so with the mutant only, and more than once.
    if not any(harness.run(stage, scenario, room).failed for _ in range(ATTEMPTS)):
        return f"only once: {verdict.words}"
    if any(harness.of_original(stage, scenario, n).failed for n in range(1, ATTEMPTS)):
        return f"now and then, and without any mutant as well: {verdict.words}"
    return ""


# --- The command ---


def main() -> int:
    parser = argparse.ArgumentParser(description="Break promises, and see whether that is seen.")
    parser.add_argument("--only", default="", help="only mutants with this in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--quick", action="store_true", help="only the scenarios that they name")
    parser.add_argument("--strict", action="store_true", help="a hang is no kill")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if options.list:
        for mutant in chosen:
            say(f"{mutant.name}\n    breaks {mutant.breaks}")
        return 0
    if not chosen:
        say(f"no mutant has {options.only!r} in its name")
        return 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="anyws-mutants-") as folder:
        room = Path(folder)
        harness = Harness(room)
        with ThreadPoolExecutor(options.jobs) as pool:
            futures = [
                pool.submit(judge, mutant, harness, room / f"mutant-{n}", quick=options.quick)
                for n, mutant in enumerate(chosen)
            ]
            rows = []
            for future in futures:
                rows.append(future.result())
                print_row(rows[-1])
    return report(rows, time.monotonic() - start, strict=options.strict)


def print_row(row: Row) -> None:
    verdict = f"killed by {row.killed_by}" if row.killed_by else row.problem.upper()
    say(f"{row.mutant.name}  ({row.seconds:.1f} s)\n    {verdict}")
    for note in row.notes:
        say(f"    {note}")
    if row.problem:
        say(f"    {row.mutant.file}: breaks {row.mutant.breaks}")


def report(rows: list[Row], seconds: float, *, strict: bool) -> int:
    killed = [row for row in rows if row.killed_by]
    hung = [row for row in killed if row.hung]
    say(f"{len(rows)} mutants, {len(killed)} killed, {len(hung)} of them by the time limit alone")
    for row in rows:
        if row.problem:
            say(f"  {row.mutant.name}: {row.problem}")
    say(f"{seconds:.0f} s")
    return int(len(killed) < len(rows) or (strict and bool(hung)))


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

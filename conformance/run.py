"""Autobahn's WebSocket conformance cases, against client and server: on each backend, and blocking.

    python conformance/run.py                   all but categories 9, 12 and 13: seconds
    python conformance/run.py --full            every case
    python conformance/run.py --role server --backend trio --cases '7.*' 6.4.1

Exit codes: 0, every case asked for ran and ended as `expected.json` says; 1, some did not;
2, the run itself went wrong.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from backends import BACKENDS
from suite import Process, Run, Suite, SuiteError, default_cache, find_suite
from verdict import ROLES, Expected, Result, judge, notable, table

HERE = Path(__file__).resolve().parent
ALL_CASES = 517
# Large messages: nine tenths of the time of a full run.
LEFT_OUT_OF_SHORT = ("9.*", "12.*", "13.*")


@dataclass(frozen=True, slots=True)
class Outcome:
    role: str
    backend: str
    suite: str
    seconds: float
    results: dict[str, Result]
    complaints: list[str]

    @property
    def title(self) -> str:
        return f"{self.role}, {self.backend}"


def main() -> int:
    options = parse_options()
    try:
        expected = Expected.load(options.expected)
        if faults := expected.faults():
            raise SuiteError(
                f"{options.expected.name} explains itself badly:\n" + "\n".join(faults)
            )
        suite = find_suite(options.cache, options.suite)
        known = suite.all_cases() or expected.cases()
        if len(known) != ALL_CASES:
            raise SuiteError(f"there are {ALL_CASES} cases, but {len(known)} are known")
        cases = choose_cases(known, options)
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jobs = [(role, backend) for role in options.role for backend in options.backend]
    print(f"{len(cases)} cases x {len(jobs)} with {suite.name}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(options.jobs)
    try:
        futures = [pool.submit(run_one, suite, *job, cases, options, expected) for job in jobs]
        outcomes, broken = [], False
        for job, future in zip(jobs, futures, strict=True):
            try:
                outcomes.append(future.result())
            except SuiteError as error:
                print(f"error: {', '.join(job)}: {error}", file=sys.stderr, flush=True)
                broken = True
            else:
                print("\n" + describe(outcomes[-1]), flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(Process.living):
            process.stop()
    if options.update:
        expected.save(options.expected)
    (options.out / "summary.md").write_text("\n\n".join(map(describe, outcomes)) + "\n")
    if broken or not outcomes:
        return 2
    bad = sum(len(outcome.complaints) for outcome in outcomes)
    ran = sum(len(outcome.results) for outcome in outcomes)
    asked = len(cases) * len(outcomes)
    print(f"\n{ran} of {asked} cases ran, {bad} complaints; traces in {options.out}")
    return 1 if bad else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--short", action="store_true", help="all but 9, 12 and 13 (the default)")
    which.add_argument("--full", action="store_true", help="every case")
    which.add_argument("--cases", nargs="+", metavar="PATTERN", help="such as '7.*' or 6.4.1")
    parser.add_argument("--role", nargs="+", choices=ROLES, default=list(ROLES))
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--suite", choices=["autobahntestsuite", "kosoku"], help="default: either")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for each of the runs")
    parser.add_argument("--html", action="store_true", help="Autobahn's own reports, too")
    parser.add_argument("--update", action="store_true", help="rewrite what is expected")
    parser.add_argument("--expected", type=Path, default=HERE / "expected.json")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="for logs and reports")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="for Autobahn itself")
    parser.add_argument("--adapters", type=Path, default=HERE, help="folder of other echo programs")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.timeout = options.timeout or (3600 if options.full else 600)
    return options


def choose_cases(known: list[str], options: argparse.Namespace) -> list[str]:
    if options.full:
        return known
    if not options.cases:
        return [c for c in known if not any(fnmatchcase(c, p) for p in LEFT_OUT_OF_SHORT)]
    for pattern in options.cases:
        if not any(fnmatchcase(case, pattern) for case in known):
            raise SuiteError(f"no case is called {pattern!r}")
    return [c for c in known if any(fnmatchcase(c, p) for p in options.cases)]


def run_one(
    suite: Suite,
    role: str,
    backend: str,
    cases: list[str],
    options: argparse.Namespace,
    expected: Expected,
) -> Outcome:
    out = options.out / f"{role}-{backend}"
    if out.exists():
        shutil.rmtree(out)  # nothing of an earlier run may be taken for this one's
    out.mkdir(parents=True)
    run = Run(agent=f"anyws-{backend}", cases=cases, out=out, html=options.html)
    adapter = [sys.executable, options.adapters / f"echo_{role}.py", "--backend", backend]
    started = time.monotonic()
    if role == "server":
        wrong = run_server(suite, run, adapter, options.timeout)
    else:
        wrong = run_client(suite, run, adapter, options.timeout)
    results = suite.results(run)
    if options.update:
        for case, result in results.items():
            expected.learn(role, case, result)
    complaints = wrong + judge(expected, role, cases, results)
    return Outcome(role, backend, suite.name, time.monotonic() - started, results, complaints)


def run_server(suite: Suite, run: Run, adapter: list[object], timeout: float) -> list[str]:
    with Process([*adapter, "--port", 0], run.path("server.log")) as server:
        with suite.against_server(run, server.port()) as fuzzer:
            in_time = fuzzer.wait(timeout)
        wrong = [] if in_time else [f"stopped after {timeout:.0f} s"]
        if server.exit_code is not None:
            wrong.append(f"the server ended with {server.exit_code}:\n{server.tail()}")
    if fuzzer.exit_code and not suite.results(run):
        wrong.append(f"the suite ended with {fuzzer.exit_code}:\n{fuzzer.tail()}")
    return wrong


def run_client(suite: Suite, run: Run, adapter: list[object], timeout: float) -> list[str]:
    fuzzer, port = suite.for_client(run)
    with fuzzer:
        command = [*adapter, "--agent", run.agent, f"ws://127.0.0.1:{port}"]
        with Process(command, run.path("client.log")) as client:
            in_time = client.wait(timeout)
        wrong = [] if in_time else [f"stopped after {timeout:.0f} s"]
        if client.exit_code:
            wrong.append(f"the client ended with {client.exit_code}:\n{client.tail()}")
        if suite.ends_with_client:
            fuzzer.wait(60)
        elif fuzzer.exit_code is not None:
            wrong.append(f"the suite ended with {fuzzer.exit_code}:\n{fuzzer.tail()}")
    return wrong


def describe(outcome: Outcome) -> str:
    seconds = f"{outcome.seconds:.0f} s"
    lines = [f"## {outcome.title}", "", f"{outcome.suite}, {seconds}", ""]
    if outcome.results:
        lines += [table(outcome.results), ""]
    lines += [f"- {line}" for line in notable(outcome.results)]
    lines += [f"- **not as expected**: {line}" for line in outcome.complaints]
    if not outcome.complaints:
        lines.append("- every case as expected")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""The two programs that can run Autobahn's cases, and how each is had.

The reference is Autobahn's own, which runs on CPython 2.7 and on nothing newer. Where there is
none, `kosoku`, another project's runner of the same cases, takes its place. Both are driven
through the same three methods, and both leave a `Result` per case.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from verdict import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

HERE = Path(__file__).resolve().parent
LAUNCHER = HERE / "wstest27.py"
REQUIREMENTS = HERE / "requirements-py27.txt"
VIRTUALENV = "virtualenv==20.21.1"  # the last that can make an environment for Python 2.7
INSTALL_SECONDS = 600
# A case of categories 12 and 13 may by itself take 480 s before Autobahn gives up.
CASE_SECONDS = 600


class SuiteError(Exception):
    """The run itself went wrong: nothing can be said about the library."""


@dataclass(frozen=True, slots=True)
class Run:
    """One role of the library against the chosen cases, and where its traces go."""

    agent: str
    cases: Sequence[str]
    out: Path
    html: bool = False

    def path(self, name: str) -> Path:
        return self.out / name


class Suite(Protocol):
    name: str
    ends_with_client: bool  # a fuzzing server that ends by itself, having written its report

    def all_cases(self) -> list[str] | None:
        """Every case id, or ``None`` if the program cannot tell."""

    def against_server(self, run: Run, port: int) -> Process:
        """Start the cases against the server on ``port``; the process ends with the last."""

    def for_client(self, run: Run) -> tuple[Process, int]:
        """Start a fuzzing server; the process goes on until it is stopped. Its port, too."""

    def results(self, run: Run) -> dict[str, Result]:
        """What is known of each case that ended."""


class Process:
    """A program in a process group of its own, so that what it starts ends with it."""

    living: ClassVar[set[Process]] = set()

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self.name = log.stem
        self.log = log
        # Python's own variables would reach an interpreter they were not meant for.
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        self.living.add(self)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self.exit_code is not None

    def stop(self) -> None:
        for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 10)):
            if self.exit_code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._popen.pid, number)
                self.wait(seconds)
        self.living.discard(self)

    def port(self, seconds: float = 30) -> int:
        """The port that it says it listens on, once it does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if said := re.search(r"listening on .*\b(\d+)$", self.output(), re.MULTILINE):
                return int(said[1])
            if self.exit_code is not None:
                ended = f"{self.name} ended with {self.exit_code} instead of listening"
                raise SuiteError(f"{ended}\n{self.tail()}")
            time.sleep(0.05)
        raise SuiteError(f"{self.name} did not listen within {seconds:.0f} s")

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(f"    {self.name}: {line}" for line in self.output().splitlines()[-lines:])


class Autobahn:
    """autobahntestsuite, in a Python 2.7 environment of its own."""

    name = "autobahntestsuite"
    ends_with_client = False

    def __init__(self, python: Path) -> None:
        self._command = [str(python), "-W", "ignore", str(LAUNCHER)]

    def all_cases(self) -> list[str]:
        done = subprocess.run(
            [*self._command, "cases"], capture_output=True, text=True, timeout=60, check=True
        )
        cases: list[str] = json.loads(done.stdout)
        return cases

    def against_server(self, run: Run, port: int) -> Process:
        spec = self._spec(run, agent=run.agent, url=f"ws://127.0.0.1:{port}")
        return Process([*self._command, "server", *spec], run.path("suite.log"))

    def for_client(self, run: Run) -> tuple[Process, int]:
        process = Process([*self._command, "client", *self._spec(run)], run.path("suite.log"))
        return process, process.port()

    def results(self, run: Run) -> dict[str, Result]:
        results = run.path("results.jsonl")
        if not results.exists():
            return {}
        # A line that was cut short is a case that did not end.
        lines = results.read_text().split("\n")[:-1]
        return {case["id"]: Result.of(case) for case in map(json.loads, lines)}

    def _spec(self, run: Run, **more: object) -> tuple[Path, Path]:
        spec = {"cases": list(run.cases), "outdir": str(run.out), "case_seconds": CASE_SECONDS}
        path = run.path("spec.json")
        path.write_text(json.dumps({**spec, "html": run.html, **more}, indent=1))
        return path, run.path("results.jsonl")


class Kosoku:
    """The kosoku package, which needs nothing but a current Python."""

    name = "kosoku"
    ends_with_client = True

    def all_cases(self) -> None:
        return None

    def against_server(self, run: Run, port: int) -> Process:
        return self._start(run, "fuzzingclient", port)

    def for_client(self, run: Run) -> tuple[Process, int]:
        process = self._start(run, "fuzzingserver", 0)
        return process, process.port()

    def results(self, run: Run) -> dict[str, Result]:
        index = run.path("index.json")
        if not index.exists():
            return {}
        agents = json.loads(index.read_text())
        return {
            case: Result.of(value) for cases in agents.values() for case, value in cases.items()
        }

    def _start(self, run: Run, mode: str, port: int) -> Process:
        include = [word for case in run.cases for word in ("-i", case)]
        where = ["-o", run.out, f"127.0.0.1:{port}"]
        return Process([kosoku_command(), "-m", mode, *include, *where], run.path("suite.log"))


# --- having one --------------------------------------------------------------------------------


def find_suite(cache: Path, wanted: str | None = None) -> Suite:
    """Autobahn's own if there is a Python 2.7 for it, else kosoku; an error if neither is had."""
    if wanted != Kosoku.name:
        if python := find_python2():
            return Autobahn(install_autobahn(python, cache))
        if wanted == Autobahn.name:
            raise SuiteError("no CPython 2.7 found; $AUTOBAHN_PYTHON2 can name one")
    if not kosoku_command().exists():
        raise SuiteError("neither a CPython 2.7 nor the package kosoku is here: nothing to run")
    return Kosoku()


def kosoku_command() -> Path:
    return Path(sys.executable).with_name("kosoku")


def find_python2() -> Path | None:
    for candidate in _python2_candidates():
        # Running it is the only proof: a pyenv shim is on PATH even where it just prints an error.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            probe = "import sys, ssl, zlib; print(sys.version_info[:2] == (2, 7))"
            done = subprocess.run(
                [candidate, "-c", probe], capture_output=True, text=True, timeout=30, check=False
            )
            if done.stdout.strip() == "True":
                return Path(candidate)
    return None


def _python2_candidates() -> Iterator[str]:
    if asked := os.environ.get("AUTOBAHN_PYTHON2"):
        yield asked
        return
    if on_path := shutil.which("python2.7"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True))


def default_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"anyws-conformance-{os.getuid()}"


def install_autobahn(python2: Path, cache: Path) -> Path:
    """The interpreter of an environment with the suite in it, made on the first call."""
    wanted = f"{python2}\n{VIRTUALENV}\n{REQUIREMENTS.read_text()}"
    environment = cache / f"py27-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python, done = environment / "bin" / "python", environment / "complete"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise SuiteError(f"{cache} belongs to somebody else")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may start at once
        if not done.exists():
            print(f"installing Autobahn's test suite for {python2}", flush=True)
            with tempfile.TemporaryDirectory() as tool:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tool]
                _install_step([*pip, VIRTUALENV])
                virtualenv = [sys.executable, "-m", "virtualenv", "--quiet", "--no-download"]
                _install_step([*virtualenv, "-p", python2, "--clear", environment], PYTHONPATH=tool)
            _install_step([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS])
            _install_step([python, LAUNCHER, "cases"])
            done.touch()
    return python


def _install_step(command: Iterable[object], **variables: str) -> None:
    words = [str(word) for word in command]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        words,
        env=env | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        raise SuiteError(f"{' '.join(words)} failed:\n{done.stdout[-4000:]}")

"""Programs that are run as a user runs them: in a process of their own, ended with the test."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyws import Close, Closure

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
ANYWS = ("-m", "anyws")

ORDINARY = Closure(
    Close(1000), Close(1000), "ours", True, "this end closed the connection with 1000 (normal)"
)


@contextmanager
def started(
    *arguments: object, cwd: Path | None = None, **environment: object
) -> Iterator[subprocess.Popen[str]]:
    """Start Python with these arguments; whatever happens, it does not outlive the block."""
    with _interruptible():
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, arguments)],
            cwd=cwd,
            **_streams(environment),
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(
    *arguments: object, given: str | bytes = "", cwd: Path | None = None, **environment: object
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, and something to read, to its end."""
    with started(*arguments, cwd=cwd, **environment) as process:
        assert process.stdin is not None
        if isinstance(given, bytes):
            process.stdin.buffer.write(given)
            given = ""
        output, errors = process.communicate(given)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def takes_signals_for_one_wish(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have programs take all signals of the next half minute for the same wish, as of a moment."""
    code = "import anyws._asked\nanyws._asked.SAME_WISH = 30\n"
    (directory / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)


@contextmanager
def serving(name: str, *arguments: object) -> Iterator[str]:
    """Run a server's example on a free port, give its URL, and end it with Ctrl-C."""
    with started(EXAMPLES / name, *arguments, 0) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving at (wss?://127\.0\.0\.1:\d+/)\n", line)
        assert found is not None, line
        yield found[1]
        assert interrupt(process) == (0, "bye\n", "")


def output_of(name: str, *arguments: object) -> list[str]:
    done = run(EXAMPLES / name, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Close its input, wait for its end, and give the rest of the output and of the errors.

    Not `communicate`, which passes by what a `readline` has read ahead.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    process.stdin = None
    with ThreadPoolExecutor(1) as pool:
        errors = pool.submit(process.stderr.read)
        output = process.stdout.read()
        process.wait()
        return output, errors.result()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Press Ctrl-C, and give the exit code, the rest of the output, and the errors.

    Standard input stays open meanwhile, as a terminal's does.
    """
    process.send_signal(signal.SIGINT)
    process.wait()
    return process.returncode, *rest_of(process)


def is_waiting(process: subprocess.Popen[str]) -> bool:
    """Tell whether its main thread waits in the system, where the system says so; else it may."""
    stat = Path(f"/proc/{process.pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "S"


# Not of those that systems hand out by themselves, and each test process has its own: between the
# moment that a port is found free and that in which a program listens there, nobody else gets it.
_ports = itertools.count(os.getpid() * 499)


def free_port() -> int:
    """Return a port of 127.0.0.1 at which nobody listens, another one each time."""
    for number in itertools.islice(_ports, 1000):
        port = 10_000 + number % 22_000
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError("no port of 127.0.0.1 is free")


def _streams(environment: dict[str, object]) -> dict[str, Any]:
    given = {name: str(value) for name, value in environment.items()}
    return {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "encoding": "utf-8",
        "env": {**os.environ, "PYTHONUTF8": "1", **given},
    }


@contextmanager
def _interruptible() -> Iterator[None]:
    # A test run in the background ignores Ctrl-C, and what it starts would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

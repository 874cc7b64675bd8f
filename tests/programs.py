"""Programs that are run as a user runs them: in a process of their own, ended with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
ANYWS = ("-m", "anyws")


@contextmanager
def started(*arguments: object, **environment: object) -> Iterator[subprocess.Popen[str]]:
    """Start Python with these arguments; whatever happens, it does not outlive the block."""
    with _interruptible():
        process = subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, arguments)],
            **_streams(environment),
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(
    *arguments: object, given: str | bytes = "", **environment: object
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, and something to read, to its end."""
    with started(*arguments, **environment) as process:
        assert process.stdin is not None
        if isinstance(given, bytes):
            process.stdin.buffer.write(given)
            given = ""
        output, errors = process.communicate(given)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


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

"""The parent's hold on a process under test: its start, its clock, its memory, its end.

The clock is read from here, by the id that POSIX gives to another process's CPU time (user and
system together). So nothing runs in the process under test but the contender.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from .contenders import Contender

__all__ = ["Failure", "Subject", "cores", "pin_load"]

_ROOT = Path(__file__).resolve().parent.parent
# Seconds. Generous: only what hangs takes as long.
START_TIMEOUT = 30.0
JOB_TIMEOUT = 30.0
# What makes variants of anyws: from outside it would make one of all of them.
_VARIANTS = ("ANYWS_PURE", "ANYWS_WITHOUT")


class Failure(Exception):
    """A contender did not do what it had to; the others go on."""


def cores() -> tuple[set[int], set[int]] | None:
    """Return the core of the process under test and those of the load, where there are two."""
    available = sorted(os.sched_getaffinity(0))
    return ({available[0]}, set(available[1:])) if len(available) > 1 else None


def pin_load(subject_and_load: tuple[set[int], set[int]] | None) -> None:
    if subject_and_load is not None:
        os.sched_setaffinity(0, subject_and_load[1])


class Subject:
    """A process under test."""

    def __init__(
        self,
        contender: Contender,
        role: str,
        backend: str,
        certificates: Path,
        core: set[int] | None,
    ) -> None:
        self.contender, self.role, self.backend = contender, role, backend
        self.ports: dict[str, int] = {}
        self._ready = False
        environment = {name: os.environ[name] for name in os.environ if name not in _VARIANTS}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in stop()
        arguments = (role, contender.name, backend, str(certificates))
        self._process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-m", "benchmarks.subject", *arguments],
            cwd=_ROOT,
            env={**environment, **contender.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.pid = self._process.pid
        if core is not None:
            os.sched_setaffinity(self.pid, core)
        clock = ctypes.c_int()
        if ctypes.CDLL(None).clock_getcpuclockid(self.pid, ctypes.byref(clock)):
            raise Failure("the system does not tell the CPU time of another process")
        self._clock = clock.value

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{self.contender.name} ({self.role}, {self.backend})"

    def wait_ready(self) -> None:
        if not self._ready:
            self.ports = self._read_line(START_TIMEOUT).get("ports", {})
            self._ready = True

    def start_job(self, **job: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def finish_job(self) -> None:
        self._read_line(JOB_TIMEOUT)

    def cpu_time(self) -> float:
        """Return the seconds of CPU that the process has used, in user and system mode."""
        return time.clock_gettime(self._clock)

    def resident_bytes(self) -> int:
        # "rollup" is exact; what /proc/PID/statm says is late by some pages for each thread.
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise Failure("the system does not tell the resident size of another process")

    def stop(self) -> dict[str, Any] | None:
        """End the process; return the share of its lane, where it has one."""
        share = None
        if self._process.poll() is None:
            try:
                self.wait_ready()
                self._process.terminate()
                share = self._read_line(5).get("share")
            except Failure:
                pass
            finally:
                self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            assert file is not None
            file.close()
        return share

    def errors(self) -> str:
        """Return the last line that the process wrote to its standard error."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else ""

    def _read_line(self, timeout: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        # It writes one line at a time, and waits for us: none is ever left in a buffer.
        if not select.select([stdout], [], [], timeout)[0]:
            raise Failure(f"{self} was silent for {timeout:g} s")
        line = stdout.readline()
        if not line:
            raise Failure(f"{self} ended: {self.errors()}")
        words: dict[str, Any] = json.loads(line)
        return words

"""`anyws serve --workers`: one process that listens, and several that accept from the same sockets.

**The sockets** are opened here, once, and closed only when everything ends. Each worker inherits
them and accepts from them; whoever is quickest gets a connection. So there is one queue of clients
that wait to be accepted, it outlives every worker, and closing a worker's sockets resets nobody in
it. (With `SO_REUSEPORT` each worker would have a queue of its own, and take it along.)

**A worker** is a new interpreter, `worker.py`, that imports the program itself: this process never
does. It is tied to this process by a pair of sockets, the control. What it says there is that it
serves; what it is told there is to retire, to stop, or to hurry. Where this process ends, however
that comes about, the control does, and every worker stops in order.

**The plan** is made anew whenever something has happened, from the workers that there are:

| there is | then |
|---|---|
| a worker missing | one is started; after failures, later and later |
| an outdated one, since SIGHUP, and nobody who starts or leaves | a worker more is started |
| one more that serves than there should be | an outdated one retires: 1012, nobody refused |

Until the first worker serves, it is the only one: what is wrong with the program is said once. A
new worker that does not get as far as to serve, while the outdated ones do, ends a restart: they go
on. Where failures go on and nobody serves any more, all is given up.

There is no event loop here: nothing waits but this one `select`. Signals come through it as bytes,
in their order.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import math
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from .._asked import SAME_WISH
from .late import end_at_signals, hold_signals
from .loading import CannotServe
from .serve import HURRY, RETIRE, STOP, listen, places
from .telling import announce, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["pause_after", "supervise"]

_logger = logging.getLogger("anyws.server")

# Seconds that a worker has to import its program and to serve.
_START_TIMEOUT: Final = 60.0
# Seconds beyond its drain timeout that a worker has to end; and what there is after "hurry".
_END_MARGIN: Final = 10.0
_HURRY_TIMEOUT: Final = 5.0
# A worker that has served for so many seconds did not fail at its start.
_STABLE_AFTER: Final = 10.0
# Seconds until the next worker is started after a failure, doubled with each up to the longest.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
# Failures in a row after which all is given up, if nobody serves.
_MAX_FAILURES: Final = 5


def supervise(options: argparse.Namespace, arguments: list[str]) -> int:
    """Serve with workers until asked for the end, and return the exit code."""
    if sys.platform == "win32":
        return complain("--workers needs processes that share sockets and signals: not on Windows")
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
    )
    try:
        sockets = listen(options)
    except CannotServe as error:
        return complain(f"cannot serve: {error}")
    supervisor = _Supervisor(sockets, options.workers, arguments, places(sockets, options))
    return supervisor.run()


def pause_after(failures: int) -> float:
    """Return the seconds until another worker is started, after so many failures in a row."""
    # They may go on for weeks while another worker serves, and no float has all powers of two.
    return min(math.ldexp(_FIRST_PAUSE, min(failures - 1, 32)), _LONGEST_PAUSE)


class _State(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"


class _Worker:
    def __init__(self, sockets: list[socket.socket], arguments: list[str]) -> None:
        """Start one. Raises OSError."""
        self.state = _State.STARTING
        self.outdated = False
        self.is_mute = False  # its end of the control is closed: it has nothing more to say
        self.serving_since = math.inf
        self.deadline = time.monotonic() + _START_TIMEOUT
        self.control, theirs = socket.socketpair()
        self._drain_timeout: float | None = 0.0
        self._heard = b""
        with theirs:
            numbers = [one.fileno() for one in sockets]
            try:
                self.process = subprocess.Popen(  # noqa: S603 - it is this very program
                    [
                        *(sys.executable, *_interpreter_options()),
                        *("-m", f"{__package__}.worker"),
                        *(str(theirs.fileno()), ",".join(map(str, numbers))),
                        *arguments,
                    ],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *numbers],
                    # Ctrl-C is for the supervisor, which tells the workers.
                    process_group=0,
                )
            except BaseException:
                self.control.close()
                raise
        self.control.setblocking(False)

    def __str__(self) -> str:
        return f"worker {self.process.pid}"

    def hear(self) -> bool:
        """Read what it has said; tell whether it has just begun to serve."""
        with contextlib.suppress(BlockingIOError):
            while said := self._read():
                self._heard += said
            self.is_mute = True
        if self.state is not _State.STARTING or not self._heard.endswith(b"\n"):
            return False
        self._drain_timeout = json.loads(self._heard)["drain_timeout"]
        self.state = _State.SERVING
        self.serving_since = time.monotonic()
        self.deadline = math.inf
        return True

    def _read(self) -> bytes:
        try:
            return self.control.recv(1024)
        except ConnectionError:
            return b""

    def leave(self, word: bytes) -> None:
        """Tell it to go, and how."""
        if self.state is _State.STARTING:
            # It serves nobody; and it may be a while until it listens to us.
            self.process.terminate()
        self.state = _State.LEAVING
        now = time.monotonic()
        if word == HURRY:
            self.deadline = now + _HURRY_TIMEOUT
        elif self.deadline == math.inf and self._drain_timeout is not None:
            self.deadline = now + self._drain_timeout + _END_MARGIN
        with contextlib.suppress(OSError):
            self.control.send(word)

    def how_it_ended(self) -> str:
        code = self.process.returncode
        return f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def kill(self) -> None:
        self.deadline = math.inf
        self.process.kill()

    def forget(self) -> None:
        self.process.wait()
        self.control.close()


class _Supervisor:
    def __init__(
        self, sockets: list[socket.socket], count: int, arguments: list[str], where: str
    ) -> None:
        self._sockets = sockets
        self._count = count
        self._arguments = arguments
        self._where = where
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._has_served = False
        self._is_stopping = False
        self._asked_at = -math.inf
        self._failures = 0
        self._failed_at = -math.inf
        self._retry_at = -math.inf
        self._code = 0

    def run(self) -> int:
        with self._selector, self._signals() as alarm:
            self._selector.register(alarm, selectors.EVENT_READ)
            try:
                self._plan()
                while self._workers or not self._is_stopping:
                    self._wait_and_see(alarm)
                    self._plan()
            finally:
                # Where all went as it should, there are none.
                for worker in self._workers:
                    worker.kill()
                    worker.forget()
                self._close_sockets()
                hold_signals()
        end_at_signals(self._code)
        return self._code

    # --- What happens ---

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Have signals come as bytes, and give the socket that they come from."""
        heeded = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD]
        alarm, bell = socket.socketpair()
        with alarm, bell:
            alarm.setblocking(False)
            bell.setblocking(False)
            before = signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
            handlers: dict[signal.Signals, Any] = {
                one: signal.signal(one, lambda *_: None) for one in heeded
            }
            try:
                yield alarm
            finally:
                for one, handler in handlers.items():
                    signal.signal(one, handler)
                signal.set_wakeup_fd(before)

    def _wait_and_see(self, alarm: socket.socket) -> None:
        times = [worker.deadline for worker in self._workers]
        if self._retry_at > time.monotonic():
            times.append(self._retry_at)
        first = min(times, default=math.inf)
        timeout = None if first == math.inf else max(first - time.monotonic(), 0)
        self._selector.select(timeout)
        with contextlib.suppress(BlockingIOError):
            for number in alarm.recv(4096):
                self._heed(number)
        for worker in [*self._workers]:
            was_mute = worker.is_mute
            ended = worker.process.poll() is not None
            # In this order: what it has said before its end is known at its end.
            if worker.hear():
                self._welcome(worker)
            if worker.is_mute and not was_mute:
                self._selector.unregister(worker.control)
            if ended:
                self._part_with(worker)
            elif worker.deadline <= time.monotonic():
                _logger.error("%s does not %s: it is killed", worker, _AWAITED[worker.state])
                worker.kill()

    def _heed(self, number: int) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            if not self._is_stopping:
                self._asked_at = time.monotonic()
                self._stop(STOP)
            elif time.monotonic() - self._asked_at >= SAME_WISH:
                _logger.info("asked again: whoever is left is cut off")
                self._stop(HURRY)
        elif number == signal.SIGHUP and not self._is_stopping:
            _logger.info("restarting the workers, one by one")
            # What failed is another program, as far as anybody knows.
            self._failures, self._retry_at = 0, -math.inf
            for worker in self._present():
                worker.outdated = True

    def _welcome(self, worker: _Worker) -> None:
        _logger.info("%s serves", worker)
        if not self._has_served:
            self._has_served = True
            noun = "worker" if self._count == 1 else "workers"
            announce(f"serving at {self._where} with {self._count} {noun}")

    def _part_with(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        if not worker.is_mute:
            self._selector.unregister(worker.control)
        worker.forget()
        if worker.state is _State.LEAVING:
            as_told = worker.process.returncode in {0, -signal.SIGTERM}
            log = _logger.info if as_told else _logger.warning
            if not as_told and self._is_stopping:
                self._code = 1
            log("%s has left: %s", worker, worker.how_it_ended())
            return
        if worker.state is _State.STARTING:
            _logger.error("%s did not get as far as to serve: %s", worker, worker.how_it_ended())
        else:
            _logger.error("%s has left without being asked: %s", worker, worker.how_it_ended())
        self._judge_failure(worker)

    def _judge_failure(self, worker: _Worker | None) -> None:
        """Decide what follows from a worker that ended, or could not even be made."""
        now = time.monotonic()
        if worker is not None and now - worker.serving_since >= _STABLE_AFTER:
            return  # it is replaced at once
        present = self._present()
        outdated = [one for one in present if one.outdated]
        was_serving = worker is not None and worker.state is _State.SERVING
        if outdated and not was_serving and len(present) >= self._count:
            _logger.error("the restart is given up: those who serve go on")
            for one in outdated:
                one.outdated = False
            return
        if any(self._failed_at < one.serving_since <= now - _STABLE_AFTER for one in present):
            self._failures = 0
        self._failures += 1
        self._failed_at = now
        self._retry_at = now + pause_after(self._failures)
        if not self._has_served:
            self._give_up("the first worker did not get as far as to serve")
        elif self._failures >= _MAX_FAILURES and not any(map(_serves, present)):
            self._give_up(f"workers ended at their start {self._failures} times in a row")

    # --- What is done ---

    def _present(self) -> list[_Worker]:
        return [one for one in self._workers if one.state is not _State.LEAVING]

    def _plan(self) -> None:
        if self._is_stopping:
            return
        present = self._present()
        starting = [one for one in present if one.state is _State.STARTING]
        outdated = [one for one in present if one.outdated]
        missing = self._count - len(present)
        if len([*filter(_serves, present)]) > self._count and outdated:
            outdated[0].leave(RETIRE)
        elif time.monotonic() < self._retry_at:
            pass
        elif missing > 0:
            if self._has_served and not self._failures:
                for _ in range(missing):
                    self._start_one()
            elif not starting:
                self._start_one()
        elif outdated and len(self._workers) == self._count and not starting:
            self._start_one()

    def _start_one(self) -> None:
        try:
            worker = _Worker(self._sockets, self._arguments)
        except OSError as error:
            _logger.error("a worker cannot be started: %s", error)
            self._judge_failure(None)
            return
        self._workers.append(worker)
        self._selector.register(worker.control, selectors.EVENT_READ)

    def _give_up(self, why: str) -> None:
        complain(f"giving up: {why}")
        self._code = 1
        self._stop(STOP)

    def _stop(self, word: bytes) -> None:
        self._is_stopping = True
        # Nobody comes to accept from them any more.
        self._close_sockets()
        for worker in self._workers:
            worker.leave(word)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()


_AWAITED = {_State.STARTING: "serve in time", _State.LEAVING: "end in time"}


def _serves(worker: _Worker) -> bool:
    return worker.state is _State.SERVING


def _interpreter_options() -> list[str]:
    """Return what this interpreter was told, so that the workers' are told the same."""
    options = [f"-W{one}" for one in sys.warnoptions]
    options += [
        f"-X{name}" if value is True else f"-X{name}={value}"
        for name, value in sys._xoptions.items()
    ]
    flags = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-P": sys.flags.safe_path,
        "-B": sys.flags.dont_write_bytecode,
    }
    options += [flag for flag, is_set in flags.items() if is_set]
    return options + ["-O"] * sys.flags.optimize

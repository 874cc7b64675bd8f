"""`anyws serve --workers`: who replaces whom, who ends with whom, and when all is given up."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from programs import ANYWS, free_port, takes_signals_for_one_wish
from served import BACKENDS, PATIENCE, PROGRAM, Running, serving

import anyws
import anyws.sync
from anyws import Close
from anyws._asked import SAME_WISH
from anyws._cli.supervisor import pause_after

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform == "win32", reason="there are no workers on Windows"),
]
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
FREE = ("--port", 0)


def pid_of(ws: anyws.sync.WebSocket) -> int:
    return int(ws.receive(PATIENCE))


def who_serves(url: str) -> int:
    with anyws.sync.open_websocket(url) as ws:
        return pid_of(ws)


def until(condition: Callable[[], bool], running: Running) -> None:
    """Wait for what other processes do: there is no event for it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, running.log
        time.sleep(0.01)


def logged(running: Running, words: str) -> int:
    return sum(words in line for line in running.log)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def closed_with(ws: anyws.sync.WebSocket) -> Close | None:
    with pytest.raises(anyws.ConnectionClosed):
        ws.receive(PATIENCE)
    assert ws.closure is not None
    return ws.closure.received


# --- Restarts ---


@on_each_backend
def test_a_rolling_restart_replaces_each_worker_once_the_new_one_serves(
    backend: str, tmp_path: Path
) -> None:
    options = (*FREE, "--workers", 2, "--backend", backend)
    with serving(tmp_path, "app:who", *options) as running:
        url = running.url()
        until(lambda: logged(running, " serves") == 2, running)
        with anyws.sync.open_websocket(url) as ws:
            old = pid_of(ws)
            (tmp_path / "app.py").write_text(PROGRAM.replace("str(os.getpid())", '"new"'))
            running.process.send_signal(signal.SIGHUP)
            assert closed_with(ws) == Close(1012)
        until(lambda: logged(running, "has left: exit code 0") == 2, running)
        assert not lives(old)
        # The program is what stands in the files now.
        with anyws.sync.open_websocket(url) as ws:
            assert ws.receive(PATIENCE) == "new"
        order = [line.split()[-2:] for line in running.log if "worker " in line]
        assert [words[-1] for words in order] == ["serves", "serves", *["serves", "0"] * 2]
        running.process.terminate()
        assert running.end() == 0
        assert running.errors() == []


def test_a_new_program_that_does_not_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    with serving(tmp_path, "app:who", *FREE, "--workers", 1) as running:
        url = running.url()
        pid = who_serves(url)
        (tmp_path / "app.py").write_text("this is no Python")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: logged(running, "the restart is given up") == 1, running)
        assert who_serves(url) == pid
        (tmp_path / "app.py").write_text(PROGRAM)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: logged(running, "has left: exit code 0") == 1, running)
        assert who_serves(url) != pid
        running.process.terminate()
        assert running.end() == 0


def test_a_client_that_waits_to_be_accepted_outlives_its_worker(tmp_path: Path) -> None:
    """The one queue is that of the supervisor's socket, which is closed by none of them."""
    slow = PROGRAM + "\nimport time\nif os.path.exists('slow'): time.sleep(1)\n"
    with serving(tmp_path, "app:who", *FREE, "--workers", 1) as running:
        url = running.url()
        pid = who_serves(url)
        (tmp_path / "app.py").write_text(slow)
        (tmp_path / "slow").write_text("")
        os.kill(pid, signal.SIGKILL)
        until(lambda: logged(running, "ended by SIGKILL") == 1, running)
        # Nobody accepts, for a second at least.
        assert who_serves(url) != pid


# --- Replacements ---


def test_a_worker_that_dies_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    with serving(tmp_path, "app:who", *FREE, "--workers", 2) as running:
        url = running.url()
        until(lambda: logged(running, " serves") == 2, running)
        with ExitStack() as stack:
            pids: dict[int, anyws.sync.WebSocket] = {}
            deadline = time.monotonic() + PATIENCE
            while len(pids) < 2:
                assert time.monotonic() < deadline
                ws = stack.enter_context(anyws.sync.open_websocket(url))
                pids.setdefault(pid_of(ws), ws)
            (first, _), (second, kept) = pids.items()
            os.kill(first, signal.SIGKILL)
            until(lambda: logged(running, " serves") == 3, running)
            assert lives(second)
            kept.close()
            assert kept.closure is not None
            assert kept.closure.clean
        assert logged(running, "has left without being asked: ended by SIGKILL") == 1


def test_a_worker_that_is_asked_to_go_is_replaced_too(tmp_path: Path) -> None:
    with serving(tmp_path, "app:who", *FREE, "--workers", 1) as running:
        url = running.url()
        with anyws.sync.open_websocket(url) as ws:
            pid = pid_of(ws)
            os.kill(pid, signal.SIGTERM)
            assert closed_with(ws) == Close(1001)
        until(lambda: logged(running, " serves") == 2, running)
        assert who_serves(url) != pid


def test_workers_that_end_at_their_start_again_and_again_are_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, "app:who", *FREE, "--workers", 1) as running:
        url = running.url()
        pid = who_serves(url)
        (tmp_path / "app.py").write_text("import sys\nsys.exit(7)\n")
        os.kill(pid, signal.SIGKILL)
        assert running.end() == 1
        assert (
            running.log[-1] == "anyws: giving up: workers ended at their start 5 times in a row\n"
        )
        assert logged(running, "did not get as far as to serve: exit code 7") == 4


def test_who_asks_for_a_restart_does_not_wait_for_the_pause_after_failures(tmp_path: Path) -> None:
    with serving(tmp_path, "app:who", *FREE, "--workers", 2) as running:
        url = running.url()
        until(lambda: logged(running, " serves") == 2, running)
        pid = who_serves(url)
        (tmp_path / "app.py").write_text("this is no Python")
        os.kill(pid, signal.SIGKILL)
        until(lambda: logged(running, "did not get as far as to serve") == 4, running)
        # Of which each takes its time.
        begun = time.monotonic()
        (tmp_path / "app.py").write_text(PROGRAM)
        running.process.send_signal(signal.SIGHUP)
        # One in place of who has failed; then one in place of who is outdated.
        until(lambda: logged(running, " serves") >= 3, running)
        assert time.monotonic() - begun < pause_after(5)


def test_the_pause_after_failures_grows_to_its_longest_and_has_no_end() -> None:
    assert [pause_after(failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pause_after(1_000_000) == 30


# --- The end ---


@on_each_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_every_worker_and_the_exit_code_is_0(
    backend: str, number: signal.Signals, tmp_path: Path
) -> None:
    options = (*FREE, "--workers", 2, "--backend", backend)
    with serving(tmp_path, "app:saving", *options) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            ws.receive(PATIENCE)
            running.process.send_signal(number)
            assert closed_with(ws) == Close(1001)
            assert running.line() == "saved\n"
        assert running.end() == 0
        assert running.errors() == []


def test_a_signal_to_all_of_them_at_once_is_one_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As service managers send it."""
    takes_signals_for_one_wish(tmp_path, monkeypatch)
    with serving(tmp_path, "app:saving", *FREE, "--workers", 1) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            pid = pid_of(ws)
            running.process.terminate()
            os.kill(pid, signal.SIGTERM)
            running.process.terminate()
            assert closed_with(ws) == Close(1001)
            assert running.line() == "saved\n"
        assert running.end() == 0


def test_a_second_signal_cuts_off_who_is_left(tmp_path: Path) -> None:
    options = (*FREE, "--workers", 1, "--drain-timeout", 60)
    with serving(tmp_path, "app:stuck", *options) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            pid = pid_of(ws)
            running.process.terminate()
            assert closed_with(ws) == Close(1001)
            time.sleep(2 * SAME_WISH)
            running.process.terminate()
        assert running.end() == 1
        assert not lives(pid)


@on_each_backend
def test_workers_end_in_order_when_their_supervisor_is_killed(backend: str, tmp_path: Path) -> None:
    options = (*FREE, "--workers", 2, "--backend", backend)
    with serving(tmp_path, "app:saving", *options) as running:
        url = running.url()
        until(lambda: logged(running, " serves") == 2, running)
        with anyws.sync.open_websocket(url) as ws:
            pids = {int(pid) for pid in re.findall(r"worker (\d+) serves", "".join(running.log))}
            assert len(pids) == 2
            assert pid_of(ws) in pids
            running.process.kill()
            assert closed_with(ws) == Close(1001)
            assert running.line() == "saved\n"
        until(lambda: not any(map(lives, pids)), running)
        address = url.removeprefix("ws://").rstrip("/").split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address[0], int(address[1])))


def test_a_signal_before_anybody_serves_ends_it_too(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("open('begun', 'x')\nimport time\ntime.sleep(60)\n")
    with serving(tmp_path, "slow:who", *FREE, "--workers", 2) as running:
        until((tmp_path / "begun").exists, running)
        running.process.terminate()
        assert running.end() == 0


def test_a_worker_that_is_still_imported_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    """It would keep the port, and accept from nobody."""
    waiting = "import os, time\nopen('begun', 'x').write(str(os.getpid()))\ntime.sleep(600)\n"
    (tmp_path / "slow.py").write_text(waiting)
    begun = tmp_path / "begun"
    with serving(tmp_path, "slow:who", *FREE, "--workers", 1) as running:
        until(lambda: begun.exists() and begun.read_text() != "", running)
        running.process.kill()
        try:
            until(lambda: not lives(int(begun.read_text())), running)
        except AssertionError:
            os.kill(int(begun.read_text()), signal.SIGKILL)
            raise


# --- Standard streams ---


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_workers_serve_although_standard_streams_are_closed(closed: str, tmp_path: Path) -> None:
    """As where something starts it in the background; no socket takes their numbers."""
    (tmp_path / "app.py").write_text(f"{PROGRAM}\nprint('imported', flush=True)\n")
    port = free_port()
    words = shlex.join([sys.executable, *ANYWS, "serve", "app:who", "--port", str(port)])
    command = f"exec {words} --workers 1 {closed}"
    with subprocess.Popen(["bash", "-c", command], cwd=tmp_path) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    assert who_serves(f"ws://127.0.0.1:{port}/") != process.pid
                    break
                except anyio.ConnectionFailed:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()

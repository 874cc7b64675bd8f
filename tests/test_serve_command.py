"""`anyws serve` without workers: what it serves, what is wrong with that, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from programs import ANYWS, free_port, run, takes_signals_for_one_wish
from served import BACKENDS, PATIENCE, PROGRAM, serving

import anyws
import anyws.sync
from anyws import Close
from anyws._asked import SAME_WISH

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows"),
]
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
FREE = ("--port", 0)


def says(url: str, *words: str, subprotocols: tuple[str, ...] = ()) -> list[str | bytes]:
    with anyws.sync.open_websocket(url, subprotocols=subprotocols) as ws:
        answers = []
        for word in words:
            ws.send(word)
            answers.append(ws.receive(PATIENCE))
        return answers


# --- How it ends ---


@on_each_backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_it_in_order_and_the_exit_code_is_0(
    backend: str, number: signal.Signals, tmp_path: Path
) -> None:
    with serving(tmp_path, "app:saving", *FREE, "--backend", backend) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            ws.receive(PATIENCE)
            running.process.send_signal(number)
            with pytest.raises(anyws.ClosedByPeer):
                ws.receive(PATIENCE)
            assert ws.closure is not None
            assert ws.closure.received == Close(1001)
            # What it does after the end of the connection is not cut short.
            assert running.line() == "saved\n"
        assert running.end() == 0
        assert running.errors() == []


@on_each_backend
def test_a_second_signal_cuts_off_who_is_left_and_the_exit_code_says_so(
    backend: str, tmp_path: Path
) -> None:
    options = (*FREE, "--backend", backend, "--drain-timeout", 60)
    with serving(tmp_path, "app:stuck", *options) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            ws.receive(PATIENCE)
            running.process.send_signal(signal.SIGTERM)
            with pytest.raises(anyws.ClosedByPeer):
                ws.receive(PATIENCE)
            time.sleep(2 * SAME_WISH)
            running.process.send_signal(signal.SIGTERM)
        assert running.end() == 1


@on_each_backend
def test_a_signal_that_comes_twice_at_once_is_one_wish(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes_signals_for_one_wish(tmp_path, monkeypatch)
    with serving(tmp_path, "app:saving", *FREE, "--backend", backend) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            ws.receive(PATIENCE)
            for _ in range(3):
                running.process.send_signal(signal.SIGTERM)
            with pytest.raises(anyws.ClosedByPeer):
                ws.receive(PATIENCE)
            assert running.line() == "saved\n"
        assert running.end() == 0


@on_each_backend
@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["alone", "worker"])
def test_signals_that_come_while_it_ends_do_not_change_the_exit_code(
    backend: str, workers: tuple[object, ...], tmp_path: Path
) -> None:
    """Up to the last moment of the interpreter; where nobody is there, nobody is cut off."""
    with serving(tmp_path, "app:echo", *FREE, "--backend", backend, *workers) as running:
        running.url()
        while running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.002)
        assert running.end() == 0


ENDING_LATE = """
import asyncio
import os
import signal
import time


def handlers():
    return [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]


def work():
    others = {*handlers(), signal.SIG_DFL, signal.default_int_handler}
    print("working", flush=True)
    deadline = time.monotonic() + 20
    while not others.isdisjoint(handlers()) and time.monotonic() < deadline:
        time.sleep(0.01)
    print("left", flush=True)
    while not os.path.exists("enough"):
        time.sleep(0.01)


async def handler(ws):
    asyncio.get_running_loop().run_in_executor(None, work)
    await ws.receive()
"""


def test_a_signal_to_a_thread_that_the_program_waits_for_does_not_change_the_exit_code(
    tmp_path: Path,
) -> None:
    """Where the main thread holds signals back, the system gives them to another."""
    (tmp_path / "late.py").write_text(ENDING_LATE)
    with serving(tmp_path, "late:handler", *FREE) as running:
        with anyws.sync.open_websocket(running.url()):
            assert running.line() == "working\n"
            running.process.terminate()
        assert running.line() == "left\n"
        running.process.terminate()
        running.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.2)
        (tmp_path / "enough").touch()
        assert running.end() == 0
        assert running.errors() == []


def test_handlers_have_the_drain_timeout_and_no_longer(tmp_path: Path) -> None:
    with serving(tmp_path, "app:stuck", *FREE, "--drain-timeout", 0.3) as running:
        with anyws.sync.open_websocket(running.url()) as ws:
            ws.receive(PATIENCE)
            begun = time.monotonic()
            running.process.terminate()
            with pytest.raises(anyws.ClosedByPeer):
                ws.receive(PATIENCE)
        assert running.end() == 0
        assert 0.3 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["alone", "worker"])
def test_it_serves_although_nobody_reads_where(workers: tuple[object, ...], tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, "app:echo", "--port", port, *workers) as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert says(f"ws://127.0.0.1:{port}/", "a") == ["a"]
                break
            except anyio.ConnectionFailed:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        running.process.terminate()
        assert running.end() == 0
        assert running.errors() == []


# --- What it serves ---


def test_one_handler_serves_everybody(tmp_path: Path) -> None:
    with serving(tmp_path, "app:echo", *FREE) as running:
        url = running.url()
        assert says(url, "a", "b") == ["a", "b"]
        assert says(url, "a", subprotocols=("any",)) == ["a"]


@pytest.mark.parametrize(
    "targets", [("app:Rooms.handlers",), ("shout=app:shout", "echo=app:echo")], ids=["map", "named"]
)
def test_a_mapping_or_several_handlers_serve_by_subprotocol(
    targets: tuple[str, ...], tmp_path: Path
) -> None:
    with serving(tmp_path, *targets, *FREE, "--default", "app:who") as running:
        url = running.url()
        assert says(url, "a", subprotocols=("echo",)) == ["a"]
        assert says(url, "a", subprotocols=("shout", "echo")) == ["A"]
        with anyws.sync.open_websocket(url) as ws:
            assert ws.receive(PATIENCE) == str(running.process.pid)


def test_routes_and_several_hooks_can_be_named_like_anything_else(tmp_path: Path) -> None:
    options = ("--on-request", "app:hooks", "--default", "app:who")
    with serving(tmp_path, "app:routes", *FREE, *options) as running:
        url = running.url()
        with urllib.request.urlopen(url.replace("ws", "http", 1) + "health") as response:
            assert response.read() == b"ok\n"
        with pytest.raises(anyws.HandshakeRejected, match="401"):
            anyws.sync.open_websocket(url).__enter__()
        known = url.replace("//", "//ada:s3cret@")
        assert says(known, "a") == ["a"]
        assert says(f"{known}loud", "a", subprotocols=("shout",)) == ["A"]
        with anyws.sync.open_websocket(f"{known}rooms/7") as ws:
            assert ws.receive(PATIENCE) == "ada in 7"
        with anyws.sync.open_websocket(f"{known}loud") as ws:
            assert ws.receive(PATIENCE) == str(running.process.pid)
        with pytest.raises(anyws.HandshakeRejected, match="404"):
            anyws.sync.open_websocket(f"{known}nowhere").__enter__()


def test_requests_origins_and_limits_are_the_program_s_to_judge(tmp_path: Path) -> None:
    options = ("--on-request", "app:judge", "--origin", "https://a.test", "--config", "app:config")
    with serving(tmp_path, "app:echo", *FREE, *options) as running:
        url = running.url()
        with urllib.request.urlopen(url.replace("ws", "http", 1) + "health") as response:
            assert response.read() == b"ok\n"
        with anyws.sync.open_websocket(url, origin="https://a.test") as ws:
            ws.send("x" * 11)
            with pytest.raises(anyws.ClosedWithError, match="1009"):
                ws.receive(PATIENCE)
        with pytest.raises(anyws.HandshakeRejected, match="403"):
            anyws.sync.open_websocket(url, origin="https://b.test").__enter__()


def test_every_page_may_come_where_that_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "app:echo", *FREE, "--origin", "*") as running:
        anyws.sync.open_websocket(running.url(), origin="https://b.test").__enter__().close()


def test_it_serves_wss_with_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key, whole = (tmp_path / name for name in ("cert.pem", "key.pem", "whole.pem"))
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    certificate.private_key_and_cert_chain_pem.write_to_path(whole)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for options in (("--cert", cert, "--key", key), ("--cert", whole)):
        with serving(tmp_path, "app:echo", *FREE, *options) as running:
            url = running.url()
            assert url.startswith("wss://")
            with anyws.sync.open_websocket(url, ssl_context=context) as ws:
                ws.send("hello")
                assert ws.receive(PATIENCE) == "hello"


def test_it_logs_as_much_as_it_is_told(tmp_path: Path) -> None:
    for level, expected in (("info", True), ("warning", False)):
        with serving(tmp_path, "app:echo", *FREE, "--log-level", level) as running:
            with pytest.raises(anyws.HandshakeError):
                anyws.sync.open_websocket(running.url(), origin="https://b.test").__enter__()
            running.process.terminate()
            assert running.end() == 0
            assert any("no WebSocket" in line for line in running.log) is expected


# --- Sockets of another's ---


def inheriting(directory: Path, sock: socket.socket, *arguments: str) -> subprocess.Popen[str]:
    """Start it as systemd does."""
    (directory / "app.py").write_text(PROGRAM)
    words = shlex.join([sys.executable, "-W", "error", *ANYWS, "serve", *arguments])
    command = f"LISTEN_PID=$$ LISTEN_FDS=1 exec {words} 100<&{sock.fileno()} 3<&100"
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=directory,
        pass_fds=[sock.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@on_each_backend
@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_a_new_process_takes_over_the_socket_while_the_old_one_drains(
    backend: str, workers: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = ("app:saving", "--backend", backend, *workers)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"ws://127.0.0.1:{sock.getsockname()[1]}/"
        with inheriting(tmp_path, sock, *arguments) as old:
            assert old.stdout is not None
            assert old.stdout.readline().startswith(f"serving at {url}")
            with anyws.sync.open_websocket(url) as before:
                pid = before.receive(PATIENCE)
                with inheriting(tmp_path, sock, *arguments) as new:
                    assert new.stdout is not None
                    assert new.stdout.readline().startswith(f"serving at {url}")
                    old.terminate()
                    with pytest.raises(anyws.ClosedByPeer):
                        before.receive(PATIENCE)
                    with anyws.sync.open_websocket(url) as after:
                        assert after.receive(PATIENCE) != pid
                        assert old.wait(PATIENCE) == 0
                        assert old.stdout.read() == "saved\n"
                        new.terminate()
                    assert new.wait(PATIENCE) == 0
        # Nobody accepts, and nobody is refused.
        with socket.create_connection(sock.getsockname()):
            pass


def test_a_unix_socket_that_was_passed_is_served_and_its_file_stays(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with inheriting(tmp_path, sock, "app:echo") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"serving at {path!r}\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 426 ")
            process.terminate()
            assert process.wait(PATIENCE) == 0
    assert os.path.exists(path)


def test_with_sockets_that_were_passed_a_port_makes_no_sense(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with inheriting(tmp_path, sock, "app:echo", "--port", "80") as process:
            _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == (
        "anyws: cannot serve: LISTEN_FDS says where to listen, and --host and --port do, too\n"
    )


# --- What is wrong ---

NO_HANDLER = "the handler must be an async function that takes a WebSocket, not int"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:x"], "there is no module 'nowhere', for nowhere:x"),
        (["app.inner:x"], "there is no module 'app.inner', for app.inner:x"),
        (["app:nothing"], "there is no 'nothing' in the module 'app'"),
        (["app:echo.x.y"], "there is no 'echo.x.y' in the module 'app'"),
        (["app:number"], NO_HANDLER),
        (["app:echo", "--default", "app:echo"], "default= goes with a mapping of handlers"),
        (["app:routes.x"], "there is no 'routes.x' in the module 'app'"),
        (["app:bare", "--default", "app:echo"], "default= goes with a mapping of subprotocols"),
        (["a=app:routes"], "the handler for 'a' must be an async function that takes a WebSocket"),
        (["app:echo", "--config", "app:number"], "config must be a Config, not int"),
        (["app:echo", "--on-request", "app:number"], "on_request must be a function that takes"),
        (["app:echo", "--origin", "x"], "'x'"),
        (["app:echo", "--cert", "none.pem"], "no certificate with its key in none.pem: No such"),
        (
            ["app:echo", "--cert", "app.py"],
            "no certificate with its key in app.py: what is in there is no PEM, or not all of it, "
            "or the key has a password",
        ),
    ],
)
def test_what_cannot_be_served_is_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run(*ANYWS, "serve", *arguments, *FREE, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"anyws: cannot serve: {message}")
    assert done.stderr.count("\n") == 1


def test_with_workers_it_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run(*ANYWS, "serve", "app:number", *FREE, "--workers", 3, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    first, log, last = done.stderr.splitlines()
    assert first == f"anyws: cannot serve: {NO_HANDLER}"
    assert log.endswith(" did not get as far as to serve: exit code 1")
    assert last == "anyws: giving up: the first worker did not get as far as to serve"


@pytest.mark.parametrize("workers", [(), ("--workers", 2)], ids=["alone", "workers"])
def test_a_port_in_use_is_one_line(workers: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(*ANYWS, "serve", "app:echo", "--port", port, *workers, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"anyws: cannot serve: cannot listen at 127.0.0.1, port {port}: Address already in use\n"
    )


def test_a_host_that_is_not_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = run(*ANYWS, "serve", "app:echo", "--host", "host.invalid", *FREE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("anyws: cannot serve: cannot listen at host.invalid, port 0: ")
    assert done.stderr.count("\n") == 1


def test_a_program_that_cannot_be_imported_shows_where_and_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_else\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")
    for module, error in (
        ("broken", "ModuleNotFoundError: No module named 'nowhere_else'"),
        ("failing", "ZeroDivisionError: division by zero"),
    ):
        done = run(*ANYWS, "serve", f"{module}:x", cwd=tmp_path)
        lines = done.stderr.splitlines()
        assert done.returncode == 1
        assert lines[0] == "Traceback (most recent call last):"
        assert any(f"{module}.py" in line for line in lines)
        assert lines[-1] == (
            f"anyws: cannot serve: the module {module!r} cannot be imported: {error}"
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: [SUBPROTOCOL=]MODULE:NAME"),
        (["app"], "'app' is no MODULE:NAME, as in chat.server:handler"),
        (["a/b:c"], "'a/b:c' is no MODULE:NAME"),
        (["app:x", "app:y"], "of several handlers, each needs a SUBPROTOCOL="),
        (["a=app:x", "a=app:y"], "a subprotocol has one handler"),
        (["app:x", "--key", "k"], "--key goes with --cert"),
        (["app:x", "--workers", "0"], "'0' is no number of processes: 1 or more"),
        (["app:x", "--drain-timeout", "inf"], "'inf' is no number of seconds"),
        (["app:x", "--log-level", "loud"], "invalid choice: 'loud'"),
    ],
)
def test_arguments_that_make_no_sense_are_explained(arguments: list[str], message: str) -> None:
    done = run(*ANYWS, "serve", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr

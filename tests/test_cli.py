"""The command, as a user runs it and reads it: in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import pytest
import trustme
from programs import ANYWS, free_port, interrupt, rest_of, run, started

import anyws
from anyws import Close, CloseCode, Reject
from anyws._cli import main
from anyws._cli.telling import printable, shown
from anyws._demo import GOODBYE, echo, echo_uppercase, goodbye, perform

if TYPE_CHECKING:
    from collections.abc import Iterator

on_each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


# --- A server for the command to connect to ---

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r\n\ttext"


class TestServer:
    """Runs in a thread, and keeps how each connection ended."""

    __test__ = False

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[anyws.Request] = []
        self.closures: list[anyws.Closure] = []
        self.has_closed = Event()

    @property
    def origin(self) -> str:
        return self.url.replace("ws:", "http:").rstrip("/")

    def judge(self, request: anyws.Request) -> Reject | None:
        self.requests.append(request)
        if request.path == "/refused":
            return Reject(403, "members only\x1b[2J\nask Ada")
        return None

    def handlers(self) -> dict[str, anyws.Handler]:
        known = [self.echo, self.once, self.escapes, self.binary, self.fails, self.endless]
        return {handler.__name__: self.kept(handler) for handler in known}

    def kept(self, handler: anyws.Handler) -> anyws.Handler:
        async def keeping(ws: anyws.WebSocket) -> None:
            try:
                await handler(ws)
            except anyws.ConnectionClosed:
                pass
            self.closures.append(await ws.close())
            self.has_closed.set()

        return keeping

    async def echo(self, ws: anyws.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def once(self, ws: anyws.WebSocket) -> None:
        """Answers a line with all that was said, and closes."""
        said = []
        async for message in ws:
            said.append(message)
            if message == "over":
                await ws.send(json.dumps(said))
                return

    async def escapes(self, ws: anyws.WebSocket) -> None:
        await ws.send(ESCAPES)
        await ws.close(4000, ESCAPES)

    async def binary(self, ws: anyws.WebSocket) -> None:
        await ws.send(b"\x00\x1b\xff")

    async def fails(self, ws: anyws.WebSocket) -> None:
        await ws.close(CloseCode.INTERNAL_ERROR, "out of order")

    async def endless(self, ws: anyws.WebSocket) -> None:
        while True:
            await ws.send("more")


@contextmanager
def in_a_thread(handlers: anyws.HandlersLike, **options: Any) -> Iterator[str]:
    """Serve, and give the URL."""
    with anyio.from_thread.start_blocking_portal() as portal:
        call = partial(anyws.open_server, handlers, host="127.0.0.1", port=0, **options)
        with portal.wrap_async_context_manager(portal.call(call)) as running:
            yield running.url


@pytest.fixture
def server() -> Iterator[TestServer]:
    server = TestServer()
    with in_a_thread(server.handlers(), on_request=server.judge) as server.url:
        yield server


@pytest.fixture
def tls_url() -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with in_a_thread(echo, ssl_context=context) as url:
        yield url


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A TCP listener that leaves it to the test what to answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


def url_of(listener: socket.socket, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/"


def unused_url() -> str:
    return f"ws://127.0.0.1:{free_port()}/"


# --- anyws ---


def test_the_version_is_that_of_the_distribution():
    done = run(*ANYWS, "--version")
    assert done.stdout == f"anyws {importlib.metadata.version('anyio-websocket')}\n"


def test_the_script_is_the_same_command():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="anyws")
    assert script.load() is main


def test_help_names_the_commands():
    done = run(*ANYWS, "--help")
    assert done.returncode == 0
    assert all(re.search(rf"^ +{name} ", done.stdout, re.M) for name in ("demo", "echo", "connect"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "anyws: error: the following arguments are required: COMMAND"),
        (["echo", "--port", "65536"], "argument --port: '65536' is no port: 0 to 65535"),
        (["echo", "--port", "http"], "argument --port: 'http' is no port: 0 to 65535"),
        (["connect"], "the following arguments are required: URL"),
        (["connect", "ws://x/", "--header", "X"], "'X' is no header: write 'NAME: VALUE'"),
        (["connect", "ws://x/", "--wait", "inf"], "'inf' is no number of seconds"),
        (["connect", "ws://x/", "--wait", "long"], "'long' is no number of seconds"),
        (["demo", "--backend", "curio"], "invalid choice: 'curio'"),
    ],
)
def test_arguments_that_make_no_sense_are_explained(arguments, message):
    done = run(*ANYWS, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["demo"], ["echo"], ["connect", "ws://127.0.0.1/"]])
def test_a_backend_that_is_not_installed_is_named_with_its_extra(arguments, tmp_path):
    (tmp_path / "trio.py").write_text("raise ImportError('as where there is none')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run(*ANYWS, *arguments, "--backend", "trio", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "anyws: the backend 'trio' is not installed: "
        "python -m pip install 'anyio-websocket[trio]'\n"
    )


# --- anyws demo ---


@on_each_backend
def test_the_demo_shows_what_it_promises(backend):
    done = run(*ANYWS, "demo", "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"anyws on {backend}, ")
    assert done.stdout.endswith("\nEverything was as expected.\n")
    for line in (
        r"subprotocol +echo",
        r"text +'Hello, Wörld!' -> 'Hello, Wörld!'",
        r"binary +b'.+' -> b'.+'",
        r"ping +the pong came after \d+\.\d\d ms",
        r"handler +echo",
        r"close, client sent 1000 \(normal\) 'seen enough', received 1000 \(normal\)",
        r"close, server sent 1000 \(normal\), received 1000 \(normal\) 'seen enough'",
        r"text +'Hello, Wörld!' -> 'HELLO, WÖRLD!'",
        r"compression +a message of \d+ bytes took \d+ as it is, \d+ compressed; .+",
        r"handler +echo-uppercase",
        r"text +\['goodbye strange client'\]",
        r"handler +default",
        r"close, client sent 1000 \(normal\), received 1000 \(normal\) 'no subprotocol'",
    ):
        assert re.search(rf"^  {line}$", done.stdout, re.M), line


@on_each_backend
def test_a_demo_that_nobody_reads_ends_without_a_traceback(backend):
    with started(*ANYWS, "demo", "--backend", backend) as demo:
        demo.stdout.close()
        demo.wait()
        assert (demo.returncode, demo.stderr.read()) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is nothing full")
@pytest.mark.parametrize("command", ["demo", "connect"])
def test_output_that_cannot_be_written_is_one_line(command, server):
    endless = [server.url, "--subprotocol", "endless", "--wait", "30"]
    arguments = [] if command == "demo" else endless
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-W", "error", *ANYWS, command, *arguments],
            check=False,
            stdin=subprocess.PIPE,
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "anyws: cannot write to standard output: No space left on device"
    assert "Traceback" not in done.stderr


@on_each_backend
def test_an_echo_whose_place_nobody_reads_serves_all_the_same(backend):
    port = free_port()
    with started(*ANYWS, "echo", "--port", port, "--backend", backend) as echo:
        echo.stdout.close()
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert echo.poll() is None, echo.stderr.read()
        echo.send_signal(signal.SIGINT)
        assert (echo.wait(), echo.stderr.read()) == (0, "")


async def mute(ws):
    await ws.receive()
    await ws.send("")


async def closes_early(ws):
    await ws.close(CloseCode.POLICY_VIOLATION)


async def deaf_to_the_close_reason(ws):
    await ws.send(GOODBYE)
    await ws.close(CloseCode.NORMAL)


async def closes_with_an_error(ws):
    await ws.send(GOODBYE)
    raise anyws.WebSocketError("on purpose")


RIGHT = {"echo": echo, "echo-uppercase": echo_uppercase}


@pytest.mark.parametrize(
    ("handlers", "default", "failure"),
    [
        (RIGHT, goodbye, None),
        ({"echo": echo}, goodbye, "subprotocol: expected 'echo-uppercase', and saw None"),
        ({"chat": echo, **RIGHT}, goodbye, "subprotocol: expected 'echo', and saw 'chat'"),
        (
            {**RIGHT, "echo": echo_uppercase},
            goodbye,
            "text: expected 'Hello, Wörld!', and saw 'HELLO, WÖRLD!'",
        ),
        ({**RIGHT, "echo": mute}, goodbye, "text: expected 'Hello, Wörld!', and saw ''"),
        (
            {**RIGHT, "echo": closes_early},
            goodbye,
            "ClosedWithError: the peer closed the connection with 1008 (policy violation)",
        ),
        (
            RIGHT,
            deaf_to_the_close_reason,
            "close, client: expected \"sent 1000 (normal), received 1000 (normal) 'no "
            "subprotocol'\", and saw 'sent 1000 (normal), received 1000 (normal)'",
        ),
        (
            RIGHT,
            closes_with_an_error,
            "ClosedWithError: the peer closed the connection with 1011 (internal error)",
        ),
    ],
)
async def test_the_demo_fails_at_the_first_difference(handlers, default, failure, capsys):
    code = await perform(handlers, default)
    last = capsys.readouterr().out.splitlines()[-1]
    if failure is None:
        assert (code, last) == (0, "Everything was as expected.")
    else:
        assert (code, last) == (1, f"FAILED: {failure}")


# --- anyws echo ---


@on_each_backend
def test_the_echo_server_serves_until_ctrl_c(backend):
    with started(*ANYWS, "echo", "--port", 0, "--backend", backend) as server:
        line = server.stdout.readline()
        url = re.fullmatch(r"echo server at (ws://127\.0\.0\.1:\d+/), until Ctrl-C\n", line)[1]
        with started(*ANYWS, "connect", url, "--backend", backend) as client:
            client.stdin.write("hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == "hello\n"
            assert interrupt(server) == (0, "", "")
            client.wait()
            assert client.stderr.read().splitlines()[-1] == (
                "the peer closed the connection with 1001 (going away)"
            )
            assert client.returncode == 0


@on_each_backend
def test_a_port_in_use_is_one_line(backend, listener):
    port = listener.getsockname()[1]
    done = run(*ANYWS, "echo", "--port", port, "--backend", backend)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"anyws: cannot listen at 127.0.0.1, port {port}: Address already in use\n"
    )


def test_a_host_that_is_not_ours_is_one_line():
    done = run(*ANYWS, "echo", "--host", "host.invalid", "--port", 0)
    assert done.returncode == 1
    assert re.fullmatch(r"anyws: cannot listen at host\.invalid, port 0: .+\n", done.stderr)


def test_an_echo_at_no_host_at_all_says_what_a_host_is():
    done = run(*ANYWS, "echo", "--host", "")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "anyws: '' is no host to listen at: all interfaces are \"*\" or None\n"


# --- anyws connect ---


@contextmanager
def connected(server, subprotocol, backend="asyncio", *arguments):
    """Start the command, and give it once it is connected."""
    options = ["--subprotocol", subprotocol, "--backend", backend, "--wait", 0]
    with started(*ANYWS, "connect", server.url, *options, *arguments) as client:
        assert client.stderr.readline() == (
            f"connected to {server.url}, subprotocol {subprotocol}, permessage-deflate\n"
        )
        yield client


def ended(server):
    """How the one connection ended, as the server sees it."""
    assert server.has_closed.wait(30)
    (closure,) = server.closures
    return closure.sent, closure.received, closure.first


def rejected(*arguments):
    """The one line of a command that could not connect."""
    done = run(*ANYWS, "connect", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr.removesuffix("\n")


@on_each_backend
def test_lines_are_sent_and_messages_printed_until_the_end_of_input(backend, server):
    with connected(server, "echo", backend) as client:
        for line in ("hello", "", "Grüße", "a" * 100_000):
            client.stdin.write(f"{line}\n")
            client.stdin.flush()
            assert client.stdout.readline() == f"{line}\n"
        output, errors = rest_of(client)
    assert (client.returncode, output) == (0, "")
    assert errors == (
        "this end closed the connection with 1000 (normal); the peer answered 1000 (normal)\n"
    )
    assert ended(server) == (Close(1000), Close(1000), "theirs")


@on_each_backend
def test_ctrl_c_closes_while_standard_input_is_open(backend, server):
    with connected(server, "echo", backend) as client:
        code, output, errors = interrupt(client)
    assert (code, output) == (0, "")
    assert errors == (
        "this end closed the connection with 1001 (going away); the peer answered 1001 (going away)\n"
    )
    assert ended(server) == (Close(1001), Close(1001), "theirs")


@on_each_backend
def test_ctrl_c_before_there_is_a_connection_is_130(backend, listener):
    with started(*ANYWS, "connect", url_of(listener), "--backend", backend) as client:
        stream, _ = listener.accept()
        with stream:
            assert stream.recv(65536).startswith(b"GET / HTTP/1.1\r\n")
            assert interrupt(client) == (130, "", "")


@on_each_backend
def test_answers_are_awaited_after_the_end_of_input(backend, server):
    done = run(
        *(*ANYWS, "connect", server.url, "--subprotocol", "once", "--backend", backend),
        *("--wait", 30),
        given="one\r\n\ntwo\nover",
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == ["one", "", "two", "over"]
    assert done.stderr.endswith("\nthe peer closed the connection with 1000 (normal)\n")


@on_each_backend
def test_input_that_is_not_text_is_not_sent_and_the_rest_is(backend, server):
    done = run(
        *(*ANYWS, "connect", server.url, "--subprotocol", "once", "--backend", backend),
        *("--wait", 30),
        given=b"one\nGr\xfc\xdfe\nover\n",
    )
    assert done.returncode == 0
    assert json.loads(done.stdout) == ["one", "over"]
    assert done.stderr.splitlines()[1] == (
        "anyws: not sent: the bytes of the text message are not UTF-8: invalid start byte at 2"
    )


def test_what_a_peer_sends_cannot_steer_the_terminal(server):
    escaped = r"\x1b]0;title\x07\x1b[2J\x9b31m\u202e\r\n\ttext"
    with connected(server, "escapes", "asyncio", "--wait", 30) as client:
        output, errors = rest_of(client)
    assert client.returncode == 1
    assert output == f"{escaped}\n"
    assert errors == f"the peer closed the connection with 4000 (application) '{escaped}'\n"


def test_binary_messages_are_shown_as_hexadecimal(server):
    with connected(server, "binary", "asyncio", "--wait", 30) as client:
        output, _ = rest_of(client)
    assert (client.returncode, output) == (0, "binary, 3 bytes: 00 1b ff\n")


def test_a_peer_that_closes_with_an_error_is_exit_code_1(server):
    with connected(server, "fails", "asyncio", "--wait", 30) as client:
        output, errors = rest_of(client)
    assert (client.returncode, output) == (1, "")
    assert errors == ("the peer closed the connection with 1011 (internal error) 'out of order'\n")


@on_each_backend
def test_output_that_nobody_reads_ends_it_without_a_traceback(backend, server):
    with connected(server, "endless", backend) as client:
        assert client.stdout.readline() == "more\n"
        client.stdout.close()
        client.wait()
        errors = client.stderr.read()
        # Input is still open: only the output has ended it.
    assert client.returncode == 0
    assert errors == (
        "this end closed the connection with 1000 (normal); the peer answered 1000 (normal)\n"
    )


def test_headers_and_origin_are_sent(server):
    arguments = ["--header", "X-One: 1", "--header", "X-Two:two", "--origin", server.origin]
    with connected(server, "echo", "asyncio", *arguments) as client:
        rest_of(client)
    (request,) = server.requests
    assert (request.headers["X-One"], request.headers["X-Two"]) == ("1", "two")
    assert request.origin == server.origin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1/"], "http:// is not for WebSockets: use ws://"),
        (["localhost:8080"], "the URL must begin with ws:// or wss://"),
        (["ws://local host/"], "the URL contains a space or a control character"),
        (["ws://:8080/"], "the URL names no host"),
        (["ws://x/#top"], "a WebSocket URL has no fragment: write %23 for a # in path or query"),
        (["ws://x/", "--subprotocol", "a b"], "'a b' is not a subprotocol: it must be a token"),
        (["ws://x/", "--header", "A B: c"], "'A B' is not the name of a header"),
        (
            ["ws://x/", "--header", "Host: y"],
            "'Host' is not for the headers argument: it follows from the URL",
        ),
    ],
)
def test_a_request_that_cannot_be_made_is_one_line(arguments, message):
    assert rejected(*arguments) == f"anyws: {message}"


@on_each_backend
def test_a_refused_connection_is_one_line(backend):
    url = unused_url()
    assert (
        rejected(url, "--backend", backend) == f"anyws: cannot connect to {url}: Connection refused"
    )


def test_a_password_in_the_url_is_not_shown():
    url = unused_url()
    assert rejected(url.replace("//", "//ada:secret@") + "?token=1") == (
        f"anyws: cannot connect to {url}: Connection refused"
    )


@on_each_backend
def test_a_name_that_does_not_resolve_is_one_line(backend):
    line = rejected("ws://host.invalid/", "--backend", backend)
    assert re.fullmatch(r"anyws: cannot connect to ws://host\.invalid/: [\w ]+", line)


@on_each_backend
def test_a_refused_handshake_is_one_line_with_status_and_body(backend, server):
    assert rejected(f"{server.url}refused", "--backend", backend) == (
        r"anyws: the server refused the WebSocket: 403 Forbidden: 'members only\x1b[2J\nask Ada'"
    )


@on_each_backend
def test_a_server_that_speaks_something_else_is_one_line(backend, listener):
    with started(*ANYWS, "connect", url_of(listener), "--backend", backend) as client:
        stream, _ = listener.accept()
        with stream:
            stream.sendall(b"220 mail.example ESMTP\r\n")
            output, errors = client.communicate()
    assert (client.returncode, output) == (1, "")
    assert errors == (
        "anyws: the server answered with b'220 mail.example ESMTP\\r\\n', which is not HTTP/1.1: "
        "is it a WebSocket server?\n"
    )


@on_each_backend
def test_a_certificate_that_is_not_trusted_is_one_line(backend, tls_url):
    assert rejected(tls_url, "--backend", backend) == (
        f"anyws: TLS with {tls_url} failed: unable to get local issuer certificate"
    )


@on_each_backend
def test_tls_with_a_server_that_has_none_is_one_line(backend, server):
    url = server.url.replace("ws:", "wss:")
    line = rejected(url, "--backend", backend)
    assert re.fullmatch(rf"anyws: TLS with {url} failed: [\w ]+", line)


@on_each_backend
def test_a_server_that_leaves_during_tls_is_one_line(backend, listener):
    url = url_of(listener, "wss")
    with started(*ANYWS, "connect", url, "--backend", backend) as client:
        stream, _ = listener.accept()
        with stream:
            stream.recv(65536)
        output, errors = client.communicate()
    assert (client.returncode, output) == (1, "")
    assert re.fullmatch(rf"anyws: .+ {url}:? .+\n", errors)


# --- What it shows ---


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain, Grüße, 世界\u3000.", "plain, Grüße, 世界\u3000."),
        ("\x00\x1b\x7f\x80\x9b\xad", r"\x00\x1b\x7f\x80\x9b\xad"),
        ("a\nb\u2028c\u2029d", r"a\nb\u2028c\u2029d"),
        ("\u202eabc\u2066\ufeff\U000e0041", r"\u202eabc\u2066\ufeff\U000e0041"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("\ud800", r"\ud800"),
    ],
)
def test_only_what_steers_a_terminal_is_escaped(text, printed):
    assert printable(text) == printed


def test_a_long_binary_message_is_cut_and_says_so():
    line = shown(bytes(1000))
    assert line.startswith("binary, 1000 bytes: 00 00 ")
    assert line.endswith(" 00 and 744 more")

"""The examples for programs without an event loop, run as they stand: they wait, poll, or have a window."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from displays import display
from programs import (
    EXAMPLES,
    ORDINARY,
    ROOT,
    free_port,
    interrupt,
    is_waiting,
    output_of,
    run,
    serving,
    started,
)

import anyws
import anyws.sync
from anyws import Close, Reject, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVERS_BY_SUBPROTOCOL = ["subprotocols_server.py", "sync_server.py"]
# Seconds that nothing here takes.
GUARD = 40
REFUSED = os.strerror(errno.ECONNREFUSED)


def no_answer(ws: anyws.sync.WebSocket, message: str | bytes) -> None:
    pass


@contextmanager
def watching(
    answer: Callable[[anyws.sync.WebSocket, Any], None] = no_answer, **options: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Serve in this process: give the URL, and a function that waits for what comes next.

    That is the request, then the messages, then the client's Close.
    """
    come: SimpleQueue[Any] = SimpleQueue()

    def handler(ws: anyws.sync.WebSocket) -> None:
        try:
            # Told when the client has its end of the handshake, too: only then can it answer.
            ws.ping()
            come.put(ws.request)
            while True:
                message = ws.receive()
                come.put(message)
                answer(ws, message)
        except anyws.ConnectionClosed as error:
            come.put(error.closure.received)

    handlers = {"echo": handler, "echo-uppercase": handler}
    with anyws.sync.open_server(
        handlers, default=handler, host="127.0.0.1", port=0, **options
    ) as server:
        yield server.url, partial(come.get, timeout=GUARD)


@pytest.mark.parametrize("server", SERVERS_BY_SUBPROTOCOL)
def test_a_client_that_waits_talks_to_every_handler(server):
    with serving(server) as url:
        lines = output_of("sync_client.py", url)
    assert lines == [
        "echo: 'Hello'",
        "echo: b'bytes'",
        "echo: nothing more",
        "echo: closed with 1000, cleanly",
        "echo-uppercase: 'HELLO'",
        "echo-uppercase: b'BYTES'",
        "echo-uppercase: nothing more",
        "echo-uppercase: closed with 1000, cleanly",
        "stranger: 'goodbye strange client'",
        "stranger: closed with 1000, cleanly",
    ]


@pytest.mark.parametrize("server", SERVERS_BY_SUBPROTOCOL)
def test_clients_that_never_wait_talk_to_every_handler(server):
    with serving(server) as url:
        lines = output_of("polled_client.py", url)
    # Each in its order; among themselves they have none.
    assert sorted(lines, key=lambda line: line.partition(":")[0]) == [
        "echo: 'Hello'",
        "echo: closed with 1000, cleanly",
        "echo-uppercase: 'HELLO'",
        "echo-uppercase: closed with 1000, cleanly",
        "stranger: 'goodbye strange client'",
        "stranger: closed with 1000, cleanly",
    ]


def test_a_game_is_won_when_the_server_has_seen_every_frame():
    with watching(anyws.sync.WebSocket.send) as (url, next_one):
        lines = output_of("game_loop.py", url)
        assert next_one().headers["X-Player"] == "Ada"
        assert next_one() == "hello"
        assert [next_one() for _ in range(40)] == [f"ball {place}" for place in range(1, 41)]
        assert next_one() == Close(1000)
    assert lines == [
        "connected, status 101",
        "the server says hello",
        "won",
        f"disconnected: {ORDINARY.cause}",
    ]


def test_a_game_ends_when_the_server_leaves():
    def leave(ws, message):
        ws.close(4000, "enough")

    with watching(leave) as (url, _):
        lines = output_of("game_loop.py", url)
    assert lines == [
        "connected, status 101",
        "disconnected: the peer closed the connection with 4000 (application) 'enough'",
    ]


def test_a_game_that_the_server_refuses_says_so():
    def refuse(request: Request) -> Reject:
        return Reject(403, b"no games here")

    with watching(on_request=refuse) as (url, _):
        done = run(EXAMPLES / "game_loop.py", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "no connection: the server refused the WebSocket: 403 Forbidden: 'no games here'\n"
    )


def test_a_game_does_not_wait_long_for_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = run(EXAMPLES / "game_loop.py", f"ws://{address}/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"no connection: the opening handshake with {address} was not over after 3 s\n"
    )


def test_a_script_for_the_desktop():
    with watching(anyws.sync.WebSocket.send) as (url, next_one):
        lines = output_of("desktop_script.py", url, "hello, desktop")
        assert isinstance(next_one(), Request)
        assert next_one() == "hello, desktop"
        assert next_one() == Close(1000, "that was all")
    assert lines == [
        "made; the status is closed",
        "opened; the status is open",
        "received: 'hello, desktop'",
        "closed, this end closed the connection with 1000 (normal) 'that was all'; "
        "the status is closed",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sync_client.py", ["no conversation"]),
        ("polled_client.py", ["echo", "echo-uppercase", "stranger"]),
        ("game_loop.py", ["no connection"]),
        ("desktop_script.py", ["failed"]),
    ],
)
def test_a_client_says_that_nobody_is_there(name, says):
    port = free_port()
    done = run(EXAMPLES / name, f"ws://127.0.0.1:{port}/")
    assert done.returncode == 1
    why = f"cannot connect to 127.0.0.1 port {port}: {REFUSED}"
    assert sorted(done.stderr.splitlines()) == sorted(f"{word}: {why}" for word in says)


@pytest.mark.parametrize(
    ("name", "output", "close"),
    [
        ("sync_client.py", [], Close(1001)),
        ("polled_client.py", [], Close(1000)),
        ("game_loop.py", ["connected, status 101"], Close(1000)),
        (
            "desktop_script.py",
            [
                "made; the status is closed",
                "opened; the status is open",
                f"closed, {ORDINARY.cause}; the status is closed",
            ],
            Close(1000),
        ),
    ],
)
def test_ctrl_c_ends_a_client_and_the_server_is_told(name, output, close):
    with watching() as (url, next_one), started(EXAMPLES / name, url) as process:
        while next_one() not in {"Hello", "hello"}:
            pass
        # Within a write, Ctrl-C would break the connection: the server would not be told why.
        while not is_waiting(process):
            time.sleep(0.001)
        printed = "".join(f"{line}\n" for line in [*output, "bye"])
        assert interrupt(process) == (0, printed, "")
        while not isinstance(last := next_one(), Close):
            pass
        assert last == close


# --- A window ---


@pytest.fixture(scope="module")
def windows() -> Iterator[dict[str, str]]:
    with display() as environment:
        yield environment


def test_what_is_typed_into_a_window_is_sent_and_what_comes_is_shown(windows):
    def answer(ws, message):
        if message == "leave":
            ws.close(4000, "enough")
        else:
            ws.send(message.upper())

    with watching(answer) as (url, next_one):
        done = run(ROOT / "tests" / "tk_person.py", url, "hello", "leave", "late", **windows)
        assert [next_one() for _ in range(4)][1:] == ["hello", "leave", Close(4000)]
    assert (done.returncode, done.stderr) == (0, "")
    end = "disconnected: the peer closed the connection with 4000 (application) 'enough'"
    assert done.stdout.splitlines() == [
        "('connected',)",
        "('connected', 'HELLO')",
        f"{(end, 'HELLO')}",
        "in the entry: 'late'",
    ]


def test_a_window_says_that_nobody_is_there(windows):
    port = free_port()
    done = run(ROOT / "tests" / "tk_person.py", f"ws://127.0.0.1:{port}/", **windows)
    assert (done.returncode, done.stderr) == (0, "")
    why = f"cannot connect to 127.0.0.1 port {port}: {REFUSED}"
    assert done.stdout.splitlines() == [f"('no connection: {why}',)", "in the entry: ''"]


def test_ctrl_c_ends_a_window_and_the_server_is_told(windows):
    with (
        watching() as (url, next_one),
        started(EXAMPLES / "tk_window.py", url, **windows) as process,
    ):
        assert isinstance(next_one(), Request)
        assert interrupt(process) == (0, "bye\n", "")
        assert next_one() == Close(1000)

"""What a server does for a restart: signals, sockets of another's, and leaving them to another."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from connections import QUICK, server_tls
from drains import (
    CONFIG,
    DRAIN,
    GRACE,
    Encrypted,
    Stage,
    encrypted_client,
    idle,
    one_silent_client,
    run,
    saving,
    stuck,
)
from streams import GUARD, URL, request_bytes

import anyws
import anyws.sync
from anyws import Close, Config, WebSocket
from anyws._asked import nothing
from anyws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)
both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="not on Windows")

# For a client that is to be told: it leaves then, and nobody waits for so long.
PATIENT = replace(QUICK, cancel_grace=GUARD, drain_timeout=GUARD)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- Signals ---


def handlers_of_signals() -> list[Any]:
    return [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]


@contextlib.contextmanager
def signals_left_alone() -> Iterator[None]:
    """As asyncio does not: it leaves the default behind."""
    before = handlers_of_signals()
    try:
        yield
    finally:
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)


@needs_unix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serve_in_order_where_that_was_asked_for(
    number: signal.Signals,
) -> None:
    with signals_left_alone(), anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            start = partial(anyws.serve, echo, port=0, config=PATIENT, handle_signals=True)
            server = await tg.start(start)
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                signal.raise_signal(number)
                with pytest.raises(anyio.EndOfStream):
                    await ws.receive()
            assert ws.closure is not None
            assert ws.closure.received == Close(1001)
        # The task group's block was left without being cancelled.


@needs_unix
async def test_another_signal_cuts_off_who_is_left_unless_it_is_the_same_wish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyws._asked.SAME_WISH", 1)
    how: list[str] = []
    entered = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            how.append("cancelled")
            raise

    config = Config(drain_timeout=60)
    with signals_left_alone(), anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            start = partial(anyws.serve, handler, port=0, config=config, handle_signals=True)
            server = await tg.start(start)
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                await entered.wait()
                for _ in range(3):
                    signal.raise_signal(signal.SIGTERM)
                with pytest.raises(anyws.ConnectionClosed):
                    await ws.receive()
                # This one comes in time, and is told of late.
                signal.raise_signal(signal.SIGTERM)
                time.sleep(1.2)
                await anyio.sleep(0.1)
                assert how == []
                signal.raise_signal(signal.SIGTERM)
    assert how == ["cancelled"]


async def test_without_being_asked_signals_are_left_alone() -> None:
    before = handlers_of_signals()
    async with anyio.create_task_group() as tg:
        await tg.start(partial(anyws.serve, echo, port=0, config=QUICK))
        assert handlers_of_signals() == before
        tg.cancel_scope.cancel()


@needs_unix
async def test_serve_that_handles_signals_can_be_cancelled_all_the_same() -> None:
    with signals_left_alone(), anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            start = partial(anyws.serve, echo, port=0, config=PATIENT, handle_signals=True)
            server = await tg.start(start)
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                tg.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await ws.wait_closed()
    assert ws.closure is not None
    assert ws.closure.received == Close(1001)


def test_outside_the_main_thread_signals_cannot_be_handled_and_the_error_says_so() -> None:
    raised: list[BaseException] = []

    def main() -> None:
        try:
            anyio.run(partial(anyws.serve, echo, port=0, handle_signals=True))
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert [str(error) for error in raised] == [
        "signals can be handled in the main thread of a program only"
    ]


@both_backends
def test_one_server_at_a_time_handles_the_signals_and_another_is_told(backend: str) -> None:
    serve = partial(anyws.serve, echo, port=0, handle_signals=True)

    async def main() -> None:
        for _ in range(2):  # it can be had again
            async with anyio.create_task_group() as tg:
                server = await tg.start(serve)
                with pytest.raises(RuntimeError, match="another server of this program handles"):
                    await serve()
                async with anyws.open_websocket(server.url, config=QUICK) as ws:
                    await ws.send("still served")
                    assert await ws.receive() == "still served"
                tg.cancel_scope.cancel()

    before = handlers_of_signals()
    anyio.run(main, backend=backend)
    assert handlers_of_signals() == before


async def test_where_there_are_no_signals_nothing_comes() -> None:
    with anyio.move_on_after(0.01) as scope:
        await anext(nothing())
    assert scope.cancelled_caught


# --- Retiring ---


async def retired(stage: Stage, begin: Any, serve: Any) -> None:
    async with serve() as server:
        await begin()
        await server.retire()
        stage.note("retired")
        assert server.connections == frozenset()


@both_backends
def test_a_server_that_retires_closes_with_1012(backend: str) -> None:
    stage = run(backend, retired, idle, lambda stage: [stage.client() for _ in range(3)])
    assert [c.seen for c in stage.clients] == [[("Close 1012", 0), ("end", 0)]] * 3
    assert stage.when("retired") == [0]


@both_backends
def test_a_server_that_retires_serves_half_open_handshakes_to_their_end(backend: str) -> None:
    """And refuses nobody."""

    def prepare(stage: Stage) -> None:
        for bytes_sent in (0, 50):
            client = stage.client(asks=False)
            client.push(request_bytes()[:bytes_sent])
            stage.task_group.start_soon(finish, client, request_bytes()[bytes_sent:])
        stage.client()

    async def finish(client: Any, rest: bytes) -> None:
        await anyio.sleep(1.02 + 3)
        client.push(rest)

    stage = run(backend, retired, idle, prepare)
    late = [("Close 1012", 3), ("end", 3)]
    assert [c.seen for c in stage.clients] == [late, late, [("Close 1012", 0), ("end", 0)]]
    assert stage.when("retired") == [3]


@both_backends
def test_who_never_ends_the_handshake_holds_up_a_retiring_server_until_its_deadline(
    backend: str,
) -> None:
    stage = run(backend, retired, idle, lambda stage: stage.client(asks=False))
    assert stage.clients[0].seen == [("end", DRAIN)]
    assert stage.when("retired") == [DRAIN]


@both_backends
def test_a_server_that_retires_waits_for_the_handshake_of_a_listener_s_own_tls(
    backend: str,
) -> None:
    def prepare(stage: Stage) -> None:
        for late in (0, 1.02 + 3):
            stage.task_group.start_soon(encrypted_client, stage, late)

    listener: Any = Encrypted(MemoryListener(), server_tls())
    stage = run(backend, retired, idle, prepare, listener=listener)
    assert stage.when(f"client: {Close(1012)}") == [0, 3]
    assert stage.when("retired") == [3]


@both_backends
def test_who_never_ends_the_handshake_of_a_listener_s_own_tls_has_until_the_same_deadline(
    backend: str,
) -> None:
    listener: Any = Encrypted(MemoryListener(), server_tls())
    stage = run(backend, retired, idle, lambda s: s.client(asks=False), listener=listener)
    assert stage.clients[0].seen == [("end", DRAIN)]
    assert stage.when("retired") == stage.when("over") == [DRAIN]


@both_backends
def test_a_retiring_server_has_room_for_those_whom_it_had_room_for(backend: str) -> None:
    """And who was turned away before does not hold it up."""

    def prepare(stage: Stage) -> None:
        stage.task_group.start_soon(come, stage)

    async def come(stage: Stage) -> None:
        for bytes_sent in (0, 50):
            client = stage.client(asks=False)
            client.push(request_bytes()[:bytes_sent])
        await anyio.sleep(0.5)
        stage.client()
        await anyio.sleep(0.52 + 3)
        for client, bytes_sent in zip(stage.clients, (0, 50), strict=False):
            client.push(request_bytes()[bytes_sent:])

    stage = run(backend, retired, idle, prepare, config=replace(CONFIG, max_connections=2))
    late = [("Close 1012", 3), ("end", 3)]
    assert [c.seen for c in stage.clients] == [late, late, [("503", -1), ("end", -1)]]
    assert stage.when("retired") == [3]


@both_backends
def test_handlers_of_a_retiring_server_have_the_drain_timeout(backend: str) -> None:
    stage = run(backend, retired, partial(saving, 3), one_silent_client)
    assert stage.when("done") == [3]
    assert stage.clients[0].seen == [("Close 1012", 0), ("end", DRAIN)]
    stage = run(backend, retired, stuck, one_silent_client)
    assert stage.when("cancelled") == stage.when("over") == [DRAIN]


@both_backends
def test_a_retirement_that_is_cancelled_becomes_the_short_drain(backend: str) -> None:
    """Half-open handshakes are refused then: there is no more time for them."""

    async def end(stage: Stage, begin: Any, serve: Any) -> None:
        with anyio.CancelScope() as scope:
            async with serve() as server:
                await begin()
                scope.deadline = anyio.current_time() + 1
                await server.retire()
        assert scope.cancelled_caught

    def prepare(stage: Stage) -> None:
        stage.client(asks=False)
        stage.client()

    stage = run(backend, end, partial(saving, 60), prepare)
    assert stage.clients[0].seen == [("503", 1), ("end", 1)]
    assert stage.clients[1].seen == [("Close 1012", 0), ("end", 0)]
    assert stage.when("over") == [1 + GRACE]


@both_backends
def test_who_retires_a_server_again_refuses_nobody_either(backend: str) -> None:
    """Cancelled or not: it is the first that decides."""

    async def end(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            async with anyio.create_task_group() as tg:
                tg.start_soon(server.retire)
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(server.retire)
                with anyio.move_on_after(1):
                    await server.retire()

    def prepare(stage: Stage) -> None:
        client = stage.client(asks=False)
        stage.task_group.start_soon(finish, client)

    async def finish(client: Any) -> None:
        await anyio.sleep(1.02 + 3)
        client.push(request_bytes())

    stage = run(backend, end, idle, prepare)
    assert stage.clients[0].seen == [("Close 1012", 3), ("end", 3)]


@both_backends
def test_a_server_that_closes_already_does_not_retire(backend: str) -> None:
    async def end(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            await server.aclose()
            await server.retire()

    stage = run(backend, end, idle, lambda stage: stage.client())
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]


async def test_two_servers_on_one_socket_follow_one_another_and_refuse_nobody() -> None:
    """Each has a socket object of its own, for the same queue."""
    first = socket.create_server(("127.0.0.1", 0))
    second = first.dup()
    url = f"ws://127.0.0.1:{first.getsockname()[1]}/"
    over = False
    codes: set[int] = set()
    answers = 0

    async def visit() -> None:
        nonlocal answers
        while not over:
            async with anyws.open_websocket(url, config=Config()) as ws:
                try:
                    while not over:
                        await ws.send("hello")
                        assert await ws.receive() == "hello"
                        answers += 1
                except anyws.ConnectionClosed:
                    assert ws.closure is not None
                    codes.add(ws.closure.code)

    async def answered(count: int) -> None:
        enough = answers + count
        while answers < enough:
            await anyio.sleep(0.001)

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            async with anyws.open_server(echo, listeners=[first], config=Config()) as old:
                for _ in range(20):
                    tg.start_soon(visit)
                await answered(50)
                async with anyws.open_server(echo, listeners=[second], config=Config()) as new:
                    await old.retire()
                    assert old.connections == frozenset()
                    await answered(50)
                    assert len(new.connections) > 0
                    over = True
                    while new.connections:
                        await anyio.sleep(0.001)
    assert codes == {1012}


# --- Sockets ---


async def test_a_socket_that_listens_can_be_given_as_it_is() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    with anyio.fail_after(GUARD):
        async with anyws.open_server(echo, listeners=[sock], config=QUICK) as server:
            assert server.port == port
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
    assert sock.fileno() == -1


@needs_unix
async def test_the_file_of_a_unix_socket_is_left_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as kept:
        kept.bind(os.fspath(path))
        kept.listen()
        for _ in range(2):
            with anyio.fail_after(GUARD):
                listeners = [MemoryListener(), kept.dup()]
                async with anyws.open_server(echo, listeners=listeners, config=QUICK):
                    stream = await anyio.connect_unix(path)
                    async with anyws.wrap_client_stream(stream, URL, config=QUICK) as ws:
                        await ws.send("hello")
                        assert await ws.receive() == "hello"
        assert path.is_socket()


def closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (closed, "is closed already"),
        (socket.socket, "does not listen: bind it, and call its listen"),
        (partial(socket.socket, type=socket.SOCK_DGRAM), "its type is not SOCK_STREAM"),
    ],
)
def test_a_socket_that_is_no_use_is_told_where_it_is_given(make: Any, words: str) -> None:
    with make() as sock:
        with pytest.raises(ValueError, match=words):
            anyws.open_server(echo, listeners=[sock])
        with pytest.raises(ValueError, match=words):
            anyws.sync.open_server(print, sockets=[sock])


# --- What a process is started with ---

TELLS = """
import anyws, json, os, sys
def tell():
    try:
        return [[s.getsockname(), s.get_inheritable()] for s in anyws.inherited_sockets()]
    except (ValueError, OSError) as error:
        return str(error)
print(json.dumps([tell(), tell(), [name for name in os.environ if name.startswith("LISTEN_")]]))
"""


def inherits(sockets: list[socket.socket], environment: str, code: str = TELLS) -> Any:
    """Run code in a process that is started as systemd does it, and give what it prints."""
    # By way of numbers that none of them has.
    moves = [f"{100 + i}<&{sock.fileno()}" for i, sock in enumerate(sockets)]
    moves += [f"{3 + i}<&{100 + i}" for i in range(len(sockets))]
    command = f"{environment} exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    done = subprocess.run(
        ["bash", "-c", " ".join([command, *moves])],
        pass_fds=[s.fileno() for s in sockets],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@needs_unix
def test_inherited_sockets_are_those_that_systemd_passes_and_each_is_given_once(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        path = os.fspath(tmp_path / "socket")
        unix.bind(path)
        unix.listen()
        told = inherits([tcp, unix], "LISTEN_FDNAMES=a:b LISTEN_PID=$$ LISTEN_FDS=2")
        port = tcp.getsockname()[1]
    assert json.loads(told) == [
        [[["127.0.0.1", port], False], [path, False]],
        [],
        [],
    ]


@needs_unix
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("", "[]"),
        ("LISTEN_PID=1 LISTEN_FDS=1", "[]"),
        ("LISTEN_PID=$$ LISTEN_FDS=0", "[]"),
        ("LISTEN_PID=$$", "[]"),
        ("LISTEN_PID=me LISTEN_FDS=1", "\"LISTEN_PID is 'me', and should be a number\""),
        ("LISTEN_PID=$$ LISTEN_FDS=-1", "\"LISTEN_FDS is '-1', and should be a number\""),
        ("LISTEN_PID=$$ LISTEN_FDS=9", '"[Errno 9] Bad file descriptor"'),
    ],
)
def test_without_sockets_for_this_process_there_are_none(environment: str, expected: str) -> None:
    assert inherits([], environment) == f"[{expected}, [], []]\n"


@needs_unix
def test_what_was_passed_and_does_not_listen_is_named() -> None:
    with socket.socket() as sock:
        assert "does not listen" in inherits([sock], "LISTEN_PID=$$ LISTEN_FDS=1")


SERVES = """
import anyws, anyws.sync
def handler(ws):
    ws.send("hello")
with anyws.sync.open_server(handler, sockets=anyws.inherited_sockets()) as server:
    with anyws.sync.open_websocket(server.url) as ws:
        print(ws.receive())
"""


@needs_unix
def test_a_program_without_an_event_loop_inherits_sockets_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        assert inherits([tcp], "LISTEN_PID=$$ LISTEN_FDS=1", SERVES) == "hello\n"

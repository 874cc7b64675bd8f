"""H29: what asyncio has beside AnyIO: `task.cancel()`, `asyncio.timeout`, eager tasks, uvloop.

None of it knows of AnyIO's cancel scopes, so no scope says that it has come; and what it has
counted, somebody has to count down again. These are programs of plain asyncio: they do not even
run in `anyio.run`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import anyws
from anyws import Config, Status, WebSocket
from anyws._protocol.fields import accept_key

if sys.platform != "win32":
    import uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.timeout(30)

LOOPS = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":
    LOOPS["uvloop"] = uvloop.new_event_loop
TASKS: dict[str, Any] = {"lazy": None}
if sys.version_info >= (3, 12):
    TASKS["eager"] = asyncio.eager_task_factory


def is_possible(loop: str, tasks: str) -> bool:
    """Whether these get on at all: some versions of uvloop and Python do not."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.get_loop().set_task_factory(TASKS[tasks])
        nothing = asyncio.sleep(0)
        try:
            runner.get_loop().create_task(nothing)
        except TypeError:
            nothing.close()
            runner.get_loop().set_task_factory(None)
            return False
    return True


PROGRAMS = [f"{loop}-{tasks}" for loop in LOOPS for tasks in TASKS if is_possible(loop, tasks)]

# Either nothing is waited for, or it is noticed.
IMPATIENT = Config(cancel_grace=0.05, close_timeout=0.1, drain_timeout=0.05)
PATIENT = Config(cancel_grace=60, close_timeout=60, drain_timeout=60)
# What is to end, ends well within this.
SOON = 3.0


@pytest.fixture(params=PROGRAMS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a program on each loop, with tasks of each kind, and see what it leaves."""
    loop, tasks = request.param.split("-")

    async def watched(main: Callable[[], Awaitable[None]]) -> None:
        asyncio.get_running_loop().set_task_factory(TASKS[tasks])
        before = asyncio.all_tasks()
        await main()
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    def run(main: Callable[[], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(watched(main))

    return run


def cancellations() -> int:
    """How many are still asked for of this task."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def soon(task: asyncio.Task[Any]) -> None:
    """Wait for a task that is about to end."""
    await asyncio.wait({task}, timeout=SOON)
    assert task.done(), "it hangs"


# --- Peers ---


@asynccontextmanager
async def silent_server(asked: list[str] | None = None) -> AsyncIterator[str]:
    """Give the URL of a server that opens the connection, and then neither reads nor writes.

    With a list for the requests, it does not even open it.
    """
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if asked is not None:
            asked.append(head)
        else:
            key = re.search(r"(?i)sec-websocket-key: (\S+)", head)[1]
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: "
                + accept_key(key).encode()
                + b"\r\n\r\n"
            )
        writer.transport.pause_reading()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        # Closing takes a turn or two.
        await asyncio.sleep(0.01)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def stuck(ws: WebSocket) -> None:
    await asyncio.sleep(3600)


def serving(handler: Any, config: Config = IMPATIENT) -> Any:
    return anyws.open_server(handler, host="127.0.0.1", port=0, config=config)


# --- Operations that wait for a silent peer ---


async def receive(ws: WebSocket) -> None:
    await ws.receive()


async def iterate(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def receive_fragments(ws: WebSocket) -> None:
    async with ws.receive_fragments():
        pass


async def send(ws: WebSocket) -> None:
    await ws.send(bytes(50_000_000), compress=False)


async def send_fragments(ws: WebSocket) -> None:
    await ws.send_fragments([bytes(50_000_000)], compress=False)


async def ping(ws: WebSocket) -> None:
    await ws.ping()


async def wait_closed(ws: WebSocket) -> None:
    await ws.wait_closed()


async def work(ws: WebSocket) -> None:
    async with ws.cancel_when_closed():
        await asyncio.sleep(3600)


async def close(ws: WebSocket) -> None:
    await ws.close()


async def leave(ws: WebSocket) -> None:
    """Leave the closing handshake to the end of the block."""


WAITING = [receive, iterate, receive_fragments, send, send_fragments, ping, wait_closed, work]
every_operation = pytest.mark.parametrize("operation", [*WAITING, close, leave])


async def use(url: str, operation: Any, config: Config, opened: list[WebSocket]) -> None:
    async with anyws.open_websocket(url, config=config) as ws:
        opened.append(ws)
        await operation(ws)


async def until(condition: Callable[[], object]) -> None:
    """Return when there is something, and it has come to where it waits."""
    while not condition():
        await asyncio.sleep(0.001)
    await anyio.wait_all_tasks_blocked()


# --- task.cancel() ---


async def settled() -> None:
    """Wait until tasks wait, and the event loop has called what it had to call."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


@every_operation
def test_a_cancelled_task_ends(run, operation) -> None:
    """H29."""

    async def main() -> None:
        async with silent_server() as url:
            opened: list[WebSocket] = []
            config = replace(PATIENT, cancel_grace=0.05)
            task = asyncio.create_task(use(url, operation, config, opened))
            await until(lambda: opened)
            task.cancel()
            await soon(task)
            assert task.cancelled()
            assert opened[0].status is Status.CLOSED

    run(main)


@every_operation
def test_a_task_cancelled_twice_does_not_wait_for_the_grace(run, operation) -> None:
    """H29."""

    async def main() -> None:
        async with silent_server() as url:
            opened: list[WebSocket] = []
            task = asyncio.create_task(use(url, operation, PATIENT, opened))
            await until(lambda: opened)
            task.cancel()
            await settled()
            # One that finds the closing handshake running ends it at once.
            assert task.done() == (operation in {close, leave})
            task.cancel()
            await soon(task)
            assert task.cancelled()
            assert opened[0].status is Status.CLOSED

    run(main)


def test_a_task_cancelled_while_it_connects_ends(run) -> None:
    """H29."""

    async def main() -> None:
        asked: list[str] = []
        async with silent_server(asked) as url:
            for open_ in (
                partial(use, url, receive, PATIENT, []),
                partial(connect_in_a_group, url),
            ):
                asked.clear()
                task = asyncio.create_task(open_())
                await until(lambda: asked)
                task.cancel()
                await soon(task)
                assert task.cancelled()

    run(main)


async def connect_in_a_group(url: str) -> None:
    async with anyio.create_task_group() as tg:
        await anyws.connect_websocket(tg, url, config=PATIENT)


def test_a_cancelled_owner_of_a_connection_ends(run) -> None:
    """H29."""

    async def own(url: str, opened: list[WebSocket]) -> None:
        async with anyio.create_task_group() as tg:
            opened.append(await anyws.connect_websocket(tg, url, config=IMPATIENT))
            await opened[0].receive()

    async def main() -> None:
        async with silent_server() as url:
            opened: list[WebSocket] = []
            task = asyncio.create_task(own(url, opened))
            await until(lambda: opened)
            task.cancel()
            await soon(task)
            assert task.cancelled()
            assert opened[0].status is Status.CLOSED

    run(main)


# --- asyncio.timeout ---


@every_operation
def test_a_timeout_around_a_connection_ends_it_and_is_counted_down(run, operation) -> None:
    """H29."""

    async def main() -> None:
        async with silent_server() as url:
            opened: list[WebSocket] = []
            config = replace(IMPATIENT, close_timeout=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:

                    async def operate(ws: WebSocket) -> None:
                        timeout.reschedule(asyncio.get_running_loop().time() + 0.1)
                        await operation(ws)

                    await use(url, operate, config, opened)
            assert cancellations() == 0
            assert opened[0].status is Status.CLOSED

    run(main)


def test_a_timeout_while_connecting_is_counted_down(run) -> None:
    """H29."""

    async def main() -> None:
        async with silent_server([]) as url:
            for open_ in (
                partial(use, url, receive, PATIENT, []),
                partial(connect_in_a_group, url),
            ):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await open_()
                assert cancellations() == 0

    run(main)


@pytest.mark.parametrize("operation", WAITING)
def test_a_timeout_around_an_operation_leaves_the_connection_open(run, operation) -> None:
    """H29."""

    async def main() -> None:
        async with (
            silent_server() as url,
            anyws.open_websocket(url, config=IMPATIENT) as ws,
        ):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await operation(ws)
                assert cancellations() == 0
                if operation is send_fragments:
                    break  # half a message is the end, see below
            assert ws.is_open == (operation is not send_fragments)

    run(main)


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("inner", [0.07, 0.1, 0.13])
def test_timeouts_of_both_kinds_may_go_off_together(run, inner: float, outside: bool) -> None:
    """H29: at the same moment, one during the grace of the other, one within the other."""

    async def main() -> None:
        async with silent_server() as url:
            opened: list[WebSocket] = []
            try:
                async with asyncio.timeout(None) as timeout:
                    with anyio.CancelScope() as scope:

                        async def receive_in_time(ws: WebSocket) -> None:
                            now = asyncio.get_running_loop().time()
                            timeout.reschedule(now + (0.1 if outside else inner))
                            scope.deadline = now + (inner if outside else 0.1)
                            await ws.receive()

                        await use(url, receive_in_time, IMPATIENT, opened)
            except TimeoutError:
                pass
            assert cancellations() == 0
            assert opened[0].status is Status.CLOSED
            # Nothing is left to be delivered.
            await asyncio.sleep(0.01)

    run(main)


def test_polling_with_timeouts_loses_no_message(run) -> None:
    """H17, H29: `wait_for` runs what it waits for in a task of its own, in Python 3.11."""

    async def count(ws: WebSocket) -> None:
        for number in range(200):
            await ws.send(str(number))
            if number % 10 == 0:
                await asyncio.sleep(0.002)

    async def main() -> None:
        async with serving(count) as server, anyws.open_websocket(server.url) as ws:
            got: list[str | bytes] = []
            turns = 0
            while len(got) < 200:
                try:
                    if turns % 2:
                        got.append(await asyncio.wait_for(ws.receive(), 0.0005))
                    else:
                        async with asyncio.timeout(0.0005):
                            got.append(await ws.receive())
                except TimeoutError:
                    turns += 1
                    assert turns < 20_000
            assert got == [str(n) for n in range(200)]
            assert cancellations() == 0

    run(main)


# --- Groups of asyncio's ---


def test_a_task_group_that_fails_closes_the_connections_of_its_tasks(run) -> None:
    """H29."""
    closures = []

    async def handler(ws: WebSocket) -> None:
        closures.append(await ws.wait_closed())

    async def main() -> None:
        async with serving(handler) as server:
            opened: list[WebSocket] = []
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    for operation in (receive, wait_closed, work):
                        group.create_task(use(server.url, operation, IMPATIENT, opened))
                    await until(lambda: len(opened) == len(server.connections) == 3)
                    raise KeyError("the group's")
            assert [type(e) for e in caught.value.exceptions] == [KeyError]
            assert cancellations() == 0
        assert [c.received.code for c in closures] == [1001] * 3

    run(main)


# --- Servers ---


def test_a_timeout_around_a_server_ends_it_and_is_counted_down(run) -> None:
    """H29, H10."""

    async def client(url: str, closes: list[int]) -> None:
        async with anyws.open_websocket(url, config=IMPATIENT) as ws:
            closes.append((await ws.wait_closed()).code)

    async def main() -> None:
        for handler in (stuck, echo):
            closes: list[int] = []
            async with asyncio.TaskGroup() as group:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(None) as timeout, serving(handler) as server:
                        for _ in range(2):
                            group.create_task(client(server.url, closes))
                        await until(lambda: len(server.connections) == 2)
                        timeout.reschedule(asyncio.get_running_loop().time())
                        await asyncio.sleep(3600)
                assert cancellations() == 0
            assert closes == [1001, 1001]

    run(main)


@pytest.mark.parametrize("how", ["serve", "open_server", "leaving"])
def test_a_server_cancelled_twice_ends_although_a_handler_is_stuck(run, how: str) -> None:
    """H29: the second ends the grace; the handlers are cancelled then, and not left alone."""

    servers: list[anyws.Server] = []

    async def serve() -> None:
        async with serving(stuck, PATIENT) as server:
            servers.append(server)
            if how == "open_server":
                await asyncio.sleep(3600)
            while not server.connections:
                await asyncio.sleep(0.001)

    class Noted:
        def started(self, server: anyws.Server) -> None:
            servers.append(server)

    async def serve_until_cancelled() -> None:
        await anyws.serve(stuck, host="127.0.0.1", port=0, config=PATIENT, task_status=Noted())

    async def main() -> None:
        servers.clear()
        task = asyncio.create_task(serve_until_cancelled() if how == "serve" else serve())
        await until(lambda: servers)
        async with anyws.open_websocket(servers[0].url, config=IMPATIENT) as ws:
            closure = asyncio.create_task(ws.wait_closed())
            await until(lambda: servers[0].connections)
            for _ in range(2):
                assert not task.done()
                task.cancel()
                await anyio.wait_all_tasks_blocked()
            await soon(task)
            assert task.cancelled()
            assert (await closure).code == 1001

    run(main)


def test_a_handler_s_task_that_is_cancelled_was_cancelled_and_did_not_crash(
    run, caplog: pytest.LogCaptureFixture
) -> None:
    """H29: so does `asyncio.run` with all that are left, where an interrupt has ended the loop."""
    tasks = []

    async def handler(ws: WebSocket) -> None:
        tasks.append(asyncio.current_task())
        await echo(ws)

    async def main() -> None:
        async with (
            serving(handler) as server,
            anyws.open_websocket(server.url) as ws,
            anyws.open_websocket(server.url) as other,
        ):
            await until(lambda: len(tasks) == 2)
            tasks[0].cancel()
            assert (await ws.wait_closed()).code == 1001
            await other.send("still here")
            assert await other.receive() == "still here"

    run(main)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_what_is_no_exception_leaves_no_cancellation_behind(run) -> None:
    """H9, H29: the server's group has cancelled its host for it."""

    class Quit(BaseException):
        pass

    async def handler(ws: WebSocket) -> None:
        await ws.receive()
        raise Quit

    async def client(url: str) -> None:
        async with anyws.open_websocket(url, config=IMPATIENT) as ws:
            await ws.send("quit")
            assert (await ws.wait_closed()).code == 1011

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            with pytest.raises(Quit):
                async with serving(handler) as server:
                    group.create_task(client(server.url))
                    await asyncio.sleep(3600)
            assert cancellations() == 0
            await asyncio.sleep(0.01)

    run(main)


# --- Eager tasks and lazy ones: nothing may depend on when a task takes its first step ---


@pytest.mark.parametrize("size", [1, 100_000])
def test_many_connections_at_once(run, size: int) -> None:
    """H29."""

    async def talk(url: str, number: int) -> None:
        async with anyws.open_websocket(url, config=IMPATIENT) as ws:
            for turn in range(5):
                await ws.send(f"{number} {turn} " * size)
                assert await ws.receive() == f"{number} {turn} " * size
            assert await ws.ping() >= 0

    async def main() -> None:
        config = Config(cancel_grace=1, close_timeout=5, max_message_size=None)
        async with serving(echo, config) as server, asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(talk(server.url, number))

    run(main)

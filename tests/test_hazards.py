"""Hazards of structured concurrency that have no place of their own among the other tests.

How a server ends, and when (H10, H11), is in `test_drain.py`; how a connection ends, in
`test_hazards_endings.py`; what can be read in the source (H28), in `test_hazards_source.py`; what is
asyncio's alone (H29), in `test_hazards_asyncio.py`.
"""

from __future__ import annotations

import gc
import logging
import re
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from conftest import BACKENDS, living_tasks
from connections import QUICK, connected, every_kind, served
from streams import GUARD

import anyws
from anyws import Config, Status, WebSocket
from anyws._config import NATIVE
from anyws.testing import VirtualTimeLoop, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


pytestmark = pytest.mark.timeout(30)
both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
each_backend = pytest.mark.parametrize(
    "backend", [pytest.param(value, id=name) for name, value in BACKENDS.items()]
)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- H9: a handler's error ---


class Quit(BaseException):
    """Like KeyboardInterrupt, but none that event loops treat as theirs."""


ERRORS = {
    "an exception": lambda: ValueError("handler"),
    "a group": lambda: ExceptionGroup("handler", [ValueError("a"), KeyError("b")]),
    "an unfamiliar end": lambda: anyio.EndOfStream("handler"),
}


async def fails_when_told(error: Callable[[], BaseException], ws: WebSocket) -> None:
    async for message in ws:
        if message == "fail":
            raise error()
        await ws.send(message)


@every_kind
@pytest.mark.parametrize("error", ERRORS)
async def test_an_error_of_one_handler_ends_one_connection(
    kind: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """H9."""
    handler = partial(fails_when_told, ERRORS[error])
    with anyio.fail_after(GUARD):
        async with served(kind, handler) as connect, connect() as other:
            for _ in range(3):
                async with connect() as ws:
                    await ws.send("fail")
                    assert (await ws.wait_closed()).code == 1011
                await other.send("still here")
                assert await other.receive() == "still here"
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 3
    assert all(r.exc_info for r in caplog.records)


@pytest.mark.parametrize("error", ["alone", "in a group"])
async def test_what_is_no_exception_ends_the_server_in_order(error: str) -> None:
    """H9: connections get their Close, and it leaves as it was raised."""
    quit_ = Quit() if error == "alone" else BaseExceptionGroup("mine", [Quit(), ValueError()])
    closes = []

    async def client(connect: Any, message: str) -> None:
        async with connect() as ws:
            await ws.send(message)
            assert await ws.receive() == message
            closes.append((await ws.wait_closed()).code)

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            if message == "fail":
                await anyio.wait_all_tasks_blocked()
                raise quit_

    # Handlers end with the Close: nothing of this is waited for.
    config = Config(cancel_grace=5, close_timeout=5)
    with anyio.fail_after(GUARD):
        # The clients outlive the server: it is the server that closes.
        async with anyio.create_task_group() as clients:
            with pytest.raises(type(quit_)) as caught:
                async with served("memory", handler, config=config) as connect:
                    clients.start_soon(client, connect, "stay")
                    clients.start_soon(client, connect, "fail")
                    await anyio.sleep_forever()
    if error == "alone":
        assert caught.value is quit_
    else:
        # Trio's scopes make a copy of a group that passes through them.
        assert caught.value.message == quit_.message
        assert caught.value.exceptions == quit_.exceptions
    assert sorted(closes) == [1001, 1011]


@each_backend
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_handler_ends_the_program(backend, error: type[BaseException]) -> None:
    """H9: asyncio's own way with these two is to break off the loop; nothing may hang then."""

    async def main() -> None:
        handler = partial(fails_when_told, error)
        async with anyws.open_server(handler, host="127.0.0.1", port=0, config=QUICK) as server:
            async with anyws.open_websocket(server.url, config=QUICK) as other:
                await other.send("stay")
                async with anyws.open_websocket(server.url, config=QUICK) as ws:
                    await ws.send("fail")
                    await anyio.sleep_forever()

    name, options = backend
    start = time.monotonic()
    with pytest.raises(error):
        anyio.run(main, backend=name, backend_options=options)
    assert time.monotonic() - start < 5
    # Now, and not during another test: asyncio complains that nobody asked how `main` ended.
    gc.collect()


# --- H10: nothing is left of a server that is cancelled ---


@each_backend
def test_a_program_that_is_cancelled_leaves_no_task_and_no_socket(
    backend, caplog: pytest.LogCaptureFixture
) -> None:
    """H10: the loop is closed, the garbage collected, and nobody has anything to complain about."""

    async def handler(ws: WebSocket) -> None:
        if await ws.receive() == "stuck":
            await anyio.sleep_forever()
        await ws.receive()

    async def client(url: str, message: str) -> None:
        async with anyws.open_websocket(url, config=QUICK) as ws:
            await ws.send(message)
            arrived.append(ws)
            await anyio.sleep_forever()

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            server = await tg.start(
                partial(anyws.serve, handler, host="127.0.0.1", port=0, config=QUICK)
            )
            for message in ["stuck", "idle"] * 3:
                tg.start_soon(client, server.url, message)
            async with await anyio.connect_tcp("127.0.0.1", server.port):
                while len(arrived) < 6:
                    await anyio.sleep(0.001)
                tg.cancel_scope.cancel()

    arrived: list[WebSocket] = []
    name, options = backend
    anyio.run(main, backend=name, backend_options=options)
    assert [ws.status for ws in arrived] == [Status.CLOSED] * 6
    arrived.clear()
    # What asyncio finds destroyed it logs; an unclosed socket is a ResourceWarning, and an error.
    gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


# --- H30: context managers used the wrong way ---


class Misuse:
    """What came of it: the errors, and what had been opened."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.opened: list[Any] = []

    async def enter(self, opening: Any) -> None:
        self.opened.append(await opening.__aenter__())

    async def leave(self, opening: Any) -> None:
        try:
            with anyio.fail_after(5):
                await opening.__aexit__(None, None, None)
        except (RuntimeError, AssertionError) as error:
            self.errors.append(error)

    async def settle(self, connections: Callable[[], object]) -> None:
        """See that everything opened is closed."""
        for opened in self.opened:
            if isinstance(opened, WebSocket):
                assert opened.status is Status.CLOSED
            else:
                with pytest.raises(OSError, match=r"(?i)refused|attempts"):
                    await anyio.connect_tcp("127.0.0.1", opened.port)
        for _ in range(100):
            if not connections():
                return
            await anyio.sleep(0.01)
        raise AssertionError("the server still has connections")


async def left_by_another_task(misuse: Misuse, make: Any) -> None:
    opening = make()
    entered, left = anyio.Event(), anyio.Event()

    async def enter() -> None:
        await misuse.enter(opening)
        entered.set()
        await left.wait()

    async with anyio.create_task_group() as tg:
        tg.start_soon(enter)
        await entered.wait()
        await misuse.leave(opening)
        left.set()


async def left_when_the_task_is_gone(misuse: Misuse, make: Any) -> None:
    opening = make()
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(misuse.enter, opening)
    except ExceptionGroup as group:
        misuse.errors.append(group)
    await misuse.leave(opening)


async def left_in_the_wrong_order(misuse: Misuse, make: Any) -> None:
    first, second = make(), make()
    await misuse.enter(first)
    await misuse.enter(second)
    await misuse.leave(first)
    await misuse.leave(second)


@each_backend
@pytest.mark.parametrize("what", ["open_websocket", "open_server"])
@pytest.mark.parametrize(
    "way", [left_by_another_task, left_when_the_task_is_gone, left_in_the_wrong_order]
)
def test_a_context_manager_used_the_wrong_way_is_told_so_and_still_closes(
    backend, what: str, way
) -> None:
    """H30: the error is that of AnyIO or Trio, whose scopes are corrupt by then. Nothing hangs."""
    misuse = Misuse()

    async def main() -> None:
        async with anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK) as server:

            def make() -> Any:
                if what == "open_websocket":
                    return anyws.open_websocket(server.url, config=QUICK)
                return anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK)

            try:
                await way(misuse, make)
            except ExceptionGroup as group:
                misuse.errors.append(group)
            await misuse.settle(lambda: server.connections)

    name, options = backend
    try:
        anyio.run(main, backend=name, backend_options=options)
    except RuntimeError as error:
        misuse.errors.append(error)
    assert misuse.opened
    # The client on asyncio has no scope of AnyIO's to leave in the wrong place.
    assert misuse.errors or (name == "asyncio" and what == "open_websocket" and NATIVE)
    for error in misuse.errors:
        for one in error.exceptions if isinstance(error, ExceptionGroup) else [error]:
            # An AssertionError is Trio's word for it in one of the cases.
            assert isinstance(one, (RuntimeError, AssertionError))
            assert re.search("(?i)cancel scope|nursery", str(one)), one


async def test_a_context_manager_is_entered_by_one_task_at_a_time() -> None:
    """H30: and neither of two that try at once is forgotten."""
    refused = []

    async def use(opening: Any) -> None:
        try:
            async with opening as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                await left.wait()
        except RuntimeError as error:
            refused.append(str(error))
            left.set()

    left = anyio.Event()
    with anyio.fail_after(GUARD):
        async with served("tcp", echo) as connect:
            opening = connect()
            async with anyio.create_task_group() as tg:
                tg.start_soon(use, opening)
                tg.start_soon(use, opening)
            # Used one after the other, it opens another.
            async with opening as ws:
                await ws.send("hello")
    assert len(refused) == 1
    assert "entered already" in refused[0]


@pytest.fixture
async def fixture_connection() -> AsyncIterator[WebSocket]:
    async with served("tcp", echo) as connect, connect() as ws:
        yield ws


async def test_a_fixture_may_hold_a_connection(fixture_connection: WebSocket) -> None:
    """H30: AnyIO's plugin runs a fixture and its test in one task. Both may use it, and cancel."""
    with anyio.move_on_after(0.01):
        await fixture_connection.receive()
    await fixture_connection.send("hello")
    assert await fixture_connection.receive() == "hello"


# --- H32: how many tasks ---


def library_tasks(kind: str, backend: str) -> list[str]:
    """Return the tasks that an open connection has of the library."""
    if kind != "memory" and NATIVE:
        if backend != "trio":
            return []  # the event loop calls, and no task waits
        if kind != "tls":
            return ["anyws attendant"]  # the writer is started where a write blocks
    return ["anyws attendant", "anyws writer"]


@every_kind
async def test_a_connection_is_two_tasks_of_the_library_and_a_handler_one_more(
    kind: str, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    """H32: two at most; native transports have one on Trio, and none on asyncio."""
    own = library_tasks(kind, anyio_backend[0])
    count = 5
    released, arrived = anyio.Event(), []

    async def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        await released.wait()

    with anyio.fail_after(GUARD):
        before = living_tasks()
        async with served(kind, handler) as connect:
            assert len(living_tasks() - before) == 1, "one for the listener"
            async with AsyncExitStack() as stack:
                sockets = [await stack.enter_async_context(connect()) for _ in range(count)]
                while len(arrived) < count:
                    await anyio.lowlevel.checkpoint()
                # At both ends.
                assert names(living_tasks() - before) == {
                    **dict.fromkeys(own, 2 * count),
                    "a handler": count,
                    "anyws listener": 1,
                }
                for ws in sockets:
                    with anyio.move_on_after(0.001):
                        await ws.receive()
                number = (2 * len(own) + 1) * count + 1
                assert len(living_tasks() - before) == number, "whatever they do"
                released.set()
            await anyio.wait_all_tasks_blocked()
            assert len(living_tasks() - before) == 1


def names(tasks: set[Any]) -> dict[str, int]:
    named = [task.name if hasattr(task, "name") else task.get_name() for task in tasks]
    return Counter("a handler" if "Server._serve" in name else name for name in named)


# --- H33: an idle connection does nothing ---


class CountingLoop(VirtualTimeLoop):
    """Notes the time of everything that is scheduled: each step of a task, each timer."""

    steps: list[float]

    def call_soon(self, *args: Any, **options: Any) -> Any:
        self.steps.append(self.time())
        return super().call_soon(*args, **options)


class CountingInstrument(trio.abc.Instrument):
    def __init__(self) -> None:
        self.steps: list[float] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps.append(trio.current_time())


def steps_during(backend: str, main: Callable[[Callable[[], None]], Awaitable[None]]) -> Counter:
    """Run `main`; count the steps of tasks by their time, from when it calls what it is given."""
    name, given = virtual_time(backend)
    options = dict(given)
    instrument = CountingInstrument()
    if backend == "asyncio":
        CountingLoop.steps = instrument.steps
        options["loop_factory"] = CountingLoop
    else:
        options["instruments"] = [instrument]
    start = 0.0

    def begin() -> None:
        nonlocal start
        start = anyio.current_time()
        instrument.steps.clear()

    async def measured() -> None:
        nonlocal steps
        await main(begin)
        steps = Counter(round(at - start, 3) for at in instrument.steps)

    steps: Counter = Counter()
    anyio.run(measured, backend=name, backend_options=options)
    return steps


@both_backends
def test_an_idle_connection_without_keepalive_takes_no_step_at_all(backend: str) -> None:
    """H33, at both ends."""
    config = Config(ping_interval=None)

    async def main(begin: Callable[[], None]) -> None:
        async with connected("memory", config=config, server_config=config, guard=None):
            await anyio.sleep(1)
            begin()
            await anyio.sleep(1_000_000)

    steps = steps_during(backend, main)
    assert set(steps) <= {0, 1_000_000}


@both_backends
@pytest.mark.parametrize("receiving", [False, True])
def test_an_idle_connection_wakes_with_each_ping_and_never_between(
    backend: str, receiving: bool
) -> None:
    """H33: the clock goes on by the ping interval exactly, and each takes the same few steps."""
    asks, answers = Config(ping_interval=20), Config(ping_interval=None)

    async def main(begin: Callable[[], None]) -> None:
        async with (
            connected("memory", config=asks, server_config=answers, guard=None) as (client, server),
            anyio.create_task_group() as tg,
        ):
            if receiving:
                tg.start_soon(client.receive)
                tg.start_soon(server.receive)
            # The latest byte before: from here on, it is the clock of the pings.
            await client.ping()
            begin()
            await anyio.sleep(20 * 100 + 1)
            assert client.is_open
            tg.cancel_scope.cancel()

    steps = steps_during(backend, main)
    pings = [at for at in sorted(steps) if 1 < at < 2001]
    assert pings == [20.0 * n for n in range(1, 101)]
    # A ping and a pong, each written by one task and read by another.
    assert len({steps[at] for at in pings}) == 1, steps
    assert steps[20.0] <= 20, steps

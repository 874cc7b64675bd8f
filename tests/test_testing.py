"""`anyws.testing`: streams that misbehave as told, both ends of a connection, virtual time."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config
from anyws.testing import (
    MemoryListener,
    memory_stream_pair,
    open_websocket_pair,
    virtual_time,
)

if TYPE_CHECKING:
    from pathlib import Path

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])

# --- A pair of streams ---


async def test_what_one_end_sends_the_other_receives_in_order():
    left, right = memory_stream_pair()
    await left.send(b"one")
    await left.send(b"two")
    assert await right.receive() == b"onetwo"
    await right.send(b"three")
    assert await left.receive(2) == b"th"
    assert await left.receive() == b"ree"


async def test_a_send_waits_for_room():
    left, right = memory_stream_pair(capacity=4)
    async with anyio.create_task_group() as tg:
        tg.start_soon(left.send, b"0123456789")
        await anyio.wait_all_tasks_blocked()
        assert bytes(right.incoming.data) == b"0123"
        assert await right.receive(3) == b"012"
        await anyio.wait_all_tasks_blocked()
        assert bytes(right.incoming.data) == b"3456"
        assert await right.receive() + await right.receive() == b"3456789"


async def test_a_cancelled_send_has_sent_a_part():
    left, right = memory_stream_pair(capacity=4)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tg:
            tg.start_soon(left.send, b"0123456789")
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert await right.receive() == b"0123"
    await left.send(b"ab")
    assert await right.receive() == b"ab"


async def test_a_cancelled_receive_takes_nothing():
    left, right = memory_stream_pair()
    with anyio.move_on_after(0):
        await right.receive()
    await left.send(b"x")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await right.receive()
    assert await right.receive() == b"x"


async def test_bytes_can_come_one_by_one():
    left, right = memory_stream_pair()
    right.incoming.chunk_size = 1
    await left.send(b"abc")
    assert [await right.receive() for _ in range(3)] == [b"a", b"b", b"c"]


async def test_the_nth_call_raises():
    left, right = memory_stream_pair()
    left.fail_send(OSError("no"), call=2)
    right.fail_receive(OSError("no"), call=3)
    await left.send(b"a")
    with pytest.raises(OSError, match="no"):
        await left.send(b"b")
    assert await right.receive() == b"a"


async def test_closing_ends_the_stream_for_the_peer_after_what_was_sent():
    left, right = memory_stream_pair()
    await left.send(b"last")
    await left.aclose()
    assert await right.receive() == b"last"
    with pytest.raises(anyio.EndOfStream):
        await right.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await right.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await left.receive()


async def test_closing_wakes_a_blocked_reader_and_a_blocked_writer():
    left, right = memory_stream_pair(capacity=1)
    errors = []

    async def expect(error, function, *args):
        with pytest.raises(error):
            await function(*args)
        errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(expect, anyio.EndOfStream, right.receive)
            tg.start_soon(expect, anyio.BrokenResourceError, right.send, b"abc")
            await anyio.wait_all_tasks_blocked()
            await left.aclose()
    assert len(errors) == 2


async def test_closing_wakes_its_own_reader():
    left, _ = memory_stream_pair()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(_expect_closed, left)
            await anyio.wait_all_tasks_blocked()
            await left.aclose()


async def _expect_closed(stream):
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()


async def test_a_half_close_leaves_the_other_direction():
    left, right = memory_stream_pair()
    await left.send_eof()
    with pytest.raises(anyio.EndOfStream):
        await right.receive()
    await right.send(b"still")
    assert await left.receive() == b"still"
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")


async def test_two_at_once_are_refused_like_on_a_socket():
    left, _ = memory_stream_pair(capacity=0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(left.receive)
        tg.start_soon(left.send, b"x")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await left.receive()
        with pytest.raises(anyio.BusyResourceError):
            await left.send(b"x")
        tg.cancel_scope.cancel()


# --- What a pipe can be told ---


async def test_a_pipe_ends_after_so_many_bytes_be_it_within_a_frame():
    near, far = memory_stream_pair()
    near.outgoing.end_after(5)
    with pytest.raises(anyio.BrokenResourceError):
        await near.send(b"0123456789")
        await near.send(b"0123456789")
    assert await far.receive() == b"01234"
    with pytest.raises(anyio.EndOfStream):
        await far.receive()
    assert near.outgoing.log == b"01234"


async def test_a_pipe_can_end_as_a_lost_connection_does():
    near, far = memory_stream_pair()
    near.outgoing.end_after(0, reset=True)
    with pytest.raises(anyio.BrokenResourceError):
        await far.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await near.send(b"x")
    far.outgoing.end_after(2, reset=True)
    await far.send(b"ab")
    assert await near.receive() == b"ab"
    with pytest.raises(anyio.BrokenResourceError):
        await near.receive()


async def test_a_stalled_pipe_delivers_nothing_until_it_is_resumed():
    near, far = memory_stream_pair(capacity=3)
    near.outgoing.stall()
    got = []

    async def receive():
        got.append(await far.receive())

    async with anyio.create_task_group() as tg:
        tg.start_soon(near.send, b"abcd")
        tg.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert (got, near.outgoing.data) == ([], b"abc")
        near.outgoing.resume()
    assert got == [b"abc"]
    assert await far.receive() == b"d"
    near.outgoing.end()
    near.outgoing.stall()
    with anyio.move_on_after(0.01) as scope:
        await far.receive()
    assert scope.cancelled_caught


async def test_a_wider_pipe_lets_a_blocked_send_go_on():
    near, far = memory_stream_pair(capacity=1)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(near.send, b"abc")
            await anyio.wait_all_tasks_blocked()
            near.outgoing.capacity = 10
            near.outgoing.notify()
    assert await far.receive() == b"abc"


@backends
def test_latency_is_the_time_that_each_byte_takes_and_the_end_too(backend: str):
    async def main():
        near, far = memory_stream_pair()
        near.outgoing.latency = 0.5
        await near.send(b"one")
        await anyio.sleep(0.2)
        await near.send(b"two")
        await near.aclose()
        assert await far.receive() == b"one"
        assert anyio.current_time() - start == pytest.approx(0.5)
        assert await far.receive() == b"two"
        assert anyio.current_time() - start == pytest.approx(0.7)
        with pytest.raises(anyio.EndOfStream):
            await far.receive()
        assert anyio.current_time() - start == pytest.approx(0.7)
        # The other way is as it was.
        far.incoming.latency = 0

    async def timed():
        nonlocal start
        start = anyio.current_time()
        await main()

    start = 0.0
    run_in_virtual_time(backend, timed)


async def test_failing_again_later_counts_from_then_on():
    near, far = memory_stream_pair()
    await near.send(b"a")
    await near.send(b"b")
    near.fail_send(OSError("first"), call=2)
    await near.send(b"c")
    near.fail_send(OSError("second"))
    with pytest.raises(OSError, match="second"):
        await near.send(b"d")
    assert await far.receive() == b"abc"
    far.fail_receive(OSError("lost"))
    await far.aclose()


async def test_a_failure_reaches_a_receive_that_waits_already():
    _, far = memory_stream_pair()
    async with anyio.create_task_group() as tg:
        tg.start_soon(_expect_failure, far)
        await anyio.wait_all_tasks_blocked()
        far.fail_receive(OSError("lost"), call=0)


async def _expect_failure(stream):
    with pytest.raises(OSError, match="lost"):
        await stream.receive()


async def test_a_stream_that_hangs_on_close_is_closed_by_a_cancellation():
    near, far = memory_stream_pair()
    near.hangs_on_close = True
    with anyio.move_on_after(0.01) as scope:
        await near.aclose()
    assert scope.cancelled_caught
    assert near.closed
    with pytest.raises(anyio.EndOfStream):
        await far.receive()


# --- A listener ---


async def test_a_listener_serves_whoever_connects():
    listener = MemoryListener()
    listener.errors.append(OSError("once"))
    received: list[bytes] = []

    async def handler(stream):
        received.append(await stream.receive())

    async with anyio.create_task_group() as tg:
        with pytest.raises(OSError, match="once"):
            await listener.serve(handler, tg)
        tg.start_soon(listener.serve, handler, tg)
        await listener.connect().send(b"x")
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    await listener.aclose()
    assert received == [b"x"]


async def test_a_listener_wants_a_task_group_and_is_closed_once():
    listener = MemoryListener()
    with pytest.raises(TypeError, match="task group"):
        await listener.serve(lambda stream: stream.aclose())
    await listener.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        listener.connect()


async def test_a_server_needs_no_network():
    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    listener = MemoryListener()
    async with (
        anyws.open_server(echo, listeners=[listener]),
        anyws.wrap_client_stream(listener.connect(), "ws://test/") as ws,
    ):
        await ws.send("hello")
        assert await ws.receive() == "hello"


# --- Both ends of a connection ---


async def test_a_pair_is_both_ends_of_one_connection():
    async with open_websocket_pair(subprotocols=["chat"]) as (client, server):
        assert (client.role.value, server.role.value) == ("client", "server")
        assert client.subprotocol == server.subprotocol == "chat"
        await client.send("hello")
        assert await server.receive() == "hello"
        await server.send(b"there")
        assert await client.receive() == b"there"
    assert client.closure.sent == server.closure.received == anyws.Close(1000)
    assert client.closure.clean


async def test_each_end_of_a_pair_has_its_config():
    async with open_websocket_pair(
        client_config=Config(compression=None, max_message_size=10),
        server_config=Config(max_message_size=20),
    ) as (client, server):
        assert client.extensions == ()
        await client.send("x" * 15)
        assert await server.receive() == "x" * 15
        await server.send("x" * 15)
        with pytest.raises(anyws.ConnectionBroken):
            await client.receive()


async def test_what_the_body_raises_leaves_a_pair_as_it_is():
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with open_websocket_pair() as (client, server):
            raise error
    assert caught.value is error
    assert client.closure.sent.code == 1001
    assert server.closure.received.code == 1001


async def test_a_pair_that_is_cancelled_leaves_nothing():
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with open_websocket_pair() as (client, server):
            scope.cancel()
            await client.receive()
    assert scope.cancelled_caught
    assert client.status is server.status is anyws.Status.CLOSED


async def test_a_pair_over_streams_that_were_told_to_misbehave():
    near, far = memory_stream_pair()
    near.incoming.chunk_size = 1
    async with open_websocket_pair(streams=(near, far)) as (client, server):
        await server.send("byte by byte")
        assert await client.receive() == "byte by byte"
        near.outgoing.end_after(3)
        # No Close: the frame stops short.
        await client.send("cut")
        with pytest.raises(anyws.ConnectionBroken):
            await server.receive()


@pytest.mark.parametrize("broken", [0, 1], ids=["request", "response"])
async def test_a_pair_that_cannot_open_says_why_and_leaves_nothing(broken: int):
    streams = memory_stream_pair()
    streams[broken].outgoing.end_after(20)
    with anyio.fail_after(5), pytest.raises(anyws.HandshakeError):
        async with open_websocket_pair(streams=streams):
            pytest.fail("it is open")
    assert all(stream.closed for stream in streams)


async def test_a_pair_that_is_cancelled_while_it_opens_leaves_nothing():
    streams = memory_stream_pair()
    streams[0].outgoing.stall()
    with anyio.fail_after(5), anyio.move_on_after(0.02) as scope:
        async with open_websocket_pair(streams=streams):
            pytest.fail("it is open")
    assert scope.cancelled_caught
    assert all(stream.closed for stream in streams)


# --- Virtual time ---


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time_passes_only_while_all_wait(backend: str):
    async def main():
        start = anyio.current_time()
        await anyio.sleep(3600)
        assert anyio.current_time() - start == pytest.approx(3600)
        with anyio.move_on_after(60) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() - start == pytest.approx(3660)

    run_in_virtual_time(backend, main)


@backends
def test_a_thread_can_wake_a_program_in_virtual_time(backend: str):
    """Where no timer is set, time stands still."""

    async def main():
        start = anyio.current_time()
        released = threading.Event()

        async def release():
            released.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(release)
            assert await anyio.to_thread.run_sync(released.wait, 5)
        assert anyio.current_time() == start
        await anyio.sleep(7)
        assert anyio.current_time() - start == pytest.approx(7)

    name, options = virtual_time(backend)
    anyio.run(main, backend=name, backend_options=dict(options))


def test_virtual_time_is_not_for_every_backend():
    with pytest.raises(ValueError, match="not for 'curio'"):
        virtual_time("curio")


@backends
def test_a_day_of_keepalive_takes_no_time(backend: str):
    async def main():
        async with open_websocket_pair() as (client, server):
            await anyio.sleep(24 * 3600)
            assert client.is_open
            assert server.latency is not None

    run_in_virtual_time(backend, main)


# --- Fixtures ---

CONFTEST = 'pytest_plugins = ["anyws.testing.fixtures"]'

TESTS = """
import time, anyio, pytest

pytestmark = pytest.mark.anyio
began = time.monotonic()

@pytest.fixture(scope="module")
def anyio_backend(virtual_time_backend):
    return virtual_time_backend

async def test_a_pair(websocket_pair, anyio_backend_name):
    client, server = websocket_pair
    await client.send(anyio_backend_name)
    assert await server.receive() == anyio_backend_name
    with anyio.move_on_after(3600) as scope:
        await server.receive()
    assert scope.cancelled_caught

class TestAgain:
    async def test_an_hour(self):
        await anyio.sleep(3600)

def test_how_long_that_took():
    assert time.monotonic() - began < 60
"""


def test_the_fixtures_work_with_the_plugin_of_anyio(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.findall(r"::(\S+) PASSED", result.stdout)
    assert passed == [
        "test_a_pair[asyncio]",
        "TestAgain::test_an_hour[asyncio]",
        "test_a_pair[trio]",
        "TestAgain::test_an_hour[trio]",
        "test_how_long_that_took",
    ]

"""The fakes themselves: what the other tests rest on."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import trio
from streams import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    MemoryListener,
    client_of_raw,
    close_frame,
    frame,
    pair,
    server_of_raw,
    split_frames,
)
from virtual_time import run_in_virtual_time


async def test_what_one_end_sends_the_other_receives_in_order():
    left, right = pair()
    await left.send(b"one")
    await left.send(b"two")
    assert await right.receive() == b"onetwo"
    await right.send(b"three")
    assert await left.receive(2) == b"th"
    assert await left.receive() == b"ree"


async def test_a_send_waits_for_room():
    left, right = pair(capacity=4)
    async with anyio.create_task_group() as tg:
        tg.start_soon(left.send, b"0123456789")
        await anyio.wait_all_tasks_blocked()
        assert bytes(right.incoming.data) == b"0123"
        assert await right.receive(3) == b"012"
        await anyio.wait_all_tasks_blocked()
        assert bytes(right.incoming.data) == b"3456"
        assert await right.receive() + await right.receive() == b"3456789"


async def test_a_cancelled_send_has_sent_a_part():
    left, right = pair(capacity=4)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tg:
            tg.start_soon(left.send, b"0123456789")
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert await right.receive() == b"0123"
    await left.send(b"ab")
    assert await right.receive() == b"ab"


async def test_a_cancelled_receive_takes_nothing():
    left, right = pair()
    with anyio.move_on_after(0):
        await right.receive()
    await left.send(b"x")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await right.receive()
    assert await right.receive() == b"x"


async def test_bytes_can_come_one_by_one():
    left, right = pair()
    right.chunk = 1
    await left.send(b"abc")
    assert [await right.receive() for _ in range(3)] == [b"a", b"b", b"c"]


async def test_the_nth_call_raises():
    left, right = pair()
    left.fail_send = (2, OSError("no"))
    right.fail_receive = (3, OSError("no"))
    await left.send(b"a")
    with pytest.raises(OSError, match="no"):
        await left.send(b"b")
    assert await right.receive() == b"a"
    right.fail_receive = (2, OSError("no"))
    with pytest.raises(OSError, match="no"):
        await right.receive()


async def test_closing_ends_the_stream_for_the_peer_after_what_was_sent():
    left, right = pair()
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
    left, right = pair(capacity=1)
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
    left, _ = pair()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(_expect_closed, left)
            await anyio.wait_all_tasks_blocked()
            await left.aclose()


async def _expect_closed(stream):
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()


async def test_a_half_close_leaves_the_other_direction():
    left, right = pair()
    await left.send_eof()
    with pytest.raises(anyio.EndOfStream):
        await right.receive()
    await right.send(b"still")
    assert await left.receive() == b"still"
    with pytest.raises(anyio.ClosedResourceError):
        await left.send(b"x")


async def test_two_at_once_are_refused_like_on_a_socket():
    left, _ = pair(capacity=0)
    async with anyio.create_task_group() as tg:
        tg.start_soon(left.receive)
        tg.start_soon(left.send, b"x")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await left.receive()
        with pytest.raises(anyio.BusyResourceError):
            await left.send(b"x")
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_what_they_were_made_of(size: int, mask: bool):
    data = frame(BINARY, bytes(size), mask=mask) + close_frame(1000, "bye", mask=mask) + b"\x81"
    frames, rest = split_frames(data)
    assert [(f.opcode, len(f.payload)) for f in frames] == [(BINARY, size), (CLOSE, 5)]
    assert frames[0].payload == bytes(size)
    assert (frames[1].code, frames[1].reason, frames[1].masked) == (1000, "bye", mask)
    assert rest == b"\x81"
    assert split_frames(data[:-2])[0] == frames[:1]


def test_a_frame_is_the_one_of_the_rfc():
    """RFC 6455, section 5.7."""
    assert frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    masked = bytes.fromhex("818537fa213d7f9f4d5158")
    assert split_frames(masked)[0][0].payload == b"Hello"
    assert frame(PING, b"Hello", fin=True)[:2] == b"\x89\x05"


@pytest.mark.parametrize("inline", [False, True], ids=["attendant", "inline"])
@pytest.mark.parametrize("against_raw", [client_of_raw, server_of_raw])
async def test_a_raw_peer_opens_a_connection(against_raw, inline: bool):
    async with against_raw(inline=inline) as (ws, peer):
        peer.send(TEXT, b"hi")
        assert await ws.receive() == "hi"
        await ws.send("there")
        assert (await peer.next_frame()).payload == b"there"
        assert [f.payload for f in peer.wire] == [b"there"]
        assert peer.torn == b""
        peer.send_close()
        assert (await peer.next_close()).code == 1000
        await peer.stream.aclose()


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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time_notices_a_task_that_is_left(backend: str):
    left = []

    async def main():
        if backend == "asyncio":
            left.append(asyncio.ensure_future(anyio.sleep(1)))
        else:
            trio.lowlevel.current_task().parent_nursery.start_soon(anyio.sleep, 1)

    with pytest.raises(AssertionError):
        run_in_virtual_time(backend, main)

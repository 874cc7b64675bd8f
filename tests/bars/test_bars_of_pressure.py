"""Bars: who floods, who does not read, and who does both, over real sockets."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.to_thread import run_sync
from bars.figures import MIB, STATM, PeakMemory, Ticker, stopwatch
from bars.peers import (
    BINARY,
    CLOSE,
    TEXT,
    client_of_load,
    client_of_peer,
    load,
    server_of_load,
    server_of_peer,
)
from bars.raw import HOST

import anyws
from anyws import Config, WebSocket

pytestmark = pytest.mark.timeout(60)

both_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])
both_roles = pytest.mark.parametrize(
    "role",
    [pytest.param(client_of_peer, id="client"), pytest.param(server_of_peer, id="server")],
)
both_roles_under_load = pytest.mark.parametrize(
    "role",
    [pytest.param(client_of_load, id="client"), pytest.param(server_of_load, id="server")],
)

BIG = (bytes(range(251)) * 200_000)[:50_000_000]


# --- The peer does not read ---


@both_kinds
@both_roles
async def test_a_send_cancelled_in_the_middle_of_its_frame_leaves_the_wire_whole(
    role, kind: str, figures
) -> None:
    """P1: the peer had stopped reading, and then reads on."""
    async with role(kind) as (ws, peer):
        with stopwatch() as watch, anyio.move_on_after(0.5) as scope:
            await ws.send(BIG)
        assert scope.cancelled_caught
        figures("P1", seconds=watch.seconds)
        wire = []

        async def read_on() -> None:
            wire.extend(await run_sync(peer.until_close))

        async with anyio.create_task_group() as tg:
            tg.start_soon(read_on)
            await ws.send("after")
            await ws.close()
    assert [(f.opcode, len(f.payload), f.fin) for f in wire] == [
        (BINARY, len(BIG), True),
        (TEXT, len("after"), True),
        (CLOSE, 2, True),
    ]
    assert wire[0].payload == BIG
    assert wire[1].payload == b"after"
    assert peer.received == b""


@both_kinds
@both_roles
async def test_close_does_not_wait_for_a_blocked_send_longer_than_its_timeout(
    role, kind: str, figures
) -> None:
    """P2: the peer never reads, and the sender is told."""
    told = []

    async def send(ws: WebSocket) -> None:
        with pytest.raises(anyws.ConnectionClosed) as caught:
            await ws.send(BIG)
        told.append(caught.value)

    async with role(kind, config=Config(close_timeout=1)) as (ws, peer):
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, ws)
            await anyio.wait_all_tasks_blocked()
            with stopwatch() as watch:
                closure = await ws.close()
        figures("P2", seconds=watch.seconds)
        assert watch.seconds <= 1.5
        assert not closure.clean
        assert len(told) == 1
        # Of the frame that was cut short, no more than a part has ever been on the wire.
        assert await run_sync(peer.until_end) == []


@both_roles
async def test_who_sends_to_a_peer_that_never_reads_is_told_in_time(role, figures) -> None:
    """P4: pings go unanswered behind the blocked write."""
    message = os.urandom(1_000_000)
    async with role(config=Config(ping_interval=1, ping_timeout=1)) as (ws, peer):
        with stopwatch() as watch, pytest.raises(anyws.ConnectionBroken):
            while True:
                await ws.send(message)
        figures("P4", seconds=watch.seconds)
        assert watch.seconds <= 3
        with stopwatch() as watch:
            await ws.wait_closed()
            await run_sync(peer.until_end)
        assert watch.seconds <= 0.5


# --- The peer floods ---


@pytest.mark.skipif(not STATM.exists(), reason="needs Linux to look at the memory of a process")
async def test_pings_of_a_peer_that_never_reads_cost_no_memory(figures) -> None:
    """P3: for 10 s; for half of it the handler does not receive. Others are served meanwhile."""
    arrived, half_time, over = anyio.Event(), anyio.Event(), anyio.Event()
    answers = []

    async def handler(ws: WebSocket) -> None:
        if not arrived.is_set():
            arrived.set()
            await half_time.wait()
        async for message in ws:
            await ws.send(message)

    async def be_served(url: str) -> None:
        async with anyws.open_websocket(url) as ws:
            while not over.is_set():
                with stopwatch() as watch:
                    await ws.send("still there?")
                    assert await ws.receive() == "still there?"
                answers.append(watch.seconds)
                await anyio.sleep(0.02)

    with anyio.fail_after(40):
        async with (
            anyws.open_server(handler, host=HOST, port=0) as server,
            anyio.create_task_group() as tg,
        ):
            with PeakMemory() as memory:
                async with load("pings", 10, server.port) as running:
                    await arrived.wait()
                    tg.start_soon(be_served, server.url)
                    await anyio.sleep(5)
                    half_time.set()
                    report = await running.report()
            over.set()
    figures(
        "P3",
        mib_at_peak=memory.growth,
        mib_pushed=report["sent"] / MIB,
        slowest_ms=max(answers) * 1000,
    )
    assert memory.growth < 8
    # The attack took place: much got in, or the peer was held back.
    assert report["sent"] > 16 * MIB or report["longest_wait"] > 1
    assert len(answers) > 50
    assert max(answers) < 1


async def test_a_slow_application_does_not_lose_a_healthy_fast_peer(figures) -> None:
    """P5: for 12 s, in both roles. Nothing is read meanwhile, and the peer not blamed for it."""
    config = Config(ping_interval=1, ping_timeout=1)

    async def work(role) -> None:
        number = 0
        async with role("messages", 20, config=config) as (ws, running):
            with stopwatch() as watch, anyio.move_on_after(12):
                try:
                    async for message in ws:
                        assert message == str(number).ljust(1000)
                        number += 1
                        await anyio.sleep(0.3)
                except anyws.ConnectionClosed:
                    pass  # and the figure says when
            is_open = ws.is_open
            figures("P5", seconds_open=watch.seconds, messages=number)
            assert is_open, ws.closure
            assert 30 <= number <= 40
            # The peer was alive and well all the time.
            assert (await ws.close()).clean
            assert (await running.report())["error"] is None

    with anyio.fail_after(40):
        async with anyio.create_task_group() as tg:
            tg.start_soon(work, client_of_load)
            tg.start_soon(work, server_of_load)


@both_roles_under_load
async def test_a_blast_of_empty_messages_leaves_the_others_their_turns(role, figures) -> None:
    """P6: for 3 s."""
    received = 0
    ticker = Ticker()

    async def receive(ws: WebSocket) -> None:
        nonlocal received
        async for message in ws:
            assert message == ""
            received += 1

    with anyio.fail_after(40):
        async with role("empties", 10) as (ws, running):
            async with anyio.create_task_group() as tg:
                tg.start_soon(ticker.run)
                tg.start_soon(receive, ws)
                await anyio.sleep(3)
                tg.cancel_scope.cancel()
            ws.abort()
            report = await running.report()
    figures(
        "P6",
        cpu_gap_ms=ticker.cpu_gap_ms,
        wall_gap_ms=ticker.wall_gap_ms,
        messages=received,
    )
    assert report["sent"] > 20_000 * 6
    assert received > 20_000
    assert ticker.ticks > 50
    assert ticker.cpu_gap_ms < 50


# --- Both at once ---

MESSAGES = 60
BLOCK = os.urandom(900_000)


async def send_all_then_receive(ws: WebSocket) -> None:
    for _ in range(MESSAGES):
        await ws.send(BLOCK)
    async for _ in ws:
        pass


@asynccontextmanager
async def anyio_timeout(seconds: float):
    with anyio.fail_after(seconds):
        yield


async def test_a_timeout_gets_out_of_two_ends_that_only_send(
    anyio_backend_name: str, figures
) -> None:
    """P14: 12 s of AnyIO's and, on asyncio, at the same time 12 s of asyncio's own."""
    config = Config(ping_interval=2, ping_timeout=2)

    async def deadlock(timeout) -> None:
        with stopwatch() as until_server_ended:
            async with anyws.open_server(
                send_all_then_receive, host=HOST, port=0, config=config
            ) as server:
                with stopwatch() as watch, pytest.raises(TimeoutError):
                    async with (
                        timeout(12),
                        anyws.open_websocket(server.url, config=config) as ws,
                    ):
                        await send_all_then_receive(ws)
        figures("P14", seconds=watch.seconds)
        assert watch.seconds <= 13.5
        assert until_server_ended.seconds <= watch.seconds + 1.5

    async with anyio.create_task_group() as tg:
        tg.start_soon(deadlock, anyio_timeout)
        if anyio_backend_name == "asyncio":
            tg.start_soon(deadlock, asyncio.timeout)


async def test_a_stalled_write_ends_two_ends_that_only_send(figures) -> None:
    """P14: without a timeout of the program's, `write_timeout` breaks the connection."""
    config = Config(ping_interval=2, ping_timeout=2, write_timeout=1)
    ended = []

    async def end(ws: WebSocket) -> None:
        with pytest.raises(anyws.ConnectionBroken) as caught:
            await send_all_then_receive(ws)
        ended.append(caught.value)

    with stopwatch() as watch, anyio.fail_after(12):
        async with anyws.open_server(end, host=HOST, port=0, config=config) as server:
            async with anyws.open_websocket(server.url, config=config) as ws:
                await end(ws)
    figures("P14", seconds_stalled=watch.seconds)
    # The limit, one linger at each end, and what a busy machine takes to fill the buffers.
    assert watch.seconds <= 8
    assert len(ended) == 2
    assert any("stalled" in str(error) for error in ended)

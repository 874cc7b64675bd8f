"""Bars: how long an end takes, and what leaves the block, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings

import anyio
import pytest
from anyio.to_thread import run_sync
from bars.figures import stopwatch
from bars.peers import CLOSE, Peer, RawServer
from bars.raw import HOST

import anyws
from anyws import Config, Status, WebSocket

pytestmark = pytest.mark.timeout(60)

both_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])

NORMAL, GOING_AWAY = 1000, 1001


# --- A server ---


async def test_a_server_ends_in_its_drain_time_whatever_its_handlers_do(figures) -> None:
    """P7: they sleep for an hour, and are cancelled; with the default, and with 1 s."""

    async def drain(config: Config) -> None:
        running: list[WebSocket] = []
        both_run = anyio.Event()
        cancelled = 0
        wires = []

        async def handler(ws: WebSocket) -> None:
            nonlocal cancelled
            running.append(ws)
            if len(running) == 2:
                both_run.set()
            try:
                await anyio.sleep(3600)
            except anyio.get_cancelled_exc_class():
                cancelled += 1
                raise

        async def read(reading) -> None:
            wires.append(await run_sync(reading))

        async with anyio.create_task_group() as tg:
            async with anyws.open_server(handler, host=HOST, port=0, config=config) as server:
                polite, silent = [await run_sync(Peer.connect, server.port) for _ in range(2)]
                tg.start_soon(read, polite.until_close)
                await both_run.wait()
                with stopwatch() as watch:
                    await server.aclose()
            tg.start_soon(read, silent.until_end)
        figures("P7", seconds_late=watch.seconds - config.drain_timeout)
        assert watch.seconds <= config.drain_timeout + 0.5
        assert cancelled == 2
        # Nobody was cut off without a word.
        assert [[(f.opcode, f.code) for f in wire] for wire in wires] == [[(CLOSE, GOING_AWAY)]] * 2
        polite.close()
        silent.close()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            tg.start_soon(drain, Config())
            tg.start_soon(drain, Config(drain_timeout=1))


# --- A client whose peer never answers the Close ---


@both_kinds
async def test_what_the_body_raises_is_not_held_up_by_a_silent_peer(kind: str, figures) -> None:
    """P10: the same object, bare, and the peer was told."""
    error = ValueError("the body's")
    with RawServer(kind) as server:
        with pytest.raises(ValueError, match="the body's") as caught:
            async with anyws.open_websocket(server.url, ssl_context=server.ssl_context):
                start = time.perf_counter()
                raise error
        seconds = time.perf_counter() - start
        figures("P10", seconds=seconds)
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        assert seconds <= 1.25
        [close] = await run_sync(server.peer().until_end)
        assert (close.opcode, close.code) == (CLOSE, GOING_AWAY)


@both_kinds
async def test_a_deadline_ends_the_closing_handshake_that_it_finds(kind: str, figures) -> None:
    """P11: at once."""
    with RawServer(kind) as server:
        with stopwatch() as watch, anyio.move_on_after(0.5) as scope:
            async with anyws.open_websocket(server.url, ssl_context=server.ssl_context) as ws:
                pass
        figures("P11", seconds=watch.seconds)
        assert watch.seconds <= 0.6
        assert scope.cancelled_caught
        assert ws.status is Status.CLOSED
        [close] = await run_sync(server.peer().until_end)
        assert (close.opcode, close.code) == (CLOSE, NORMAL)


@both_kinds
async def test_a_deadline_does_not_take_the_place_of_what_the_body_raises(
    kind: str, figures
) -> None:
    """P11."""
    error = ValueError("the body's")
    with RawServer(kind) as server:
        with stopwatch() as watch, pytest.raises(ValueError, match="the body's") as caught:
            with anyio.move_on_after(0.5):
                async with anyws.open_websocket(server.url, ssl_context=server.ssl_context):
                    raise error
        figures("P11", seconds=watch.seconds)
        assert watch.seconds <= 0.6
        assert caught.value is error
        [close] = await run_sync(server.peer().until_end)
        assert (close.opcode, close.code) == (CLOSE, GOING_AWAY)


@pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
async def test_a_timeout_of_asyncio_ends_the_closing_handshake_that_it_finds(figures) -> None:
    """P11."""
    with RawServer() as server:
        with stopwatch() as watch, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), anyws.open_websocket(server.url):
                pass
        figures("P11", seconds=watch.seconds)
        assert watch.seconds <= 0.6


async def test_a_deadline_that_finds_the_body_running_costs_the_grace_and_no_more() -> None:
    """P11: for the Close and a silent peer's answer."""
    grace = Config().cancel_grace
    with RawServer() as server:
        with stopwatch() as watch, anyio.move_on_after(0.2) as scope:
            async with anyws.open_websocket(server.url):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert watch.seconds <= 0.2 + grace + 0.1
        [close] = await run_sync(server.peer().until_end)
        assert (close.opcode, close.code) == (CLOSE, GOING_AWAY)


# --- A connection that nobody holds ---


def running_tasks() -> set[int]:
    return {task.id for task in anyio.get_running_tasks()}


async def test_a_dropped_connection_is_aborted_with_a_warning_while_its_group_lives(
    figures,
) -> None:
    """P15: one warning, that names the class and the peer; no task is left."""
    with RawServer() as server, anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            before = running_tasks()
            ws = await anyws.connect_websocket(tg, server.url)
            assert running_tasks() > before
            with warnings.catch_warnings(record=True) as caught, stopwatch() as watch:
                warnings.simplefilter("always")
                del ws
                gc.collect()
                while running_tasks() != before:
                    await anyio.sleep(0.001)
                gc.collect()
            figures("P15", seconds=watch.seconds)
            [warning] = caught
            assert warning.category is ResourceWarning
            assert "anyws.WebSocket" in str(warning.message)
            assert f"{HOST}:{server.port}" in str(warning.message)
            assert watch.seconds <= 1
            # The socket is closed as well.
            assert await run_sync(server.peer().until_end) == []

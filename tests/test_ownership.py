"""Who holds a connection, and that nothing is left of it by reference count alone."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import anyio
import pytest

import anyws
from anyws import Config, WebSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Config(cancel_grace=0.2, close_timeout=2.0, drain_timeout=0.2)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.fixture
def without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def returns(ws: WebSocket) -> None:
    await ws.send("hello")
    await ws.receive()


async def closes(ws: WebSocket) -> None:
    await ws.close(3000, "enough")


async def aborts(ws: WebSocket) -> None:
    ws.abort()


async def raises(ws: WebSocket) -> None:
    raise KeyError("the body's")


async def pings(ws: WebSocket) -> None:
    await ws.ping()


@pytest.mark.parametrize("body", [returns, closes, aborts, raises, pings])
async def test_every_object_dies_by_reference_count_alone(body, without_gc: None) -> None:
    """V9, T10: both ends, whatever ended the connection."""
    died = []

    async def handler(ws: WebSocket) -> None:
        died.extend(weakref.ref(thing) for thing in (ws._transport, ws._protocol))
        await echo(ws)

    async with anyws.open_server(handler, host="127.0.0.1", port=0, config=QUICK) as server:
        try:
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                died.extend(weakref.ref(thing) for thing in (ws._transport, ws._protocol))
                died.append(weakref.ref(ws._protocol._engine))
                await body(ws)
        except KeyError:
            pass
        died.append(weakref.ref(ws))
        del ws
    # The loops themselves hold what they run last until their next turns.
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert [ref() for ref in died] == [None] * 6


async def test_a_connection_that_the_program_drops_is_aborted_with_a_warning() -> None:
    """P15, H13: the warning names the class and the peer, and the group is free to end."""
    async with anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK) as server:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                ws = await anyws.connect_websocket(tg, server.url, config=QUICK)
                await ws.send("hello")
                assert await ws.receive() == "hello"
                with pytest.warns(ResourceWarning, match=rf"anyws\.WebSocket.*{server.port}"):
                    del ws


async def test_a_connection_that_its_block_holds_may_be_dropped() -> None:
    received = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        with pytest.raises(anyws.ClosedByPeer):
            await ws.receive()
        received.set()

    async with anyws.open_server(handler, host="127.0.0.1", port=0, config=QUICK) as server:
        async with anyws.open_websocket(server.url, config=QUICK):
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(10):
            await received.wait()


async def test_connecting_that_is_cancelled_after_all_leaves_nothing_open() -> None:
    async with anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK) as server:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await anyws.connect_websocket(tg, server.url, config=QUICK)
        assert scope.cancelled_caught

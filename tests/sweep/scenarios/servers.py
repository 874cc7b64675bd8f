"""Servers: the drain, with handlers of every kind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio.streams.tls import TLSListener
from connections import server_tls
from world import (
    MEMORY,
    QUICK,
    SLACK,
    STREAM_ERRORS,
    TCP,
    Peer,
    World,
    check,
)

import anyws
from anyws import Config, WebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

from ._registry import scenario


class Clients:
    """Raw clients of a server, each told what became of it."""

    def __init__(self, connect: Callable[[], Awaitable[ByteStream]]) -> None:
        self._connect = connect
        self.peers: list[Peer] = []
        self.told_half = b""  # what the one was told that asked for half of it

    async def visit(self, *, half: bool = False) -> None:
        try:
            stream = await self._connect()
        except (anyio.ConnectionFailed, *STREAM_ERRORS, anyio.EndOfStream):
            return
        peer = Peer(stream, is_server=False)
        if half:
            await self._ask_for_half(peer)
            return
        self.peers.append(peer)
        await peer.run()

    async def _ask_for_half(self, peer: Peer) -> None:
        data = b""
        try:
            await peer.stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            while True:
                data += await peer.stream.receive()
        except (anyio.EndOfStream, *STREAM_ERRORS):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(peer.stream)
        self.told_half = data[:40]
        check(not data or b" 503 " in data or b" 408 " in data, f"refused with {data[:40]!r}")


async def _drain(
    world: World,
    handler: Callable[[WebSocket], Awaitable[None]],
    *,
    operation: str = "leave",
    within: float,
    config: Config = QUICK,
) -> None:
    listener, connect_to, context = await world.listener()
    clients = Clients(connect_to)
    running: list[anyws.Server] = []
    cancelled = 0
    lost = False  # the exception of the body

    async def counted(ws: WebSocket) -> None:
        nonlocal cancelled
        try:
            await handler(ws)
        except anyio.get_cancelled_exc_class():
            cancelled += 1
            raise

    options = {"listeners": [listener], "ssl_context": context, "config": config}

    async def leave() -> None:
        async with anyws.open_server(counted, **options) as server:
            running.append(server)
            await visited()

    async def visited() -> None:
        # Three have come, or a strike was in their way.
        with anyio.move_on_after(2):
            while sum(peer.open.is_set() for peer in clients.peers) < 2:
                await anyio.sleep(0.001)

    async def cancel() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                server = await tg.start(lambda **kw: anyws.serve(counted, **options, **kw))
                running.append(server)
                await visited()
                scope.cancel()

    async def aclose() -> None:
        async with anyws.open_server(counted, **options) as server:
            running.append(server)
            await visited()
            await server.aclose(keep_connections=True)
            await server.aclose()

    async def cancel_aclose() -> None:
        assert config.drain_timeout is not None
        async with anyws.open_server(counted, **options) as server:
            running.append(server)
            await visited()
            begun = anyio.current_time()
            with anyio.move_on_after(0.8 * config.drain_timeout):
                await server.aclose()
        passed = anyio.current_time() - begun
        check(passed <= config.drain_timeout + SLACK, f"the drain took {passed:.3f} s")

    async def raise_in_body() -> None:
        nonlocal lost
        try:
            async with anyws.open_server(counted, **options) as server:
                running.append(server)
                await visited()
                lost = True
                raise world.error
        except type(world.error) as error:
            lost = False
            check(error is world.error, "another exception than the body's")

    operations = {
        "leave": leave,
        "cancel": cancel,
        "aclose": aclose,
        "cancel aclose": cancel_aclose,
        "raise": raise_in_body,
    }
    async with anyio.create_task_group() as tg:
        tg.start_soon(clients.visit)
        tg.start_soon(clients.visit)
        tg.start_soon(lambda: clients.visit(half=True))
        await world.attack(operations[operation], within=within)
        await listener.aclose()
        check(not lost, "the exception of the body is lost")
        if running:
            check(not running[0].connections, "the server has gone, and has connections")
    for peer in clients.peers:
        peer.check_wire()
        if peer.open.is_set():
            check(peer.close is not None or peer.reset, "a connection ended without a Close")
            check(peer.close is None or peer.close.code == 1001, f"closed with {peer.close}")
        elif peer.response:
            check(b" 503 " in peer.response, f"refused with {peer.response[:40]!r}")
    if world.setting.virtual and not world.struck:
        check(handler is _stuck or not cancelled, "a handler was cancelled that had time left")
        check(b" 503 " in clients.told_half, f"half a handshake was told {clients.told_half!r}")


# A grace to close in, another for handlers that are cancelled, a second for a refusal to be read.
_DRAINED = 2 * (QUICK.cancel_grace + SLACK) + 1


async def _idle(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def _busy(ws: WebSocket) -> None:
    try:
        while True:
            await ws.send("news")
            await anyio.sleep(0.01)
    except anyws.ConnectionClosed:
        # What has to be saved takes a while.
        await anyio.sleep(0.03)
        raise


async def _stuck(ws: WebSocket) -> None:
    await anyio.sleep(math.inf)


@scenario()
async def drain_with_idle_handlers(world: World) -> None:
    await _drain(world, _idle, within=_DRAINED)


@scenario()
async def drain_with_busy_handlers(world: World) -> None:
    await _drain(world, _busy, within=_DRAINED)


@scenario()
async def drain_with_stuck_handlers(world: World) -> None:
    await _drain(world, _stuck, within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def serve_being_cancelled(world: World) -> None:
    await _drain(world, _idle, operation="cancel", within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def serve_being_cancelled_with_stuck_handlers(world: World) -> None:
    await _drain(world, _stuck, operation="cancel", within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def server_closed_by_hand(world: World) -> None:
    await _drain(world, _busy, operation="aclose", within=_DRAINED)


@scenario(kinds=(MEMORY,))
async def a_drain_that_is_cancelled(world: World) -> None:
    """Handlers have the time that they had when they were told, and not once more."""
    config = replace(QUICK, drain_timeout=1)
    await _drain(world, _stuck, operation="cancel aclose", within=_DRAINED, config=config)


@scenario(kinds=(MEMORY, TCP))
async def server_whose_body_raises(world: World) -> None:
    await _drain(world, _idle, operation="raise", within=_DRAINED)


@scenario(kinds=(TCP,))
async def a_server_that_listens_by_itself(world: World) -> None:
    """And keeps its connections when it does so no more."""

    async def operation() -> None:
        async with anyws.open_server(_idle, host="localhost", port=0, config=QUICK) as server:
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                await server.aclose(keep_connections=True)
                await ws.send("still here")

    await world.attack(operation, within=_DRAINED)


@scenario(kinds=(MEMORY,))
async def a_server_that_cannot_accept_for_a_while(world: World) -> None:
    listener, connect, _ = await world.listener()
    listener.errors += [OSError("too many open files")] * 2

    async def operation() -> None:
        async with anyws.open_server(_idle, listeners=[listener], config=QUICK):
            stream = await connect()
            async with anyws.wrap_client_stream(stream, "ws://test/", config=QUICK) as ws:
                await ws.send("x")

    await world.attack(operation, within=_DRAINED)
    await listener.aclose()


@scenario(kinds=(MEMORY, TCP))
async def a_listener_whose_own_tls_has_not_begun(world: World) -> None:
    """A client that says nothing is nobody's, and holds up nothing."""
    inner, connect, _ = await world.listener()
    listener = TLSListener(inner, server_tls())  # type: ignore[arg-type] # any of streams will do

    async def operation() -> None:
        async with anyws.open_server(_idle, listeners=[listener], config=QUICK):
            async with await connect():
                await anyio.lowlevel.checkpoint()

    await world.attack(operation, within=_DRAINED)
    await listener.aclose()

"""Who is let in: hooks that take their time, and clients for whom there is no room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from world import MEMORY, QUICK, SLACK, STREAM_ERRORS, TCP, TLS, World, check

import anyws
from anyws import WebSocket
from anyws._config import LINGER, MAX_TURNED_AWAY

from ._registry import scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

FULL = replace(QUICK, max_connections=1)
# The drain, as in `servers.py`, and what it takes to turn one away: TLS, the answer, the end.
_TURNED_AWAY = 2 * (QUICK.cancel_grace + SLACK) + 3 * LINGER


async def _idle(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def _told(stream: ByteStream) -> bytes:
    """All that the server says to who asks for nothing."""
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, *STREAM_ERRORS):
        return data
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)


async def _visit(connect: Callable[[], Awaitable[ByteStream]], port: int | None) -> bytes:
    """Be a client that asks for nothing, and does not even begin with TLS."""
    try:
        stream = await connect() if port is None else await anyio.connect_tcp("127.0.0.1", port)
    except (anyio.ConnectionFailed, *STREAM_ERRORS):
        return b""  # the server is closing
    return await _told(stream)


async def _no_room(world: World, *, leave_at_once: bool) -> None:
    listener, connect, context = await world.listener()
    is_tls = world.setting.kind == TLS
    port = listener.extra(anyio.abc.SocketAttribute.local_port) if is_tls else None
    heard: list[bytes] = []

    async def late() -> None:
        heard.append(await _visit(connect, port))

    async def operation() -> None:
        opening = anyws.open_server(_idle, listeners=[listener], ssl_context=context, config=FULL)
        async with opening as server:
            stream = await connect()
            async with anyws.wrap_client_stream(stream, "ws://test/", config=QUICK) as ws:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(late)
                    tg.start_soon(late)
                    while server.totals.turned_away < 2:
                        await anyio.sleep(0.001)
                    if leave_at_once:
                        # So that the drain meets them in the middle.
                        await server.aclose()
                check(ws.is_open or leave_at_once, "who was there has lost the connection")

    await world.attack(operation, may_raise=(anyws.WebSocketError,), within=_TURNED_AWAY)
    await listener.aclose()
    for answer in heard:
        check(not answer or answer.startswith(b"HTTP/1.1 503 "), f"told {answer[:40]!r}")
        if not world.struck and not leave_at_once and not is_tls:
            check(b"Retry-After: 5" in answer, f"told {answer!r}")


@scenario(kinds=(MEMORY, TCP, TLS))
async def who_finds_no_room(world: World) -> None:
    await _no_room(world, leave_at_once=False)


@scenario(kinds=(MEMORY, TCP, TLS))
async def a_drain_while_somebody_is_told_that_there_is_no_room(world: World) -> None:
    await _no_room(world, leave_at_once=True)


@scenario(kinds=(MEMORY,))
async def who_is_not_even_told_that_there_is_no_room(world: World) -> None:
    listener, connect, _ = await world.listener()
    answers: list[bytes] = []

    async def operation() -> None:
        answers.append(await _told(await connect()))

    async with anyws.open_server(_idle, listeners=[listener], config=FULL) as server:
        stream = await connect()
        async with anyws.wrap_client_stream(stream, "ws://test/", config=QUICK):
            lingering = [await connect() for _ in range(MAX_TURNED_AWAY)]
            while server.totals.turned_away < MAX_TURNED_AWAY:
                await anyio.sleep(0.001)
            await world.attack(operation)
            for one in lingering:
                await anyio.aclose_forcefully(one)
    await listener.aclose()
    check(set(answers) <= {b""}, "it was told")


@scenario(kinds=(MEMORY, TCP))
async def hooks_that_take_their_time(world: World) -> None:
    """And what they hold for a client is given back, however that ends."""
    listener, connect, _ = await world.listener()
    limit = anyws.PerAddressLimit(1, address=lambda _: "everybody")

    async def whose(token: str) -> str:
        await anyio.sleep(0.01)
        return token

    async def no_others(request: anyws.Request) -> anyws.Reject | None:
        await anyio.sleep(0.01)
        return None if request.user == "ada" else anyws.Reject(403)

    hooks = [limit, anyws.BearerAuth(whose), no_others]
    routes = anyws.Routes({"/rooms/{room}": _idle})

    async def visit(user: str) -> None:
        async with anyws.wrap_client_stream(
            await connect(),
            "ws://test/rooms/tea",
            headers={"Authorization": f"Bearer {user}"},
            config=QUICK,
        ) as ws:
            await ws.send("x")

    async def operation() -> None:
        async with anyws.open_server(
            routes, listeners=[listener], on_request=hooks, config=QUICK
        ) as server:
            try:
                await visit("bob")
            except anyws.HandshakeRejected as error:
                check(error.response.status == 403, f"refused with {error.response}")
            while limit.counts:
                await anyio.sleep(0.001)
            await visit("ada")
            await server.aclose()

    await world.attack(operation, may_raise=(anyws.WebSocketError,), within=_TURNED_AWAY)
    await listener.aclose()
    check(not limit.counts, f"still counted: {limit.counts}")

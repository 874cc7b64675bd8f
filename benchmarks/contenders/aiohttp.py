"""aiohttp, server and client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, WSMsgType, web

from ..target import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=mode.compression)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        return ws

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=mode.server_context).start()
    started(runner.addresses[0][1])
    await asyncio.Event().wait()


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    mode = target.mode
    async with (
        ClientSession() as session,
        session.ws_connect(
            target.url, ssl=mode.client_context or True, compress=15 if mode.compression else 0
        ) as ws,
    ):
        if mode.compression:
            yield ws.send_str, ws.receive_str
        else:
            yield ws.send_bytes, ws.receive_bytes

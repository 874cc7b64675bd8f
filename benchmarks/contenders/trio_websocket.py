"""trio-websocket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed, open_websocket_url, serve_websocket

from ..target import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


async def _echo(request: Any) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_websocket, _echo, HOST, 0, ssl_context=mode.server_context)
        )
        started(server.port)


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    async with open_websocket_url(target.url, ssl_context=target.mode.client_context) as ws:
        yield ws.send_message, ws.get_message

"""websockets on asyncio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect as open_connection
from websockets.asyncio.server import serve as open_server

from ..target import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


def _compression(mode: Mode) -> str | None:
    return "deflate" if mode.compression else None


async def _echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    server = await open_server(
        _echo, HOST, 0, ssl=mode.server_context, compression=_compression(mode)
    )
    started(next(iter(server.sockets)).getsockname()[1])
    await server.serve_forever()


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    mode = target.mode
    async with open_connection(
        target.url, ssl=mode.client_context, compression=_compression(mode), proxy=None
    ) as ws:
        yield ws.send, ws.recv

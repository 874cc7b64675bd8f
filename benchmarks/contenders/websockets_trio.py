"""websockets on trio."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from websockets.trio.client import connect as open_connection
from websockets.trio.server import serve as open_server

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
    run = partial(
        open_server,
        _echo,
        0,
        host=HOST,
        ssl=mode.server_context,
        compression=_compression(mode),
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(run)
        started(server.listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    mode = target.mode
    async with open_connection(
        target.url, ssl=mode.client_context, compression=_compression(mode), proxy=None
    ) as ws:
        yield ws.send, ws.recv

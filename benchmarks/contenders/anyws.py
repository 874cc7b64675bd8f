"""anyws, on each of its backends; its variants differ by environment alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

import anyws

from ..target import HOST
from .lane import Share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target

_share = Share()
share = _share.report


def _config(mode: Mode) -> anyws.Config:
    return anyws.Config() if mode.compression else anyws.Config(compression=None)


async def _echo(ws: anyws.WebSocket) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        _share.add(ws)


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    async with anyws.open_server(
        _echo, host=HOST, port=0, ssl_context=mode.server_context, config=_config(mode)
    ) as server:
        started(server.port)
        await anyio.sleep_forever()


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    mode = target.mode
    async with anyws.open_websocket(
        target.url, ssl_context=mode.client_context, config=_config(mode)
    ) as ws:
        try:
            yield ws.send, ws.receive
        finally:
            _share.add(ws)

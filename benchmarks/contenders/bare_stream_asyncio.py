"""asyncio's own streams, and messages of a size that is known."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..target import HOST
from ..wire import hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = int.from_bytes(await reader.readexactly(len(hello(0))), "big")
    try:
        while True:
            writer.write(await reader.readexactly(size))
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    server = await asyncio.start_server(_echo, HOST, 0, ssl=mode.server_context)
    started(server.sockets[0].getsockname()[1])
    await server.serve_forever()


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    reader, writer = await asyncio.open_connection(
        HOST, target.port, ssl=target.mode.client_context
    )
    size = target.size

    async def send(message: bytes) -> None:
        writer.write(message)
        await writer.drain()

    async def receive() -> bytes:
        return await reader.readexactly(size)

    await send(hello(size))
    try:
        yield send, receive
    finally:
        writer.close()

"""A bare asyncio Protocol that wakes a task for each message, of a size that is known.

What any library with an awaitable `receive` pays on this loop, whatever it does besides.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..target import HOST
from ..wire import hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


class Connection(asyncio.Protocol):
    def __init__(self, size: int = 0) -> None:
        self._size = size  # 0 until the client has told it
        self._kept = bytearray()
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if len(data) == self._size and not self._kept:
            self._messages.append(data)
        else:
            self._split(data)
        if self._messages:
            self._wake()

    def _split(self, data: bytes) -> None:
        self._kept += data
        if not self._size:
            if len(self._kept) < len(hello(0)):
                return
            self._size = int.from_bytes(self._kept[: len(hello(0))], "big")
            del self._kept[: len(hello(0))]
        size = self._size
        for start in range(0, len(self._kept) - size + 1, size):
            self._messages.append(bytes(memoryview(self._kept)[start : start + size]))
        del self._kept[: len(self._kept) // size * size]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> bytes:
        while not self._messages:
            if self._lost:
                raise EOFError
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._messages.popleft()

    async def send(self, message: bytes) -> None:
        self._transport.write(message)

    async def echo(self) -> None:
        try:
            while True:
                await self.send(await self.receive())
        except EOFError:
            pass

    def close(self) -> None:
        self._transport.close()


class _Served(Connection):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = self._loop.create_task(self.echo())


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Served, HOST, 0, ssl=mode.server_context)
    started(server.sockets[0].getsockname()[1])
    await server.serve_forever()


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(target.size), HOST, target.port, ssl=target.mode.client_context
    )
    await connection.send(hello(target.size))
    try:
        yield connection.send, connection.receive
    finally:
        connection.close()

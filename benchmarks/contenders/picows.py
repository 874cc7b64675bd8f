"""picows with its own interface: callbacks, and no awaitable `receive`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
    ws_create_server,
)

from ..target import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ..target import Job, Mode, Target


class _Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    server = await ws_create_server(lambda _request: _Echo(), HOST, 0, ssl=mode.server_context)
    started(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Client(WSListener):
    def __init__(self) -> None:
        self._depth = self._left = self._repeat = 0
        self._messages: Iterator[bytes] = iter(())
        self._done: asyncio.Future[None] | None = None

    def start(self, transport: WSTransport, job: Job) -> asyncio.Future[None]:
        self._depth, self._repeat = job.workload.depth, job.repeat
        self._messages = job.messages()
        self._done = asyncio.get_running_loop().create_future()
        self._send_window(transport)
        return self._done

    def _send_window(self, transport: WSTransport) -> None:
        self._left = self._depth
        for _ in range(self._depth):
            transport.send(WSMsgType.BINARY, next(self._messages))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        frame.get_payload_as_bytes()
        self._left -= 1
        if self._left:
            return
        self._repeat -= 1
        if self._repeat:
            self._send_window(transport)
        elif self._done is not None:
            self._done.set_result(None)


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    transport, listener = await ws_connect(
        _Client, target.url, ssl_context=target.mode.client_context
    )
    try:
        yield transport, listener
    finally:
        transport.send_close(WSCloseCode.OK)
        await transport.wait_disconnected()


async def exchange(connection: Any, job: Job) -> None:
    transport, listener = connection
    await listener.start(transport, job)

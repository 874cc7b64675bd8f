"""A bare trio stream, and messages of a size that is known."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ..target import HOST
from ..wire import hello

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ..target import Mode, Target


class _Messages:
    def __init__(self, stream: trio.abc.Stream, size: int) -> None:
        self._stream = stream
        self.size = size
        self._kept = bytearray()

    async def receive(self) -> bytes:
        kept, size = self._kept, self.size
        while len(kept) < size:
            data = await self._stream.receive_some(65536)
            if not data:
                raise EOFError
            if len(data) == size and not kept:
                return bytes(data)
            kept += data
        message = bytes(memoryview(kept)[:size])
        del kept[:size]
        return message


async def _echo(stream: trio.abc.Stream) -> None:
    async with stream:
        messages = _Messages(stream, len(hello(0)))
        messages.size = int.from_bytes(await messages.receive(), "big")
        try:
            while True:
                await stream.send_all(await messages.receive())
        except EOFError:
            pass


async def serve(mode: Mode, started: Callable[[int], None]) -> None:
    async def report(
        *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        context = mode.server_context
        if context is None:
            run = partial(trio.serve_tcp, _echo, 0, host=HOST)
        else:
            run = partial(
                trio.serve_ssl_over_tcp, _echo, 0, context, host=HOST, https_compatible=True
            )
        await run(task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(report)
        listener = listeners[0]
        listener = getattr(listener, "transport_listener", listener)
        started(listener.socket.getsockname()[1])


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Any]:
    stream: trio.abc.Stream
    if target.mode.client_context is None:
        stream = await trio.open_tcp_stream(HOST, target.port)
    else:
        stream = await trio.open_ssl_over_tcp_stream(
            HOST, target.port, ssl_context=target.mode.client_context, https_compatible=True
        )
    async with stream:
        await stream.send_all(hello(target.size))
        yield stream.send_all, _Messages(stream, target.size).receive

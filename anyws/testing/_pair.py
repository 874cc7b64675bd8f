"""Both ends of a connection, in one block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint

from .._accept import wrap_server_stream
from .._client import wrap_client_stream
from .._connection import leave_task_group
from .._errors import WebSocketError
from .._transports.errors import STREAM_ERRORS
from ._streams import memory_stream_pair

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio.abc import ByteStream, TaskGroup

    from .._config import Config
    from .._websocket import WebSocket

__all__ = ["open_websocket_pair"]


def open_websocket_pair(
    *,
    subprotocols: Sequence[str] = (),
    client_config: Config | None = None,
    server_config: Config | None = None,
    streams: tuple[ByteStream, ByteStream] | None = None,
) -> AbstractAsyncContextManager[tuple[WebSocket, WebSocket]]:
    """Open a connection in memory; the ``async with`` block gets the client's end and the server's.

    ::

        async with open_websocket_pair() as (client, server):
            await client.send("hello")
            assert await server.receive() == "hello"

    Leaving the block closes the client's end as `open_websocket` does, and then the server's.
    What the body raises leaves the block as it is.

    :param subprotocols: offered by the client, and all known to the server
    :param client_config: limits, timeouts and compression of the client
    :param server_config: those of the server
    :param streams: what lies below, the client's stream first; default: a `memory_stream_pair`,
        which is to be made by hand where it is to misbehave
    """
    return _Pair(subprotocols, client_config, server_config, streams)


class _Pair:
    """The server's end lives in a task of its own, as it does in a server."""

    def __init__(
        self,
        subprotocols: Sequence[str],
        client_config: Config | None,
        server_config: Config | None,
        streams: tuple[ByteStream, ByteStream] | None,
    ) -> None:
        near, far = streams or memory_stream_pair()
        self._client = wrap_client_stream(
            near, "ws://memory.test/", subprotocols=subprotocols, config=client_config
        )
        self._server = wrap_server_stream(far, subprotocols=subprotocols, config=server_config)
        self._task_group: TaskGroup
        self._websockets: list[WebSocket] = []  # the server's, once it is open
        self._released = Event()
        self._opened = Event()
        self._finished = Event()
        self._failure: Exception | None = None

    async def _serve(self) -> None:
        try:
            async with self._server as ws:
                self._websockets.append(ws)
                self._opened.set()
                await self._released.wait()
        except (WebSocketError, *STREAM_ERRORS) as error:
            self._failure = error
        finally:
            self._opened.set()
            self._finished.set()

    async def __aenter__(self) -> tuple[WebSocket, WebSocket]:
        self._task_group = create_task_group()
        await self._task_group.__aenter__()
        self._task_group.start_soon(self._serve, name="anyws server's end of a pair")
        try:
            client = await self._client.__aenter__()
        except BaseException as error:
            self._task_group.cancel_scope.cancel()
            await leave_task_group(self._task_group, self._finished, error)
            raise
        try:
            await self._opened.wait()
            if self._failure is not None:
                raise self._failure
            if not self._websockets:
                # Its task was cancelled, most often together with this one, which is told here.
                await checkpoint()
                raise RuntimeError("the task of the server's end was cancelled")
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return client, self._websockets[0]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._client.__aexit__(exc_type, exc, traceback)
        finally:
            self._websockets.clear()
            self._released.set()
            await leave_task_group(self._task_group, self._finished, exc)

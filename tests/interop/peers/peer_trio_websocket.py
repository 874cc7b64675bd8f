"""The peer `trio-websocket`."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio
import trio_websocket

from anyws import Close

from .base import HOST, LOST, Peer, PeerClosed, PeerConnection, Refusal, Setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class TrioWebsocket(Peer):
    name: ClassVar[str] = "trio-websocket"
    backend: ClassVar[str] = "trio"
    impossible: ClassVar[dict[tuple[str, str], str]] = {
        ("", "they send fragments"): "it sends every message in one frame",
    }
    no_compression: ClassVar[str] = "it has no compression"

    @asynccontextmanager
    async def connect(self, setup: Setup, port: int) -> AsyncIterator[PeerConnection]:
        async with trio_websocket.open_websocket_url(
            setup.url(port),
            setup.client_ssl,
            subprotocols=setup.offered,
            max_message_size=setup.max_size,
        ) as ws:
            yield _Connection(ws)
        # Where the server closed, the client leaves its end of TCP to the garbage collection,
        # which warns of it.
        await trio.aclose_forcefully(ws._stream)

    @asynccontextmanager
    async def listen(
        self, setup: Setup, handler: Callable[[PeerConnection], Awaitable[None]]
    ) -> AsyncIterator[int]:
        async def handle(request: trio_websocket.WebSocketRequest) -> None:
            if (refusal := setup.refusal) is not None:
                headers = [(k.lower().encode(), v.encode()) for k, v in refusal.headers.items()]
                body = (refusal.body or "").encode()
                await request.reject(refusal.status, extra_headers=headers, body=body)
                return
            # The choice is the program's.
            offered = request.proposed_subprotocols
            chosen = next((name for name in offered if name in setup.known), None)
            await handler(_Connection(await request.accept(subprotocol=chosen)))

        async with trio.open_nursery() as nursery:
            serve = partial(
                trio_websocket.serve_websocket,
                handle,
                HOST,
                0,
                setup.server_ssl,
                max_message_size=setup.max_size,
            )
            server: Any = await nursery.start(serve)
            yield server.port
            nursery.cancel_scope.cancel()

    async def be_refused(self, setup: Setup, port: int) -> Refusal:
        # Not by `connect`: who is refused there never gets the stream, which is not closed either.
        stream: Any = await trio.open_tcp_stream(HOST, port)
        if setup.client_ssl is not None:
            stream = trio.SSLStream(
                stream, setup.client_ssl, server_hostname=HOST, https_compatible=True
            )
        try:
            async with trio.open_nursery() as nursery:
                await trio_websocket.wrap_client_stream(nursery, stream, HOST, "/")
                raise AssertionError("it was let in")
        except* trio_websocket.ConnectionRejected as group:
            error: Any = group.exceptions[0]
        finally:
            await trio.aclose_forcefully(stream)
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Refusal(error.status_code, headers, (error.body or b"").decode())


class _Connection(PeerConnection):
    compressed = False

    def __init__(self, ws: trio_websocket.WebSocketConnection) -> None:
        self._ws = ws

    @property
    def subprotocol(self) -> str | None:
        return self._ws.subprotocol

    async def send(self, message: str | bytes) -> None:
        await self._ws.send_message(message)

    async def receive(self) -> str | bytes:
        try:
            return await self._ws.get_message()
        except trio_websocket.ConnectionClosed as error:
            raise PeerClosed(_close(error.reason)) from error

    async def ping(self, payload: bytes) -> None:
        await self._ws.ping(payload)

    async def close(self, code: int, reason: str) -> Close:
        await self._ws.aclose(code, reason)
        return _close(self._ws.closed)

    def drop(self) -> None:
        # There is no public way to what is below.
        stream: Any = self._ws._stream
        stream = getattr(stream, "transport_stream", stream)
        stream.socket.shutdown(socket.SHUT_RDWR)


def _close(reason: trio_websocket.CloseReason | None) -> Close:
    return LOST if reason is None else Close(reason.code, reason.reason or "")

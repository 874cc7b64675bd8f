"""The peer `websockets`, its asyncio face."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.typing import Subprotocol

from anyws import Close

from .base import HOST, LOST, Peer, PeerClosed, PeerConnection, Refusal, Setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from websockets.asyncio.connection import Connection


class Websockets(Peer):
    name: ClassVar[str] = "websockets"
    backend: ClassVar[str] = "asyncio"

    @asynccontextmanager
    async def connect(self, setup: Setup, port: int) -> AsyncIterator[PeerConnection]:
        # No proxy: what the environment names does not lead to this machine.
        offered = [Subprotocol(name) for name in setup.offered]
        async with connect(
            setup.url(port),
            ssl=setup.client_ssl,
            subprotocols=offered or None,
            max_size=setup.max_size,
            proxy=None,
        ) as ws:
            yield _Connection(ws)

    @asynccontextmanager
    async def listen(
        self, setup: Setup, handler: Callable[[PeerConnection], Awaitable[None]]
    ) -> AsyncIterator[int]:
        async def handle(ws: Any) -> None:
            await handler(_Connection(ws))

        def refuse(ws: Any, _request: Any) -> Any:
            if setup.refusal is None:
                return None
            response = ws.respond(setup.refusal.status, setup.refusal.body)
            response.headers.update(setup.refusal.headers)
            return response

        async with serve(
            handle,
            HOST,
            0,
            ssl=setup.server_ssl,
            subprotocols=[Subprotocol(name) for name in setup.known] or None,
            process_request=refuse,
            max_size=setup.max_size,
        ) as server:
            yield server.sockets[0].getsockname()[1]

    async def be_refused(self, setup: Setup, port: int) -> Refusal:
        try:
            async with self.connect(setup, port):
                raise AssertionError("it was let in")
        except InvalidStatus as error:
            response = error.response
            return Refusal(
                response.status_code,
                dict(response.headers.raw_items()),
                bytes(response.body).decode(),
            )


class _Connection(PeerConnection):
    def __init__(self, ws: Connection) -> None:
        self._ws = ws

    @property
    def subprotocol(self) -> str | None:
        return self._ws.subprotocol

    @property
    def compressed(self) -> bool:
        extensions = self._ws.protocol.extensions
        for extension in extensions:
            assert isinstance(extension, PerMessageDeflate)
            assert not extension.local_no_context_takeover
            assert not extension.remote_no_context_takeover
        return bool(extensions)

    async def send(self, message: str | bytes) -> None:
        await self._ws.send(message)

    async def receive(self) -> str | bytes:
        try:
            return await self._ws.recv()
        except ConnectionClosed as error:
            if error.rcvd is None:
                raise PeerClosed(LOST) from error
            raise PeerClosed(Close(error.rcvd.code, error.rcvd.reason)) from error

    async def send_fragments(self, fragments: Sequence[str] | Sequence[bytes]) -> None:
        await self._ws.send(fragments)

    async def ping(self, payload: bytes) -> None:
        await (await self._ws.ping(payload))

    async def close(self, code: int, reason: str) -> Close:
        await self._ws.close(code, reason)
        return Close(self._ws.close_code or LOST.code, self._ws.close_reason or "")

    def drop(self) -> None:
        self._ws.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

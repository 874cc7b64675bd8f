"""The peer `aiohttp`, client and server."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError, web

from anyws import Close

from .base import HOST, LOST, Peer, PeerClosed, PeerConnection, Refusal, Setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import ClientWebSocketResponse

# What its client takes for "compress": the bits of the window.
_WINDOW_BITS = 15


class Aiohttp(Peer):
    name: ClassVar[str] = "aiohttp"
    backend: ClassVar[str] = "asyncio"
    impossible: ClassVar[dict[tuple[str, str], str]] = {
        ("", "they send fragments"): "it sends every message in one frame",
        ("client", "they see the body"): "its exception has status and headers",
    }

    @asynccontextmanager
    async def connect(self, setup: Setup, port: int) -> AsyncIterator[PeerConnection]:
        async with (
            ClientSession() as session,
            session.ws_connect(
                setup.url(port),
                ssl=setup.client_ssl or True,
                protocols=setup.offered,
                compress=_WINDOW_BITS if setup.compression else 0,
                autoping=not setup.manual_pongs,
                max_msg_size=setup.max_size,
            ) as ws,
        ):
            yield _Connection(ws, ws.protocol, takeover=not ws.client_notakeover)

    @asynccontextmanager
    async def listen(
        self, setup: Setup, handler: Callable[[PeerConnection], Awaitable[None]]
    ) -> AsyncIterator[int]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if (refusal := setup.refusal) is not None:
                return web.Response(
                    status=refusal.status, headers=refusal.headers, text=refusal.body
                )
            ws = web.WebSocketResponse(
                protocols=setup.known,
                compress=True,
                autoping=not setup.manual_pongs,
                max_msg_size=setup.max_size,
            )
            await ws.prepare(request)
            answer = ws.headers.get("Sec-WebSocket-Extensions", "")
            takeover = "no_context_takeover" not in answer
            await handler(_Connection(ws, ws.ws_protocol, takeover=takeover))
            return ws

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0, ssl_context=setup.server_ssl).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def be_refused(self, setup: Setup, port: int) -> Refusal:
        try:
            async with self.connect(setup, port):
                raise AssertionError("it was let in")
        except WSServerHandshakeError as error:
            return Refusal(error.status, dict(error.headers or {}))

    def answer_to(self, close: Close) -> Close:
        return Close(1000)


class _Connection(PeerConnection):
    def __init__(
        self,
        ws: ClientWebSocketResponse | web.WebSocketResponse,
        subprotocol: str | None,
        *,
        takeover: bool,
    ) -> None:
        self._ws = ws
        self._subprotocol = subprotocol
        self._takeover = takeover

    @property
    def subprotocol(self) -> str | None:
        return self._subprotocol

    @property
    def compressed(self) -> bool:
        return bool(self._ws.compress) and self._takeover

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def receive(self) -> str | bytes:
        message: Any = await self._ws.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        if message.type is WSMsgType.CLOSE:
            raise PeerClosed(Close(message.data, message.extra or ""))
        raise PeerClosed(LOST)

    async def ping(self, payload: bytes) -> None:
        await self._ws.ping(payload)
        message = await self._ws.receive()
        assert message.type is WSMsgType.PONG
        assert message.data == payload

    async def close(self, code: int, reason: str) -> Close:
        await self._ws.close(code=code, message=reason.encode())
        return Close(self._ws.close_code or LOST.code)

    def drop(self) -> None:
        self._ws.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

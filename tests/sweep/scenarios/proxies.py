"""Through proxies, and from server to server: every step of it struck."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener
from connections import client_tls, server_tls
from proxying import FakeProxy, leave, saying
from world import QUICK, STREAM_ERRORS, TCP, TLS, Violation, World, check

import anyws
from anyws import Proxy, WebSocket

from ._registry import scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_FOLLOW = replace(QUICK, max_redirects=3)


@asynccontextmanager
async def _proxied(proxy: FakeProxy, *, secure: bool = False) -> AsyncIterator[Proxy]:
    """Run a proxy beside the scenario, and give it as a client asks for it."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    proxy.port = multi.extra(SocketAttribute.local_port)
    listener: Any = multi.listeners[0]
    if secure:
        listener = TLSListener(listener, server_tls(), standard_compatible=False)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, proxy.serve_one)
        user = "me:secret" if proxy._credentials else ""
        url = proxy.url(user)
        if secure:
            url = url.replace("http://", "https://").replace("socks5://", "socks5+tls://")
        yield Proxy(url, ssl_context=client_tls() if secure else None)
        await _done_with_all(proxy)
        tg.cancel_scope.cancel()


async def _accepted_all(port: int) -> None:
    """Wait until who has connected to a listener of AnyIO's was accepted.

    Cancelled within its `accept` on asyncio, it leaves a socket to the garbage collection.
    """
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send_eof()
            while True:
                await stream.receive()
    except (anyio.EndOfStream, *STREAM_ERRORS):
        pass


async def _done_with_all(proxy: FakeProxy) -> None:
    await _accepted_all(proxy.port)
    with anyio.fail_after(5):
        while proxy.active:
            await anyio.sleep(0.001)


async def _through(world: World, proxy: FakeProxy, *, secure: bool = False) -> None:
    """Connect through a proxy, talk, and leave."""
    listener, _, context = await world.listener()
    port = listener.extra(SocketAttribute.local_port)
    is_tls = world.setting.kind == TLS
    at_server: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        at_server.append(ws)
        await ws.wait_closed()

    server = anyws.open_server(handler, listeners=[listener], ssl_context=context, config=QUICK)
    async with server as running, _proxied(proxy, secure=secure) as through:

        async def operation() -> None:
            async with anyws.open_websocket(
                f"{'wss' if is_tls else 'ws'}://localhost:{port}/",
                ssl_context=client_tls() if is_tls else None,
                proxy=through,
                config=QUICK,
            ) as ws:
                await ws.ping()

        await world.attack(operation)
        with anyio.fail_after(5):
            while running.connections:
                await anyio.sleep(0.001)
        check(all(ws.status is anyws.Status.CLOSED for ws in at_server), "open at the server")
    check(b"secret" not in proxy.carried, "the proxy's secret went to the server")


@scenario(kinds=(TCP, TLS))
async def connect_through_a_proxy_of_http(world: World) -> None:
    await _through(world, FakeProxy("http", credentials=("me", "secret")))


@scenario(kinds=(TCP, TLS))
async def connect_through_a_proxy_of_socks(world: World) -> None:
    await _through(world, FakeProxy("socks5", credentials=("me", "secret")))


@scenario(kinds=(TCP, TLS))
async def connect_through_a_proxy_with_tls(world: World) -> None:
    await _through(world, FakeProxy("http"), secure=True)


async def _fail(world: World, proxy: FakeProxy, *, secure: bool = False) -> None:
    async with _proxied(proxy, secure=secure) as through:

        async def operation() -> None:
            try:
                async with anyws.open_websocket("ws://a.test/", proxy=through, config=QUICK):
                    raise Violation("the proxy said no, and it is open")
            except anyws.ProxyError:
                pass

        await world.attack(operation)


@scenario(kinds=(TCP,))
async def a_proxy_that_refuses(world: World) -> None:
    await _fail(world, FakeProxy(behave=saying(b"HTTP/1.1 502 x\r\n\r\n")))


@scenario(kinds=(TCP,))
async def a_proxy_that_leaves(world: World) -> None:
    await _fail(world, FakeProxy("socks5h", behave=leave))


@scenario(kinds=(TCP,))
async def a_proxy_that_leaves_during_tls(world: World) -> None:
    """It has none, and goes at the first words of it."""
    proxy = FakeProxy(behave=leave)
    async with _proxied(proxy) as through:

        async def operation() -> None:
            try:
                url = through.safe.replace("http", "https")
                async with anyws.open_websocket("ws://a.test/", proxy=url, config=QUICK):
                    raise Violation("no TLS, and open")
            except anyws.ProxyError:
                pass

        await world.attack(operation)


@scenario(kinds=(TCP,))
async def a_server_that_leaves_during_tls_behind_a_proxy(world: World) -> None:
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = multi.extra(SocketAttribute.local_port)

    async def go(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await anyio.sleep(0)

    proxy = FakeProxy()
    async with multi, anyio.create_task_group() as tg, _proxied(proxy) as through:
        tg.start_soon(multi.serve, go)

        async def operation() -> None:
            try:
                async with anyws.open_websocket(
                    f"wss://localhost:{port}/",
                    ssl_context=client_tls(),
                    proxy=through,
                    config=QUICK,
                ):
                    raise Violation("no TLS, and open")
            except OSError:
                pass

        await world.attack(operation)
        await _done_with_all(proxy)
        await _accepted_all(port)
        tg.cancel_scope.cancel()


@scenario(kinds=(TCP, TLS))
async def follow_redirects(world: World) -> None:
    """Two of them, and leaving again."""
    listener, _, context = await world.listener()
    port = listener.extra(SocketAttribute.local_port)
    is_tls = world.setting.kind == TLS
    at_server: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        at_server.append(ws)
        await ws.wait_closed()

    def judge(request: anyws.Request) -> anyws.Reject | None:
        place = {"/a": "/b", "/b": "c"}.get(request.path)
        return None if place is None else anyws.Reject(302, headers={"Location": place})

    async def operation() -> None:
        async with anyws.open_websocket(
            f"{'wss' if is_tls else 'ws'}://localhost:{port}/a",
            ssl_context=client_tls() if is_tls else None,
            config=_FOLLOW,
        ) as ws:
            check(len(ws.response.redirects) == 2, "it came another way")
            await ws.ping()

    server = anyws.open_server(
        handler, listeners=[listener], ssl_context=context, on_request=judge, config=QUICK
    )
    async with server as running:
        await world.attack(operation)
        with anyio.fail_after(5):
            while running.connections:
                await anyio.sleep(0.001)
        check(all(ws.status is anyws.Status.CLOSED for ws in at_server), "open at the server")

"""The opening handshake, and what keeps it from its end."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from connections import client_tls
from streams import URL
from world import (
    CANCEL,
    NATIVE,
    QUICK,
    SLACK,
    STREAM_ERRORS,
    TCP,
    TLS,
    Peer,
    Violation,
    World,
    check,
    is_closed,
)

import anyws
from anyws import WebSocket
from anyws._transports import sockets
from anyws._transports.sockets import connect_to_first

from ._registry import BOTH, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator


@scenario(kinds=(TCP, TLS))
async def connect(world: World) -> None:
    """Name resolution, connecting, TLS, the handshake, and leaving again."""
    listener, _, context = await world.listener()
    at_server: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        at_server.append(ws)
        await ws.wait_closed()

    async def operation() -> None:
        async with _open_to(world, listener) as ws:
            await ws.ping()

    server = anyws.open_server(handler, listeners=[listener], ssl_context=context, config=QUICK)
    async with server as running:
        await world.attack(operation)
        with anyio.fail_after(5):
            while running.connections:
                await anyio.sleep(0.001)
        check(all(ws.status is anyws.Status.CLOSED for ws in at_server), "open at the server")


@scenario(kinds=(TCP,))
async def connect_to_the_address_that_answers(world: World) -> None:
    """Of three: nobody listens at the first, and the third is not needed."""
    listener, _, _ = await world.listener()
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    addresses = [(socket.AF_INET, (f"127.0.0.{n}", port)) for n in (2, 1, 3)]

    async def operation() -> None:
        sock = await connect_to_first(addresses, "the place")
        with sock:
            check(sock.getpeername() == ("127.0.0.1", port), "connected to another")

    await world.attack(operation)
    await listener.aclose()


@contextmanager
def _plain_transports() -> Iterator[None]:
    native, sockets.NATIVE = sockets.NATIVE, False
    try:
        yield
    finally:
        sockets.NATIVE = native


@scenario(kinds=(TCP, TLS))
async def connect_with_plain_transports(world: World) -> None:
    with _plain_transports():
        await connect(world)


@scenario(kinds=(TCP,))
async def a_client_that_leaves_in_the_handshake_with_plain_transports(world: World) -> None:
    """Server and client are struck together."""
    listener, connect, _ = await world.listener()

    async def handler(_: WebSocket) -> None:
        raise Violation("half a request, and open")

    async def operation() -> None:
        async with anyws.open_server(handler, listeners=[listener], config=QUICK) as server:
            async with await connect() as stream:
                await stream.send(b"GET / HTTP/1.1\r\n")
            with anyio.fail_after(5):
                while not server.totals.refused:
                    await anyio.lowlevel.checkpoint()

    with _plain_transports():
        # A grace for the server, and one for its handshakes.
        await world.attack(operation, within=2 * (QUICK.cancel_grace + SLACK))
    await listener.aclose()


def _open_to(world: World, listener: Any, **options: Any) -> Any:
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    scheme = "wss" if world.setting.kind == TLS else "ws"
    return anyws.open_websocket(
        f"{scheme}://localhost:{port}/",
        ssl_context=client_tls() if world.setting.kind == TLS else None,
        config=QUICK,
        **options,
    )


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def connect_and_hand_over_to_a_task_group(world: World) -> None:
    listener, _, _ = await world.listener()

    async def handler(ws: WebSocket) -> None:
        async for _ in ws:
            pass

    async def operation() -> None:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tg:
            ws = await anyws.connect_websocket(tg, f"ws://127.0.0.1:{port}/", config=QUICK)
            await ws.send("x")
            await ws.close()

    async with anyws.open_server(handler, listeners=[listener], config=QUICK):
        await world.attack(operation)


@scenario(*BOTH)
async def open_and_leave(world: World) -> None:
    async with world.prepared() as (opening, peer):

        async def operation() -> None:
            async with opening as ws:
                check(ws.is_open, "not open")

        await world.attack(operation)
    if world.outcome == "finished":
        check(peer.close is not None, "left, and no Close")
        check(peer.close.code == 1000, "left with another code")
    elif peer.close is not None:
        check(peer.close.code in {1000, 1001}, f"cancelled with {peer.close.code}")


@scenario(kinds=(NATIVE,))
async def a_head_that_is_not_taken_at_once(world: World) -> None:
    """What carries the handshake waits until the system has taken what is sent."""
    near, far = await world.pair()

    async def take() -> None:
        await anyio.sleep(0.03)
        try:
            while True:
                await far.receive()
        except (anyio.EndOfStream, *STREAM_ERRORS):
            await anyio.aclose_forcefully(far)

    async def operation() -> None:
        await near.send(bytes(8_000_000))

    async with anyio.create_task_group() as tg:
        tg.start_soon(take)
        await world.attack(operation)
        await anyio.aclose_forcefully(near)


@scenario("client", "server")
async def refused_handshake(world: World) -> None:
    if world.setting.role == "client":
        body = b"members only" * 100
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        async with world.prepared(response=head + body) as (opening, _):

            async def operation() -> None:
                try:
                    async with opening:
                        raise Violation("refused, and open")
                except anyws.HandshakeRejected as error:
                    check(error.response.body == body, "the body is not that which was sent")

            await world.attack(operation)
        return

    async def refuse(request: anyws.Request) -> anyws.Reject:
        await anyio.sleep(0)
        return anyws.Reject(403, f"not {request.path}")

    near, far = await world.pair()
    peer = Peer(far, is_server=False)

    async def accept() -> None:
        try:
            async with anyws.wrap_server_stream(near, on_request=refuse, config=QUICK):
                raise Violation("refused, and open")
        except anyws.HandshakeRejected:
            pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.run)
        # The refusal is finished, and the peer given a second to read it.
        await world.attack(accept, within=1 + SLACK)
        check(is_closed(near), "our stream was left open")
    check(not peer.response or b"403" in peer.response, "refused otherwise")
    check(world.struck or b"not /" in peer.response, "refused, and not told")


@scenario("client", "server")
async def silent_handshake(world: World) -> None:
    near, far = await world.pair()
    peer = Peer(far, is_server=world.setting.role == "client")
    config = replace(QUICK, handshake_timeout=0.3)

    async def operation() -> None:
        try:
            if world.setting.role == "client":
                opening = anyws.wrap_client_stream(near, URL, config=config)
            else:
                opening = anyws.wrap_server_stream(near, config=config)
            async with opening:
                raise Violation("nobody answered, and it is open")
        except anyws.HandshakeTimeout:
            pass

    async with anyio.create_task_group() as tg:
        if world.setting.role == "client":
            tg.start_soon(lambda: peer.run(silent=True))
        await world.attack(operation)
        check(is_closed(near), "our stream was left open")
        await anyio.aclose_forcefully(far)


@scenario("server")
async def a_request_that_is_none(world: World) -> None:
    """It breaks the rules, and `on_request` is asked whether it has another answer."""

    async def answer(request: anyws.Request) -> anyws.Response | None:
        await anyio.sleep(0)
        return anyws.Response(200, body=b"alive") if request.path == "/health" else None

    near, far = await world.pair()
    received = bytearray()

    async def ask() -> None:
        try:
            await far.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            while True:
                received.extend(await far.receive())
        except (anyio.EndOfStream, *STREAM_ERRORS):
            pass
        finally:
            await anyio.aclose_forcefully(far)

    async def accept() -> None:
        try:
            async with anyws.wrap_server_stream(near, on_request=answer, config=QUICK):
                raise Violation("no WebSocket's request, and open")
        except anyws.HandshakeRejected as error:
            check(error.response.status == 200, f"answered {error.response}")

    async with anyio.create_task_group() as tg:
        tg.start_soon(ask)
        await world.attack(accept, within=1 + SLACK)
        check(is_closed(near), "our stream was left open")
    check(not received or b"alive" in received, f"answered {bytes(received[:40])!r}")
    check(received or world.struck, "not answered")


@scenario(kinds=(TCP,))
async def a_server_that_leaves_during_tls(world: World) -> None:
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = multi.extra(anyio.abc.SocketAttribute.local_port)

    async def operation() -> None:
        try:
            async with anyws.open_websocket(
                f"wss://127.0.0.1:{port}/", ssl_context=client_tls(), config=QUICK
            ):
                raise Violation("no TLS, and open")
        except OSError:
            pass

    async def leave(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await anyio.sleep(0)

    async with multi, anyio.create_task_group() as tg:
        tg.start_soon(multi.serve, leave)
        await world.attack(operation)
        tg.cancel_scope.cancel()

"""Both ends of a real connection, in one test: in memory, over loopback sockets, over TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSStream
from streams import GUARD, URL, client_of_raw, request_bytes, server_of_raw

import anyws
from anyws import Config, WebSocket
from anyws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream

# Answers at once, so that no test waits for a time-out that it does not want.
QUICK = Config(cancel_grace=0.2, close_timeout=2.0, drain_timeout=0.2)

#: what a connection runs over
every_kind = pytest.mark.parametrize("kind", ["memory", "tcp", "tls"])
#: over which bytes are really on their way
every_network = pytest.mark.parametrize("kind", ["tcp", "tls"])
#: a `WebSocket` of either role against a peer made by hand, read by either of its tasks
against_raw = pytest.mark.parametrize(
    "against",
    [
        pytest.param(partial(client_of_raw, inline=False), id="client"),
        pytest.param(partial(client_of_raw, inline=True), id="client-inline"),
        pytest.param(partial(server_of_raw, inline=False), id="server"),
        pytest.param(partial(server_of_raw, inline=True), id="server-inline"),
    ],
)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@cache
def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


@asynccontextmanager
async def connected(
    kind: str = "memory",
    *,
    config: Config | None = QUICK,
    server_config: Config | None = QUICK,
    subprotocols: tuple[str, ...] = (),
    guard: float | None = GUARD,
    **options: Any,
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Give a client's `WebSocket` and the server's; its handler ends when the block does."""
    arrived: list[WebSocket] = []
    has_arrived = anyio.Event()
    released = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        has_arrived.set()
        await released.wait()

    handlers = dict.fromkeys(subprotocols, handler) or handler
    client_options = {"config": config, "subprotocols": subprotocols, **options}
    with anyio.fail_after(guard):
        async with served(kind, handlers, config=server_config) as connect:
            try:
                async with connect(**client_options) as client:
                    await has_arrived.wait()
                    yield client, arrived[0]
            finally:
                arrived.clear()
                released.set()


@asynccontextmanager
async def served(kind: str, handlers: Any, **options: Any) -> AsyncIterator[Any]:
    """Serve, and give a function that connects: it takes what `open_websocket` takes."""
    options.setdefault("config", QUICK)
    if kind == "memory":
        listener = MemoryListener()
        async with anyws.open_server(handlers, listeners=[listener], **options):
            yield lambda **given: anyws.wrap_client_stream(
                listener.connect(), URL, **{"config": QUICK, **given}
            )
    else:
        tls = {"ssl_context": server_tls()} if kind == "tls" else {}
        ours = {"ssl_context": client_tls()} if kind == "tls" else {}
        async with anyws.open_server(
            handlers, host="127.0.0.1", port=0, **tls, **options
        ) as server:
            yield lambda **given: anyws.open_websocket(
                server.url, **{"config": QUICK, **ours, **given}
            )


@asynccontextmanager
async def against_bytes(
    kind: str, config: Config = QUICK, *, receive_buffer: int | None = None
) -> AsyncIterator[tuple[WebSocket, ByteStream]]:
    """Give a server's `WebSocket`, and the client's end of its stream, the handshake being over.

    receive_buffer:
        What the system may keep for the client over a network, in bytes.
    """
    arrived: list[WebSocket] = []
    has_arrived = anyio.Event()
    released = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        has_arrived.set()
        await released.wait()

    with anyio.fail_after(GUARD):
        if kind == "memory":
            listener = MemoryListener()
            serving = anyws.open_server(handler, listeners=[listener], config=config)
        else:
            tls = {"ssl_context": server_tls()} if kind == "tls" else {}
            serving = anyws.open_server(handler, host="127.0.0.1", port=0, config=config, **tls)
        async with serving as server:
            if kind == "memory":
                stream: ByteStream = listener.connect()
            else:
                stream = await _connect(server.port, kind == "tls", receive_buffer)
            try:
                await stream.send(request_bytes())
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await stream.receive(1)
                await has_arrived.wait()
                yield arrived[0], stream
            finally:
                arrived.clear()
                released.set()
                await anyio.aclose_forcefully(stream)


async def _connect(port: int, tls: bool, receive_buffer: int | None) -> ByteStream:
    raw = socket.socket()
    if receive_buffer is not None:
        # Before it is connected: TCP announces its window then.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.connect(("127.0.0.1", port))
    raw.setblocking(False)
    stream = await anyio.abc.SocketStream.from_socket(raw)
    if not tls:
        return stream
    return await TLSStream.wrap(stream, hostname="localhost", ssl_context=client_tls())

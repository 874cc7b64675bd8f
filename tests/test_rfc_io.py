"""What RFC 6455 asks of the layers with I/O: TLS, sockets, and when the first byte is sent."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream
from connections import QUICK, authority, client_tls, served, server_tls
from programs import free_port
from streams import GUARD, URL, pair, request_bytes

import anyws
from anyws._protocol.fields import accept_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TLS_HANDSHAKE = 22
DEFLATE = "permessage-deflate"


@asynccontextmanager
async def listening(
    serve: Callable[[ByteStream], Awaitable[None]],
) -> AsyncIterator[tuple[int, anyio.Event]]:
    """Serve one TCP client by hand; give the port, and an event for when that is over."""
    over = anyio.Event()

    async def serve_one(stream: ByteStream) -> None:
        async with stream:
            await serve(stream)
        over.set()

    with anyio.fail_after(GUARD):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as task_group,
        ):
            task_group.start_soon(listener.serve, serve_one)
            yield listener.extra(SocketAttribute.local_port), over
            task_group.cancel_scope.cancel()


async def read_to_end(stream: ByteStream) -> bytes:
    data = bytearray()
    try:
        async for chunk in stream:
            data += chunk
    except anyio.BrokenResourceError:
        pass
    return bytes(data)


def tls_record_types(data: bytes) -> list[int]:
    """The types of the TLS records that `data` consists of; it may end within one."""
    types = []
    while data:
        assert 20 <= data[0] <= 23, data[:20]
        assert data[1:2] in (b"\x03", b""), data[:20]
        types.append(data[0])
        data = data[5 + int.from_bytes(data[3:5], "big") :]
    return types


# --- The client ---


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_opening_fails_where_nobody_listens(scheme):
    """R-4."""
    port = free_port()
    with (
        anyio.fail_after(GUARD),
        pytest.raises(OSError, match=f"cannot connect to 127.0.0.1 port {port}: "),
    ):
        async with anyws.open_websocket(f"{scheme}://127.0.0.1:{port}/"):
            pytest.fail("there is nobody")


async def test_nothing_but_the_request_is_sent_before_the_response():
    """R-17."""
    near, far = pair()

    async def use() -> None:
        config = anyws.Config(cancel_grace=0, ping_interval=0.001)
        async with anyws.wrap_client_stream(near, URL, config=config) as ws:
            await ws.send("at last")

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            sent = bytes(far.incoming.log)
            assert sent.startswith(b"GET / HTTP/1.1\r\n")
            assert sent.endswith(b"\r\n\r\n")
            assert sent.count(b"\r\n\r\n") == 1
            # Half a response is none.
            await far.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
            await anyio.wait_all_tasks_blocked()
            assert bytes(far.incoming.log) == sent
            task_group.cancel_scope.cancel()
    assert bytes(far.incoming.log) == sent


async def test_tls_is_complete_before_the_request():
    """R-5. The server never answers the first flight of TLS."""
    received = bytearray()
    silence = anyio.Event()

    async def serve(stream: ByteStream) -> None:
        received.extend(await stream.receive())
        await anyio.wait_all_tasks_blocked()
        silence.set()
        received.extend(await read_to_end(stream))

    async with listening(serve) as (port, over):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(open_and_stay, f"wss://127.0.0.1:{port}/")
            await silence.wait()
            task_group.cancel_scope.cancel()
        await over.wait()
    assert set(tls_record_types(received)) == {TLS_HANDSHAKE}


async def test_a_certificate_of_nobody_fails_before_any_byte_of_http():
    """R-5, R-106. Without ssl_context=, certificates are verified."""
    errors: list[Exception] = []

    async def serve(stream: ByteStream) -> None:
        try:
            tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_tls())
            pytest.fail(f"TLS went through, and brought {await tls.receive()!r}")
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            errors.append(error)

    async with listening(serve) as (port, over):
        with pytest.raises(ssl.SSLCertVerificationError):
            async with anyws.open_websocket(f"wss://127.0.0.1:{port}/"):
                pytest.fail("nobody vouches for this server")
        await over.wait()
    assert len(errors) == 1


async def test_a_certificate_for_another_name_fails():
    """R-5, R-106."""
    seen: list[anyws.Request] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("other.test").configure_cert(context)
    async with anyws.open_server(
        refuse, host="127.0.0.1", port=0, ssl_context=context, on_request=seen.append
    ) as server:
        with anyio.fail_after(GUARD), pytest.raises(ssl.SSLCertVerificationError):
            async with anyws.open_websocket(server.url, ssl_context=client_tls()):
                pytest.fail("this is another server")
    assert seen == []


async def refuse(ws: anyws.WebSocket) -> None:
    raise AssertionError("nobody gets this far")


async def test_tls_names_the_host_to_the_server():
    """R-6."""
    names: list[str | None] = []
    context = server_tls()
    context.sni_callback = lambda socket, name, context: names.append(name)
    async with anyws.open_server(
        echo, host="127.0.0.1", port=0, ssl_context=context, config=QUICK
    ) as server:
        with anyio.fail_after(GUARD):
            async with anyws.open_websocket(
                f"wss://localhost:{server.port}/", ssl_context=client_tls()
            ) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
    assert names == ["localhost"]


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- Both ends ---


class Relay:
    """Passes bytes on between a client and a server, and keeps them."""

    def __init__(self, port: int) -> None:
        self.from_client = bytearray()
        self.from_server = bytearray()
        self._port = port

    async def serve(self, client: ByteStream) -> None:
        server = await anyio.connect_tcp("127.0.0.1", self._port)
        async with server, anyio.create_task_group() as task_group:
            task_group.start_soon(self._pass_on, client, server, self.from_client)
            task_group.start_soon(self._pass_on, server, client, self.from_server)

    @staticmethod
    async def _pass_on(source: ByteStream, sink: ByteStream, log: bytearray) -> None:
        try:
            async for chunk in source:
                log += chunk
                await sink.send(chunk)
            await sink.send_eof()
        except anyio.BrokenResourceError:
            pass


async def test_over_tls_everything_goes_through_the_tunnel():
    """R-37, R-82, R-106. From the first byte to the last, and it ends by TLS's own Close."""
    secret = "nobody may read this"
    config = anyws.Config(compression=None)
    async with anyws.open_server(
        echo, host="127.0.0.1", port=0, ssl_context=server_tls(), config=config
    ) as server:
        relay = Relay(server.port)
        async with listening(relay.serve) as (port, over):
            async with anyws.open_websocket(
                f"wss://127.0.0.1:{port}/", ssl_context=client_tls(), config=config
            ) as ws:
                await ws.send(secret)
                assert await ws.receive() == secret
                await ws.ping()
            assert ws.closure is not None
            assert ws.closure.clean
            await over.wait()
    for log in (relay.from_client, relay.from_server):
        types = tls_record_types(log)
        assert types[0] == TLS_HANDSHAKE
        for text in (secret.encode(), b"HTTP/1.1", b"websocket"):
            assert text not in log


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_that_are_secure_work(version):
    """R-106."""
    context = ssl.create_default_context()  # its own: the others' is shared
    authority().configure_trust(context)
    context.minimum_version = context.maximum_version = version
    with anyio.fail_after(GUARD):
        async with served("tls", echo) as connect, connect(ssl_context=context) as ws:
            await ws.send("hello")
            assert await ws.receive() == "hello"
            tls = ws.extra(TLSAttribute.ssl_object)
            assert tls.version() == version.name.replace("_", ".")


async def test_a_handshake_that_is_cancelled_closes_the_socket():
    """R-43. What the server reads is the end of the stream."""
    asked = anyio.Event()

    async def serve(stream: ByteStream) -> None:
        await stream.receive()
        asked.set()
        assert await read_to_end(stream) == b""

    async with listening(serve) as (port, over):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(open_and_stay, f"ws://127.0.0.1:{port}/")
            await asked.wait()
            task_group.cancel_scope.cancel()
        await over.wait()


async def open_and_stay(url: str) -> None:
    async with anyws.open_websocket(url):
        await anyio.sleep_forever()


# --- Extensions that share RSV1 ---


@pytest.mark.parametrize(
    "offer",
    [
        f"x-webkit-deflate-frame, {DEFLATE}",
        f"{DEFLATE}, x-webkit-deflate-frame",
        f"{DEFLATE}, {DEFLATE}; client_max_window_bits",
        f"permessage-bzip2, {DEFLATE}, permessage-snappy",
    ],
)
async def test_a_server_accepts_one_extension_that_uses_rsv1(offer):
    """D-23."""
    near, far = pair()
    await far.send(request_bytes(f"Sec-WebSocket-Extensions: {offer}"))
    with anyio.fail_after(GUARD):
        async with anyws.wrap_server_stream(near, config=QUICK) as ws:
            assert ws.extensions == (DEFLATE,)
            assert ws.response.headers.get_all("Sec-WebSocket-Extensions") == [DEFLATE]
            ws.abort()


@pytest.mark.parametrize(
    "answer", [f"{DEFLATE}, x-webkit-deflate-frame", f"{DEFLATE}, {DEFLATE}", "permessage-bzip2"]
)
async def test_a_client_refuses_a_second_extension_that_uses_rsv1(answer):
    """D-23."""
    near, far = pair()

    async def respond() -> None:
        request = (await far.receive()).decode()
        key = next(
            line[19:] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-K")
        )
        await far.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(key)}\r\n"
            f"Sec-WebSocket-Extensions: {answer}\r\n\r\n".encode()
        )

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(respond)
            with pytest.raises(anyws.HandshakeInvalid):
                async with anyws.wrap_client_stream(near, URL):
                    pytest.fail("this cannot be read")

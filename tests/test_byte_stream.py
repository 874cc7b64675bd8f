"""`WebSocketByteStream`: bytes go through whole and in order, whatever messages they come in."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSStream
from connections import client_tls, connected, every_kind, every_network, server_tls
from streams import BINARY, CLOSE, TEXT, client_of_raw, server_of_raw

import anyws
from anyws import Config, WebSocketAttribute, WebSocketByteStream

both_roles = pytest.mark.parametrize(
    "role", [pytest.param(client_of_raw, id="client"), pytest.param(server_of_raw, id="server")]
)


async def read_all(stream: Any, size: int = 65536) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive(size)
    except anyio.EndOfStream:
        return data


# --- Bytes ---


@every_kind
async def test_bytes_go_through_whole_and_in_order(kind):
    data = os.urandom(1_000_000)
    async with connected(kind) as (client, server):
        near, far = WebSocketByteStream(client), WebSocketByteStream(server)
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await read_all(far))

        async with anyio.create_task_group() as tg:
            tg.start_soon(receive)
            for start in range(0, len(data), 99_991):
                await near.send(data[start : start + 99_991])
            await near.send_eof()
        assert got == [data]


@both_roles
async def test_they_are_sent_in_binary_messages_of_a_bounded_size(role):
    async with role() as (ws, peer):
        await WebSocketByteStream(ws, message_size=1000).send(b"x" * 2500)
        frames = [await peer.next_frame() for _ in range(3)]
    assert [(one.opcode, len(one.payload), one.fin, one.rsv1) for one in frames] == [
        (BINARY, 1000, True, False),
        (BINARY, 1000, True, False),
        (BINARY, 500, True, False),
    ]


@both_roles
async def test_no_bytes_are_no_message(role):
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        await stream.send(b"")
        assert peer.wire == []
        await stream.send(b"x")
        assert [one.payload for one in peer.wire] == [b"x"]


@both_roles
async def test_a_message_is_received_in_pieces_and_one_without_bytes_is_nothing(role):
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        peer.send(BINARY)
        peer.send(BINARY, b"abcdef")
        peer.send(BINARY)
        peer.send(BINARY, b"g")
        assert [await stream.receive(4) for _ in range(3)] == [b"abcd", b"ef", b"g"]


async def test_what_can_be_altered_is_copied():
    async with server_of_raw(capacity=0) as (ws, peer):
        data = bytearray(b"x" * 100)
        async with anyio.create_task_group() as tg:
            tg.start_soon(WebSocketByteStream(ws).send, data)
            await anyio.wait_all_tasks_blocked()
            data[:] = b"y" * 100
            peer.resume()
            assert (await peer.next_frame()).payload == b"x" * 100


@pytest.mark.parametrize("compress", [True, False])
async def test_it_is_compressed_only_if_asked(compress):
    async with connected(config=Config(), server_config=Config()) as (client, server):
        await WebSocketByteStream(client, compress=compress).send(bytes(10_000))
        assert await server.receive() == bytes(10_000)
        used = client._protocol._deflate._compressor is not None
        assert used is compress


async def test_what_is_wrong_is_told_to_the_caller():
    async with connected() as (client, server):
        with pytest.raises(ValueError, match="message_size must be at least 1"):
            WebSocketByteStream(client, message_size=0)
        stream = WebSocketByteStream(client)
        with pytest.raises(ValueError, match="max_bytes must be at least 1"):
            await stream.receive(0)
        with pytest.raises(TypeError, match="must be str, bytes"):
            await stream.send(5)  # type: ignore[arg-type]
        await stream.send(b"fine")
        assert await server.receive() == b"fine"


async def test_two_may_not_do_the_same_at_once():
    async with server_of_raw(Config(close_timeout=0.1), capacity=0) as (ws, _):
        stream = WebSocketByteStream(ws)
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.send, b"x" * 200_000)
            tg.start_soon(stream.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.send(b"y")
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            tg.cancel_scope.cancel()


# --- Cancellation ---


@every_kind
async def test_a_cancelled_receive_loses_no_byte(kind):
    data = os.urandom(300_000)
    async with connected(kind) as (client, server):
        near, far = WebSocketByteStream(client, message_size=777), WebSocketByteStream(server)

        async def send() -> None:
            await near.send(data)
            await near.send_eof()

        got = bytearray()
        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            turns = 0
            try:
                while True:
                    turns = (turns + 1) % 7
                    with anyio.CancelScope() as scope:
                        async with anyio.create_task_group() as both:

                            async def cancel(scope=scope, turns=turns) -> None:
                                for _ in range(turns):
                                    await anyio.lowlevel.checkpoint()
                                scope.cancel()

                            both.start_soon(cancel)
                            piece = await far.receive(100 + turns * 200)
                            got += piece
                            both.cancel_scope.cancel()
            except* anyio.EndOfStream:
                pass
        assert bytes(got) == data


async def test_a_cancelled_send_has_sent_whole_messages():
    async with server_of_raw(capacity=2000) as (ws, peer):
        stream = WebSocketByteStream(ws, message_size=1000)
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.send, bytes(range(250)) * 40)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        peer.resume()
        await stream.send(b"after")
        payloads = []
        while not payloads or payloads[-1] != b"after":
            payloads.append((await peer.next_frame()).payload)
        assert {len(one) for one in payloads[:-1]} == {1000}
        assert len(payloads) < 10


# --- Ends ---


@both_roles
async def test_the_end_of_the_stream_is_a_close_with_1000_or_without_a_code(role):
    for payload in (b"\x03\xe8", b""):
        async with role() as (ws, peer):
            stream = WebSocketByteStream(ws)
            peer.send(BINARY, b"last")
            peer.send(CLOSE, payload)
            assert await stream.receive() == b"last"
            for _ in range(2):
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"x")


@both_roles
async def test_what_cannot_be_sent_any_more_is_no_end_of_what_is_received(role):
    """Whoever copies from another stream to this one would take it for that one's end."""
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        peer.send_close(1000)
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        for data in (b"x", b""):
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await stream.send(data)
            assert not isinstance(caught.value, anyio.EndOfStream)


@both_roles
@pytest.mark.parametrize("code", [1001, 1011, 1013, 4000])
async def test_any_other_close_is_no_end_of_the_stream(role, code):
    """Bytes may be missing: of a peer that was stopped, too."""
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        peer.send(BINARY, b"some")
        peer.send_close(code)
        assert await stream.receive() == b"some"
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert not isinstance(caught.value, anyio.EndOfStream)
        assert str(code) in str(caught.value)


@both_roles
async def test_a_lost_network_is_no_end_of_the_stream(role):
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        peer.end()
        with pytest.raises(anyws.ConnectionBroken):
            await stream.receive()


@both_roles
async def test_a_text_message_is_an_error_of_the_peer_s(role):
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        peer.send(BINARY, b"bytes")
        peer.send(TEXT, b"words")
        assert await stream.receive() == b"bytes"
        for _ in range(2):
            with pytest.raises(anyio.BrokenResourceError, match="the peer sent a text message"):
                await stream.receive()
        close = await peer.next_close()
        assert (close.code, close.reason[:8]) == (1003, "the peer")


async def test_after_the_end_of_its_own_half_it_receives_what_was_on_its_way():
    async with client_of_raw() as (ws, peer):
        stream = WebSocketByteStream(ws)
        await stream.send(b"question")
        await stream.send_eof()
        peer.send(BINARY, b"answer")
        peer.send_close()
        assert await stream.receive() == b"answer"
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"x")


@both_roles
async def test_a_network_that_is_lost_after_the_end_of_its_own_half_is_no_close_of_its_own(role):
    async with role() as (ws, peer):
        stream = WebSocketByteStream(ws)
        await stream.send_eof()
        peer.send(BINARY, b"half an answ")
        peer.end()
        assert await stream.receive() == b"half an answ"
        with pytest.raises(anyio.BrokenResourceError, match="lost"):
            await stream.receive()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


async def test_closed_it_returns_nothing_that_is_left_of_a_message():
    async with connected() as (client, server):
        stream = WebSocketByteStream(client)
        await server.send(b"message")
        assert await stream.receive(3) == b"mes"
        await stream.aclose()
        for call in (stream.receive, lambda: stream.send(b"")):
            with pytest.raises(anyio.ClosedResourceError):
                await call()


async def test_closing_it_closes_the_connection():
    async with connected() as (client, server):
        stream = WebSocketByteStream(client)
        async with stream:
            await stream.send(b"x")
        assert client.closure is not None
        assert client.closure.clean
        assert client.closure.sent.code == 1000
        for call in (stream.receive, lambda: stream.send(b"x")):
            with pytest.raises(anyio.ClosedResourceError):
                await call()
        await stream.aclose()
        assert await read_all(WebSocketByteStream(server)) == b"x"


async def test_closing_it_by_force_does_not_wait():
    async with client_of_raw() as (ws, peer):
        peer.stays = True
        await anyio.aclose_forcefully(WebSocketByteStream(ws))
        assert not ws.is_open


# --- What is built on it ---


@every_network
async def test_its_attributes_are_the_connection_s(kind):
    async with connected(kind, subprotocols=("binary",)) as (client, _):
        stream = WebSocketByteStream(client)
        assert stream.extra(SocketAttribute.remote_port) == client.extra(
            SocketAttribute.remote_port
        )
        assert stream.extra(WebSocketAttribute.subprotocol) == "binary"


async def test_anyio_s_own_wrappers_work_on_it():
    async with connected() as (client, server):
        await WebSocketByteStream(server, message_size=3).send(b"a line\nand another\n")
        lines = BufferedByteReceiveStream(WebSocketByteStream(client))
        assert await lines.receive_until(b"\n", 100) == b"a line"
        assert await lines.receive_exactly(4) == b"and "


@every_kind
async def test_tls_runs_through_it(kind):
    async with connected(kind) as (client, server):
        got: list[bytes] = []

        async def serve() -> None:
            tls = await TLSStream.wrap(
                WebSocketByteStream(server), server_side=True, ssl_context=server_tls()
            )
            got.append(await tls.receive())
            await tls.send(b"and back")

        async with anyio.create_task_group() as tg:
            tg.start_soon(serve)
            tls = await TLSStream.wrap(
                WebSocketByteStream(client), hostname="localhost", ssl_context=client_tls()
            )
            await tls.send(b"there")
            assert await tls.receive() == b"and back"
        assert got == [b"there"]


@every_kind
async def test_a_websocket_runs_through_it(kind):
    async with connected(kind) as (client, server):
        async with anyio.create_task_group() as tg:

            async def serve() -> None:
                async with anyws.wrap_server_stream(WebSocketByteStream(server)) as inner:
                    async for message in inner:
                        await inner.send(message)

            tg.start_soon(serve)
            outer = WebSocketByteStream(client)
            async with anyws.wrap_client_stream(outer, "ws://inner.test/") as inner:
                for size in (0, 10, 100_000):
                    await inner.send("x" * size)
                    assert await inner.receive() == "x" * size
            assert inner.closure is not None
            assert inner.closure.clean

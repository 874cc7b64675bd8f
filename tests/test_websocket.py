"""What a program does with an open connection: sending, receiving, asking it what it is like."""

from __future__ import annotations

import array
import json

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ObjectStream, SocketAttribute
from anyio.streams.tls import TLSAttribute
from connections import against_raw, connected, every_kind
from streams import BINARY, CLOSE, TEXT, RawPeer, client_of_raw, frame, pair, server_of_raw

import anyws
from anyws import Config, Deflate, Role, Status, WebSocketAttribute

pytestmark = pytest.mark.timeout(30)

DEFLATE = ["Sec-WebSocket-Extensions: permessage-deflate"]


# --- Messages ---


@every_kind
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
async def test_messages_arrive_as_they_were_sent(kind: str, size: int) -> None:
    """R-50, R-52, R-63, LW-4."""
    data = bytes(range(256)) * (size // 256 + 1)
    text = "aé€😀" * (size // 10)
    with anyio.fail_after(20):
        async with connected(kind) as (client, server):
            for one, other in [(client, server), (server, client)]:
                await one.send(data[:size])
                assert await other.receive() == data[:size]
                await one.send(text)
                assert await other.receive() == text


@every_kind
async def test_many_messages_keep_their_order(kind: str) -> None:
    """R-58. Both directions at once, more of them than the inbox holds."""
    async with connected(kind) as (client, server):

        async def send_all(ws: anyws.WebSocket) -> None:
            for number in range(200):
                await ws.send(str(number))

        async with anyio.create_task_group() as tg:
            tg.cancel_scope.deadline = anyio.current_time() + 20
            tg.start_soon(send_all, client)
            tg.start_soon(send_all, server)
            for ws in (client, server):
                assert [await ws.receive() for _ in range(200)] == [str(n) for n in range(200)]
        assert not tg.cancel_scope.cancelled_caught


@against_raw
async def test_messages_arrive_however_the_network_cuts_them(against) -> None:
    """Byte by byte, in several fragments, with a code point across the cut. R-53, R-61, R-68."""
    async with against() as (ws, peer):
        peer.other.incoming.chunk_size = 1
        peer.send(TEXT, "h€".encode()[:2], fin=False)
        peer.send(0, b"", fin=False)
        peer.send(0, "h€".encode()[2:])
        peer.send(BINARY, b"\xff\x00")
        assert await ws.receive() == "h€"
        assert await ws.receive() == b"\xff\x00"


@against_raw
async def test_only_the_client_masks_what_it_sends(against) -> None:
    """R-44, R-46."""
    async with against() as (ws, peer):
        await ws.send("")
        await ws.send(b"x")
        frames = [await peer.next_frame(), await peer.next_frame()]
        assert [(f.opcode, f.payload, f.fin) for f in frames] == [
            (TEXT, b"", True),
            (BINARY, b"x", True),
        ]
        assert {f.masked for f in frames} == {ws.role is Role.CLIENT}


async def test_typed_receives_return_messages_of_their_type() -> None:
    async with connected() as (client, server):
        await client.send_text("text")
        await client.send_bytes(b"bytes")
        await client.send_text("bytes as text €".encode())
        await client.send_bytes("text as bytes €")
        assert await server.receive_text() == "text"
        assert await server.receive_bytes() == b"bytes"
        assert await server.receive_text() == "bytes as text €"
        assert await server.receive_bytes() == "text as bytes €".encode()


@against_raw
@pytest.mark.parametrize("expected", ["text", "bytes"])
async def test_a_message_of_the_other_type_is_consumed_and_closes_with_1003(
    against, expected: str
) -> None:
    async with against() as (ws, peer):
        peer.send(BINARY if expected == "text" else TEXT, b"x")
        peer.send(TEXT, b"never delivered")
        receive = ws.receive_text if expected == "text" else ws.receive_bytes
        with pytest.raises(anyws.ClosedByUs) as caught:
            await receive()
        assert caught.value.closure.sent.code == 1003
        assert "expected" in caught.value.closure.sent.reason
        assert (await peer.next_close()).code == 1003
        peer.send_close(1003)
        peer.end()
        with anyio.fail_after(5), pytest.raises(anyws.ClosedByUs):
            await ws.receive()


@against_raw
@pytest.mark.parametrize("expected", ["text", "bytes"])
@pytest.mark.parametrize(
    ("end", "error"),
    [
        (1000, anyws.ClosedByPeer),
        (4000, anyws.ClosedWithError),
        (None, anyws.ConnectionBroken),
        ("send_eof", anyws.ClosedByUs),
    ],
)
async def test_a_message_of_the_other_type_on_a_connection_that_is_over_says_how_that_ended(
    against, expected: str, end: object, error: type[Exception]
) -> None:
    async with against() as (ws, peer):
        peer.send(BINARY if expected == "text" else TEXT, b"x")
        peer.send(TEXT, b"behind it")
        if end == "send_eof":
            await ws.send_eof()
            end = 1000
        if end is not None:
            peer.send_close(end)
        peer.end()
        with anyio.fail_after(5):
            await ws.wait_closed()
        with pytest.raises(error):
            await (ws.receive_text if expected == "text" else ws.receive_bytes)()
        if error is not anyws.ClosedByUs:
            assert await ws.receive() == "behind it"
            with pytest.raises(error):
                await ws.receive()
        # Ours, or the answer to theirs.
        sent = ws.closure.sent
        assert (sent and sent.code) == end


# --- JSON ---


@pytest.mark.parametrize("binary", [False, True])
async def test_json_goes_there_and_back(binary: bool) -> None:
    value = {"a": [1, 2.5, None, True, "€"], "b": {}}
    async with connected() as (client, server):
        await client.send_json(value, binary=binary)
        message = await server.receive()
        assert isinstance(message, bytes if binary else str)
        assert json.loads(message) == value
        await server.send(message)
        assert await client.receive_json() == value


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "nothing",
        b"\xff",
        '"\\ud800',
        "[" * 200_000,
        "1" * 5000,
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
    ],
    ids=lambda m: repr(m[:12]),
)
async def test_what_is_no_json_raises_and_leaves_the_connection_open(message: str | bytes) -> None:
    """RFC 8259 has neither NaN nor the infinities."""
    async with connected() as (client, server):
        await client.send(message)
        await client.send_json("next")
        with pytest.raises(ValueError):  # noqa: PT011 - the messages are json's
            await server.receive_json()
        assert await server.receive_json() == "next"
        assert server.status is Status.OPEN


async def test_what_has_no_form_in_json_is_not_sent() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    async with client_of_raw() as (ws, peer):
        for wrong in (float("nan"), float("inf"), cycle, "\ud800"):
            with pytest.raises(ValueError):  # noqa: PT011
                await ws.send_json(wrong)
        for wrong in ({1, 2}, b"bytes", object()):
            with pytest.raises(TypeError):
                await ws.send_json(wrong)
        await ws.send_json([])
        assert [(await peer.next_frame()).payload] == [b"[]"]


# --- What may be sent ---


async def test_bytes_that_are_not_utf8_can_be_replaced() -> None:
    async with client_of_raw() as (ws, peer):
        with pytest.raises(ValueError, match="not UTF-8"):
            await ws.send_text(b"a\xffb")
        with pytest.raises(ValueError, match="errors must be"):
            await ws.send_text(b"a", errors="ignore")
        await ws.send_text(b"a\xffb", errors="replace")
        assert (await peer.next_frame()).payload == "a\ufffdb".encode()
        assert len(peer.wire) == 1


async def test_a_received_text_is_always_strict() -> None:
    """R-69, R-102."""
    async with client_of_raw() as (ws, peer):
        peer.send(TEXT, b"\xed\xa0\x80")
        with pytest.raises(anyws.ConnectionBroken):
            await ws.receive()
        assert (await peer.next_close()).code == 1007
        peer.end()


async def test_buffers_of_single_bytes_are_sent_whole() -> None:
    """V30."""
    async with connected() as (client, server):
        for buffer in (
            bytearray(b"abc"),
            memoryview(b"abc"),
            memoryview(b"aXbXcX")[::2],
            memoryview(array.array("I", [0x00636261])).cast("B")[:3],
            memoryview(array.array("b", b"abc")),
        ):
            await client.send(buffer)  # type: ignore[arg-type]
            assert await server.receive() == b"abc"


@pytest.mark.parametrize(
    "wrong",
    [memoryview(array.array("I", [1, 2])), None, 1, ["a"], object(), array.array("b", b"x")],
    ids=lambda w: type(w).__name__,
)
async def test_anything_else_is_a_type_error_and_nothing_is_sent(wrong: object) -> None:
    """V30."""
    async with client_of_raw() as (ws, peer):
        for send in (ws.send, ws.send_text, ws.send_bytes):
            with pytest.raises(TypeError):
                await send(wrong)  # type: ignore[operator]
        await ws.send("usable")
        assert [(await peer.next_frame()).payload] == [b"usable"]
        assert len(peer.wire) == 1


async def test_a_lone_surrogate_is_refused_and_the_connection_stays_usable() -> None:
    """W24."""
    async with server_of_raw(ask=DEFLATE) as (ws, peer):
        for send in (ws.send, ws.send_text, ws.send_bytes):
            with pytest.raises(ValueError, match="lone surrogate"):
                await send("a\ud800b")
        async with ws.open_message(compress=False) as message:
            with pytest.raises(ValueError, match="lone surrogate"):
                await message.send("\udfff")
            await message.send("good")
        assert ws.is_open
        assert (await peer.next_frame()).payload == b"good"


async def test_a_buffer_changed_while_the_send_waits_goes_out_as_it_was() -> None:
    async with client_of_raw() as (ws, peer):
        peer.stall()
        buffers = [bytearray(b"a" * 100), bytearray(b"b" * 100)]
        async with anyio.create_task_group() as tg:
            for buffer in buffers:
                tg.start_soon(ws.send, buffer)
                tg.start_soon(ws.send, memoryview(buffer))
            await anyio.wait_all_tasks_blocked()
            for buffer in buffers:
                buffer[:] = b"X" * 100
            peer.resume()
        payloads = sorted([(await peer.next_frame()).payload for _ in range(4)])
        assert payloads == [b"a" * 100] * 2 + [b"b" * 100] * 2


@pytest.mark.parametrize(
    ("compress", "short", "long"),
    [(None, False, True), (True, True, True), (False, False, False)],
)
async def test_compress_decides_about_one_message(
    compress: bool | None, short: bool, long: bool
) -> None:
    async with server_of_raw(ask=DEFLATE) as (ws, peer):
        assert ws.extensions == ("permessage-deflate",)
        await ws.send("short", compress=compress)
        await ws.send_text("long" * 100, compress=compress)
        await ws.send_bytes(b"long" * 100, compress=compress)
        await ws.send_json(["long" * 100], compress=compress)
        await ws.send_fragments(["long" * 100, "er"], compress=compress)
        rsv1 = [(await peer.next_frame()).rsv1 for _ in range(5)]
        assert rsv1 == [short, long, long, long, long]


@pytest.mark.parametrize("compress", [None, True, False])
async def test_compress_means_nothing_without_compression(compress: bool | None) -> None:
    async with server_of_raw(Config(compression=None), ask=DEFLATE) as (ws, peer):
        assert ws.extensions == ()
        await ws.send("long" * 100, compress=compress)
        received = await peer.next_frame()
        assert (received.payload, received.rsv1) == (b"long" * 100, False)


@every_kind
async def test_compressed_and_plain_messages_mix(kind: str) -> None:
    """D-13."""
    config = Config(compression=Deflate(threshold=0))
    async with connected(kind, config=config, server_config=config) as (client, server):
        for number in range(30):
            text = f"message {number} " * 20
            await client.send(text, compress=(None, True, False)[number % 3])
            assert await server.receive() == text
            await server.send(text, compress=(True, False, None)[number % 3])
            assert await client.receive() == text


# --- Receiving ---


@against_raw
async def test_messages_that_came_before_the_peers_close_are_delivered_after_it(against) -> None:
    """H25, R-101."""
    async with against() as (ws, peer):
        for number in range(3):
            peer.send(TEXT, b"%d" % number)
        peer.send_close(4000, "bye")
        peer.send(TEXT, b"after the Close")
        assert (await peer.next_close()).code == 4000 or not peer.is_server
        with pytest.raises(anyws.ClosedWithError):
            await ws.send("too late")
        assert [await ws.receive() for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(anyws.ClosedWithError) as caught:
            await ws.receive()
        assert caught.value.closure.received == anyws.Close(4000, "bye")
        peer.end()


@against_raw
async def test_a_second_receiver_is_refused_and_the_first_undisturbed(against) -> None:
    """H22, A5."""
    async with against() as (ws, peer):
        got = []

        async def first() -> None:
            got.append(await ws.receive())

        async with anyio.create_task_group() as tg:
            tg.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            for _ in range(2):
                with pytest.raises(anyio.BusyResourceError):
                    await ws.receive()
                with pytest.raises(anyio.BusyResourceError):
                    async with ws.receive_fragments():
                        pass
                with pytest.raises(anyio.BusyResourceError):
                    await anext(ws)
            peer.send(TEXT, b"hi")
        assert got == ["hi"]
        peer.send(TEXT, b"again")
        assert await ws.receive() == "again"


@against_raw
async def test_waiting_messages_do_not_keep_other_tasks_from_running(against) -> None:
    """H14, P6: every receive may be cancelled, and now and then the others have their turn."""
    async with against(Config(inbox_size=1000)) as (ws, peer):
        for _ in range(500):
            peer.send(TEXT, b"x")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.lowlevel.checkpoint()
                ticks += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(tick)
            for _ in range(500):
                await ws.receive()
            assert ticks >= 500 // 64
            tg.cancel_scope.cancel()
        peer.send(TEXT, b"y")
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ws.receive()
        assert scope.cancelled_caught
        assert await ws.receive() == "y"


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_loop_over_messages_ends_with_an_ordinary_close(code: int | None) -> None:
    async with client_of_raw() as (ws, peer):
        peer.send(TEXT, b"one")
        peer.push(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big")))
        peer.end()
        with anyio.fail_after(5):
            assert [message async for message in ws] == ["one"]
            assert [message async for message in ws] == []
        assert ws.closure is not None
        assert ws.closure.code == (code or 1005)


@pytest.mark.parametrize("code", [1002, 1008, 1011, 1014, 3000, 4999])
async def test_a_loop_over_messages_raises_on_any_other_close(code: int) -> None:
    """R-91, R-92, W22."""
    async with client_of_raw() as (ws, peer):
        peer.send(TEXT, b"one")
        peer.send_close(code, "why")
        peer.end()
        got = []
        with pytest.raises(anyws.ClosedWithError) as caught:
            async for message in ws:
                got.append(message)
        assert got == ["one"]
        assert caught.value.closure.code == code
        assert caught.value.closure.reason == "why"


async def test_the_loop_may_be_left_and_taken_up_again() -> None:
    """H12, P12."""
    async with connected() as (client, server):
        for number in range(3):
            await server.send(str(number))
        async for message in client:
            assert message == "0"
            break
        assert await client.receive() == "1"
        assert await anext(aiter(client)) == "2"
        assert aiter(client) is client


# --- What it is like ---


@every_kind
async def test_both_ends_know_what_the_handshake_settled(kind: str) -> None:
    async with connected(kind, subprotocols=("chat",), headers={"X-Who": "me"}) as (client, server):
        assert isinstance(client, ObjectStream)
        assert not isinstance(client, ByteReceiveStream)
        assert (client.role, server.role) == (Role.CLIENT, Role.SERVER)
        for ws in (client, server):
            assert ws.subprotocol == "chat"
            assert ws.extensions == ("permessage-deflate",)
            assert ws.request.headers["X-Who"] == "me"
            assert ws.request.path == "/"
            assert ws.response.status == 101
            assert ws.latency is None
            assert ws.closure is None
            assert ws.is_open
            assert ws.status is Status.OPEN
            assert ws.extra(WebSocketAttribute.request) is ws.request
            assert ws.extra(WebSocketAttribute.response) is ws.response
            assert ws.extra(WebSocketAttribute.subprotocol) == "chat"
        if kind != "memory":
            address = client.extra(SocketAttribute.local_address)
            assert server.extra(SocketAttribute.remote_address) == address
            assert server.request.remote_address == address
            assert client.request.remote_address is None
        if kind == "tls":
            assert client.extra(TLSAttribute.tls_version) == "TLSv1.3"
        with pytest.raises(LookupError):
            client.extra(object())  # type: ignore[call-overload]
        assert client.extra(object(), "default") == "default"  # type: ignore[call-overload]


async def test_its_repr_shows_role_peer_subprotocol_and_state() -> None:
    """No secrets: neither the query nor the user info."""
    near_url = "ws://user:password@server.test/path?token=secret"
    async with connected(subprotocols=("chat",)) as (client, server):
        assert repr(client).startswith("<anyws.WebSocket client of")
        assert "server.test" in repr(client)
        assert "open" in repr(client)
        assert "'chat'" in repr(client)
        assert repr(server).startswith("<anyws.WebSocket server of")
        await client.close(4001, "done\n")
        assert "closed" in repr(client)
        assert "4001" in repr(client)
        assert "\n" not in repr(client)
    near, far = pair()
    peer = RawPeer(far, is_server=True)
    peer.answer_handshake()
    async with anyws.wrap_client_stream(near, near_url) as ws:
        assert "secret" not in repr(ws)
        assert "password" not in repr(ws)
        peer.leave()


@against_raw
async def test_its_status_follows_the_closing_handshake(against) -> None:
    async with against() as (ws, peer):
        assert (ws.status, ws.is_open) == (Status.OPEN, True)
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.close)
            await anyio.wait_all_tasks_blocked()
            assert (ws.status, ws.is_open) == (Status.CLOSING, False)
            assert "closing" in repr(ws)
            peer.send_close()
            peer.end()
        assert (ws.status, ws.is_open) == (Status.CLOSED, False)


@every_kind
async def test_attributes_still_answer_after_the_end(kind: str) -> None:
    async with connected(kind) as (client, server):
        await client.close()
        assert client.request.path == "/"
        assert client.response.status == 101
        assert client.extra(WebSocketAttribute.subprotocol) is None
        repr(client)
        await server.wait_closed()
        repr(server)

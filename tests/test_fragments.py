"""Messages in fragments: those that are sent, and those that are received in pieces."""

from __future__ import annotations

import anyio
import pytest
from connections import against_raw, connected, every_kind
from streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, client_of_raw, server_of_raw

import anyws
from anyws import Config

pytestmark = pytest.mark.timeout(30)


def shape(frames) -> list[tuple[int, bytes, bool]]:
    return [(f.opcode, f.payload, f.fin) for f in frames if f.opcode != CLOSE]


# --- Sending ---


@every_kind
async def test_fragments_arrive_as_one_message(kind: str) -> None:
    async with connected(kind) as (client, server):
        for fragments in (["a", "b", "€"], [b"a", bytearray(b"b"), memoryview(b"c")], [""], [b""]):
            await client.send_fragments(fragments)
            expected = type(fragments[0])().join(map(type(fragments[0]), fragments))
            assert await server.receive() == expected


@against_raw
async def test_only_the_first_fragment_has_the_opcode_and_only_the_last_frame_fin(against) -> None:
    """R-62, R-74."""
    async with against() as (ws, peer):
        async with ws.open_message() as message:
            await message.send("one")
            await message.send("")
            await message.send("two")
        frames = [await peer.next_frame() for _ in range(4)]
        assert shape(frames) == [
            (TEXT, b"one", False),
            (CONT, b"", False),
            (CONT, b"two", False),
            (CONT, b"", True),
        ]


async def test_fragments_come_from_iterables_of_either_kind() -> None:
    async def produce():
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield str(number)

    async with connected() as (client, server):
        await client.send_fragments(produce())
        await client.send_fragments(str(number) for number in range(3))
        await client.send_fragments({"a": 1, "b": 2})
        assert [await server.receive() for _ in range(3)] == ["012", "012", "ab"]


async def test_a_message_without_fragments_is_not_sent() -> None:
    async with client_of_raw() as (ws, peer):
        async with ws.open_message():
            pass
        await ws.send_fragments([])
        for wrong in ("text", b"bytes", bytearray(), memoryview(b"")):
            with pytest.raises(TypeError, match="iterable of fragments"):
                await ws.send_fragments(wrong)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            await ws.send_fragments(5)  # type: ignore[call-overload]
        await ws.send("whole")
        assert (await peer.next_frame()).payload == b"whole"
        assert len(peer.wire) == 1


async def test_a_fragment_of_the_other_type_is_refused_and_the_message_goes_on() -> None:
    async with connected() as (client, server):
        async with client.open_message() as message:
            with pytest.raises(TypeError):
                await message.send(None)  # type: ignore[arg-type]
            await message.send("text")
            with pytest.raises(TypeError, match="the message is text"):
                await message.send(b"bytes")
            await message.send(", more")
        assert await server.receive() == "text, more"
        async with client.open_message() as message:
            await message.send(b"bytes")
            with pytest.raises(TypeError, match="the message is binary"):
                await message.send("text")
        assert await server.receive() == b"bytes"


@against_raw
async def test_other_messages_wait_and_control_frames_do_not(against) -> None:
    """H20, R-57, R-58, R-64."""
    async with against() as (ws, peer):
        async with anyio.create_task_group() as tg, ws.open_message() as message:
            await message.send("a")
            for number in range(3):
                tg.start_soon(ws.send, str(number))
            tg.start_soon(ws.send_fragments, ["x", "y"])
            tg.start_soon(ws.ping)
            peer.send(PING, b"p")
            await anyio.wait_all_tasks_blocked()
            # Nobody has called for a while: the attendant may be about to read.
            while not any(f.opcode == PONG for f in peer.wire):
                await anyio.sleep(0.01)
            assert [f.opcode for f in peer.wire if f.opcode < 8] == [TEXT]
            peer.send(PONG, next(f for f in peer.wire if f.opcode == PING).payload)
            await message.send("b")
        data = [f for f in peer.wire if f.opcode < 8]
        assert shape(data[:3]) == [(TEXT, b"a", False), (CONT, b"b", False), (CONT, b"", True)]
        rest = shape(data[3:])
        assert sorted(f for f in rest if f[2] and f[1]) == [
            (TEXT, b"%d" % n, True) for n in range(3)
        ]
        start = rest.index((TEXT, b"x", False))
        assert rest[start + 1 : start + 3] == [(CONT, b"y", False), (CONT, b"", True)]


async def test_messages_of_many_tasks_never_mix() -> None:
    async with connected() as (client, server):

        async def stream(name: str) -> None:
            async with client.open_message() as message:
                for _ in range(5):
                    await message.send(name)
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tg:
            for name in "abcdefgh":
                tg.start_soon(stream, name)
                tg.start_soon(client.send, name * 5)
                tg.start_soon(client.ping)
            received = sorted([await server.receive() for _ in range(16)])
        assert received == sorted([name * 5 for name in "abcdefgh"] * 2)


@against_raw
@pytest.mark.parametrize("how", ["exception", "iterable", "cancellation"])
async def test_half_a_message_closes_the_connection_with_1011(against, how: str) -> None:
    """H21."""
    error = RuntimeError("mine")

    def produce():
        yield "half"
        raise error

    async with against() as (ws, peer):
        if how == "iterable":
            with pytest.raises(RuntimeError) as caught:
                await ws.send_fragments(produce())
            assert caught.value is error
        elif how == "exception":
            with pytest.raises(RuntimeError) as caught:
                async with ws.open_message() as message:
                    await message.send("half")
                    raise error
            assert caught.value is error
        else:
            with anyio.CancelScope() as scope:
                async with ws.open_message() as message:
                    await message.send("half")
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        assert not ws.is_open
        with pytest.raises(anyws.ClosedByUs) as closed:
            await ws.send("more")
        assert closed.value.closure.sent.code == 1011
        assert shape([await peer.next_frame()]) == [(TEXT, b"half", False)]
        assert (await peer.next_close()).code == 1011
        assert "unfinished" in peer.wire[-1].reason
        assert peer.torn == b""
        peer.send_close(1011)
        peer.end()


@against_raw
async def test_a_message_that_failed_before_its_first_fragment_leaves_no_trace(against) -> None:
    async with against() as (ws, peer):
        with pytest.raises(RuntimeError):
            async with ws.open_message():
                raise RuntimeError
        with anyio.CancelScope() as scope:
            async with ws.open_message() as message:
                scope.cancel()
                await message.send("never")
        assert scope.cancelled_caught
        await ws.send("whole")
        assert (await peer.next_frame()).payload == b"whole"
        assert len(peer.wire) == 1


async def test_a_fragment_cancelled_in_the_queue_may_be_sent_again() -> None:
    async with client_of_raw() as (ws, peer):
        async with anyio.create_task_group() as tg, ws.open_message() as message:
            await message.send("a")
            peer.stall()
            tg.start_soon(ws.ping)  # a write in the way
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0.01) as scope:
                await message.send("b")
            assert scope.cancelled_caught
            peer.resume()
            await message.send("b")
            tg.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await message.send("c")
        data = [f for f in peer.wire if f.opcode in {TEXT, CONT}]
        assert b"".join(f.payload for f in data) == b"abc"
        peer.send_close(1011)
        peer.end()


@pytest.mark.parametrize("in_the_way", [False, True])
async def test_leaving_the_block_under_cancellation_never_leaves_half_a_message_open(
    in_the_way: bool,
) -> None:
    """The last frame is out, or the connection closes."""
    async with client_of_raw(Config(cancel_grace=0.1)) as (ws, peer):
        async with anyio.create_task_group() as tg:
            if in_the_way:
                tg.start_soon(ws.send, "before")
                await anyio.wait_all_tasks_blocked()
            with anyio.CancelScope() as scope:
                message = ws.open_message()
                await message.__aenter__()
                await message.send("a")
                peer.stall()
                if in_the_way:
                    tg.start_soon(_ping, ws)
                    await anyio.wait_all_tasks_blocked()
                tg.start_soon(_cancel_when_blocked, scope)
                await message.__aexit__(None, None, None)
            assert scope.cancelled_caught
            peer.resume()
            await anyio.wait_all_tasks_blocked()
            if ws.is_open:
                await ws.send("after")
                assert (TEXT, b"after", True) in shape(peer.wire)
                assert (CONT, b"", True) in shape(peer.wire)
            else:
                assert peer.wire[-1].code == 1011
            peer.send_close()
            peer.end()
        assert peer.torn == b""


async def _ping(ws) -> None:
    with pytest.raises(anyws.ConnectionClosed):
        await ws.ping()


async def _cancel_when_blocked(scope) -> None:
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


@against_raw
@pytest.mark.parametrize("end", ["peer closes", "stream ends", "abort", "close"])
async def test_who_waits_for_the_turn_does_not_outwait_the_connection(against, end: str) -> None:
    async with against(Config(close_timeout=0.2)) as (ws, peer):
        failed = []

        async def expect(function, *args) -> None:
            with pytest.raises(anyws.ConnectionClosed) as caught:
                await function(*args)
            failed.append(caught.value)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                message = await ws.open_message().__aenter__()
                await message.send("half")
                tg.start_soon(expect, ws.send, "x")
                tg.start_soon(expect, ws.send_fragments, ["x"])
                await anyio.wait_all_tasks_blocked()
                if end == "peer closes":
                    peer.send_close()
                elif end == "stream ends":
                    peer.end()
                elif end == "abort":
                    ws.abort()
                else:
                    tg.start_soon(ws.close)
            with pytest.raises(anyws.ConnectionClosed) as caught:
                await message.send("more")
            with pytest.raises(anyws.ConnectionClosed):
                await message.__aexit__(None, None, None)
        assert len({id(error) for error in [*failed, caught.value]}) == 3
        assert [f.payload for f in peer.wire if f.opcode in {TEXT, CONT}] == [b"half"]
        peer.end()


async def test_one_object_stands_for_one_message() -> None:
    async with connected() as (client, server):
        message = client.open_message()
        with pytest.raises(anyio.ClosedResourceError):
            await message.send("before")
        async with message:
            await message.send("x")
            with pytest.raises(RuntimeError, match="one message"):
                await message.__aenter__()
        with pytest.raises(anyio.ClosedResourceError):
            await message.send("after")
        with pytest.raises(RuntimeError, match="one message"):
            await message.__aenter__()
        assert await server.receive() == "x"
        await client.close()
        with pytest.raises(anyws.ClosedByUs):
            async with client.open_message():
                pass


async def test_only_the_first_frame_of_a_compressed_message_is_marked() -> None:
    """D-12, D-16, D-17, W1."""
    ask = ["Sec-WebSocket-Extensions: permessage-deflate"]
    async with server_of_raw(ask=ask) as (ws, peer):
        async with ws.open_message(compress=True) as message:
            await message.send("a" * 100)
            await message.send("b" * 100)
        assert [f.rsv1 for f in peer.wire] == [True, False, False]


# --- Receiving ---


async def collect(ws) -> list[str | bytes]:
    async with ws.receive_fragments() as fragments:
        return [fragment async for fragment in fragments]


@every_kind
async def test_a_message_can_be_received_in_pieces(kind: str) -> None:
    async with connected(kind) as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send_fragments, ["one ", "two ", "thréé"])
            tg.start_soon(client.send_fragments, [b"\xff" * 70_000] * 5)
            async with server.receive_fragments() as fragments:
                first = [fragment async for fragment in fragments]
                is_text = fragments.is_text
            async with server.receive_fragments() as fragments:
                assert fragments.is_text is not is_text
                second = [fragment async for fragment in fragments]
        text, data = (first, second) if is_text else (second, first)
        assert "".join(text) == "one two thréé"
        assert b"".join(data) == b"\xff" * 350_000


@against_raw
async def test_pieces_come_as_the_network_delivers_and_text_is_cut_between_code_points(
    against,
) -> None:
    async with against() as (ws, peer):
        data = "a€b".encode()
        peer.send(TEXT, data[:2], fin=False)
        async with ws.receive_fragments() as fragments:
            assert fragments.is_text
            assert await anext(fragments) == "a"
            peer.send(CONT, data[2:], fin=False)
            assert await anext(fragments) == "€b"
            peer.send(PING, b"between")
            peer.send(CONT)
            with pytest.raises(StopAsyncIteration):
                await anext(fragments)
            with pytest.raises(StopAsyncIteration):
                await anext(fragments)
        await anyio.wait_all_tasks_blocked()
        assert (PONG, b"between", True) in shape(peer.wire)


@against_raw
@pytest.mark.parametrize("empty", ["", b""])
async def test_an_empty_message_has_its_type_and_no_content(against, empty: str | bytes) -> None:
    """R-63."""
    async with against() as (ws, peer):
        for waits_already in (False, True):
            peer.send(TEXT if isinstance(empty, str) else BINARY, b"", fin=waits_already)
            if not waits_already:
                peer.send(CONT)
            else:
                await anyio.wait_all_tasks_blocked()
            async with ws.receive_fragments() as fragments:
                assert fragments.is_text == isinstance(empty, str)
                assert empty[:0].join([piece async for piece in fragments]) == empty
        peer.send(TEXT, b"next")
        assert await ws.receive() == "next"

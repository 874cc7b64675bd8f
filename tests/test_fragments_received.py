"""Messages received in pieces: leaving half way, cancellation, limits, the end within one."""

from __future__ import annotations

import anyio
import pytest
from connections import against_bytes, against_raw, connected, every_kind
from streams import BINARY, CONT, TEXT, client_of_raw, frame

import anyws
from anyws import Config, Status

pytestmark = pytest.mark.timeout(30)


@against_raw
async def test_what_is_here_already_of_a_message_comes_first(against) -> None:
    async with against() as (ws, peer):
        peer.send(TEXT, b"one ", fin=False)
        peer.send(CONT, b"two ", fin=False)
        with anyio.move_on_after(0.01):
            await ws.receive()
        async with ws.receive_fragments() as fragments:
            text = await anext(fragments)
            while text != "one two ":
                assert "one two ".startswith(text)
                text += await anext(fragments)
            peer.send(CONT, b"three")
            assert [fragment async for fragment in fragments] == ["three"]


@against_raw
async def test_a_frame_is_delivered_before_it_is_whole(against) -> None:
    async with against() as (ws, peer):
        data = bytes(1000)
        whole = frame(BINARY, data, mask=not peer.is_server)
        async with anyio.create_task_group() as tg:
            received = []

            async def collect() -> None:
                async with ws.receive_fragments() as fragments:
                    async for fragment in fragments:
                        received.append(fragment)

            tg.start_soon(collect)
            peer.push(whole[:100])
            await anyio.wait_all_tasks_blocked()
            assert received
            peer.push(whole[100:])
        assert b"".join(received) == data


@against_raw
@pytest.mark.parametrize("where", ["at once", "after a piece", "at the end"])
@pytest.mark.parametrize("whole", [False, True], ids=["to come", "waiting"])
async def test_a_message_left_half_way_is_dropped_and_the_next_one_received(
    against, where: str, whole: bool
) -> None:
    """P13."""
    async with against() as (ws, peer):

        def send_rest() -> None:
            peer.send(CONT, b"b", fin=False)
            peer.send(CONT, b"c")
            peer.send(TEXT, b"next", fin=False)
            peer.send(CONT, b" one")
            peer.send(TEXT, b"last")

        peer.send(TEXT, b"a", fin=False)
        if whole:
            send_rest()
        async with ws.receive_fragments() as fragments:
            if where == "after a piece":
                assert "abc".startswith(await anext(fragments))
            elif where == "at the end":
                if not whole:
                    send_rest()
                assert "".join([fragment async for fragment in fragments]) == "abc"
        if not whole and where != "at the end":
            send_rest()
        assert await ws.receive() == "next one"
        async with ws.receive_fragments() as fragments:
            assert [fragment async for fragment in fragments] == ["last"]
        assert ws.status is Status.OPEN


@against_raw
async def test_an_exception_within_leaves_as_itself_and_the_connection_stays(against) -> None:
    async with against() as (ws, peer):
        peer.send(TEXT, b"a", fin=False)
        error = RuntimeError("mine")
        with pytest.raises(RuntimeError) as caught:
            async with ws.receive_fragments():
                raise error
        assert caught.value is error
        peer.send(CONT, b"b")
        peer.send(TEXT, b"next")
        assert await ws.receive() == "next"


@against_raw
@pytest.mark.parametrize("sent", ["nothing", "a part", "all"])
async def test_entering_may_be_cancelled_and_the_message_is_still_whole(against, sent: str) -> None:
    """H16."""
    async with against() as (ws, peer):
        if sent != "nothing":
            peer.send(TEXT, b"one ", fin=False)
        if sent == "all":
            peer.send(CONT, b"two")
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with ws.receive_fragments():
                raise AssertionError
        assert scope.cancelled_caught
        if sent == "nothing":
            with anyio.move_on_after(0.02):
                async with ws.receive_fragments():
                    raise AssertionError
            peer.send(TEXT, b"one ", fin=False)
        if sent != "all":
            peer.send(CONT, b"two")
        assert await ws.receive() == "one two"


@against_raw
async def test_a_cancelled_wait_for_a_piece_loses_none(against) -> None:
    """H16."""
    async with against() as (ws, peer):
        peer.send(TEXT, b"0", fin=False)
        async with ws.receive_fragments() as fragments:
            got = [await anext(fragments)]
            for number in range(1, 10):
                with anyio.move_on_after(0.002) as scope:
                    await anext(fragments)
                assert scope.cancelled_caught
                peer.send(CONT, b"%d" % number, fin=False)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await anext(fragments)
                assert scope.cancelled_caught
                got.append(await anext(fragments))
            peer.send(CONT)
            got += [fragment async for fragment in fragments]
        assert "".join(got) == "0123456789"


@against_raw
@pytest.mark.parametrize("code", [1000, 1011, None])
async def test_half_a_message_never_looks_like_a_whole_one(against, code: int | None) -> None:
    """R-100."""
    async with against() as (ws, peer):
        peer.send(TEXT, b"half", fin=False)
        with pytest.raises(anyws.ConnectionClosed) as caught:
            async with ws.receive_fragments() as fragments:
                assert await anext(fragments) == "half"
                if code is None:
                    peer.end()
                else:
                    peer.send_close(code)
                    peer.end()
                async for _ in fragments:
                    raise AssertionError
        expected = {
            1000: anyws.ClosedByPeer,
            1011: anyws.ClosedWithError,
            None: anyws.ConnectionBroken,
        }
        assert type(caught.value) is expected[code]


@against_raw
@pytest.mark.parametrize("end", ["abort", "close"])
async def test_our_own_end_drops_the_pieces_that_wait_and_says_so(against, end: str) -> None:
    """A discarded rest must not look like the end of the message."""
    async with against(Config(close_timeout=0.1)) as (ws, peer):
        peer.send(TEXT, b"one", fin=False)
        peer.send(CONT, b"two")
        peer.send(TEXT, b"another")
        with pytest.raises(anyws.ClosedByUs):
            async with ws.receive_fragments() as fragments:
                if end == "abort":
                    ws.abort()
                else:
                    await ws.close()
                async for _ in fragments:
                    raise AssertionError


async def test_our_own_end_while_a_reader_enters_is_an_error_of_the_connection() -> None:
    """The message was there, and is discarded before the reader gets its turn."""
    async with client_of_raw(Config(inbox_size=200)) as (ws, peer):
        for _ in range(80):
            peer.send(TEXT, b"x")
        peer.send(TEXT, b"y")
        await anyio.sleep(0.1)
        for _ in range(63):
            await ws.receive()

        async def abort() -> None:
            ws.abort()

        async with anyio.create_task_group() as tg:
            tg.start_soon(abort)
            with pytest.raises(anyws.ClosedByUs):
                while True:
                    async with ws.receive_fragments() as fragments:
                        async for _ in fragments:
                            pass


async def test_pieces_are_had_within_the_block_only_and_once() -> None:
    async with connected() as (client, server):
        fragments = server.receive_fragments()
        with pytest.raises(anyio.ClosedResourceError):
            await anext(fragments)
        await client.send("a")
        await client.send("b")
        async with fragments:
            with pytest.raises(anyio.BusyResourceError):
                await server.receive()
            with pytest.raises(anyio.BusyResourceError):
                await fragments.__aenter__()
        with pytest.raises(anyio.ClosedResourceError):
            await anext(fragments)
        with pytest.raises(RuntimeError, match="one message"):
            await fragments.__aenter__()
        assert await server.receive() == "b"


@against_raw
async def test_the_limit_on_messages_holds_for_pieces_too(against) -> None:
    """V4: 1009 at the fragment that crosses it."""
    async with against(Config(max_message_size=100)) as (ws, peer):
        peer.send(TEXT, b"x" * 60, fin=False)
        with pytest.raises(anyws.ConnectionBroken) as caught:
            async with ws.receive_fragments() as fragments:
                assert await anext(fragments) == "x" * 60
                peer.send(CONT, b"x" * 41)
                await anext(fragments)
        assert caught.value.closure.sent.code == 1009
        assert (await peer.next_close()).code == 1009


@against_raw
async def test_bad_utf8_in_the_middle_ends_the_pieces(against) -> None:
    """R-69, V14."""
    async with against() as (ws, peer):
        peer.send(TEXT, b"good", fin=False)
        with pytest.raises(anyws.ConnectionBroken):
            async with ws.receive_fragments() as fragments:
                assert await anext(fragments) == "good"
                peer.send(CONT, b"\xff", fin=False)
                await anext(fragments)
        assert (await peer.next_close()).code == 1007


@every_kind
async def test_a_message_larger_than_any_inbox_goes_through_in_pieces(kind: str) -> None:
    """The reader sets the pace, and holds little of it."""
    config = Config(max_message_size=None, cancel_grace=0.2)
    piece, pieces = bytes(100_000), 60
    async with connected(kind, config=config, server_config=config) as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send_fragments, [piece] * pieces)
            size = 0
            async with server.receive_fragments() as fragments:
                await anyio.wait_all_tasks_blocked()
                async for fragment in fragments:
                    size += len(fragment)
            assert size == len(piece) * pieces


@every_kind
async def test_what_is_here_of_a_large_frame_is_had_though_its_sender_has_stopped(
    kind: str,
) -> None:
    async with against_bytes(kind) as (ws, stream):
        await stream.send(frame(BINARY, bytes(200_000), mask=True)[:150_000])
        with anyio.move_on_after(0.1):
            await ws.receive()  # till it is here
        size = 0
        async with ws.receive_fragments() as fragments:
            while size < 150_000 - 14:
                size += len(await anext(fragments))


@pytest.mark.parametrize("limit", [64 << 20, None])
async def test_reading_pauses_while_pieces_wait(limit: int | None) -> None:
    mib = 1 << 20
    async with client_of_raw(Config(max_message_size=limit)) as (ws, peer):
        peer.send(TEXT, b"x", fin=False)
        async with ws.receive_fragments() as fragments:
            for _ in range(5):
                peer.send(CONT, b"x" * mib, fin=False)
            await anyio.wait_all_tasks_blocked()
            assert len(peer.stream.outgoing.data) > 3 * mib
            peer.send(CONT)
            assert sum([len(fragment) async for fragment in fragments]) == 5 * mib + 1

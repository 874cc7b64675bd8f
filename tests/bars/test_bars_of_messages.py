"""Bars: that every message arrives, whatever happens around it, over real sockets."""

from __future__ import annotations

import gc
import sys
import time
import warnings
import zlib
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint
from anyio.to_thread import run_sync
from bars.peers import CONT, PING, PONG, TEXT, Peer, client_of_peer, server_of_peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.timeout(60)

both_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])
both_roles = pytest.mark.parametrize(
    "role",
    [pytest.param(client_of_peer, id="client"), pytest.param(server_of_peer, id="server")],
)

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


# --- Compressed ---


def deflated(text: str) -> bytes:
    """A compressed message (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflated_with_final_block(text: str) -> bytes:
    """One whose last block is marked as final (section 7.2.3.4)."""
    compressor = zlib.compressobj(wbits=-15)
    # Behind it, an empty block without its last four bytes, for the receiver to add them.
    return compressor.compress(text.encode()) + compressor.flush(zlib.Z_FINISH) + b"\x00"


@both_roles
async def test_a_message_follows_one_that_ended_with_a_final_block(role, figures) -> None:
    """P8."""
    async with role("tcp", DEFLATE) as (ws, peer):
        assert "permessage-deflate" in peer.head
        assert ws.extensions == ("permessage-deflate",)
        # The block type is in the first bits, and whether it is final in the very first.
        assert deflated_with_final_block("one")[0] & 1
        assert not deflated("two")[0] & 1
        got = []
        for text in ("one", "two") * 5:
            form = deflated_with_final_block if text == "one" else deflated
            peer.send(TEXT, form(text), rsv1=True)
            got.append(await ws.receive())
        figures("P8", messages=len(got))
        assert got == ["one", "two"] * 5
        # And at once, from one segment.
        peer.push(
            peer.frame(TEXT, deflated_with_final_block("one"), rsv1=True)
            + peer.frame(TEXT, deflated("two"), rsv1=True)
        )
        assert [await ws.receive(), await ws.receive()] == ["one", "two"]


@both_roles
async def test_pings_between_the_fragments_of_a_compressed_message_are_answered(
    role, figures
) -> None:
    """P9."""
    text = "a message of some length, " * 40
    async with role("tcp", DEFLATE) as (ws, peer):
        assert "permessage-deflate" in peer.head
        for number in range(10):
            data = deflated(f"{number}: {text}")
            third = len(data) // 3
            peer.send(TEXT, data[:third], fin=False, rsv1=True)
            peer.send(PING, b"first %d" % number)
            peer.send(CONT, data[third : 2 * third], fin=False)
            peer.send(PING, b"second %d" % number)
            peer.send(CONT, data[2 * third :])
            assert await ws.receive() == f"{number}: {text}"
            for which in (b"first", b"second"):
                pong = await run_sync(peer.next_frame)
                assert (pong.opcode, pong.payload) == (PONG, b"%s %d" % (which, number))
        figures("P9", messages=number + 1)
        # The contexts of both directions have seen all of it, too.
        await ws.send(text)
        reply = await run_sync(peer.next_frame)
        assert reply.rsv1
        inflated = zlib.decompressobj(-15).decompress(reply.payload + b"\x00\x00\xff\xff")
        assert inflated.decode() == text


# --- Left half way ---


@contextmanager
def nothing_to_complain_about() -> Iterator[list[object]]:
    """Warnings are errors, also where nobody can catch them."""
    complaints: list[object] = []
    before = sys.unraisablehook
    sys.unraisablehook = complaints.append
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield complaints
            gc.collect()
    finally:
        sys.unraisablehook = before
    assert complaints == []


@both_roles
async def test_a_loop_over_messages_may_be_left_by_break(role, figures) -> None:
    """P12: there is no generator that would have to be closed, and nothing is lost."""
    with nothing_to_complain_about() as complaints:
        async with role() as (ws, peer):
            for text in (b"one", b"two", b"three"):
                peer.send(TEXT, text)
            got = []
            async for message in ws:
                got.append(message)
                break
            gc.collect()
            # Where an asynchronous generator is finalised, that is in a task of its own.
            for _ in range(10):
                await checkpoint()
            is_its_own_iterator = aiter(ws) is ws
            got.append(await ws.receive())
            async for message in ws:
                got.append(message)
                break
            assert got == ["one", "two", "three"]
        del ws
        gc.collect()
        for _ in range(10):
            await checkpoint()
        figures("P12", warnings=len(complaints))
    # Not every backend complains of a generator that is left.
    assert is_its_own_iterator


@pytest.mark.parametrize("way", ["left", "raised", "cancelled"])
@pytest.mark.parametrize("rest", ["to come", "there"])
@both_roles
async def test_a_message_received_in_pieces_may_be_left_half_way(
    role, rest: str, way: str, figures
) -> None:
    """P13: the rest of it is dropped, and the next one is received."""

    async def finish(peer: Peer) -> None:
        pieces = [peer.frame(CONT, b"x" * 100_000, fin=False) for _ in range(3)]
        await run_sync(
            peer.push, b"".join([*pieces, peer.frame(CONT, b"end"), peer.frame(TEXT, b"next")])
        )

    async with role() as (ws, peer):
        peer.send(TEXT, b"the beginning", fin=False)
        async with anyio.create_task_group() as tg:
            scope = anyio.CancelScope()
            try:
                with scope:
                    async with ws.receive_fragments() as fragments:
                        assert (await anext(fragments)).startswith("the")
                        if rest == "there":
                            tg.start_soon(finish, peer)
                            assert set(await anext(fragments)) == {"x"}
                        if way == "raised":
                            raise KeyError(way)
                        if way == "cancelled":
                            scope.cancel()
                            await anext(fragments)
            except KeyError:
                pass
            assert scope.cancelled_caught is (way == "cancelled")
            if rest == "to come":
                tg.start_soon(finish, peer)
            assert await ws.receive() == "next"
        figures("P13", messages=1)
        await ws.send("still here")
        assert (await run_sync(peer.next_frame)).payload == b"still here"


# --- Cancelled ---


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[object]]) -> bool:
    """Cancel the operation after so many turns; tell whether that came before its end."""
    scope = anyio.CancelScope()

    async def cancel() -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as tg:
        tg.start_soon(cancel)
        with scope:
            await operation()
        tg.cancel_scope.cancel()
    return scope.cancelled_caught


@both_kinds
@both_roles
async def test_receive_cancelled_at_any_turn_loses_no_message(role, kind: str, figures) -> None:
    """P16: nor has one twice, nor out of order."""
    count = 300
    got = []
    cancellations = 0
    tried = set()

    def send_all(peer: Peer) -> None:
        for number in range(count):
            text = b"%d" % number
            for opcode, payload, fin in (
                (TEXT, text, False),
                (CONT, b"-", False),
                (CONT, text, True),
            ):
                peer.send(opcode, payload, fin=fin)
                # Spread over many turns of the receiver's: the load, and nothing waits for it.
                time.sleep(0.0002)
        # Several: one alone might be among those lost.
        for _ in range(40):
            peer.send(TEXT, b"the last")

    async with role(kind) as (ws, peer):

        async def receive() -> None:
            got.append(await ws.receive())

        async with anyio.create_task_group() as tg:
            tg.start_soon(run_sync, send_all, peer)
            for turns in cycle(range(1, 41)):
                cancellations += await cancelled_after(turns, receive)
                tried.add(turns)
                if got and got[-1] == "the last":
                    break
        figures("P16", messages=len(got), cancellations=cancellations)
        assert got == [*(f"{number}-{number}" for number in range(count)), "the last"]
        assert tried == set(range(1, 41))
        assert cancellations >= 40

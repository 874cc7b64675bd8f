"""Nothing that is cancelled, at any await, loses a message, tears a frame or hangs.

The sweeps run an operation again and again, and cancel it one turn of the scheduler later each
time, until it gets through.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint
from connections import QUICK, against_raw, connected, every_kind, every_network, served
from streams import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    TEXT,
    URL,
    RawPeer,
    client_of_raw,
    pair,
    request_bytes,
    server_of_raw,
)
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config, Deflate, Status, WebSocket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.timeout(50)

DEFLATE = ["Sec-WebSocket-Extensions: permessage-deflate"]


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


async def cancelled_when_blocked(operation: Callable[[], Awaitable[object]]) -> None:
    """Cancel the operation when nothing happens any more, before its end."""
    scope = anyio.CancelScope()

    async def operate() -> None:
        with scope:
            await operation()

    async with anyio.create_task_group() as tg:
        tg.start_soon(operate)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert scope.cancelled_caught


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- Sending ---


@against_raw
async def test_a_send_cancelled_at_any_turn_sends_all_of_it_or_nothing(against) -> None:
    """H1, T5. The peer takes a few bytes at a time."""
    async with against(capacity=20) as (ws, peer):
        peer.other.incoming.chunk_size = 3
        received = []

        async def take() -> None:
            while True:
                received.append(await peer.next_frame())

        async with anyio.create_task_group() as tg:
            tg.start_soon(take)
            turns = 0
            while await cancelled_after(turns, lambda: ws.send("x" * 100, compress=False)):
                assert ws.is_open
                turns += 1
            await ws.send("end")
            while not received or received[-1].payload != b"end":
                await anyio.sleep(0)
            tg.cancel_scope.cancel()
        assert turns >= 1
        assert {f.payload for f in received[:-1]} <= {b"x" * 100}
        assert {f.opcode for f in received} == {TEXT}
        assert peer.torn == b""
        peer.resume()


@every_kind
async def test_cancelled_sends_leave_the_compression_as_it_was(kind: str) -> None:
    """H2."""
    config = Config(compression=Deflate(threshold=0), inbox_size=1000)
    async with connected(kind, config=config, server_config=config) as (client, server):
        for turns in range(20):
            text = f"message {turns} " * 10
            await cancelled_after(turns % 5, lambda text=text: client.send(text))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await client.send("never sent")
            await client.send(f"end {turns}")
        got = []
        while not got or got[-1] != "end 19":
            got.append(await server.receive())
        assert [m for m in got if m.startswith("end")] == [f"end {n}" for n in range(20)]
        others = [m for m in got if not m.startswith("end")]
        assert set(others) <= {f"message {n} " * 10 for n in range(20)}
        assert len(set(others)) == len(others)


@against_raw
async def test_a_send_that_waits_behind_another_is_withdrawn(against) -> None:
    """H3. No byte of it goes out, and the others are not affected."""
    async with against() as (ws, peer):
        peer.stall()
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.send, "first")
            await anyio.wait_all_tasks_blocked()
            tg.start_soon(ws.send, "second")
            with anyio.move_on_after(0.02) as scope:
                await ws.send("withdrawn")
            assert scope.cancelled_caught
            tg.start_soon(ws.send, "third")
            await anyio.wait_all_tasks_blocked()
            peer.resume()
        assert [f.payload for f in peer.wire] == [b"first", b"second", b"third"]


@against_raw
async def test_a_send_cancelled_in_the_middle_of_its_frame_finishes_without_its_caller(
    against,
) -> None:
    """P1, H1, in memory: the caller is released at once."""
    async with against(capacity=1000) as (ws, peer):
        with anyio.fail_after(5):
            await cancelled_when_blocked(lambda: ws.send("x" * 100_000, compress=False))
        assert ws.is_open
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.send, "after")
            await anyio.wait_all_tasks_blocked()
            peer.resume()
        assert [f.payload for f in peer.wire] == [b"x" * 100_000, b"after"]
        assert peer.torn == b""


@every_network
async def test_a_send_cancelled_on_a_stalled_network_leaves_the_wire_whole(kind: str) -> None:
    """P1, A2, A4."""
    big = bytes(range(256)) * 120_000
    config = Config(max_message_size=None, inbox_size=1, ping_interval=None, cancel_grace=0.2)
    async with connected(kind, config=config, server_config=config) as (client, server):
        # Fill the peer's inbox first, so that it stops reading.
        for _ in range(2):
            await client.send(b"fill" * 300_000, compress=False)
        await cancelled_when_blocked(lambda: client.send(big, compress=False))
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send, "after")
            for _ in range(2):
                assert len(await server.receive()) == 1_200_000
            assert await server.receive() == big
            assert await server.receive() == "after"
        assert client.is_open


@against_raw
async def test_a_cancelled_send_that_the_peer_never_takes_breaks_the_connection(against) -> None:
    config = Config(write_timeout=0.2, cancel_grace=0.1)
    async with against(config, capacity=100) as (ws, peer):
        await cancelled_when_blocked(lambda: ws.send("x" * 10_000, compress=False))
        with anyio.fail_after(5), pytest.raises(anyws.ConnectionBroken, match="stalled"):
            await ws.receive()
        assert peer.wire == []


# --- Receiving ---


@every_kind
@pytest.mark.parametrize("how", ["receive", "loop", "pieces"])
async def test_a_receive_cancelled_at_any_turn_loses_nothing(kind: str, how: str) -> None:
    """P16, H16: no loss, no duplicate, the order kept."""
    count = 60

    async def handler(ws: WebSocket) -> None:
        for number in range(count):
            await ws.send_fragments([f"{number}", "-", f"{number}"])
        await ws.wait_closed()

    async with served(kind, handler) as connect, connect() as ws:
        got = []

        async def receive() -> None:
            if how == "receive":
                got.append(await ws.receive())
            elif how == "loop":
                async for message in ws:
                    got.append(message)
            else:
                # Leaving the block drops the message, so nothing may be cancelled in it.
                async with ws.receive_fragments() as fragments:
                    with anyio.CancelScope(shield=True):
                        got.append("".join([piece async for piece in fragments]))

        turns = 0
        while len(got) < count:
            await cancelled_after(turns % 40, receive)
            turns += 1
        assert got == [f"{n}-{n}" for n in range(count)]


@against_raw
async def test_a_message_that_comes_with_the_cancellation_is_not_lost(against) -> None:
    """H17: byte by byte, whichever turn it is."""
    async with against() as (ws, peer):
        peer.other.incoming.chunk_size = 1
        got, sent = [], 0
        for turns in range(40):
            peer.send(TEXT, b"%d" % sent)
            sent += 1

            async def receive() -> None:
                got.append(await ws.receive())

            await cancelled_after(turns, receive)
        while len(got) < sent:
            got.append(await ws.receive())
        assert got == [str(n) for n in range(sent)]


@against_raw
async def test_an_operation_in_a_cancelled_scope_does_nothing(against) -> None:
    """Every async operation is a checkpoint for cancellation, also where it need not wait."""
    async with against(cancel_free()) as (ws, peer):
        peer.send(TEXT, b"here")
        await anyio.sleep(0.1)
        for operation in (
            ws.receive,
            ws.receive_text,
            ws.receive_json,
            ws.__anext__,
            ws.receive_fragments().__aenter__,
            lambda: ws.send("x"),
            lambda: ws.send_json("x"),
            lambda: ws.send_fragments(["x"]),
            ws.open_message().__aenter__,
            ws.ping,
            ws.send_eof,
            ws.wait_closed,
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await operation()
            assert scope.cancelled_caught
        assert ws.is_open
        assert await ws.receive() == "here"
        assert peer.wire == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_receive_behind_a_cancelled_one_gets_its_message_at_once(backend: str) -> None:
    """H16: in no more time than it takes to arrive, whoever reads it."""

    async def main() -> None:
        async with client_of_raw(cancel_free(), guard=None, inline=True) as (ws, peer):
            for number in range(5):
                peer.send(TEXT, b"%d" % number)
                start = anyio.current_time()
                assert await ws.receive() == str(number)
                assert anyio.current_time() == start
                with anyio.move_on_after(0.001) as scope:
                    await ws.receive()
                assert scope.cancelled_caught

    run_in_virtual_time(backend, main)


def cancel_free() -> Config:
    return Config(ping_interval=None)


# --- Everything else, at any turn ---


async def send_in_pieces(ws: WebSocket) -> None:
    async with ws.open_message() as message:
        await message.send("one")
        await message.send("two")


async def receive_in_pieces(ws: WebSocket) -> None:
    async with ws.receive_fragments() as fragments:
        async for _ in fragments:
            pass


OPERATIONS = {
    "send": lambda ws: ws.send("x" * 10_000),
    "send_fragments": lambda ws: ws.send_fragments(["one", "two"]),
    "open_message": send_in_pieces,
    "receive": lambda ws: ws.receive(),
    "receive_fragments": receive_in_pieces,
    "ping": lambda ws: ws.ping(),
    "close": lambda ws: ws.close(4000),
    "aclose": lambda ws: ws.aclose(),
    "send_eof": lambda ws: ws.send_eof(),
    "wait_closed": lambda ws: ws.wait_closed(),
}


@pytest.mark.parametrize("kind", ["memory", "tcp", "tls"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_whatever_is_cancelled_the_connection_is_usable_or_closed(
    kind: str, operation: str
) -> None:
    """T5."""
    async with served(kind, echo) as connect:
        for turns in range(25):
            with anyio.fail_after(5):
                async with connect() as ws:
                    await ws.send("hello")
                    await cancelled_after(turns, lambda ws=ws: OPERATIONS[operation](ws))
                    if ws.is_open:
                        await ws.send("are you there?")
                        while await ws.receive() != "are you there?":
                            pass
                        assert ws.status is Status.OPEN
                    else:
                        closure = await ws.wait_closed()
                        assert closure.sent is not None
                        with pytest.raises(anyws.ConnectionClosed):
                            await ws.send("x")
            assert ws.status is Status.CLOSED


@against_raw
async def test_a_body_cancelled_at_any_turn_leaves_only_whole_frames(against) -> None:
    """H5, T5: and a Close, where the peer reads."""
    config = replace(QUICK, cancel_grace=5)
    for turns in range(25):

        async def body() -> None:
            nonlocal last
            async with against(config, capacity=10_000) as last:
                ws, peer = last
                peer.send(PING, b"x")
                await ws.send("one")
                await send_in_pieces(ws)
                peer.send(TEXT, b"two")
                await ws.receive()
                await anyio.sleep_forever()

        last = None
        assert await cancelled_after(turns, body)
        if last is not None:
            ws, peer = last
            assert peer.torn == b""
            assert ws.status is Status.CLOSED
            assert peer.other.closed
            assert peer.wire[-1].opcode == CLOSE
            assert peer.wire[-1].code in {1001, 1011}


# --- The opening handshake ---


@pytest.mark.parametrize("role", ["client", "server"])
async def test_a_handshake_cancelled_at_any_turn_closes_the_stream(role: str) -> None:
    turns = 0
    while True:
        near, far = pair()
        peer = RawPeer(far, is_server=role == "client", other=near)
        if role == "client":
            peer.answer_handshake()
            near.incoming.chunk_size = 40
            opening = anyws.wrap_client_stream(near, URL, config=QUICK)
        else:
            near.incoming.chunk_size = 40
            peer.push(request_bytes())
            opening = anyws.wrap_server_stream(near, config=QUICK)

        async def enter(opening=opening, peer=peer) -> None:
            async with opening:
                peer.leave()

        was_cancelled = await cancelled_after(turns, enter)
        assert near.closed
        if not was_cancelled:
            break
        turns += 1
    assert turns > 3


@every_network
async def test_connecting_cancelled_at_any_turn_closes_the_socket(kind: str) -> None:
    """The leak gates of the test run see a socket that is left."""
    async with served(kind, echo) as connect:
        for turns in [*range(30), *range(30, 200, 10)]:

            async def enter() -> None:
                async with connect() as ws:
                    await ws.send("x")

            with anyio.fail_after(5):
                await cancelled_after(turns, enter)


# --- Frames in the middle of which something else is cancelled ---


@against_raw
async def test_cancelling_a_streamed_message_spares_the_frame_in_progress(against) -> None:
    async with against(QUICK, capacity=100) as (ws, peer):
        async with anyio.create_task_group() as tg:

            async def stream() -> None:
                async with ws.open_message(compress=False) as message:
                    await message.send(b"x" * 10_000)

            tg.start_soon(stream)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        assert not ws.is_open
        peer.resume()
        await anyio.wait_all_tasks_blocked()
        assert [(f.opcode, len(f.payload), f.fin) for f in peer.wire[:1]] == [
            (BINARY, 10_000, False)
        ]
        assert peer.wire[-1].code == 1011
        assert CONT not in [f.opcode for f in peer.wire]


@pytest.mark.parametrize("role", [client_of_raw, server_of_raw])
async def test_a_cancelled_close_still_closes_the_stream(role) -> None:
    async with role(Config(close_timeout=30)) as (ws, peer):
        with anyio.move_on_after(0.05) as scope:
            await ws.close()
        assert scope.cancelled_caught
        with anyio.fail_after(2):
            await ws.wait_closed()
        assert peer.other.closed


async def test_a_cancelled_send_eof_sends_the_close_or_does_not() -> None:
    async with client_of_raw() as (ws, peer):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ws.send_eof()
        peer.send(TEXT, b"x")
        assert await ws.receive() == "x"
        await ws.send_eof()
        peer.send(TEXT, b"y")
        assert await ws.receive() == "y"
        assert (await peer.next_frame()).code == 1000
        assert len(peer.wire) == 1

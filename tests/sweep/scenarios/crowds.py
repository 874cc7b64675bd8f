"""One connection after another, one message to many, and a connection as a byte stream."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from streams import BINARY, CLOSE, TEXT, URL
from world import (
    CANCEL,
    MEMORY,
    NATIVE,
    QUICK,
    SLACK,
    SOCKET_LIKE,
    STREAM_ERRORS,
    TCP,
    Peer,
    World,
    check,
)

import anyws
from anyws import Backlog, Backoff, Reconnecting, WebSocket, WebSocketByteStream, broadcast

from ._registry import BOTH, scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HASTY = Backoff(first_delay=0.002, max_delay=0.004)
# Where bytes can be held back: by a peer that does not read.
HELD_BACK = (MEMORY, SOCKET_LIKE, TCP, NATIVE)


# --- Reconnecting ---


class _Service:
    """A server that is down for every other attempt, and what was connected to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.attempts = 0
        self.at_server: list[WebSocket] = []
        self.clients: list[WebSocket] = []
        self.stays = False  # whether the handler does

    async def handle(self, ws: WebSocket) -> None:
        self.at_server.append(ws)
        await ws.send("hello")
        if self.stays:
            await ws.wait_closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[], Any]]:
        listener, connect, _ = await self.world.listener()

        @asynccontextmanager
        async def open_one() -> AsyncIterator[WebSocket]:
            self.attempts += 1
            await anyio.lowlevel.checkpoint()
            if self.attempts % 2 == 0:
                raise ConnectionRefusedError
            stream = await connect()
            async with anyws.wrap_client_stream(stream, URL, config=QUICK) as ws:
                self.clients.append(ws)
                yield ws

        server = anyws.open_server(self.handle, listeners=[listener], config=QUICK)
        async with server as running:
            yield open_one
            with anyio.fail_after(5):
                while running.connections:
                    await anyio.sleep(0.001)
        for ws in (*self.clients, *self.at_server):
            check(ws.status is anyws.Status.CLOSED, "left, and not closed")


@scenario(kinds=(MEMORY, TCP))
async def one_connection_after_another(world: World) -> None:
    """With timeouts within the loop and around it, and a `break`."""
    service = _Service(world)
    heard: list[str | bytes] = []

    async with service.running() as open_one:

        async def operation() -> None:
            async with Reconnecting(open_one, backoff=HASTY) as connections:
                with anyio.move_on_after(30):
                    async for ws in connections:
                        with anyio.move_on_after(0.5):
                            heard.append(await ws.receive())
                        if len(heard) == 3:
                            break
                heard.append(await (await anext(connections)).receive())

        await world.attack(operation)
    if world.outcome == "finished":
        check(heard == ["hello"] * 4, f"{heard}")


@scenario(kinds=(MEMORY, TCP))
async def a_handler_for_each_connection(world: World) -> None:
    """It ends with its connection, and then tells it to stop."""
    service = _Service(world)
    service.stays = True
    lives = 0

    async with service.running() as open_one:

        async def operation() -> None:
            async with Reconnecting(open_one, backoff=HASTY) as connections:

                async def handler(ws: WebSocket) -> None:
                    nonlocal lives
                    check(await ws.receive() == "hello", "another message")
                    lives += 1
                    if lives == 2:
                        connections.stop()
                    else:
                        ws.abort()
                    await ws.receive()

                await connections.run(handler)

        await world.attack(operation)
    if world.outcome == "finished":
        check(lives == 2, f"{lives} connections")


@scenario(kinds=(MEMORY,))
async def a_block_that_is_left_while_another_task_takes_a_step(world: World) -> None:
    """It finds the opening, the connection, and a long delay: none of them outlives the block."""
    service = _Service(world)
    patient = Backoff(first_delay=50, max_delay=50)

    async with service.running() as open_one:

        async def operation() -> None:
            async with anyio.create_task_group() as tg:
                async with Reconnecting(open_one, backoff=patient) as connections:
                    taken = anyio.Event()

                    async def take() -> None:
                        async for ws in connections:
                            taken.set()
                            try:
                                async for _ in ws:
                                    pass
                            except anyws.ConnectionClosed:
                                continue

                    tg.start_soon(take)
                    await taken.wait()
                    await anyio.sleep(0.02)
                left_at = anyio.current_time()
            check(anyio.current_time() - left_at <= 0.1, "a delay went on behind the block")

        await world.attack(operation)


@scenario(kinds=(MEMORY, TCP))
async def a_block_whose_last_connection_does_not_answer(world: World) -> None:
    """The peer reads, and answers no Close: the block is left in time all the same."""
    near, far = await world.pair()
    peer = Peer(far, is_server=True)
    peer.answers_close = False

    @asynccontextmanager
    async def open_one() -> AsyncIterator[WebSocket]:
        async with anyws.wrap_client_stream(near, URL, config=QUICK) as ws:
            yield ws

    async def operation() -> None:
        async with Reconnecting(open_one, backoff=HASTY) as connections:
            await (await anext(connections)).send("one")

    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.run)
        await world.attack(operation, within=QUICK.cancel_grace + 2 * SLACK)
        await anyio.aclose_forcefully(near)
        await peer.ended.wait()
    peer.check_wire()


# --- Broadcast ---


@scenario(*BOTH, kinds=HELD_BACK)
async def broadcasts_to_a_peer_that_reads_late(world: World) -> None:
    """Whatever is cancelled: whole frames, in order, and a Close goes last."""
    async with world.prepared() as (opening, peer):
        sent = 0

        async def operation() -> None:
            nonlocal sent
            async with opening as ws:
                await peer.open.wait()
                async with ws.open_message() as message:
                    await message.send(b"half, ")
                    sent += len(broadcast([ws], _numbered(sent)).sent)
                    await message.send(b"and half")
                peer.stall()
                for _ in range(30):
                    sent += len(broadcast([ws], _numbered(sent)).sent)
                    await anyio.lowlevel.checkpoint()
                with anyio.move_on_after(0.01):
                    async with ws.open_message() as message:
                        sent += len(broadcast([ws], _numbered(sent)).sent)
                        await message.send(b"half, ")
                        await message.send(b"and half")
                peer.resume()
                if ws.is_open:
                    sent += len(broadcast([ws], _numbered(sent)).sent)
                await ws.close()

        try:
            await world.attack(operation, may_raise=(anyws.ConnectionClosed,))
        finally:
            peer.resume()
    numbers = [int(one[:4]) for one in peer.messages if one != b"half, and half"]
    check(numbers == list(range(len(numbers))), f"out of order: {numbers}")
    check(len(numbers) <= sent, "more has arrived than was sent")
    if peer.close is not None:
        check(peer.frames[-1].opcode == CLOSE, "a frame behind the Close")


def _numbered(number: int) -> bytes:
    return b"%04d" % number + bytes(5000)


@scenario(*BOTH, kinds=HELD_BACK)
async def a_peer_that_broadcasts_have_dropped(world: World) -> None:
    backlog = Backlog(max_bytes=10_000)
    async with world.prepared() as (opening, peer):

        async def operation() -> None:
            async with opening as ws:
                await peer.open.wait()
                peer.stall()
                try:
                    while not broadcast([ws], bytes(8000), backlog=backlog).dropped:
                        await anyio.lowlevel.checkpoint()
                    check(not ws.is_open, "dropped, and open")
                    await ws.wait_closed()
                finally:
                    peer.resume()

        await world.attack(operation)
    check(all(one == bytes(8000) for one in peer.messages), "a message that nobody sent")


# --- Bytes ---


@scenario(*BOTH)
async def bytes_both_ways(world: World) -> None:
    """Sent in messages of a bounded size, and received however they come."""
    got = bytearray()
    async with world.prepared() as (opening, peer):
        peer.replies = {
            b"x" * 500: b"".join(peer.frame(BINARY, one) for one in (b"", b"abcdef", b"g"))
        }

        async def operation() -> None:
            async with opening as ws:
                await peer.open.wait()
                stream = WebSocketByteStream(ws, message_size=1000)
                await stream.send(b"")
                await stream.send(b"x" * 2500)
                while len(got) < 7:
                    got.extend(await stream.receive(4))
                await stream.send_eof()
                try:
                    await stream.receive()
                except anyio.EndOfStream:
                    pass
                await stream.aclose()

        await world.attack(operation)
    sent = b"".join(peer.messages)
    check(sent == b"x" * len(sent), "other bytes than were sent")
    check(b"abcdefg".startswith(bytes(got)), f"other bytes than were sent to us: {bytes(got)!r}")
    if world.outcome == "finished":
        check((len(sent), len(got)) == (2500, 7), "a byte is lost")


@scenario(*BOTH, kinds=(MEMORY, TCP, NATIVE), hows=(CANCEL,))
async def bytes_received_by_a_call_that_is_cancelled(world: World) -> None:
    """None is lost: the next call has it."""
    got = bytearray()
    async with world.opened() as (ws, peer):
        stream = WebSocketByteStream(ws)

        async def operation() -> None:
            await peer.send(BINARY, b"abc")
            await peer.send(BINARY, b"def")
            while len(got) < 6:
                piece = await stream.receive(2)
                got.extend(piece)

        await world.attack(operation, may_raise=STREAM_ERRORS)
        if ws.is_open:
            await peer.send(BINARY, b"|")
            while not got.endswith(b"|"):
                got.extend(await stream.receive(2))
            check(bytes(got[:-1]) in {b"", b"abc", b"abcdef"}, f"{bytes(got)!r}")


@scenario(*BOTH, kinds=(MEMORY, TCP, NATIVE))
async def words_among_the_bytes(world: World) -> None:
    """They end the connection with 1003, and each call says why."""
    async with world.prepared() as (opening, peer):

        async def operation() -> None:
            async with opening as ws:
                await peer.open.wait()
                await peer.send(TEXT, b"words")
                stream = WebSocketByteStream(ws)
                for _ in range(2):
                    try:
                        await stream.receive()
                    except anyio.BrokenResourceError as error:
                        check("a text message" in str(error), f"{error}")
                await stream.aclose()

        await world.attack(operation)
    if world.outcome == "finished":
        check(peer.close is not None and peer.close.code == 1003, "no Close with 1003")

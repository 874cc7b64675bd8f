"""Receiving: each message once, in order."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from streams import BINARY, CONT, PING, TEXT
from world import (
    MEMORY,
    NATIVE,
    QUICK,
    SOCKET_LIKE,
    TCP,
    Peer,
    World,
    check,
)

from anyws._config import MAX_RECEIVES_PER_TURN

from ._registry import BOTH, scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyws import WebSocket


async def _receive(
    world: World,
    operation: Callable[[WebSocket, list[str]], Awaitable[object]],
    push: Callable[[Peer, int], Awaitable[object]],
) -> None:
    """Each message once, in order."""
    async with world.opened() as (ws, peer):
        got: list[str] = []
        async with anyio.create_task_group() as tg:

            async def send_all() -> None:
                for number in range(4):
                    await push(peer, number)

            tg.start_soon(send_all)
            await world.attack(lambda: operation(ws, got), within=0.01)
            with anyio.fail_after(5):
                while len(got) < 4:
                    got.append(str(await ws.receive()))
        check(got == [f"number {n}" for n in range(4)], f"received {got}")
        await world.check_usable(ws, peer)


async def _take_all(ws: WebSocket, got: list[str]) -> None:
    while len(got) < 4:
        got.append(str(await ws.receive()))


@scenario(*BOTH)
async def receive_whole(world: World) -> None:
    async def push(peer: Peer, number: int) -> None:
        await peer.send(TEXT, b"number %d" % number)
        await anyio.sleep(0)

    await _receive(world, _take_all, push)


@scenario(*BOTH)
async def receive_in_a_loop_while_reading_ahead(world: World) -> None:
    """The messages come when the reader has changed: nobody has received for a while."""

    async def push(peer: Peer, number: int) -> None:
        await anyio.sleep(0.06)
        await peer.send(TEXT, b"number %d" % number)

    async def loop(ws: WebSocket, got: list[str]) -> None:
        await anyio.sleep(0.1)
        async for message in ws:
            got.append(str(message))
            if len(got) == 4:
                return

    await _receive(world, loop, push)


@scenario(*BOTH)
async def receive_fragmented(world: World) -> None:
    async def push(peer: Peer, number: int) -> None:
        await peer.send(TEXT, b"num", fin=False)
        await peer.send(PING, b"between")
        await peer.send(CONT, b"ber ", fin=False)
        await anyio.sleep(0)
        await peer.send(CONT, b"%d" % number)

    await _receive(world, _take_all, push)


@scenario(*BOTH)
async def receive_streamed(world: World) -> None:
    """A message whose block is left by a cancellation is dropped, the others are not."""
    async with world.opened() as (ws, peer):
        got: list[str] = []
        begun: list[int] = []

        async def send_all() -> None:
            for number in range(4):
                await peer.send(TEXT, b"number ", fin=False)
                await anyio.sleep(0)
                await peer.send(CONT, b"%d" % number)

        async def operation() -> None:
            while len(got) < 3:
                async with ws.receive_fragments() as fragments:
                    begun.append(len(got))
                    pieces = [piece async for piece in fragments]
                got.append("".join(map(str, pieces)))

        async with anyio.create_task_group() as tg:
            tg.start_soon(send_all)
            await world.attack(operation, within=0.01)
            dropped = len(begun) - len(got)
            with anyio.fail_after(5):
                while not got or got[-1] != "number 3":
                    got.append(str(await ws.receive()))
        expected = [f"number {n}" for n in range(4)]
        if dropped:
            del expected[len(begun) - 1]
        check(got == expected, f"received {got}, with {len(begun)} begun")
        check(not dropped or world.struck, "dropped without a cancellation")
        await world.check_usable(ws, peer)


@scenario(*BOTH)
async def receive_the_pieces_of_a_message(world: World) -> None:
    """Within its block, a cancelled wait loses none of them."""
    async with world.opened() as (ws, peer):
        got: list[str] = []

        async def send_all() -> None:
            for number in range(6):
                opcode = CONT if number else TEXT
                await peer.send(opcode, b"piece %d, " % number, fin=number == 5)
                await anyio.sleep(0)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send_all)
            async with ws.receive_fragments() as fragments:

                async def operation() -> None:
                    async for piece in fragments:
                        got.append(str(piece))

                await world.attack(operation, within=0.01)
                with anyio.fail_after(5):
                    await operation()
        expected = "".join(f"piece {n}, " for n in range(6))
        check("".join(got) == expected, f"received {got}")
        await world.check_usable(ws, peer)


@scenario("client", "server", kinds=(MEMORY, TCP))
async def receive_what_was_queued(world: World) -> None:
    """All of it is in the inbox, or behind it, when receiving begins."""
    config = replace(QUICK, inbox_size=2)
    async with world.opened(config) as (ws, peer):
        got: list[str] = []
        await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(40)))
        await anyio.sleep(0.1)

        async def operation() -> None:
            while len(got) < 40:
                got.append(str(await ws.receive()))

        await world.attack(operation, within=0.01)
        while len(got) < 40:
            got.append(str(await ws.receive()))
        check(got == [str(n) for n in range(40)], f"received {got}")
        await world.check_usable(ws, peer)


@scenario("client", kinds=(MEMORY, TCP))
async def receive_json_and_text(world: World) -> None:
    async with world.opened() as (ws, peer):
        got: list[Any] = []

        async def operation() -> None:
            got.append(await ws.receive_json())
            got.append(await ws.receive_text())
            got.append(await ws.receive_bytes())
            await ws.send_json([1])
            await ws.send_text("two")
            await ws.send_bytes(b"three")
            await ws.send_fragments(["fo", "ur"])

        async with anyio.create_task_group() as tg:

            async def send_all() -> None:
                await peer.send(TEXT, b"[1]")
                await anyio.sleep(0)
                await peer.send(TEXT, b"two")
                await peer.send(BINARY, b"three")

            tg.start_soon(send_all)
            await world.attack(operation, within=0.01)
            rest = [[1], "two", b"three"][len(got) :]
            for one in rest:
                message = await ws.receive() if ws.is_open else one
                check(message in (one, "[1]"), f"received {message!r}")
        if ws.is_open:
            await world.check_usable(ws, peer)
        sent = [m for m in peer.messages if m != b"still here"]
        check(sent == [b"[1]", b"two", b"three", b"four"][: len(sent)], f"sent {sent}")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE))
async def receive_a_flood(world: World) -> None:
    """So many small messages that receiving has to let others run."""
    count = 150
    turns: Counter[int] = Counter()
    async with world.opened(replace(QUICK, inbox_size=1000)) as (ws, peer):
        got: list[str] = []
        await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(count)))

        async def operation() -> None:
            while len(got) < count:
                got.append(str(await ws.receive()))
                turns[world.stepper.turns] += 1

        await world.attack(operation, within=0.01)
        await operation()
        check(got == [str(n) for n in range(count)], "lost, doubled or out of order")
        most = max(turns.values())
        check(most <= MAX_RECEIVES_PER_TURN, f"{most} were received, and nobody else could run")


@scenario("client", "server", kinds=(NATIVE,), backends=("trio",))
async def receive_what_the_system_has_much_of(world: World) -> None:
    """So much that reading, which never has to wait, has to let others run."""
    message = b"x" * 900_000
    async with world.opened() as (ws, peer):
        ours = ws.extra(SocketAttribute.raw_socket)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        got: list[str | bytes] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(peer.send, BINARY, message)
            await anyio.sleep(0.02)

            async def operation() -> None:
                got.append(await ws.receive())

            await world.attack(operation, within=0.01)
            with anyio.fail_after(5):
                if not got:
                    await operation()
        check(got == [message], "lost, doubled or torn")
        await world.check_usable(ws, peer)

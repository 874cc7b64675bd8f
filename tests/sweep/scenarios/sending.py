"""Sending: whole, once or not at all; and the connection is as before."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketAttribute
from world import (
    MEMORY,
    NATIVE,
    QUICK,
    TCP,
    Peer,
    World,
    check,
)

import anyws
from anyws import Config, Deflate, WebSocket
from anyws.testing import open_websocket_pair

from ._registry import BOTH, scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def _send(
    world: World,
    operation: Callable[[WebSocket], Awaitable[object]],
    payload: bytes,
    *,
    stalled: bool = False,
    config: Config = QUICK,
) -> None:
    """Whole, once or not at all; and the connection is as before."""
    async with world.opened(config) as (ws, peer):
        await ws.send("before")
        await peer.until(lambda: peer.messages)
        async with anyio.create_task_group() as tg:
            if stalled:
                peer.stall()
                tg.start_soon(_resume_later, peer)
            await world.attack(lambda: operation(ws), within=0.01)
        peer.resume()
        check(ws.is_open, "one cancelled send, and the connection is over")
        await world.check_usable(ws, peer)
        sent = [m for m in peer.messages if m not in {b"before", b"still here"}]
        check(sent in ([], [payload]), f"{len(sent)} messages, or not the one that was sent")
        check(sent or world.outcome != "finished", "sent, and not arrived")
        check(peer.messages[-1] == b"still here", "out of order")


async def _resume_later(peer: Peer) -> None:
    await anyio.sleep(0.03)
    peer.resume()


@scenario(*BOTH)
async def send_small(world: World) -> None:
    await _send(world, lambda ws: ws.send("small"), b"small")


@scenario(*BOTH)
async def send_several_in_a_row(world: World) -> None:
    """Some of them may be held together: a beginning goes out, and all that `send` returned from."""
    texts = [str(number) for number in range(6)]
    returned = 0
    async with world.opened() as (ws, peer):
        await ws.send("before")
        await peer.until(lambda: peer.messages)

        async def operation() -> None:
            nonlocal returned
            for text in texts:
                await ws.send(text)
                returned += 1

        await world.attack(operation, within=0.01)
        await world.check_usable(ws, peer)
        sent = [m.decode() for m in peer.messages if m not in {b"before", b"still here"}]
        check(sent == texts[: len(sent)], f"{sent} are no beginning")
        check(0 <= len(sent) - returned <= 1, f"{returned} were sent, and {len(sent)} arrived")
        check(peer.messages[-1] == b"still here", "out of order")


@scenario(*BOTH)
async def send_large_to_a_stalled_peer(world: World) -> None:
    large = bytes(range(256)) * 1600
    await _send(world, lambda ws: ws.send(large), large, stalled=True)


async def _send_behind(world: World, large: bytes, behind: bytes) -> None:
    """The one that waits in line is withdrawn, or sent."""
    async with world.opened() as (ws, peer):
        sock = ws.extra(SocketAttribute.raw_socket, None)
        if sock is not None:
            # The system is to take little at a time.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        peer.stall()
        async with anyio.create_task_group() as tg:
            started = anyio.Event()

            async def send_large() -> None:
                started.set()
                await ws.send(large)

            tg.start_soon(send_large)
            # On a busy machine a task may not have run when a pause is over.
            await started.wait()
            await anyio.sleep(0.01)
            tg.start_soon(_resume_later, peer)
            await world.attack(lambda: ws.send(behind), within=0.01)
        await world.check_usable(ws, peer)
        check(peer.messages[0] == large, "the other one is not whole")
        rest = peer.messages[1:]
        check(rest in ([b"still here"], [behind, b"still here"]), "lost or doubled")


@scenario("client", kinds=(MEMORY, TCP))
async def send_behind_another(world: World) -> None:
    await _send_behind(world, bytes(400_000), b"behind")


@scenario("client", kinds=(NATIVE,))
async def send_more_than_the_system_takes_behind_another(world: World) -> None:
    await _send_behind(world, bytes(800_000), bytes(700_000))


@scenario("client", "server")
async def send_while_a_message_is_under_way(world: World) -> None:
    """A sender waits for another's message in fragments to end."""
    await _send_behind_fragments(world, lambda ws: ws.send("third"))


@scenario("client")
async def send_text_while_a_message_is_under_way(world: World) -> None:
    await _send_behind_fragments(world, lambda ws: ws.send_text("third"))


async def _send_behind_fragments(
    world: World, operation: Callable[[WebSocket], Awaitable[object]]
) -> None:
    async with world.opened() as (ws, peer):
        async with anyio.create_task_group() as tg:

            async def stream() -> None:
                async with ws.open_message() as message:
                    await message.send("first ")
                    await anyio.sleep(0.02)
                    await message.send("second")

            tg.start_soon(stream)
            await peer.until(lambda: peer.frames)
            await world.attack(lambda: operation(ws), within=0.01)
        await world.check_usable(ws, peer)
        check(peer.messages[0] == b"first second", "the message in fragments is not whole")
        check(len(peer.messages) <= 3, "too many messages")


@scenario(*BOTH)
async def send_compressed(world: World) -> None:
    """The contexts of both ends stay the same: what follows can be read."""
    config = replace(QUICK, compression=Deflate(threshold=0))
    near, far = await world.pair()
    texts = [f"a message that is like the others, {n}" for n in range(4)]
    client_side = world.setting.role == "client"
    streams = (near, far) if client_side else (far, near)
    pair = open_websocket_pair(streams=streams, client_config=config, server_config=config)
    async with pair as (client, server):
        ours, theirs = (client, server) if client_side else (server, client)
        check("permessage-deflate" in ours.extensions, "no compression")
        await ours.send(texts[0])

        async def operation() -> None:
            await ours.send(texts[1])
            await ours.send(texts[2])

        await world.attack(operation, within=0.01)
        await ours.send(texts[3])
        got = []
        while not got or got[-1] != texts[3]:
            got.append(await theirs.receive())
        middle = got[1:-1]
        check(got[0] == texts[0], "the first is lost")
        check(middle in (texts[1:1], texts[1:2], texts[1:3]), f"received {middle}")
        check(len(middle) == 2 or world.struck, "lost without a cancellation")


@scenario(*BOTH)
async def send_from_an_iterator(world: World) -> None:
    """Half a message must not look like a whole one: none of it, all of it, or 1011."""

    async def fragments() -> Any:
        for part in ("one ", "two ", "three"):
            await anyio.sleep(0)
            yield part

    async def operation() -> None:
        # The iterator is ours, and so is closing it.
        async with contextlib.aclosing(fragments()) as source:
            await ws.send_fragments(source)

    async with world.opened() as (ws, peer):
        await world.attack(operation, within=0.01)
        if ws.is_open:
            await world.check_usable(ws, peer)
            check(peer.messages[:-1] in ([], [b"one two three"]), "not the message that was sent")
        else:
            check(world.struck, "closed without a cancellation")
            await world.check_usable(ws, peer)
            await peer.until(lambda: peer.close)
            check(peer.close is not None and peer.close.code == 1011, "cut short without 1011")
            check(peer.messages == [], "half a message looks like a whole one")


@scenario("client", kinds=(MEMORY, TCP))
async def send_fragments_by_hand_to_a_stalled_peer(world: World) -> None:
    async def operation() -> None:
        async with ws.open_message() as message:
            for _ in range(3):
                await message.send(bytes(100_000))

    async with world.opened() as (ws, peer):
        peer.stall()
        async with anyio.create_task_group() as tg:
            tg.start_soon(_resume_later, peer)
            await world.attack(operation, within=0.01)
        peer.resume()
        await world.check_usable(ws, peer)
        whole = [m for m in peer.messages if m != b"still here"]
        check(whole in ([], [bytes(300_000)]), "half a message looks like a whole one")


@scenario("client", "server", kinds=(MEMORY, TCP))
async def open_a_message_while_another_is_under_way(world: World) -> None:
    async with world.opened() as (ws, peer):
        async with anyio.create_task_group() as tg:

            async def stream() -> None:
                async with ws.open_message() as message:
                    await message.send("first ")
                    await anyio.sleep(0.02)
                    await message.send("second")

            async def operation() -> None:
                async with ws.open_message():
                    pass

            tg.start_soon(stream)
            await peer.until(lambda: peer.frames)
            await world.attack(operation, within=0.01)
        await world.check_usable(ws, peer)
        check(peer.messages == [b"first second", b"still here"], "not the messages that were sent")


@scenario("client", kinds=(NATIVE,))
async def send_many_without_having_to_wait(world: World) -> None:
    numbers = [b"%d" % number for number in range(70)]

    async def operation() -> None:
        for number in numbers:
            await ws.send(number)

    async with world.opened() as (ws, peer):
        await world.attack(operation, within=0.01)
        await world.check_usable(ws, peer)
        sent = peer.messages[:-1]
        check(sent == numbers[: len(sent)], "one is missing, or there twice")
        check(sent == numbers or world.struck, "not all of them")


@scenario("client", kinds=(MEMORY, TCP, NATIVE))
async def wait_to_send_while_the_connection_ends(world: World) -> None:
    """Behind a message that is under way, and for a pong."""

    async def operation() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(_until_it_ends, lambda: ws.send("behind"))
            tg.start_soon(_until_it_ends, ws.ping)
            await anyio.sleep(0.002)
            await peer.send_close(4000)

    async with world.opened() as (ws, peer):
        peer.replies.clear()
        async with anyio.create_task_group() as tg:

            async def stream() -> None:
                with contextlib.suppress(anyws.ConnectionClosed):
                    async with ws.open_message() as message:
                        await message.send("first")
                        await ws.wait_closed()

            tg.start_soon(stream)
            await peer.until(lambda: peer.frames)
            await world.attack(operation, within=0.01)
            await peer.send_close(4000)
            with anyio.fail_after(5):
                await ws.wait_closed()


async def _until_it_ends(operation: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(anyws.ConnectionClosed):
        await operation()

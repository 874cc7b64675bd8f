"""Pings, keepalive, and looking on while the connection lives."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import anyio
from streams import PING, TEXT
from world import (
    CANCEL,
    MEMORY,
    NATIVE,
    QUICK,
    SOCKET_LIKE,
    TCP,
    Peer,
    Violation,
    World,
    check,
)

import anyws

from ._registry import BOTH, scenario


@scenario(*BOTH)
async def ping(world: World) -> None:
    async with world.opened() as (ws, peer):

        async def operation() -> None:
            check(await ws.ping() >= 0, "a negative time")
            await anyio.sleep(0.06)
            await ws.ping()

        await world.attack(operation, within=0.01)
        latency = ws.latency
        await world.check_usable(ws, peer)
        # By now it has come, if it was still to come.
        check(ws.latency == latency, "the late pong of a cancelled ping was not ignored")
        pings = sum(one.opcode == PING for one in peer.frames)
        check(pings == 2 or world.struck, f"{pings} pings")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP, NATIVE))
async def ping_and_the_connection_ends_before_its_pong(world: World) -> None:
    async with world.opened() as (ws, peer):
        peer.stall()
        # The latest that the peer takes: what it reads already, it also answers.
        await ws.send("before")
        await peer.until(lambda: peer.messages)

        async def operation() -> None:
            try:
                await ws.ping()
            except anyws.ClosedByPeer:
                pass
            else:
                raise Violation("there was no pong, and the ping was answered")

        async with anyio.create_task_group() as tg:
            tg.start_soon(_close_later, peer)
            await world.attack(operation, within=0.01)
        peer.resume()
        await ws.wait_closed()


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP))
async def wait_closed(world: World) -> None:
    async with world.opened() as (ws, peer):
        async with anyio.create_task_group() as tg:
            tg.start_soon(_close_later, peer)
            await world.attack(ws.wait_closed, within=0.01)
        closure = await ws.wait_closed()
        check(closure.received is not None, "the peer's Close was not noticed")


async def _close_later(peer: Peer) -> None:
    await anyio.sleep(0.03)
    await peer.send_close(1000)


@scenario("client", "server", kinds=(MEMORY, TCP), hows=(CANCEL,))
async def work_until_the_peer_leaves(world: World) -> None:
    scopes: list[weakref.ref[anyio.CancelScope]] = []
    async with world.opened() as (ws, peer):

        async def operation() -> None:
            async with ws.cancel_when_closed() as scope:
                scopes.append(weakref.ref(scope))
                await anyio.sleep(5)
            check(scope.cancelled_caught, "the peer left, and the work went on")

        async with anyio.create_task_group() as tg:
            tg.start_soon(_close_later, peer)
            await world.attack(operation, within=0.01)
        await ws.wait_closed()
        if any(scope() is not None for scope in scopes):
            # What a traceback has held may have become a cycle.
            gc.collect()
        kept = [scope for scope in scopes if scope() is not None]
        check(not kept, "the work is over, and the connection still knows of it")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP))
async def keepalive(world: World) -> None:
    """Nobody is in `receive`, and pings go out; then the peer falls silent."""
    config = replace(QUICK, ping_interval=0.03, ping_timeout=0.1)
    async with world.opened(config) as (ws, peer):

        async def operation() -> None:
            await anyio.sleep(0.08)
            await peer.until(lambda: any(one.opcode == PING for one in peer.frames))
            peer.stall()
            try:
                await ws.receive()
            except anyws.ConnectionBroken as error:
                check("no sign of life" in str(error), f"another reason: {error}")

        await world.attack(operation, within=0.01)
        if not world.struck:
            check(not ws.is_open, "silent, and still open")
        peer.resume()
        await world.check_usable(ws, peer)


@scenario("client", "server", kinds=(MEMORY, TCP))
async def a_stalled_write(world: World) -> None:
    config = replace(QUICK, write_timeout=0.08)
    async with world.opened(config) as (ws, peer):
        peer.stall()

        async def operation() -> None:
            try:
                await ws.send(bytes(800_000))
            except anyws.ConnectionBroken as error:
                check("stalled" in str(error), f"another reason: {error}")
            else:
                raise Violation("nobody reads, and it was sent")

        await world.attack(operation, within=0.01)
        with anyio.move_on_after(0.5):
            await ws.wait_closed()
        if world.struck and ws.is_open:
            # It was withdrawn before its first byte.
            peer.resume()
            await world.check_usable(ws, peer)
            check(peer.messages == [b"still here"], "withdrawn, and sent")
        else:
            check(ws.closure is not None and not ws.closure.clean, "not ended by the limit")
            peer.resume()


@scenario("client", "server", kinds=(SOCKET_LIKE, TCP))
async def keepalive_while_somebody_receives(world: World) -> None:
    """The one who suspects the peer is not the one who reads."""
    config = replace(QUICK, ping_interval=0.03, ping_timeout=0.06)
    async with world.opened(config) as (ws, peer):
        peer.stall()

        async def operation() -> None:
            try:
                await ws.receive()
            except anyws.ConnectionBroken as error:
                check("no sign of life" in str(error), f"another reason: {error}")

        await world.attack(operation, within=0.01)
        # Whoever has gone: the peer stays silent, and is given up.
        with anyio.fail_after(5):
            await ws.wait_closed()
        peer.resume()
        await world.check_usable(ws, peer)


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP))
async def the_end_of_the_stream_while_messages_wait(world: World) -> None:
    """What came before the end can be received, one by one; then the end is told."""
    config = replace(QUICK, inbox_size=1)
    async with world.opened(config) as (ws, peer):
        got: list[str] = []
        await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(3)))
        await peer.stream.aclose()
        await anyio.sleep(0.08)

        async def operation() -> None:
            try:
                while True:
                    got.append(str(await ws.receive()))
            except anyws.ConnectionBroken:
                got.append("the end")

        await world.attack(operation, within=0.01)
        if world.struck:
            await operation()
        check(got[:3] == ["0", "1", "2"], f"received {got}")
        check(set(got[3:]) == {"the end"}, "the end is not told")

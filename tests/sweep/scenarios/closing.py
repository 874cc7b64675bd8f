"""Closing: by us, by the peer, by both, and by what breaks."""

from __future__ import annotations

from dataclasses import replace

import anyio
from streams import TEXT
from world import (
    MEMORY,
    NATIVE,
    QUICK,
    SLACK,
    SOCKET_LIKE,
    TCP,
    World,
    check,
)

import anyws

from ._registry import BOTH, scenario


@scenario(*BOTH)
async def close_by_us(world: World) -> None:
    async with world.opened() as (ws, peer):
        await world.attack(lambda: ws.close(4000, "enough"), within=SLACK)
        if world.outcome == "finished":
            check(ws.closure is not None and ws.closure.clean, "not clean")
        check(not ws.is_open, "asked to close, and open")
        await world.check_usable(ws, peer)
        check(ws.status is anyws.Status.CLOSED, "not closed")
    check(peer.close is None or peer.close.code == 4000, "closed with another code")
    check(peer.close is not None, "no Close, and the peer reads")


@scenario(*BOTH)
async def close_by_us_where_the_peer_does_not_answer(world: World) -> None:
    async with world.opened() as (ws, peer):
        peer.answers_close = False
        await world.attack(ws.aclose, within=SLACK)
        await world.check_usable(ws, peer)
    check(peer.close is not None, "no Close, and the peer reads")


@scenario("client", "server", kinds=(MEMORY, NATIVE))
async def close_in_two_steps(world: World) -> None:
    """The one deadline is that of the first."""
    async with world.opened() as (ws, peer):
        peer.answers_close = False

        async def operation() -> None:
            await ws.send_eof()
            begun = anyio.current_time()
            await anyio.sleep(0.2)
            await ws.close()
            passed = anyio.current_time() - begun
            if world.setting.virtual:
                check(passed <= 0.301, f"closing took {passed:.3f} s")

        await world.attack(operation, within=SLACK)
        await world.check_usable(ws, peer)
    check(peer.close is not None, "no Close, and the peer reads")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP, NATIVE))
async def close_with_a_full_inbox(world: World) -> None:
    """What is in front of the peer's Close is dropped, for nobody will receive it."""
    async with world.opened(replace(QUICK, inbox_size=2)) as (ws, peer):
        await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(40)))
        await anyio.sleep(0.1)
        await world.attack(ws.close, within=SLACK)
        if world.outcome == "finished":
            check(ws.closure is not None and ws.closure.clean, "not clean")
        await world.check_usable(ws, peer)
    check(peer.close is not None, "no Close, and the peer reads")


@scenario(*BOTH)
async def close_behind_a_stalled_write(world: World) -> None:
    async with world.opened() as (ws, peer):
        async with anyio.create_task_group() as tg:
            peer.stall()

            async def send() -> None:
                try:
                    await ws.send(bytes(400_000))
                except anyws.ConnectionClosed:
                    pass

            tg.start_soon(send)
            await anyio.sleep(0.01)
            await world.attack(ws.close, within=SLACK)
            check(not ws.is_open, "asked to close, and open")
        check((await ws.wait_closed()).cause, "no reason")
        peer.resume()


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE))
async def close_by_both_where_ours_is_torn(world: World) -> None:
    """What the peer never got whole was not sent."""
    async with world.opened() as (ws, peer):
        peer.answers_close = False
        peer.stall()
        # It takes what it waits for, and then there is room for as much again.
        peer.stream.incoming.capacity = 1
        await peer.send_close(1001)
        await world.attack(ws.close, within=SLACK + 0.05)
        if not ws.is_open:
            await world.check_usable(ws, peer)
            closure = await ws.wait_closed()
            check(closure.sent is None and not closure.clean, f"{closure}")
            check(closure.received is not None, "their Close was there")
        peer.resume()


@scenario(*BOTH)
async def close_by_the_peer(world: World) -> None:
    """Messages before its Close can be received; then the loop ends."""
    async with world.opened() as (ws, peer):
        got: list[str] = []

        async def operation() -> None:
            async for message in ws:
                got.append(str(message))

        async with anyio.create_task_group() as tg:

            async def push() -> None:
                await peer.send(TEXT, b"one")
                await anyio.sleep(0)
                await peer.send(TEXT, b"two")
                await peer.send_close(1000)

            tg.start_soon(push)
            await world.attack(operation, within=0.01)
            with anyio.fail_after(5):
                async for message in ws:
                    got.append(str(message))
        check(got == ["one", "two"], f"received {got}")
        closure = await ws.wait_closed()
        check(closure.first == "theirs" and closure.clean, f"{closure}")
    check(peer.close is not None and peer.close.code == 1000, "their Close has no answer")


@scenario(*BOTH)
async def close_by_both_at_once(world: World) -> None:
    async with world.opened() as (ws, peer):
        peer.answers_close = False

        async def operation() -> None:
            async with anyio.create_task_group() as tg:
                tg.start_soon(peer.send_close, 1001)
                await ws.close(1000)

        await world.attack(operation, within=SLACK + 0.05)
        if not ws.is_open:
            await world.check_usable(ws, peer)
        if not world.struck:
            check(ws.closure is not None and ws.closure.clean, "not clean")


@scenario(*BOTH)
async def send_eof_and_receive_the_rest(world: World) -> None:
    async with world.opened() as (ws, peer):
        peer.answers_close = False
        got: list[str] = []

        async def operation() -> None:
            await ws.send_eof()
            async for message in ws:
                got.append(str(message))

        async with anyio.create_task_group() as tg:

            async def push() -> None:
                await peer.send(TEXT, b"one")
                await anyio.sleep(0.01)
                await peer.send(TEXT, b"two")
                await peer.send_close(1000)

            tg.start_soon(push)
            await world.attack(operation, within=0.01)
            with anyio.fail_after(5):
                async for message in ws:
                    got.append(str(message))
        check(got == ["one", "two"], f"received {got}")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP))
async def a_violation(world: World) -> None:
    async with world.opened() as (ws, peer):

        async def operation() -> None:
            await peer.send(3, b"no such opcode")
            try:
                await ws.receive()
            except anyws.ConnectionBroken:
                pass
            await ws.wait_closed()

        await world.attack(operation, within=0.01)
        with anyio.fail_after(5):
            await peer.send(3, b"no such opcode")
            await ws.wait_closed()
        await peer.until(lambda: peer.close)
    check(peer.close is not None and peer.close.code == 1002, "not told with 1002")


@scenario("client", "server", kinds=(MEMORY, SOCKET_LIKE, TCP))
async def the_stream_ends_within_a_frame(world: World) -> None:
    async with world.opened() as (ws, peer):
        half = peer.frame(TEXT, b"x" * 100)[:50]

        async def operation() -> None:
            await peer.send_raw(half)
            await peer.stream.aclose()
            try:
                await ws.receive()
            except anyws.ConnectionBroken:
                pass

        await world.attack(operation, within=0.01)
        await peer.stream.aclose()
        with anyio.fail_after(5):
            await ws.wait_closed()
        await world.check_usable(ws, peer)

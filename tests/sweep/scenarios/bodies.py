"""The block that owns a connection, ended at any point of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from streams import CONT, TEXT
from world import (
    CANCEL,
    MEMORY,
    NATIVE,
    QUICK,
    RAISE,
    SLACK,
    TCP,
    TLS,
    InjectedError,
    Peer,
    World,
    check,
)

from ._registry import BOTH, scenario

if TYPE_CHECKING:
    from anyws import WebSocket


async def _converse(ws: WebSocket, peer: Peer) -> None:
    """A bit of everything. What the peer does, it does in its own task."""
    half = peer.frame(TEXT, b"four, ", fin=False)
    peer.replies = {b"one": peer.frame(TEXT, b"two"), b"in two": half + peer.frame(CONT, b"in two")}
    await ws.send("one")
    await ws.ping()
    check(await ws.receive() == "two", "another message")
    async with ws.open_message() as message:
        await message.send(b"three, ")
        await message.send(b"in two")
    async with ws.receive_fragments() as fragments:
        async for _ in fragments:
            pass
    peer.stall()
    try:
        with anyio.move_on_after(0.01):
            await ws.send(bytes(100_000))
    finally:
        peer.resume()
    await ws.send("last")
    await peer.until(lambda: b"last" in peer.messages)


@scenario(*BOTH)
async def the_body(world: World) -> None:
    """Close 1001 goes out, within the grace, where the peer takes it."""
    async with world.prepared() as (opening, peer):
        opened = False

        async def operation() -> None:
            nonlocal opened
            async with opening as ws:
                opened = True
                await peer.open.wait()
                await _converse(ws, peer)

        await world.attack(operation)
    if world.outcome == "finished":
        # Where time is real, the large one may not have been begun when its time was over.
        large = [bytes(100_000)][: len(peer.messages) - 3]
        expected = [b"one", b"three, in two", *large, b"last"]
        check(peer.messages == expected, "a message is lost, or one too many")
    if opened:
        codes = {1000} if world.outcome == "finished" else {1000, 1001, 1011}
        check(peer.close is not None, "it was open, and no Close came")
        check(peer.close.code in codes, f"closed with {peer.close.code}")


@scenario(*BOTH)
async def the_body_with_a_peer_that_does_not_answer(world: World) -> None:
    async with world.prepared() as (opening, peer):
        peer.answers_close = False
        opened = False

        async def operation() -> None:
            nonlocal opened
            async with opening as ws:
                opened = True
                await ws.send("one")
                await anyio.sleep(0.02)

        await world.attack(operation)
    if opened:
        check(peer.close is not None, "it was open, and no Close came")


@scenario(*BOTH, kinds=(MEMORY, TCP, NATIVE), hows=(NATIVE,))
async def the_body_cancelled_twice(world: World) -> None:
    """The second `Task.cancel` ends the grace of the first."""
    async with world.prepared(replace(QUICK, cancel_grace=5)) as (opening, peer):
        peer.answers_close = False
        second: list[asyncio.TimerHandle] = []

        async def operation() -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                async with opening as ws:
                    try:
                        await ws.send("one")
                        await anyio.sleep(0.02)
                    except asyncio.CancelledError:
                        loop = asyncio.get_running_loop()
                        second.append(loop.call_later(0.05, task.cancel))
                        raise
            finally:
                for timer in second:
                    timer.cancel()

        await world.attack(operation, within=0.05 + SLACK)


@scenario(*BOTH, kinds=(MEMORY, TCP, NATIVE))
async def the_body_that_has_raised(world: World) -> None:
    """A cancellation, or a peer that does not answer, never takes the exception's place."""
    async with world.prepared() as (opening, peer):
        peer.answers_close = False
        raised = False

        async def operation() -> None:
            nonlocal raised
            async with opening as ws:
                await ws.send("one")
                raised = True
                raise world.error

        await world.attack(operation, may_raise=(InjectedError,))
        check(not raised or world.outcome == "raised", "the exception of the body is lost")
        check(world.error.__cause__ is None, "it has a cause that is not its own")
        check(world.error.__context__ is None, "it has a context that is not its own")


@scenario(*BOTH, kinds=(MEMORY, TCP, TLS))
async def the_body_with_a_peer_that_takes_nothing(world: World) -> None:
    async with world.prepared() as (opening, peer):

        async def operation() -> None:
            async with opening as ws:
                peer.stall()
                with anyio.move_on_after(0.02):
                    await ws.send(bytes(800_000))

        await world.attack(operation)


@scenario(*BOTH, hows=(RAISE,))
async def the_body_raising(world: World) -> None:
    """At each await in turn: the exception leaves as itself, and the peer is told."""
    async with world.prepared() as (opening, peer):
        ended: list[float] = []
        try:
            async with opening as ws:
                await peer.open.wait()
                try:
                    await world.attack(lambda: _converse(ws, peer))
                finally:
                    ended.append(anyio.current_time())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
            check(error is world.error, f"not the exception of the body but {error!r}")
            check(world.error.__cause__ is None, "it has a cause that is not its own")
        else:
            check(not world.struck, "the exception of the body is lost")
        passed = anyio.current_time() - ended[0]
        if world.setting.virtual and world.struck:
            check(passed <= QUICK.cancel_grace + SLACK, f"leaving took {passed:.3f} s")
    code = 1000 if not world.struck else 1011 if world.setting.role == "server" else 1001
    check(peer.close is not None, "raised, and no Close came")
    check(peer.close.code in {code, 1011}, f"closed with {peer.close.code}")


@scenario("client", "server", kinds=(MEMORY, TCP), hows=(CANCEL,))
async def the_body_within_another_deadline(world: World) -> None:
    """An outer deadline finds the closing handshake running, and costs nothing more."""
    config = replace(QUICK, close_timeout=5)
    async with world.prepared(config) as (opening, peer):
        peer.answers_close = False

        async def operation() -> None:
            async with opening:
                pass

        start = anyio.current_time()
        with anyio.move_on_after(0.1):
            await world.attack(operation)
        if world.setting.virtual:
            passed = anyio.current_time() - start
            check(passed <= 0.1 + QUICK.cancel_grace + SLACK, f"it took {passed:.3f} s")

"""What is built on connections: the command, the demonstration, and `anyws.testing`."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import anyio
from streams import URL
from world import CANCEL, MEMORY, QUICK, SLACK, TCP, Peer, Violation, World, check

import anyws
from anyws import WebSocket
from anyws._asked import nothing
from anyws._cli.command import _demo
from anyws._cli.connect import connect
from anyws._cli.echo import echo
from anyws._demo import _CountingStream
from anyws.testing import fixtures, memory_stream_pair, open_websocket_pair

from ._registry import scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A command closes with the default grace, on each side of several connections.
_SECONDS = 8


async def _echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@contextlib.contextmanager
def signals_kept() -> Iterator[Callable[[], None]]:
    """Give a function that sends a signal to whoever waits for it now, and to nobody else.

    A program that has ended holds signals back, since its process is about to end; this one is not.
    """

    def ignore(*_: object) -> None:
        """A receiver that was cancelled passes what it has not read on to the old handler."""

    def send() -> None:
        # Asyncio puts the default back, and not what was there.
        if signal.getsignal(signal.SIGTERM) not in {ignore, signal.SIG_DFL}:
            signal.raise_signal(signal.SIGTERM)

    both = (signal.SIGTERM, signal.SIGINT)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = [signal.getsignal(one) for one in both]
    signal.signal(signal.SIGTERM, ignore)
    try:
        yield send
    finally:
        for one in both:
            # What waits for this thread is dropped.
            signal.signal(one, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in zip(both, before, strict=True):
            signal.signal(one, handler)


@contextlib.contextmanager
def terminal(given: bytes = b"") -> Iterator[io.StringIO]:
    """Standard input with these bytes, and what is printed."""
    output = io.StringIO()
    reading, writing = os.pipe()
    os.write(writing, given)
    os.close(writing)
    kept = sys.stdin
    with open(reading) as sys.stdin:
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
                yield output
        finally:
            sys.stdin = kept


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def the_demonstration(world: World) -> None:
    with terminal() as output:
        await world.attack(lambda: _demo(argparse.Namespace(backend="x")), within=_SECONDS)
        check(world.struck or "as expected" in output.getvalue(), "it did not say that all is well")


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def the_command_that_connects(world: World) -> None:
    async with anyws.open_server(_echo, host="127.0.0.1", port=0, config=QUICK) as server:
        options = argparse.Namespace(
            url=server.url, subprotocol=[], header=[], origin=None, wait=0.05
        )
        with terminal(b"hello\nthere\n") as output:
            await world.attack(lambda: connect(options), within=_SECONDS)
            check(world.struck or output.getvalue() == "hello\nthere\n", output.getvalue())
            # The thread that reads has had its last line, or nobody to give it to.
            await anyio.sleep(0.01)


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def the_command_that_echoes(world: World) -> None:
    options = argparse.Namespace(host="127.0.0.1", port=0)

    async def visit() -> None:
        while (found := re.search(r"ws://\S+", output.getvalue())) is None:
            if world.outcome not in {"", "raised"}:
                return
            await anyio.sleep(0.001)
        try:
            async with anyws.open_websocket(found[0], config=QUICK) as ws:
                await ws.send("hello")
                check(await ws.receive() == "hello", "no echo")
                send_signal()
                async for _ in ws:
                    raise Violation("a message that nobody sent")
        except (anyws.WebSocketError, OSError):
            check(world.struck, "the server left early")

    with terminal() as output, signals_kept() as send_signal:
        async with anyio.create_task_group() as tg:
            tg.start_soon(visit)
            await world.attack(lambda: echo(options), within=_SECONDS)


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def the_command_that_is_interrupted_while_it_connects(world: World) -> None:
    """Somebody accepts, and never answers; then there is a signal."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = multi.extra(anyio.abc.SocketAttribute.local_port)
    options = argparse.Namespace(
        url=f"ws://127.0.0.1:{port}/", subprotocol=[], header=[], origin=None, wait=0
    )

    async def interrupt() -> None:
        await anyio.sleep(0.05)
        send_signal()

    with terminal(), signals_kept() as send_signal:
        async with multi, anyio.create_task_group() as tg:
            tg.start_soon(interrupt)
            await world.attack(lambda: connect(options), within=_SECONDS)


@scenario(kinds=(MEMORY,), hows=(CANCEL,))
async def without_signals(world: World) -> None:
    """Where the system has none to wait for, the command waits in vain."""

    async def operation() -> None:
        with anyio.move_on_after(0.01):
            await anext(nothing())

    await world.attack(operation)


# --- anyws.testing ---


@scenario(kinds=(MEMORY,))
async def both_ends_in_one_block(world: World) -> None:
    near, far = await world.pair()

    async def operation() -> None:
        async with open_websocket_pair(
            streams=(near, far), client_config=QUICK, server_config=QUICK
        ) as (client, server):
            await client.send("x")
            await server.receive()

    await world.attack(operation, within=2 * QUICK.cancel_grace + SLACK)
    check(near.closed, "our stream was left open")


@scenario(kinds=(MEMORY,))
async def a_pair_that_cannot_open(world: World) -> None:
    near, far = memory_stream_pair()
    near.outgoing.end_after(20)

    async def operation() -> None:
        try:
            async with open_websocket_pair(
                streams=(near, far), client_config=QUICK, server_config=QUICK
            ):
                raise Violation("half a request, and open")
        except anyws.HandshakeError:
            pass

    await world.attack(operation)
    check(near.closed and far.closed, "a stream was left open")


class _Late(_CountingStream):
    """What it sends arrives, and then it fails."""

    async def send(self, item: bytes) -> None:
        await super().send(item)
        raise anyio.BrokenResourceError


@scenario(kinds=(MEMORY,))
async def a_pair_of_which_one_end_opens(world: World) -> None:
    near, far = memory_stream_pair()

    async def operation() -> None:
        try:
            async with open_websocket_pair(
                streams=(near, _Late(far)), client_config=QUICK, server_config=QUICK
            ):
                raise Violation("the server's end failed, and open")
        except anyws.HandshakeInvalid as error:
            check(isinstance(error.__cause__, anyio.BrokenResourceError), "it hides the loss")

    await world.attack(operation)
    check(near.closed and far.closed, "a stream was left open")


@scenario("client", kinds=(MEMORY,))
async def what_the_demonstration_counts(world: World) -> None:
    """To the end of our half, behind the Close for what the peer did."""
    near, far = memory_stream_pair()
    counting = _CountingStream(near)
    peer = Peer(far, is_server=True)

    async def operation() -> None:
        async with anyws.wrap_client_stream(counting, URL, config=QUICK) as ws:
            await peer.open.wait()
            await peer.send_raw(b"\x83\x00")
            try:
                await ws.receive()
            except anyws.ConnectionBroken:
                pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.run)
        await world.attack(operation)
        await peer.ended.wait()
    check(near.closed, "the stream was left open")
    check(counting.sent >= len(peer.log), "more has come than was counted")


@scenario(kinds=(MEMORY,), hows=(CANCEL,))
async def the_fixture_of_a_pair(world: World) -> None:
    make: Any = fixtures.websocket_pair

    async def operation() -> None:
        async with contextlib.aclosing(make._get_wrapped_function()(None)) as pairs:
            client, server = await anext(pairs)
            await client.send("x")
            check(await server.receive() == "x", "another message")
            await anext(pairs, None)

    await world.attack(operation, within=2 + 2 * SLACK)


@scenario(kinds=(MEMORY,))
async def a_stream_that_hangs_on_close(world: World) -> None:
    near, far = memory_stream_pair()
    near.hangs_on_close = True

    async def operation() -> None:
        with anyio.move_on_after(0.02):
            await near.aclose()

    await world.attack(operation)
    check(near.closed, "still open")
    await far.aclose()


@scenario(kinds=(MEMORY,))
async def a_listener_that_nobody_serves(world: World) -> None:
    listener, connect, _ = await world.listener()
    visitor = await connect()

    async def operation() -> None:
        await listener.aclose()
        try:
            await visitor.receive()
        except anyio.EndOfStream:
            pass

    await world.attack(operation)
    await listener.aclose()
    await visitor.aclose()

"""What is attacked. Each scenario sets something up, attacks once, and judges what came of it.

A scenario is a coroutine function of a `World`. It is run again and again, struck one step later
each time, until it gets through without a strike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
from connections import client_tls
from streams import BINARY, CLOSE, CONT, PING, TEXT, URL
from world import (
    CANCEL,
    KINDS,
    MEMORY,
    NATIVE,
    QUICK,
    RAISE,
    SLACK,
    SOCKET_LIKE,
    STREAM_ERRORS,
    TCP,
    TLS,
    Peer,
    Violation,
    World,
    check,
)

import anyws
from anyws import Config, Deflate, WebSocket
from anyws.testing import memory_stream_pair, open_websocket_pair

if TYPE_CHECKING:
    from anyio.abc import ByteStream

BOTH = ("client", "server")
Run = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Run
    role: str
    kinds: tuple[str, ...]
    hows: tuple[str, ...]


SCENARIOS: list[Scenario] = []


def scenario(
    *roles: str, kinds: tuple[str, ...] = KINDS, hows: tuple[str, ...] = (CANCEL, NATIVE)
) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        for role in roles or ("",):
            name = run.__name__.replace("_", " ")
            SCENARIOS.append(Scenario(f"{name} ({role})" if role else name, run, role, kinds, hows))
        return run

    return register


# --- The opening handshake ---


@scenario(kinds=(TCP, TLS))
async def connect(world: World) -> None:
    """Name resolution, connecting, TLS, the handshake, and leaving again."""
    listener, _, context = await world.listener()
    at_server: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        at_server.append(ws)
        await ws.wait_closed()

    async def operation() -> None:
        async with _open_to(world, listener) as ws:
            await ws.ping()

    server = anyws.open_server(handler, listeners=[listener], ssl_context=context, config=QUICK)
    async with server as running:
        await world.attack(operation)
        with anyio.fail_after(5):
            while running.connections:
                await anyio.sleep(0.001)
        check(all(ws.status is anyws.Status.CLOSED for ws in at_server), "open at the server")


def _open_to(world: World, listener: Any, **options: Any) -> Any:
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    scheme = "wss" if world.setting.kind == TLS else "ws"
    return anyws.open_websocket(
        f"{scheme}://localhost:{port}/",
        ssl_context=client_tls() if world.setting.kind == TLS else None,
        config=QUICK,
        **options,
    )


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def connect_and_hand_over_to_a_task_group(world: World) -> None:
    listener, _, _ = await world.listener()

    async def handler(ws: WebSocket) -> None:
        async for _ in ws:
            pass

    async def operation() -> None:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tg:
            ws = await anyws.connect_websocket(tg, f"ws://127.0.0.1:{port}/", config=QUICK)
            await ws.send("x")
            await ws.close()

    async with anyws.open_server(handler, listeners=[listener], config=QUICK):
        await world.attack(operation)


@scenario(*BOTH)
async def open_and_leave(world: World) -> None:
    async with world.prepared() as (opening, peer):

        async def operation() -> None:
            async with opening as ws:
                check(ws.is_open, "not open")

        await world.attack(operation)
    if world.outcome == "finished":
        check(peer.close is not None, "left, and no Close")
        check(peer.close.code == 1000, "left with another code")
    elif peer.close is not None:
        check(peer.close.code in {1000, 1001}, f"cancelled with {peer.close.code}")


@scenario("client", "server")
async def refused_handshake(world: World) -> None:
    if world.setting.role == "client":
        body = b"members only" * 100
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        async with world.prepared(response=head + body) as (opening, _):

            async def operation() -> None:
                try:
                    async with opening:
                        raise Violation("refused, and open")
                except anyws.HandshakeRejected as error:
                    check(error.response.body == body, "the body is not that which was sent")

            await world.attack(operation)
        return

    async def refuse(request: anyws.Request) -> anyws.Reject:
        await anyio.sleep(0)
        return anyws.Reject(403, f"not {request.path}")

    near, far = await world.pair()
    peer = Peer(far, is_server=False)

    async def accept() -> None:
        try:
            async with anyws.wrap_server_stream(near, on_request=refuse, config=QUICK):
                raise Violation("refused, and open")
        except anyws.HandshakeRejected:
            pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(peer.run)
        # The refusal is finished, and the peer given a second to read it.
        await world.attack(accept, within=1 + SLACK)
        check(near.closed, "our stream was left open")
    check(not peer.response or b"403" in peer.response, "refused otherwise")
    check(world.struck or b"not /" in peer.response, "refused, and not told")


@scenario("client", "server")
async def silent_handshake(world: World) -> None:
    near, far = await world.pair()
    peer = Peer(far, is_server=world.setting.role == "client")

    async def operation() -> None:
        try:
            if world.setting.role == "client":
                opening = anyws.wrap_client_stream(near, URL, config=QUICK)
            else:
                opening = anyws.wrap_server_stream(near, config=QUICK)
            async with opening:
                raise Violation("nobody answered, and it is open")
        except anyws.HandshakeTimeout:
            pass

    async with anyio.create_task_group() as tg:
        if world.setting.role == "client":
            tg.start_soon(lambda: peer.run(silent=True))
        await world.attack(operation)
        check(near.closed, "our stream was left open")
        await far.aclose()


# --- Sending ---


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
async def send_large_to_a_stalled_peer(world: World) -> None:
    large = bytes(range(256)) * 1600
    await _send(world, lambda ws: ws.send(large), large, stalled=True)


@scenario("client", kinds=(MEMORY, TCP))
async def send_behind_another(world: World) -> None:
    """The one that waits in line is withdrawn, or sent."""

    async def operation(ws: WebSocket) -> None:
        await ws.send("behind")

    async with world.opened() as (ws, peer):
        peer.stall()
        async with anyio.create_task_group() as tg:
            large = bytes(400_000)
            tg.start_soon(ws.send, large)
            await anyio.sleep(0.01)
            tg.start_soon(_resume_later, peer)
            await world.attack(lambda: operation(ws), within=0.01)
        await world.check_usable(ws, peer)
        check(peer.messages[0] == large, "the other one is not whole")
        rest = peer.messages[1:]
        check(rest in ([b"still here"], [b"behind", b"still here"]), "lost or doubled")


@scenario("client", "server")
async def send_while_a_message_is_under_way(world: World) -> None:
    """A sender waits for another's message in fragments to end."""
    async with world.opened() as (ws, peer):
        async with anyio.create_task_group() as tg:

            async def stream() -> None:
                async with ws.open_message() as message:
                    await message.send("first ")
                    await anyio.sleep(0.02)
                    await message.send("second")

            tg.start_soon(stream)
            await peer.until(lambda: peer.frames)
            await world.attack(lambda: ws.send("third"), within=0.01)
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


# --- Receiving ---


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


# --- Pings, and looking on ---


@scenario(*BOTH)
async def ping(world: World) -> None:
    async with world.opened() as (ws, peer):

        async def operation() -> None:
            check(await ws.ping() >= 0, "a negative time")
            await anyio.sleep(0.06)
            await ws.ping()

        await world.attack(operation, within=0.01)
        await world.check_usable(ws, peer)
        pings = sum(one.opcode == PING for one in peer.frames)
        check(pings == 2 or world.struck, f"{pings} pings")


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
    async with world.opened() as (ws, peer):

        async def operation() -> None:
            async with ws.cancel_when_closed() as scope:
                await anyio.sleep(5)
            check(scope.cancelled_caught, "the peer left, and the work went on")

        async with anyio.create_task_group() as tg:
            tg.start_soon(_close_later, peer)
            await world.attack(operation, within=0.01)
        await ws.wait_closed()


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


# --- Closing ---


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


# --- The whole of it ---


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
    await peer.until(lambda: len(peer.messages) >= 3)


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
        check(len(peer.messages) == 3, "a message is lost")
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


# --- A server ---


class Clients:
    """Raw clients of a server, each told what became of it."""

    def __init__(self, connect: Callable[[], Awaitable[ByteStream]]) -> None:
        self._connect = connect
        self.peers: list[Peer] = []
        self.waiting = 0

    async def visit(self, *, half: bool = False) -> None:
        try:
            stream = await self._connect()
        except (anyio.ConnectionFailed, *STREAM_ERRORS, anyio.EndOfStream):
            return
        peer = Peer(stream, is_server=False)
        if half:
            await self._ask_for_half(peer)
            return
        self.peers.append(peer)
        await peer.run()

    async def _ask_for_half(self, peer: Peer) -> None:
        data = b""
        try:
            await peer.stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            while True:
                data += await peer.stream.receive()
        except (anyio.EndOfStream, *STREAM_ERRORS):
            pass
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(peer.stream)
        check(not data or b" 503 " in data or b" 408 " in data, f"refused with {data[:40]!r}")


async def _drain(
    world: World,
    handler: Callable[[WebSocket], Awaitable[None]],
    *,
    operation: str = "leave",
    within: float,
) -> None:
    listener, connect_to, context = await world.listener()
    clients = Clients(connect_to)
    running: list[anyws.Server] = []
    ended = 0

    async def counted(ws: WebSocket) -> None:
        nonlocal ended
        try:
            await handler(ws)
        finally:
            ended += 1

    options = {"listeners": [listener], "ssl_context": context, "config": QUICK}

    async def leave() -> None:
        async with anyws.open_server(counted, **options) as server:
            running.append(server)
            await visited()

    async def visited() -> None:
        # Three have come, or a strike was in their way.
        with anyio.move_on_after(2):
            while sum(peer.open.is_set() for peer in clients.peers) < 2:
                await anyio.sleep(0.001)

    async def cancel() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                server = await tg.start(lambda **kw: anyws.serve(counted, **options, **kw))
                running.append(server)
                await visited()
                scope.cancel()

    async def aclose() -> None:
        async with anyws.open_server(counted, **options) as server:
            running.append(server)
            await visited()
            await server.aclose(keep_connections=True)
            await server.aclose()

    async def raise_in_body() -> None:
        try:
            async with anyws.open_server(counted, **options) as server:
                running.append(server)
                await visited()
                raise world.error
        except type(world.error) as error:
            check(error is world.error, "another exception than the body's")

    operations = {"leave": leave, "cancel": cancel, "aclose": aclose, "raise": raise_in_body}
    async with anyio.create_task_group() as tg:
        tg.start_soon(clients.visit)
        tg.start_soon(clients.visit)
        tg.start_soon(lambda: clients.visit(half=True))
        await world.attack(operations[operation], within=within)
        await listener.aclose()
        if running:
            check(not running[0].connections, "the server has gone, and has connections")
    for peer in clients.peers:
        peer.check_wire()
        if peer.open.is_set():
            check(peer.close is not None or peer.reset, "a connection ended without a Close")
            check(
                peer.close is None or peer.close.code in {1000, 1001, 1011},
                f"closed with {peer.close}",
            )
        elif peer.response:
            check(b" 503 " in peer.response, f"refused with {peer.response[:40]!r}")


# A grace to close in, another for handlers that are cancelled, a second for a refusal to be read.
_DRAINED = 2 * (QUICK.cancel_grace + SLACK) + 1


async def _idle(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def _busy(ws: WebSocket) -> None:
    try:
        while True:
            await ws.send("news")
            await anyio.sleep(0.01)
    except anyws.ConnectionClosed:
        # What has to be saved takes a while.
        await anyio.sleep(0.03)
        raise


async def _stuck(ws: WebSocket) -> None:
    await anyio.sleep(math.inf)


@scenario()
async def drain_with_idle_handlers(world: World) -> None:
    await _drain(world, _idle, within=_DRAINED)


@scenario()
async def drain_with_busy_handlers(world: World) -> None:
    await _drain(world, _busy, within=_DRAINED)


@scenario()
async def drain_with_stuck_handlers(world: World) -> None:
    await _drain(world, _stuck, within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def serve_being_cancelled(world: World) -> None:
    await _drain(world, _idle, operation="cancel", within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def serve_being_cancelled_with_stuck_handlers(world: World) -> None:
    await _drain(world, _stuck, operation="cancel", within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def server_closed_by_hand(world: World) -> None:
    await _drain(world, _busy, operation="aclose", within=_DRAINED)


@scenario(kinds=(MEMORY, TCP))
async def server_whose_body_raises(world: World) -> None:
    await _drain(world, _idle, operation="raise", within=_DRAINED)


__all__ = ["CLOSE", "SCENARIOS", "Scenario", "memory_stream_pair"]

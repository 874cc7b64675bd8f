"""`anyws demo`: a server and a client that show what they can do, and check that they do it.

Everything goes over loopback. Each step prints what it saw, and compares it with what it should
have seen: the first difference ends the demonstration.
"""

from __future__ import annotations

import platform
from contextlib import closing
from math import inf
from typing import TYPE_CHECKING, Any

from anyio import connect_tcp, create_memory_object_stream, fail_after
from anyio.abc import ByteStream

from ._client import open_websocket, wrap_client_stream
from ._close import Close, CloseCode
from ._errors import WebSocketError
from ._server import open_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._close import Closure
    from ._handlers import Handler
    from ._server import Server
    from ._websocket import WebSocket

__all__ = ["demo", "perform"]

# Seconds for all of it: a step that hangs has failed.
_TIME_LIMIT = 30

GOODBYE = "goodbye strange client"


class DemoFailed(Exception):
    """A step saw something else than it should have; the message says what."""


async def demo(backend: str) -> int:
    """Run the demonstration and print it; return the exit code of the command."""
    print(f"anyws on {backend}, Python {platform.python_version()}")
    return await perform({"echo": echo, "echo-uppercase": echo_uppercase}, goodbye)


async def perform(handlers: Mapping[str, Handler], default: Handler) -> int:
    """Demonstrate with these handlers: others than those here fail, and it says at what."""
    witness = Witness()
    observed = {name: witness.of(name, handler) for name, handler in handlers.items()}
    opening = open_server(
        observed, default=witness.of("default", default), host="127.0.0.1", port=0
    )
    try:
        with closing(witness), fail_after(_TIME_LIMIT):
            async with opening as server:
                print(f"A server at {server.url} knows {', '.join(handlers)}, and a default")
                await talk(server, witness)
    # OSError: a TimeoutError is one, and loopback may be forbidden.
    except (DemoFailed, WebSocketError, OSError) as error:
        name = "" if isinstance(error, DemoFailed) else f"{type(error).__name__}: "
        print(f"FAILED: {name}{str(error) or f'not over after {_TIME_LIMIT} s'}", flush=True)
        return 1
    print("Everything was as expected.", flush=True)
    return 0


# --- The server's half ---


class Witness:
    """Tells the client's half what the server saw: which handler it was, and how it ended."""

    def __init__(self) -> None:
        self._send, self._receive = create_memory_object_stream[tuple[str, "Closure"]](inf)

    def of(self, name: str, handler: Handler) -> Handler:
        """Return the handler, observed."""

        async def observed(ws: WebSocket) -> None:
            await handler(ws)
            self._send.send_nowait((name, await ws.wait_closed()))

        return observed

    async def report(self) -> tuple[str, Closure]:
        """Wait for the next connection to end; return its handler and its closure."""
        return await self._receive.receive()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echo_uppercase(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message.upper())


async def goodbye(ws: WebSocket) -> None:
    await ws.send(GOODBYE)
    await ws.close(CloseCode.NORMAL, "no subprotocol")


# --- The client's half ---


async def talk(server: Server, witness: Witness) -> None:
    """Take the steps with a server that has the handlers above; raise `DemoFailed`."""
    print("\nA client offers chat and echo")
    async with open_websocket(server.url, subprotocols=["chat", "echo"], proxy=None) as ws:
        _same("subprotocol", ws.subprotocol, "echo")
        await _exchange(ws, "text", "Hello, Wörld!", "Hello, Wörld!")
        await _exchange(ws, "binary", bytes(range(8)), bytes(range(8)))
        seconds = await ws.ping()
        _same("latency", ws.latency, seconds, show=False)
        _say("ping", f"the pong came after {1000 * seconds:.2f} ms")
        await ws.close(CloseCode.NORMAL, "seen enough")
    await _compare_ends(ws, witness, "echo", Close(1000, "seen enough"), first="ours")

    print("\nA client offers echo-uppercase, over a stream of its own that counts bytes")
    stream = _CountingStream(await connect_tcp("127.0.0.1", server.port))
    async with wrap_client_stream(stream, server.url, subprotocols=["echo-uppercase"]) as ws:
        _same("subprotocol", ws.subprotocol, "echo-uppercase")
        await _exchange(ws, "text", "Hello, Wörld!", "HELLO, WÖRLD!")
        _same("extensions", ws.extensions, ("permessage-deflate",))
        await _compare_sizes(ws, stream)
        # Left without a word of its own: the block closes with 1000.
    await _compare_ends(ws, witness, "echo-uppercase", Close(1000), first="ours")

    print("\nA client offers nothing, and is sent away by the default handler")
    async with open_websocket(server.url, proxy=None) as ws:
        _same("subprotocol", ws.subprotocol, None)
        _same("text", [message async for message in ws], [GOODBYE])
    await _compare_ends(ws, witness, "default", Close(1000, "no subprotocol"), first="theirs")
    print()


async def _exchange(ws: WebSocket, name: str, message: str | bytes, reply: str | bytes) -> None:
    await ws.send(message)
    got = await ws.receive()
    _same(name, got, reply, show=False)
    _say(name, f"{message!r} -> {got!r}")


async def _compare_sizes(ws: WebSocket, stream: _CountingStream) -> None:
    message = "".join(f'{{"id": {number}, "state": "on"}}, ' for number in range(1000))
    counts = []
    for compress in (False, True):
        before = stream.sent, stream.received
        await ws.send(message, compress=compress)
        _same("reply", await ws.receive(), message.upper(), show=False)
        counts.append((stream.sent - before[0], stream.received - before[1]))
    (plain, _), (compressed, reply) = counts
    size = len(message)
    _true(
        "compression",
        f"a message of {size} bytes took {plain} as it is, {compressed} compressed; "
        f"the reply of {size} took {reply}",
        size < plain < size + 20 and compressed < size / 4 and reply < size / 4,
    )


async def _compare_ends(
    ws: WebSocket, witness: Witness, handler: str, close: Close, *, first: str
) -> None:
    """Compare what each end knows about the closing handshake."""
    name, at_server = await witness.report()
    _same("handler", name, handler)
    answer = Close(close.code)
    sides = {"ours": (close, answer), "theirs": (answer, close)}
    second = "theirs" if first == "ours" else "ours"
    _closed("client", ws.closure, *sides[first], first)
    _closed("server", at_server, *sides[second], second)


def _closed(end: str, closure: Closure | None, sent: Close, received: Close, first: str) -> None:
    if closure is None:
        raise DemoFailed(f"close, {end}: expected the connection to be closed, and it is open")
    _same(
        f"close, {end}",
        f"sent {closure.sent}, received {closure.received}",
        f"sent {sent}, received {received}",
    )
    _same(f"first to close, by the {end}", closure.first, first, show=False)
    _same(f"clean, by the {end}", closure.clean, True, show=False)


class _CountingStream(ByteStream):
    """Hands everything on, and counts it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.sent = 0
        self.received = 0

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)
        self.sent += len(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        chunk = await self._stream.receive(max_bytes)
        self.received += len(chunk)
        return chunk

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes


# --- Saying and checking ---


def _say(name: str, seen: object) -> None:
    print(f"  {name:<12} {seen}", flush=True)


def _same(name: str, seen: object, expected: object, *, show: bool = True) -> None:
    if seen != expected:
        raise DemoFailed(f"{name}: expected {expected!r}, and saw {seen!r}")
    if show:
        _say(name, seen)


def _true(name: str, seen: str, holds: bool) -> None:
    _say(name, seen)
    if not holds:
        raise DemoFailed(f"{name}: that is not as expected")

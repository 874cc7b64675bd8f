"""What is done with every peer: each case is what our end does, what theirs does, and the end.

A case does not know the peer, nor which end is the client. Content is checked where it arrives;
the end of the connection is checked at both ends, by `Ending`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import anyws
from anyws import Close

from .peers.base import LOST, MIB, PeerClosed, PeerConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .peers.base import Peer, Theirs

    Ours = Callable[[anyws.WebSocket], Awaitable[None]]
    Message = str | bytes


# --- How a connection ends, and how that looks ---


@dataclass(frozen=True)
class Ending:
    """Who closes with what: ``close`` is `LOST` where the connection is cut."""

    by_us: bool
    close: Close

    def check(self, peer: Peer, closure: anyws.Closure | None, seen: Close | None) -> None:
        """Compare with our view of it, and with theirs."""
        assert closure is not None
        if self.close == LOST:
            assert (closure.sent, closure.received) == (None, None)
            assert not closure.clean
            assert seen == (LOST if self.by_us else None)
            return
        assert closure.clean
        if self.by_us:
            assert closure.first == "ours"
            assert (closure.sent, closure.received) == (self.close, peer.answer_to(self.close))
            assert seen == self.close
        else:
            # Our answer repeats their code, and leaves their reason to them.
            answer = Close(self.close.code)
            assert closure.first == "theirs"
            assert (closure.sent, closure.received) == (answer, self.close)
            assert seen == answer


NORMAL = Close(1000)
WE_CLOSE = Ending(by_us=True, close=NORMAL)
THEY_CLOSE = Ending(by_us=False, close=NORMAL)


@dataclass(frozen=True)
class Case:
    """One thing that both ends do; refusals have no ends, and a function of their own."""

    name: str
    ours: Ours
    theirs: Theirs
    ending: Ending
    setup: dict[str, Any] = field(default_factory=dict)  # of `Setup`


# --- What an end does ---


async def we_echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def they_echo(connection: PeerConnection) -> Close:
    try:
        while True:
            await connection.send(await connection.receive())
    except PeerClosed as closed:
        return closed.close


def same(received: Message, sent: Message) -> bool:
    # A failure shows a mebibyte to nobody.
    return type(received) is type(sent) and received == sent


def we_send(*messages: Message) -> Ours:
    """Expect every message back; leaving closes the connection."""

    async def ours(ws: anyws.WebSocket) -> None:
        for message in messages:
            await ws.send(message)
            assert same(await ws.receive(), message)

    return ours


def they_send(*messages: Message) -> Theirs:
    async def theirs(connection: PeerConnection) -> Close:
        for message in messages:
            await connection.send(message)
            assert same(await connection.receive(), message)
        return await connection.close(1000, "")

    return theirs


def we_send_fragments(fragments: Sequence[str] | Sequence[bytes]) -> Ours:
    async def ours(ws: anyws.WebSocket) -> None:
        await ws.send_fragments(fragments)
        assert same(await ws.receive(), fragments[0][:0].join(fragments))  # type: ignore[arg-type]

    return ours


def they_send_fragments(fragments: Sequence[str] | Sequence[bytes]) -> Theirs:
    async def theirs(connection: PeerConnection) -> Close:
        await connection.send_fragments(fragments)
        whole = fragments[0][:0].join(fragments)  # type: ignore[arg-type]
        assert same(await connection.receive(), whole)
        return await connection.close(1000, "")

    return theirs


async def we_ping_between_fragments(ws: anyws.WebSocket) -> None:
    async with ws.open_message() as message:
        await message.send(WORDS)
        assert await ws.ping() >= 0
        await message.send(WORDS)
    assert same(await ws.receive(), 2 * WORDS)


async def we_ping(ws: anyws.WebSocket) -> None:
    assert await ws.ping() == ws.latency


async def they_ping(connection: PeerConnection) -> Close:
    await connection.ping(b"the longest that fits".ljust(125, b"."))
    return await connection.close(1000, "")


async def we_wait(ws: anyws.WebSocket) -> None:
    """Receive nothing: what has to be answered is answered all the same."""
    await ws.wait_closed()


async def we_send_and_receive_at_once(ws: anyws.WebSocket) -> None:
    async def send() -> None:
        for message in MANY:
            await ws.send(message)

    async with anyio.create_task_group() as tg:
        tg.start_soon(send)
        for message in MANY:
            assert await ws.receive() == message


async def they_send_and_receive_at_once(connection: PeerConnection) -> Close:
    async def send() -> None:
        for message in MANY:
            await connection.send(message)

    async with anyio.create_task_group() as tg:
        tg.start_soon(send)
        for message in MANY:
            assert await connection.receive() == message
    return await they_echo(connection)


def we_close(close: Close) -> Ours:
    async def ours(ws: anyws.WebSocket) -> None:
        closure = await ws.close(close.code, close.reason)
        assert closure == ws.closure
        with pytest.raises(anyws.ClosedByUs):
            await ws.send("too late")

    return ours


def they_close(close: Close) -> Theirs:
    async def theirs(connection: PeerConnection) -> Close:
        return await connection.close(close.code, close.reason)

    return theirs


def we_are_told(error: type[anyws.ConnectionClosed]) -> Ours:
    async def ours(ws: anyws.WebSocket) -> None:
        with pytest.raises(error) as caught:
            await ws.receive()
        assert type(caught.value) is error
        with pytest.raises(error):
            await ws.send("too late")

    return ours


async def they_drop(connection: PeerConnection) -> None:
    await connection.send("the last word")
    # They are gone when this has been read, not before.
    assert await connection.receive() == "heard"
    connection.drop()


async def we_lose_them(ws: anyws.WebSocket) -> None:
    assert await ws.receive() == "the last word"
    await ws.send("heard")
    await we_are_told(anyws.ConnectionBroken)(ws)


async def we_abort(ws: anyws.WebSocket) -> None:
    await we_send("heard?")(ws)
    ws.abort()
    await ws.wait_closed()


# --- The table ---

WORDS = "Grüße, 世界 und 😀. " * 10
BYTES = bytes(range(256))
TEXT_FRAGMENTS = [WORDS, "", "größer", WORDS, "."]
BINARY_FRAGMENTS = [BYTES, b"", b"\x00", BYTES, b"\xff"]
# Alike, and each as good as incompressible alone: what a kept context is for.
_NOISE = random.Random(6455).randbytes(1000).hex()
SIMILAR = [f"{number}: {_NOISE}" for number in range(20)]
MANY = [f"message {number} of many, {WORDS}" for number in range(100)]
BIG: dict[str, Message] = {
    "1 MiB text": "0123456789abcdef" * (MIB // 16),
    "1 MiB binary": random.Random(7692).randbytes(MIB),
}
MESSAGES: dict[str, tuple[Message, ...]] = {
    "text": (WORDS,),
    "binary": (BYTES,),
    "empty text": ("",),
    "empty binary": (b"",),
    **{name: (message,) for name, message in BIG.items()},
    "20 similar messages": tuple(SIMILAR),
    "text and binary in turn": (WORDS, BYTES, "", b"", WORDS),
}
CODES = (Close(1000, "that is all"), Close(1011, ""), Close(4321, "größer als gedacht"))
# One that both know: with two, it is the server's taste that decides.
CHOICE = {"offered": ("unknown", "chat"), "known": ("echo", "chat", "other")}

ENDS = (
    *(Case(f"we send {n}", we_send(*m), they_echo, WE_CLOSE) for n, m in MESSAGES.items()),
    *(Case(f"they send {n}", we_echo, they_send(*m), THEY_CLOSE) for n, m in MESSAGES.items()),
    Case("we send fragments of text", we_send_fragments(TEXT_FRAGMENTS), they_echo, WE_CLOSE),
    Case("we send fragments of binary", we_send_fragments(BINARY_FRAGMENTS), they_echo, WE_CLOSE),
    Case("they send fragments of text", we_echo, they_send_fragments(TEXT_FRAGMENTS), THEY_CLOSE),
    Case(
        "they send fragments of binary",
        we_echo,
        they_send_fragments(BINARY_FRAGMENTS),
        THEY_CLOSE,
    ),
    Case("we send a ping between fragments", we_ping_between_fragments, they_echo, WE_CLOSE),
    Case(
        "both send 100 messages at once",
        we_send_and_receive_at_once,
        they_send_and_receive_at_once,
        WE_CLOSE,
    ),
    Case("we ping", we_ping, they_echo, WE_CLOSE),
    Case("they ping while we receive", we_echo, they_ping, THEY_CLOSE, {"manual_pongs": True}),
    Case(
        "they ping while we do not receive",
        we_wait,
        they_ping,
        THEY_CLOSE,
        {"manual_pongs": True},
    ),
    Case("a subprotocol is chosen", we_send("hello"), they_echo, WE_CLOSE, CHOICE),
    *(
        Case(f"we close with {close}", we_close(close), they_echo, Ending(True, close))
        for close in CODES
    ),
    Case(
        f"they close with {CODES[0]}",
        we_are_told(anyws.ClosedByPeer),
        they_close(CODES[0]),
        Ending(False, CODES[0]),
    ),
    *(
        Case(
            f"they close with {close}",
            we_are_told(anyws.ClosedWithError),
            they_close(close),
            Ending(False, close),
        )
        for close in CODES[1:]
    ),
    Case("we abort", we_abort, they_echo, Ending(True, LOST)),
    Case("they drop the connection", we_lose_them, they_drop, Ending(False, LOST)),
)

# Which half of a refusal is looked at.
REFUSALS = ("we see the status and headers", "we see the body")
THEIR_REFUSALS = ("they see the status and headers", "they see the body")

"""Messages sent one after another: few writes, and none that waits for the next one."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest
from connections import QUICK, connected, every_kind, every_network

import anyws
from anyws._config import NATIVE
from anyws._transports import bursts
from anyws._transports.asyncio import AsyncioTransport
from anyws._transports.stream import StreamTransport

#: where a write is one to the system: a plain stream takes a message before `send` returns
to_the_system = pytest.mark.skipif(not NATIVE, reason="there are only plain streams")
COUNT = 50
MESSAGES = [f"{number:03}" for number in range(COUNT)]


class Writes:
    """What goes to the system for one connection, write by write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._monkeypatch = monkeypatch

    def watch(self, ws: anyws.WebSocket) -> None:
        transport: Any = ws._transport
        if isinstance(transport, AsyncioTransport):
            sink = transport._sink
            transport._sink = _Watched(sink, "write", self.sizes)
        else:
            assert isinstance(transport, StreamTransport)
            direct = transport._direct
            assert direct is not None
            self._monkeypatch.setattr(
                transport._writer, "_direct", _Watched(direct, "send_now", self.sizes)
            )


class _Watched:
    def __init__(self, inner: Any, name: str, sizes: list[int]) -> None:
        self._inner, self._name, self._sizes = inner, name, sizes

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if name != self._name:
            return attribute

        def write(data: bytes) -> Any:
            self._sizes.append(len(data))
            return attribute(data)

        return write


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


async def ask(client: anyws.WebSocket, server: anyws.WebSocket) -> None:
    """Have the client receive something: what it sends next is no part of a row."""
    await server.send("go")
    assert await client.receive() == "go"


@pytest.fixture
def _however_slow_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bursts, "BURST", 60.0)


@to_the_system
@pytest.mark.usefixtures("_however_slow_this_machine_is")
async def test_messages_in_a_row_take_few_writes(writes: Writes) -> None:
    async with connected("tcp") as (client, server):
        writes.watch(client)
        await ask(client, server)
        for message in MESSAGES:
            await client.send(message)
        # The first ones could not know of the others.
        at_once = len(writes.sizes)
        assert at_once == (2 if isinstance(client._transport, AsyncioTransport) else 7)
        assert [await server.receive() for _ in MESSAGES] == MESSAGES
        assert len(writes.sizes) == at_once + 1


@to_the_system
@pytest.mark.usefixtures("_however_slow_this_machine_is")
async def test_two_answers_to_every_message_are_no_burst(writes: Writes) -> None:
    async with connected("tcp") as (client, server):
        writes.watch(client)
        for number in range(1, 6):
            await ask(client, server)
            await client.send("one")
            await client.send("two")
            assert len(writes.sizes) == 2 * number


@every_network
@pytest.mark.usefixtures("_however_slow_this_machine_is")
async def test_what_was_sent_arrives_though_the_connection_is_cut(kind: str) -> None:
    """3.3: bytes already written are not thrown away by an abortive close."""
    async with connected(kind) as (client, server):
        for message in MESSAGES:
            await client.send(message)
        client.abort()
        received: list[str | bytes] = []
        with pytest.raises(anyws.ConnectionBroken):
            while True:
                received.append(await server.receive())
        if kind == "tcp":
            assert received == MESSAGES
        else:
            # What TLS has not encrypted yet goes with it.
            assert received == MESSAGES[: len(received)]


@to_the_system
async def test_a_message_by_itself_is_written_at_once(writes: Writes) -> None:
    async with connected("tcp") as (client, server):
        writes.watch(client)
        for number in range(5):
            await client.send("ping")
            assert len(writes.sizes) == number + 1
            assert await server.receive() == "ping"
            await server.send("pong")
            assert await client.receive() == "pong"
        # So is one that follows another, but not on its heels. uvloop's clock counts milliseconds,
        # and one of them may be over at once.
        for number in range(5, 10):
            await anyio.sleep(0.01)
            await client.send("tick")
            assert len(writes.sizes) == number + 1


@every_kind
async def test_who_sends_several_and_then_waits_need_not_send_another(kind: str) -> None:
    async with connected(kind) as (client, server):
        received: list[str | bytes] = []

        async def collect() -> None:
            async for message in server:
                received.append(message)

        async with anyio.create_task_group() as tg:
            tg.start_soon(collect)
            for count in (3, 1, 7):
                before = len(received)
                for message in MESSAGES[:count]:
                    await client.send(message)
                with anyio.fail_after(5):
                    while len(received) < before + count:
                        await anyio.sleep(0.001)
                assert received[before:] == MESSAGES[:count]
            tg.cancel_scope.cancel()


@every_kind
async def test_what_was_sent_goes_out_before_a_close(kind: str) -> None:
    async with connected(kind) as (client, server):
        for message in MESSAGES:
            await client.send(message)
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.close)
            assert [message async for message in server] == MESSAGES


@every_kind
async def test_a_cancelled_burst_is_a_prefix(kind: str) -> None:
    """What `send` has returned from is sent; what was cancelled is not; nothing in between."""
    sent = 0
    async with connected(kind) as (client, server):
        with anyio.CancelScope() as scope:
            for message in MESSAGES:
                await client.send(message)
                sent += 1
                if sent == COUNT // 2:
                    scope.cancel()
        assert sent == COUNT // 2
        await client.send("the end")
        assert [await server.receive() for _ in range(sent)] == MESSAGES[:sent]
        assert await server.receive() == "the end"


@every_kind
async def test_many_tasks_that_send_in_one_turn(kind: str) -> None:
    async with connected(kind) as (client, server):
        async with anyio.create_task_group() as tg:
            for message in MESSAGES:
                tg.start_soon(client.send, message)
        assert sorted([await server.receive() for _ in MESSAGES]) == MESSAGES


async def test_a_burst_stops_at_a_peer_that_does_not_read() -> None:
    """What is held together is bounded, and who sends on has to wait."""
    async with connected("tcp", config=QUICK) as (client, _):
        payload = os.urandom(10_000)
        sent = 0
        with anyio.move_on_after(0.5):
            while True:
                await client.send(payload)
                sent += len(payload)
        # The system's buffers on both ends, and the other end's inbox.
        assert sent < 20_000_000
        client.abort()

"""A plain stream of AnyIO's reads what is asked for, and at most a chunk more."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from anyws._transports.holding import hold_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What an event loop reads at once.
CHUNK = 256 * 1024


@asynccontextmanager
async def held_stream() -> AsyncIterator[tuple[SocketStream, socket.socket]]:
    """Give a stream that is held back, and the socket of its peer."""
    streams, arrived = [], anyio.Event()

    async def keep(stream: SocketStream) -> None:
        hold_back(stream)
        streams.append(stream)
        arrived.set()
        await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, keep)
        with socket.create_connection(listener.extra(SocketAttribute.local_address)) as peer:
            peer.setblocking(False)
            await arrived.wait()
            async with streams[0]:
                yield streams[0], peer
        tg.cancel_scope.cancel()


def read_ahead(stream: Any) -> int:
    """How many bytes it has read that nobody has asked for."""
    protocol = getattr(stream, "_protocol", None)  # Trio's have none, and read nothing ahead
    return 0 if protocol is None else sum(map(len, protocol.read_queue))


async def fill(peer: socket.socket) -> int:
    """Have the peer send all that the system takes; return how much that is."""
    sent = 0
    for _ in range(20):
        try:
            while True:
                sent += peer.send(bytes(CHUNK))
        except BlockingIOError:
            await anyio.sleep(0.001)
    return sent


async def received_by(peer: socket.socket, size: int) -> bytes:
    """Return what comes next to the peer, so many bytes at most."""
    while True:
        try:
            return peer.recv(size)
        except BlockingIOError:
            await anyio.sleep(0.001)


async def test_nothing_is_read_before_it_is_asked_for():
    async with held_stream() as (stream, peer):
        await fill(peer)
        # What it began with as it was connected.
        assert read_ahead(stream) <= CHUNK


async def test_a_receive_reads_a_chunk_at_most_however_much_is_there():
    async with held_stream() as (stream, peer):
        assert await fill(peer) > 4 * CHUNK
        for _ in range(20):
            await stream.receive(CHUNK // 4)
            assert read_ahead(stream) <= CHUNK
            await fill(peer)


async def test_all_of_it_arrives_and_then_the_end():
    async with held_stream() as (stream, peer):
        sent, received = await fill(peer), 0
        peer.shutdown(socket.SHUT_WR)
        while True:
            try:
                received += len(await stream.receive())
            except anyio.EndOfStream:
                break
        assert received == sent
        await stream.send(b"still there?")
        assert await received_by(peer, 100) == b"still there?"


async def test_a_write_waits_for_the_peer_and_goes_on():
    async with held_stream() as (stream, peer):
        data = bytes(40 * CHUNK)
        received = 0
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.send, data)
            while received < len(data):
                received += len(await received_by(peer, CHUNK))
        assert received == len(data)


async def test_a_lost_connection_is_told_of():
    async with held_stream() as (stream, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await stream.receive()


async def test_a_stream_that_is_closed_stays_as_it_is():
    async with held_stream() as (stream, _):
        await stream.aclose()
        hold_back(stream)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()

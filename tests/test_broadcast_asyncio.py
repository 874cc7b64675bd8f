"""`broadcast` on asyncio's loops, which keep what a peer does not take, in a line of our own.

The peer takes little at a time, and just when the test says so.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
from frames import TEXT, frame
from virtual_time import run_in_virtual_time

from anyws import Config, Deflate, Role
from anyws._keepalive import Keepalive
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Protocol
from anyws._protocol.shared import SharedMessage
from anyws._transports.asyncio import AsyncioTransport
from anyws._transports.link import Link

KIB = 1024
CONFIG = Config(ping_interval=None, close_timeout=1, compression=Deflate())


class SlowSink(asyncio.Transport):
    """A transport of the loop's over a network that takes as many bytes as it is told."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.protocol: Any = link
        self.size = 0
        self.written = b""
        self.closing = False
        link.connection_made(self)

    def take(self, size: int) -> None:
        self.size -= size
        if self.size <= 0:
            self.size = 0
            self.protocol.resume_writing()

    def write(self, data: Any) -> None:
        was_empty = not self.size
        self.size += len(data)
        self.written += data
        if was_empty:
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.size

    def abort(self) -> None:
        self.closing = True
        self.size = 0
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closing

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is room for one write."""


def over_a_slow_network(protocol: Protocol, config: Config) -> tuple[AsyncioTransport, SlowSink]:
    link = Link(None)  # type: ignore[arg-type]
    sink = SlowSink(link)
    transport = AsyncioTransport(
        link, protocol, config, Keepalive(protocol, config, anyio.current_time())
    )
    transport.start(None)
    return transport, sink


async def send(transport: AsyncioTransport, message: str | bytes) -> None:
    if (waiting := transport.write(message, finished=True, compress=None)) is not None:
        await waiting


def test_a_peer_that_is_slow_and_steady_has_not_stalled_and_one_that_takes_nothing_has():
    """Although more comes than goes: the line grows in either case."""
    config = Config(write_timeout=4, ping_interval=None, close_timeout=1)

    async def main() -> None:
        protocol = Protocol(Role.SERVER, config)
        transport, sink = over_a_slow_network(protocol, config)
        for _ in range(50):
            transport.push(bytes(4 * KIB))
            await anyio.sleep(1)
            sink.take(KIB)
            assert protocol.sendable
        assert transport.backlog > 20 * KIB
        start = anyio.current_time()
        while protocol.sendable:
            transport.push(bytes(4 * KIB))
            await anyio.sleep(0.1)
            assert anyio.current_time() - start < 6
        assert "a write stalled" in protocol.ending.closure().cause
        await transport.closed.wait()
        assert transport.backlog == 0

    run_in_virtual_time("asyncio", main)


def test_one_whose_turn_it_is_and_a_broadcast_go_out_in_the_order_of_their_encoding():
    """Also where what the program sends answers messages that it has yet to take."""
    ours, theirs = Negotiated(12, True, 15, True), Negotiated(15, True, 12, True)
    words = "lorem ipsum dolor sit amet " * 20

    async def main() -> None:
        protocol = Protocol.negotiated(Role.SERVER, CONFIG, ours)
        peer = Protocol.negotiated(Role.CLIENT, CONFIG, theirs)
        transport, sink = over_a_slow_network(protocol, CONFIG)

        def say(text: str) -> None:
            transport.push(protocol.encode_shared(SharedMessage(text, None)))

        transport.data_received(memoryview(frame(TEXT, b"a question", mask=True)))
        say("0" + words)
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, transport, "1" + words)
            await anyio.wait_all_tasks_blocked()
            # Now it is the sender's turn, but others are faster.
            sink.take(sink.size)
            say("2" + words[::-1])
            await asyncio.sleep(0)
            say("3" + words)
            await anyio.wait_all_tasks_blocked()
            while sink.size:
                sink.take(sink.size)
        peer.receive_data(sink.written)
        peer.parse()
        assert peer.sendable, peer.ending.closure()
        heard = [peer.inbox.take() for _ in range(4)]
        assert [(one[0], len(one)) for one in heard] == [(n, len(words) + 1) for n in "0213"]
        assert protocol.sendable

    run_in_virtual_time("asyncio", main)


def test_what_was_broadcast_long_ago_is_not_counted_in_a_send_of_the_connections_own():
    async def main() -> None:
        protocol = Protocol(Role.SERVER, CONFIG)
        transport, sink = over_a_slow_network(protocol, CONFIG)
        for _ in range(20):
            transport.push(bytes(4 * KIB))
        assert transport.backlog == 19 * 4 * KIB
        while sink.size:
            sink.take(sink.size)
        assert transport.backlog == 0
        async with anyio.create_task_group() as tg:
            tg.start_soon(send, transport, bytes(1024 * KIB))
            await anyio.wait_all_tasks_blocked()
            assert transport.backlog == 0
            transport.push(bytes(4 * KIB))
            assert transport.backlog == 4 * KIB
            while sink.size:
                sink.take(sink.size)
            assert transport.backlog == 0

    run_in_virtual_time("asyncio", main)

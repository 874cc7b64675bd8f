"""Who sends faster than the other end receives is held back, and costs no memory."""

from __future__ import annotations

import anyio
import pytest
from connections import against_bytes, every_kind
from frames import BINARY, frame, head
from streams import GUARD

import anyws
from anyws import Config

MIB = 2**20
# What the kernel's buffers of both ends may take, and some.
BOUND = 24 * MIB
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
QUICK = Config(cancel_grace=0.1, drain_timeout=0.1, close_timeout=0.5, compression=None)


async def never_receive(ws: anyws.WebSocket) -> None:
    await anyio.sleep_forever()


async def send_until_held_back(send, at_least: int = 0) -> int:
    """Send messages of 64 KiB until one has not got through for a second; return how much did.

    at_least:
        Until so much has got through, a second is no reason.
    """
    sent = 0
    while sent < 4 * BOUND:
        with anyio.move_on_after(1 if sent >= at_least else GUARD) as scope:
            await send()
        if scope.cancelled_caught:
            break
        sent += 65536
    return sent


@pytest.mark.parametrize("server_sends", [False, True])
async def test_who_does_not_receive_holds_the_peer_back(server_sends: bool) -> None:
    """A3, V5, V6."""
    counts = []
    counted = anyio.Event()

    async def count(ws: anyws.WebSocket) -> None:
        counts.append(await send_until_held_back(lambda: ws.send(bytes(65536)), MIB))
        counted.set()

    handler = count if server_sends else never_receive
    async with (
        anyws.open_server(handler, host="127.0.0.1", port=0, config=QUICK) as server,
        anyws.open_websocket(server.url, config=QUICK) as ws,
    ):
        if not server_sends:
            await count(ws)
        await counted.wait()
        ws.abort()
    assert MIB <= counts[0] < BOUND


async def test_a_client_that_floods_from_its_first_byte_is_held_back() -> None:
    """A3, V5: nothing is read ahead, also where the stream never had to wait for data."""
    config = Config(cancel_grace=0.1, drain_timeout=0.1)
    async with (
        anyws.open_server(never_receive, host="127.0.0.1", port=0, config=config) as server,
        await anyio.connect_tcp("127.0.0.1", server.port) as stream,
    ):
        message = frame(BINARY, bytes(65536), mask=True)
        await stream.send(REQUEST + message * 16)
        sent = await send_until_held_back(lambda: stream.send(message))
        assert sent < BOUND


@every_kind
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_message_without_a_limit_that_nobody_receives_holds_the_peer_back(
    kind: str, in_pieces: bool
) -> None:
    """A3, V5: one frame, of more than there is room for, or a message of which one piece was taken."""
    config = Config(cancel_grace=0.1, drain_timeout=0.1, max_message_size=None)
    async with against_bytes(kind, config) as (ws, stream):
        await stream.send(head(BINARY, 1 << 40, mask=True))
        if in_pieces:
            await stream.send(bytes(100))
            async with ws.receive_fragments() as fragments:
                await anext(fragments)
                sent = await send_until_held_back(lambda: stream.send(bytes(65536)))
        else:
            sent = await send_until_held_back(lambda: stream.send(bytes(65536)))
        assert sent < BOUND

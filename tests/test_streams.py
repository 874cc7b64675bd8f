"""The raw peer itself, and its frames: what the other tests rest on."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import trio
from streams import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    client_of_raw,
    close_frame,
    frame,
    server_of_raw,
    split_frames,
)
from virtual_time import run_in_virtual_time


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_what_they_were_made_of(size: int, mask: bool):
    data = frame(BINARY, bytes(size), mask=mask) + close_frame(1000, "bye", mask=mask) + b"\x81"
    frames, rest = split_frames(data)
    assert [(f.opcode, len(f.payload)) for f in frames] == [(BINARY, size), (CLOSE, 5)]
    assert frames[0].payload == bytes(size)
    assert (frames[1].code, frames[1].reason, frames[1].masked) == (1000, "bye", mask)
    assert rest == b"\x81"
    assert split_frames(data[:-2])[0] == frames[:1]


def test_a_frame_is_the_one_of_the_rfc():
    """RFC 6455, section 5.7."""
    assert frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    masked = bytes.fromhex("818537fa213d7f9f4d5158")
    assert split_frames(masked)[0][0].payload == b"Hello"
    assert frame(PING, b"Hello", fin=True)[:2] == b"\x89\x05"


@pytest.mark.parametrize("inline", [False, True], ids=["attendant", "inline"])
@pytest.mark.parametrize("against_raw", [client_of_raw, server_of_raw])
async def test_a_raw_peer_opens_a_connection(against_raw, inline: bool):
    async with against_raw(inline=inline) as (ws, peer):
        peer.send(TEXT, b"hi")
        assert await ws.receive() == "hi"
        await ws.send("there")
        assert (await peer.next_frame()).payload == b"there"
        assert [f.payload for f in peer.wire] == [b"there"]
        assert peer.torn == b""
        peer.send_close()
        assert (await peer.next_close()).code == 1000
        await peer.stream.aclose()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time_notices_a_task_that_is_left(backend: str):
    left = []

    async def main():
        if backend == "asyncio":
            left.append(asyncio.ensure_future(anyio.sleep(1)))
        else:
            trio.lowlevel.current_task().parent_nursery.start_soon(anyio.sleep, 1)

    with pytest.raises(AssertionError):
        run_in_virtual_time(backend, main)

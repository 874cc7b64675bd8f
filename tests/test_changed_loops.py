"""Event loops that a program has put other transports into: nothing changes, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import anyio
import pytest
from connections import connected, every_network

import anyws
from anyws import Config, WebSocketByteStream
from anyws._config import NATIVE

if sys.platform == "win32":
    pytest.skip("aiofastnet's place is taken by the proactor there", allow_module_level=True)

import aiofastnet
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[pytest.param(make, id=name) for name, make in LOOPS.items()])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": aiofastnet.loop_factory(request.param)}


@every_network
async def test_messages_arrive_until_the_close_however_slowly_they_are_received(kind: str) -> None:
    messages = [os.urandom(5000) for _ in range(300)]
    received = []

    async def send(ws: anyws.WebSocket) -> None:
        for message in messages:
            await ws.send(message)
        await ws.send_eof()

    # However slowly: the server's time for closing runs meanwhile.
    config = Config(cancel_grace=0.2, close_timeout=30, drain_timeout=0.2)
    async with (
        connected(kind, server_config=config) as (client, server),
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(send, server)
        async for message in client:
            received.append(message)
            await anyio.sleep(0.0005)
        closure = await client.wait_closed()
    assert received == messages
    assert closure.clean


@every_network
async def test_the_last_bytes_of_a_stream_arrive(kind: str) -> None:
    data = os.urandom(1_000_000)
    async with connected(kind) as (client, server), anyio.create_task_group() as tg:
        near, far = WebSocketByteStream(client), WebSocketByteStream(server)

        async def send() -> None:
            await near.send(data)
            await near.send_eof()

        tg.start_soon(send)
        got = bytearray()
        async for chunk in far:
            got += chunk
    assert got == data


@every_network
@pytest.mark.skipif(not NATIVE, reason="plain streams are AnyIO's")
async def test_a_client_runs_on_what_the_program_chose(kind: str) -> None:
    async with connected(kind) as (client, _):
        assert "aiofastnet" in type(client._transport._sink).__module__

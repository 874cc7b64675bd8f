"""Bars: one message to many, of whom some never read, over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.to_thread import run_sync
from bars.crowd import text_of
from bars.figures import STATM, PeakMemory, Ticker
from bars.peers import TESTS
from bars.raw import HOST

import anyws
from anyws import Backlog, Config, WebSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not STATM.exists(), reason="needs Linux to look at the memory of a process"),
]

HEALTHY, SILENT = 500, 5
MESSAGES, SIZE = 400, 1024
MOST = 128 * 1024
# Messages that the server is ahead of the slowest healthy peer: below the bound, whatever the
# machine does meanwhile.
AHEAD = MOST // SIZE // 2
# Of a silent peer's connection, so that the system does not take everything.
SEND_BUFFER = 16 * 1024


class Server:
    """Who is connected, and how far the healthy ones are."""

    def __init__(self) -> None:
        self.everybody: set[WebSocket] = set()
        self.silent: set[WebSocket] = set()
        self.arrived = 0
        self.ready = anyio.Event()
        self._progress = 0
        self._changed = anyio.Event()

    async def handle(self, ws: WebSocket) -> None:
        kind = ws.request.headers.get("X-Peer")
        if kind == "control":
            async for message in ws:
                self._progress = int(message)
                self._changed.set()
                self._changed = anyio.Event()
                self.ready.set()
            return
        if kind == "silent":
            raw = ws.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.silent.add(ws)
        self.everybody.add(ws)
        self.arrived += 1
        await ws.wait_closed()
        self.everybody.discard(ws)

    async def wait_for(self, number: int) -> None:
        while self._progress < number:
            await self._changed.wait()


@contextmanager
def crowd(port: int) -> Iterator[subprocess.Popen[str]]:
    numbers = map(str, (port, HEALTHY, SILENT, MESSAGES, SIZE))
    command = [sys.executable, "-m", "bars.crowd", *numbers]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS)
    try:
        yield process
    finally:
        process.kill()
        with process:
            pass  # which waits, and closes the pipe


@pytest.mark.parametrize("policy", ["drop", "skip"])
async def test_who_never_reads_takes_nothing_from_the_others_of_a_broadcast(
    policy: str, figures: Any
) -> None:
    """P17: the healthy get everything, in order; the silent are dropped, or skipped."""
    config = Config(ping_interval=None, close_timeout=1, drain_timeout=0.5, compression=None)
    backlog = Backlog(max_bytes=MOST, close_code=1013 if policy == "drop" else None)
    server_side = Server()
    ticker = Ticker()
    left_out: list[WebSocket] = []
    spent = 0.0
    with anyio.fail_after(80):
        async with anyws.open_server(
            server_side.handle, host=HOST, port=0, config=config
        ) as server:
            with crowd(server.port) as process:
                await server_side.ready.wait()
                assert server_side.arrived == HEALTHY + SILENT
                healthy = server_side.everybody - server_side.silent
                with PeakMemory() as memory:
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(ticker.run)
                        for number in range(MESSAGES):
                            text = text_of(number, SIZE)
                            before = time.thread_time()
                            result = anyws.broadcast(server_side.everybody, text, backlog=backlog)
                            spent += time.thread_time() - before
                            left_out += result.dropped + result.skipped
                            assert healthy <= {*result.sent}
                            await server_side.wait_for(number - AHEAD)
                            await anyio.sleep(0)
                        tg.cancel_scope.cancel()
                assert process.stdout is not None
                report = json.loads(await run_sync(process.stdout.readline))
                for ws in server_side.everybody:
                    ws.abort()
    figures(
        "P17",
        cpu_gap_ms=ticker.cpu_gap_ms,
        wall_gap_ms=ticker.wall_gap_ms,
        mib_at_peak=memory.growth,
        ms_each=spent * 1000 / MESSAGES,
    )
    assert report == {"complete": HEALTHY, "wrong": 0}
    # The attack took place, and hit nobody else.
    assert {*left_out} == server_side.silent
    assert len(left_out) == SILENT if policy == "drop" else len(left_out) > 10 * SILENT
    assert memory.growth < 8
    assert ticker.ticks > 20
    assert ticker.cpu_gap_ms < 50

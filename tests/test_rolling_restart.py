"""A rolling restart under load: nobody is refused, and nothing is lost without a word."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from served import serving

import anyws

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="there are no workers on Windows"),
]

CLIENTS = 200
RESTARTS = 3
WORKERS = 2
# Of each client, between the answer to a message and the next one.
PAUSE = 0.05
PATIENT = anyws.Config(handshake_timeout=40, close_timeout=40, ping_timeout=40, write_timeout=40)


class Crowd:
    """Clients that send and expect an answer, and come again when they are sent away."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered = 0
        self.slowest = 0.0
        self.connections = 0
        self.unanswered = 0  # of those whose connection was closed in order
        self.codes: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.over = False

    async def come(self, number: int) -> None:
        await anyio.sleep(random.random() * 0.5)
        while not self.over:
            try:
                async with anyws.open_websocket(self.url, config=PATIENT) as ws:
                    self.connections += 1
                    await self._talk(ws, number)
                    if self.over:
                        return
            except (OSError, anyws.HandshakeError) as error:
                self.wrong.append(f"refused: {error!r}")
                return
            closure = ws.closure
            assert closure is not None
            self.codes[closure.code] += 1
            if closure.first != "theirs" or closure.code not in {1001, 1012}:
                self.wrong.append(f"closed: {closure}")
                return
            await anyio.sleep(random.random() * 0.1)

    async def _talk(self, ws: anyws.WebSocket, number: int) -> None:
        sent = 0
        while not self.over:
            message = f"{number} {sent}"
            begun = time.monotonic()
            try:
                await ws.send(message)
                answer = await ws.receive()
            except anyws.ConnectionClosed:
                self.unanswered += 1
                return
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if answer != message:
                self.wrong.append(f"answered {answer!r} to {message!r}")
            self.answered += 1
            sent += 1
            await anyio.sleep(PAUSE)


async def test_a_rolling_restart_under_load_refuses_nobody_and_loses_nothing_without_a_word(
    anyio_backend: tuple[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = "uvloop" if anyio_backend[1].get("use_uvloop") else anyio_backend[0]
    options = ("app:echo", "--port", 0, "--workers", WORKERS, "--backend", backend)
    with serving(tmp_path, *options) as running:
        crowd = Crowd(running.url())
        begun = time.monotonic()
        async with anyio.create_task_group() as tg:
            for number in range(CLIENTS):
                tg.start_soon(crowd.come, number)
            await _until(lambda: crowd.answered > 3 * CLIENTS, crowd)
            for restart in range(1, RESTARTS + 1):
                running.process.send_signal(signal.SIGHUP)
                await _until(lambda n=restart: _left(running.log) == n * WORKERS, crowd)
                enough = crowd.answered + 2 * CLIENTS
                await _until(lambda n=enough: crowd.answered > n, crowd)
            crowd.over = True
        seconds = time.monotonic() - begun
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0
    with capsys.disabled():
        sys.stdout.write(
            f"\n{backend}: {CLIENTS} clients, {RESTARTS} restarts of {WORKERS} workers in "
            f"{seconds:.1f} s: {crowd.connections} connections, {crowd.answered} messages "
            f"answered, {crowd.unanswered} unanswered on connections that were closed in order, "
            f"closed with {dict(crowd.codes)}, slowest answer {crowd.slowest * 1000:.0f} ms\n"
        )
    assert crowd.wrong == []
    assert crowd.codes.keys() == {1012}
    # Each restart sends everybody away who is there, and some twice.
    assert crowd.codes[1012] > (RESTARTS - 0.5) * CLIENTS
    assert running.errors() == []


def _left(log: list[str]) -> int:
    return sum("has left: exit code 0" in line for line in log)


async def _until(condition: Any, crowd: Crowd) -> None:
    """Wait for what other processes do: there is no event for it."""
    with anyio.fail_after(40):
        while not condition() and not crowd.wrong:
            await anyio.sleep(0.02)

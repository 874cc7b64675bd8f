"""Nothing outlives the block that owns it: no object, task, socket, thread or timer."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import cycles
import pytest
import trio
from connections import every_kind, every_network, served
from cycles import Figures, living_objects, violations
from programs import run
from streams import GUARD, client_of_raw, server_of_raw

from anyws import Config, WebSocket
from anyws.testing import VirtualTimeLoop, virtual_time

if TYPE_CHECKING:
    import asyncio
import gc

PROGRAM = Path(cycles.__file__)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- Many connections, one after another ---


@pytest.mark.parametrize("kind", cycles.KINDS)
@pytest.mark.parametrize("backend", cycles.BACKENDS)
def test_of_300_connections_nothing_is_left(backend: str, kind: str) -> None:
    """T10, V9, P15: whichever way they end. The garbage collector has no part in it."""
    result = run(PROGRAM, "--cycles", 300, "--backend", backend, "--kind", kind)
    assert result.stderr == ""
    assert result.returncode == 0
    assert re.fullmatch(
        rf"{backend} {kind}: 300 cycles, [\d.]+ s \([\d.]+ s of CPU\), [+-][\d.]+ KiB, "
        r"[+-]\d+ files, [+-]\d+ tasks, [+-]\d+ loggers, 0 objects and 0 WebSockets alive\n",
        result.stdout,
    )


# --- That the program would notice ---


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Figures(), Figures(), []),
        (Figures(memory=5_000_000), Figures(memory=6_000_000), []),
        (Figures(memory=5_000_000), Figures(memory=6_500_000), ["1465 KiB more memory"]),
        (Figures(files=9), Figures(files=10), ["files: 9 -> 10"]),
        (Figures(files=9, tasks=3), Figures(files=8, tasks=4), ["tasks: 3 -> 4"]),
        (Figures(loggers=1), Figures(loggers=2), ["loggers: 1 -> 2"]),
        (Figures(), Figures(watched=1), ["watched: 0 -> 1"]),
        (
            Figures(objects=Counter({"A": 2, "B": 2})),
            Figures(objects=Counter({"A": 3, "B": 1})),
            ["1 more A alive"],
        ),
    ],
)
def test_what_has_grown_is_said(before: Figures, after: Figures, said: list[str]) -> None:
    assert violations(before, after) == said


async def test_what_is_alive_is_counted() -> None:
    """Both ends of an open connection, and what runs for them."""
    gc.collect()  # what earlier tests left must not go in between
    before = Counter(living_objects())
    with anyio.fail_after(GUARD):
        async with served("memory", echo) as connect, connect() as ws:
            await ws.send("hello")
            await ws.receive()
            await ws.ping()  # which is not for the lane, and so has both engines made
            alive = Counter(living_objects()) - before
            for kind in (
                "anyws._websocket.WebSocket",
                "anyws._connection.Connection",
                "anyws._transports.stream.StreamTransport",
                "anyws._protocol.protocol.Protocol",
                "wsproto.connection.Connection",
                "wsproto.frame_protocol.FrameDecoder",
                "StreamTransport._run_writer",
                "StreamTransport._run_attendant",
            ):
                assert alive[kind.replace("anyws._websocket.", "anyws.")] == 2, kind
            # The opening handshake is over.
            assert alive["anyws._accept.WaysOut"] == 0
            watched = len(cycles._watched)
            cycles.watch(ws)
            assert len(cycles._watched) == watched + 1
        del ws
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    assert len(cycles._watched) == watched


# --- Timers and threads ---


class NotingLoop(VirtualTimeLoop):
    """Keeps every timer that was ever set."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_at(self, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        self.timers.append(super().call_at(when, *args, **options))
        return self.timers[-1]

    @property
    def pending(self) -> list[asyncio.TimerHandle]:
        return [t for t in self.timers if not t.cancelled() and t.when() > self.time()]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("role", [client_of_raw, server_of_raw])
@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled", "aborts", "peer leaves"])
def test_no_timer_outlives_a_connection(backend: str, role, end: str) -> None:
    """3.1: each of those of an hour, or of half a minute, is gone with its connection."""
    config = Config(
        ping_interval=30, ping_timeout=3600, close_timeout=3600, write_timeout=3600, cancel_grace=9
    )

    async def main() -> None:
        with anyio.CancelScope() as scope:
            try:
                async with role(config, guard=None) as (ws, peer):
                    await ws.send("hello")
                    await anyio.sleep(40)
                    if end == "raises":
                        raise KeyError
                    if end == "is cancelled":
                        scope.cancel()
                        await anyio.sleep_forever()
                    if end == "aborts":
                        ws.abort()
                        await ws.wait_closed()
                    if end == "peer leaves":
                        peer.leave()
                        await ws.wait_closed()
            except KeyError:
                pass
        await anyio.sleep(0.01)
        if backend == "trio":
            assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        else:
            assert loops[0].pending == []

    def make_loop() -> NotingLoop:
        loops.append(NotingLoop())
        return loops[-1]

    loops: list[NotingLoop] = []
    name, options = virtual_time(backend)
    if backend == "asyncio":
        options = {"loop_factory": make_loop}
    anyio.run(main, backend=name, backend_options=dict(options))


@every_network
async def test_a_connection_is_served_without_a_thread(kind: str) -> None:
    """3.1. (Looking up where to listen takes one, of the event loop's own.)"""
    with anyio.fail_after(GUARD):
        async with served(kind, echo) as connect:
            before = set(threading.enumerate())
            async with connect() as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                assert set(threading.enumerate()) <= before
        assert set(threading.enumerate()) <= before


@every_kind
async def test_a_server_forgets_the_connections_that_have_ended(kind: str) -> None:
    """V9: it lives longer than they do."""
    with anyio.fail_after(GUARD):
        async with served(kind, echo) as connect:
            for _ in range(3):
                async with connect() as ws:
                    await ws.send("hello")
                    await ws.receive()
            del ws
            before = Counter(living_objects())
            for _ in range(20):
                async with connect() as ws:
                    await ws.send("hello")
                    await ws.receive()
            del ws
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            grown = Counter(living_objects()) - before
            assert {name for name, count in grown.items() if count >= 10} == set()

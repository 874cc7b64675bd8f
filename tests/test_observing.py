"""What is logged, counted, traced and let go of, in time that costs nothing."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import anyio
import pytest
from connections import QUICK, served
from streams import URL, pair, request_bytes
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config, TraceEvent, WebSocket
from anyws.testing import MemoryListener, open_websocket_pair

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(30)

both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def ends(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    records = [record for record in caplog.records if record.name == logger]
    return [record.message for record in records if ", after " in record.message]


async def idle(ws: WebSocket) -> None:
    async for _ in ws:
        pass


# --- The log ---


@both_backends
def test_the_log_tells_after_how_many_seconds_and_messages_a_connection_ended(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        config = Config(ping_interval=None)
        async with open_websocket_pair(client_config=config, server_config=config) as (ws, far):
            for n in range(5):
                await ws.send(f"{n}")
            await far.send(b"x")
            for _ in range(5):
                await far.receive()
            await anyio.sleep(12.34)
            await far.close(1001, "going home")

    run_in_virtual_time(backend, main)
    words = "1001 (going away) 'going home', after 12.3 s"
    assert ends(caplog, "anyws.server") == [
        f"a stream: this end closed the connection with {words}, 5 messages in, 1 out"
    ]
    assert ends(caplog, "anyws.client") == [
        f"ws://memory.test/: the peer closed the connection with {words}, 1 messages in, 5 out"
    ]


@both_backends
def test_the_log_tells_of_a_peer_that_fell_silent(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counted: list[anyws.Counters] = []

    async def main() -> None:
        near, far = pair()
        await far.send(request_bytes())
        async with anyws.wrap_server_stream(near) as ws:
            with pytest.raises(anyws.ConnectionBroken):
                await ws.receive()
            counted.append(ws.counters)

    run_in_virtual_time(backend, main)
    [line] = ends(caplog, "anyws.server")
    assert "no sign of life from the peer: nothing arrived for 40 s" in line
    assert line.endswith("after 40.0 s, 0 messages in, 0 out")
    assert (counted[0].pings_sent, counted[0].latency) == (1, None)


async def test_the_log_tells_once_of_each_connection_however_it_was_opened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with served("tcp", idle) as connect, anyio.create_task_group() as tg:
        opening = connect()
        async with opening:
            pass
        ws = await anyws.connect_websocket(tg, opening.url.safe, config=QUICK)
        await ws.send("x")
        await ws.close()
        with pytest.raises(ZeroDivisionError):
            async with connect():
                raise ZeroDivisionError
    assert len(ends(caplog, "anyws.client")) == 3
    assert len(ends(caplog, "anyws.server")) == 3


# --- Counters ---


@both_backends
def test_the_latency_is_that_of_the_latest_ping(backend: str) -> None:
    async def main() -> None:
        async with open_websocket_pair() as (ws, far):
            assert ws.counters.latency is None
            latency = await ws.ping()
            assert ws.counters.latency == ws.latency == latency
            # Keepalive's are counted, too.
            await anyio.sleep(50)
            assert ws.counters.pings_sent >= 2
            assert far.counters.pings_received == ws.counters.pings_sent

    run_in_virtual_time(backend, main)


async def test_the_inbox_s_most_tells_of_a_program_that_is_slow() -> None:
    async with open_websocket_pair() as (ws, far):
        for _ in range(10):
            await ws.send("four")
        await ws.ping()
        counters = far.counters
        assert (counters.inbox_messages, counters.inbox_bytes) == (10, 40)
        for _ in range(10):
            await far.receive()
        assert far.counters.inbox_messages == 10


# --- Traces ---


@both_backends
def test_a_trace_has_the_time_of_the_loop(backend: str) -> None:
    events: list[TraceEvent] = []
    begun: list[float] = []

    async def main() -> None:
        begun.append(anyio.current_time())
        config = Config(trace=events.append, ping_interval=None)
        async with open_websocket_pair(client_config=config) as (ws, far):
            await anyio.sleep(5)
            await ws.send("x")
            await anyio.sleep(2)
            await far.send("y")
            await ws.receive()
            await anyio.sleep(1)

    run_in_virtual_time(backend, main)
    times = [round(event.time - begun[0]) for event in events]
    assert list(zip([event.kind for event in events], times, strict=True)) == [
        *(("open", 0), ("sent", 5), ("received", 7), ("sent", 8), ("received", 8)),
        ("closed", 8),
    ]


# --- What hooks hold ---


class Held:
    """A hook that holds something for each client."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self.ever = 0
        self.holds = anyio.Event()
        self._then = then

    async def __call__(self, request: anyws.Request) -> None:
        self.count += 1
        self.ever += 1
        request.on_end(self._release)
        self.holds.set()
        await anyio.sleep(math.inf if request.path == "/slow" else 0)

    def _release(self) -> None:
        self.count -= 1


@both_backends
@pytest.mark.parametrize("target", ["/", "/slow"])
def test_what_a_hook_holds_is_let_go_where_no_server_is_around(backend: str, target: str) -> None:
    async def main() -> None:
        held = Held()
        near, far = pair()
        await far.send(request_bytes(target=target))
        opening = anyws.wrap_server_stream(
            near, on_request=[held], config=Config(handshake_timeout=0.1)
        )
        if target == "/slow":
            with pytest.raises(anyws.HandshakeTimeout):
                await opening.__aenter__()
        else:
            async with opening:
                assert held.count == 1
                await far.aclose()
        assert (held.count, held.ever) == (0, 1)

    run_in_virtual_time(backend, main)


@both_backends
@pytest.mark.parametrize("path", ["", "slow"])
def test_what_a_hook_holds_is_let_go_when_the_server_is_cancelled(backend: str, path: str) -> None:
    refusals: list[int] = []

    async def visit(listener: MemoryListener) -> None:
        opening = anyws.wrap_client_stream(listener.connect(), URL + path, config=QUICK)
        try:
            async with opening as ws:
                await ws.wait_closed()
        except anyws.HandshakeRejected as error:
            refusals.append(error.response.status)

    async def main() -> None:
        held, listener = Held(), MemoryListener()
        serving = anyws.open_server(idle, listeners=[listener], on_request=held, config=QUICK)
        async with anyio.create_task_group() as tg:
            with anyio.CancelScope() as scope:
                async with serving:
                    tg.start_soon(visit, listener)
                    await held.holds.wait()
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
                    await anyio.sleep_forever()
            assert (held.count, held.ever) == (0, 1)

    run_in_virtual_time(backend, main)
    assert refusals == ([503] if path else [])

"""What nobody receives stays with the peer: memory is bounded, and only the slow one waits."""

from __future__ import annotations

import socket
import threading

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute
from connections import QUICK, against_raw, connected, every_kind
from streams import BINARY, PING, PONG, TEXT, frame, request_bytes

import anyws
from anyws import Config, WebSocket

pytestmark = pytest.mark.timeout(50)

MIB = 1 << 20


def push(raw: socket.socket, data: bytes, size: int, least: int) -> int:
    """Write as much as goes without waiting for longer than half a second, once `least` went."""
    sent = 0
    try:
        while sent < size:
            raw.settimeout(0.5 if sent >= least else 10)
            # On from where the last write stopped: half a frame is not to be sent twice.
            sent += raw.send(memoryview(data)[sent % len(data) :])
    except TimeoutError:
        pass
    return sent


@pytest.mark.parametrize("early", [False, True], ids=["later", "with the request"])
@pytest.mark.parametrize("message", [100, 100_000, MIB])
async def test_a_flood_that_nobody_receives_stops_at_the_inbox(early: bool, message: int) -> None:
    """V5: all that goes out is what the system and the inbox hold."""
    taken = 0
    go_on = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        nonlocal taken
        await go_on.wait()
        assert await ws.receive() == bytes(message)
        taken += 1

    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    async with anyws.open_server(handler, listeners=[listener], config=QUICK) as server:
        raw = socket.socket()
        # The system may keep a little, so that what the program keeps shows.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

        def flood() -> int:
            raw.connect(("127.0.0.1", server.port))
            data = frame(BINARY, bytes(message), mask=True)
            least = 0 if early else len(data)
            data *= max(1, 100_000 // message)
            raw.sendall(request_bytes() + (data if early else b""))
            if not early:
                while b"\r\n\r\n" not in raw.recv(65536):
                    pass
            return push(raw, data, 60 * MIB, least)

        with raw:
            sent = await anyio.to_thread.run_sync(flood)
            assert sent < 20 * MIB
            go_on.set()
            with anyio.fail_after(10):
                while not taken:
                    await anyio.sleep(0.01)


@against_raw
async def test_reading_stops_where_the_inbox_is_full_and_goes_on_with_room(against) -> None:
    config = Config(inbox_size=3)
    async with against(config) as (ws, peer):
        peer.other.incoming.chunk_size = 100
        for number in range(200):
            peer.send(TEXT, b"%03d" % number)
        await anyio.sleep(0.15)
        waiting = len(peer.stream.outgoing.data)
        assert waiting > 500
        for number in range(200):
            assert await ws.receive() == f"{number:03}"
        assert not peer.stream.outgoing.data


@against_raw
async def test_the_inbox_is_bounded_in_bytes_too(against) -> None:
    config = Config(inbox_size=None, max_message_size=10_000)
    async with against(config) as (ws, peer):
        for _ in range(100):
            peer.send(BINARY, bytes(9_000))
        await anyio.sleep(0.15)
        assert len(peer.stream.outgoing.data) > 500_000
        for _ in range(100):
            assert len(await ws.receive()) == 9_000


@against_raw
async def test_writing_does_not_wait_for_a_full_inbox(against) -> None:
    """Reads and writes are independent."""
    async with against(Config(inbox_size=1)) as (ws, peer):
        for _ in range(50):
            peer.send(TEXT, b"x" * 1000)
        await anyio.sleep(0.1)
        with anyio.fail_after(2):
            await ws.send("out")
            await ws.send_fragments(["o", "ut"])
            assert (await peer.next_frame()).payload == b"out"


@against_raw
async def test_pings_are_answered_while_the_inbox_has_room(against) -> None:
    """R-65."""
    async with against(Config(inbox_size=10)) as (_ws, peer):
        for _ in range(9):
            peer.send(TEXT, b"x")
        peer.send(PING, b"here")
        with anyio.fail_after(2):
            received = await peer.next_frame()
        assert (received.opcode, received.payload) == (PONG, b"here")


@every_kind
async def test_a_large_write_to_a_slow_peer_does_not_hold_up_reading(kind: str) -> None:
    """H19, 3.4: messages and pings come in while a write is blocked."""
    config = Config(inbox_size=1, max_message_size=None, cancel_grace=0.1, close_timeout=1)
    async with connected(kind, config=config, server_config=config) as (client, server):

        async def send_both() -> None:
            await client.send(b"a" * 1_100_000)
            await client.send(b"b" * 20_000_000)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send_both)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                for number in range(10):
                    await server.send(str(number))
                    assert await client.receive() == str(number)
            assert len(await server.receive()) == 1_100_000
            assert len(await server.receive()) == 20_000_000


@against_raw
async def test_a_peer_that_sends_without_pause_does_not_starve_the_others(against) -> None:
    """H15, P6: a chunk of small frames is worked through in turns."""
    async with against(Config(inbox_size=1_000_000)) as (ws, peer):
        peer.push(frame(TEXT, mask=not peer.is_server) * 5_000)
        steps: list[int] = []
        done = False

        async def tick() -> None:
            seen = 0
            while not done:
                await anyio.lowlevel.checkpoint()
                now = ws._protocol.lane_frames + ws._protocol.engine_frames
                steps.append(now - seen)
                seen = now

        async with anyio.create_task_group() as tg:
            tg.start_soon(tick)
            for _ in range(5_000):
                assert await ws.receive() == ""
            done = True
        assert sum(steps) == 5_000
        assert max(steps) <= 1000


@pytest.mark.parametrize("receiving", [False, True])
async def test_what_has_come_while_the_program_was_busy_is_read_in_turns_with_other_tasks(
    receiving: bool,
) -> None:
    """The system had room for all of it: no read has to wait, and the others run all the same."""
    number = 8000
    is_here = threading.Event()
    steps: list[int] = []

    async def handler(ws: WebSocket) -> None:
        assert is_here.wait(10)
        async with anyio.create_task_group() as tg:
            tg.start_soon(watch, ws, tg.cancel_scope)
            if receiving:
                await ws.receive()
            await anyio.sleep_forever()

    async def watch(ws: WebSocket, scope: anyio.CancelScope) -> None:
        seen = 0
        while seen < number:
            await anyio.lowlevel.checkpoint()
            now = ws._protocol.engine_frames
            steps.append(now - seen)
            seen = now
        scope.cancel()

    def flood(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(request_bytes())
            while b"\r\n\r\n" not in raw.recv(65536):
                pass
            raw.sendall(frame(PING, bytes(125), mask=True) * number)
            is_here.set()
            while raw.recv(65536):
                pass

    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    listening = listener.extra(SocketAttribute.raw_socket)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    async with anyws.open_server(handler, listeners=[listener], config=QUICK) as server:
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(flood, server.port)
    assert sum(steps) == number
    assert max(steps) <= 2500

"""Pings: the program's own, and those that find out whether the peer is alive."""

from __future__ import annotations

import socket

import anyio
import pytest
from anyio.abc import SocketAttribute
from connections import against_bytes, against_raw, connected, every_kind
from streams import PING, PONG, TEXT, client_of_raw, frame, server_of_raw, split_frames
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config

pytestmark = pytest.mark.timeout(30)

both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
both_roles = pytest.mark.parametrize("role", [client_of_raw, server_of_raw])


def pings(peer) -> list[bytes]:
    return [f.payload for f in peer.wire if f.opcode == PING]


def pongs(peer) -> list[bytes]:
    return [f.payload for f in peer.wire if f.opcode == PONG]


# --- ping() ---


@every_kind
async def test_a_ping_takes_some_seconds_and_says_how_many(kind: str) -> None:
    async with connected(kind) as (client, server):
        assert client.latency is None
        # Nobody receives at either end.
        for ws in (client, server):
            seconds = await ws.ping()
            assert 0 <= seconds < 5
            assert ws.latency == seconds


@against_raw
async def test_several_pings_are_answered_each_or_by_the_last(against) -> None:
    """R-66."""
    async with against() as (ws, peer):
        done = []

        async def ping(number: int) -> None:
            await ws.ping()
            done.append(number)

        async def until_answered(count: int) -> None:
            while len(done) < count:
                await anyio.sleep(0.001)
            # One too many would be at the same time.
            await anyio.wait_all_tasks_blocked()

        async with anyio.create_task_group() as tg:
            for number in range(4):
                tg.start_soon(ping, number)
                await anyio.wait_all_tasks_blocked()
            sent = pings(peer)
            assert len(set(sent)) == 4
            assert all(len(payload) >= 4 for payload in sent)
            peer.send(PONG, sent[0])
            await until_answered(1)
            assert done == [0]
            peer.send(PONG, sent[2])
            await until_answered(3)
            assert sorted(done) == [0, 1, 2]
            peer.send(PONG, sent[3])


@against_raw
async def test_the_pong_of_a_ping_given_up_answers_those_before_it(against) -> None:
    """R-66: it may be all that the peer could still send."""
    async with against() as (ws, peer):
        latencies = []

        async def ping() -> None:
            latencies.append(await ws.ping())

        async with anyio.create_task_group() as tg:
            tg.start_soon(ping)
            await anyio.wait_all_tasks_blocked()
            for _ in range(100):
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as given_up:
                        given_up.start_soon(ws.ping)
                        for _ in range(3):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert len(pings(peer)) == 101
            assert latencies == []
            # As many are remembered as there is any need for.
            assert len(ws._keepalive._pings) < 70
            peer.send(PONG, pings(peer)[-1])
            await anyio.wait_all_tasks_blocked()
            assert len(latencies) == 1
        assert not ws._keepalive._pings


@against_raw
async def test_pongs_that_nobody_waits_for_mean_nothing(against) -> None:
    """R-67, V7."""
    async with against() as (ws, peer):
        peer.send(PONG, b"unasked")
        peer.send(PONG)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.ping)
                while not pings(peer):
                    await anyio.sleep(0.001)
                scope.cancel()
        assert scope.cancelled_caught
        peer.send(PONG, pings(peer)[0])
        peer.send(TEXT, b"fine")
        assert await ws.receive() == "fine"
        # The late pong came, and nobody's latency is that of a ping given up.
        assert ws.latency is None
        assert ws.is_open


@against_raw
async def test_a_ping_in_a_cancelled_scope_is_not_sent(against) -> None:
    async with against() as (ws, peer):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ws.ping()
        assert scope.cancelled_caught
        await anyio.wait_all_tasks_blocked()
        assert peer.wire == []


@against_raw
async def test_a_ping_ends_with_the_connection(against) -> None:
    async with against() as (ws, peer):

        async def expect(error) -> None:
            with pytest.raises(error):
                await ws.ping()

        async with anyio.create_task_group() as tg:
            tg.start_soon(expect, anyws.ClosedWithError)
            tg.start_soon(expect, anyws.ClosedWithError)
            await anyio.wait_all_tasks_blocked()
            peer.send_close(4000)
            peer.end()
        await expect(anyws.ClosedWithError)


@against_raw
async def test_pings_are_answered_each_in_turn_with_their_payload(against) -> None:
    """R-64, R-65: also while nobody receives, and in the middle of a message."""
    async with against() as (ws, peer):
        payloads = [b"", b"a", b"x" * 125]
        peer.send(TEXT, b"half", fin=False)
        for payload in payloads:
            peer.send(PING, payload)
        with anyio.fail_after(5):
            assert [(await peer.next_frame()).payload for _ in payloads] == payloads
        peer.send(0, b" and half")
        assert await ws.receive() == "half and half"
        assert pongs(peer) == payloads


@against_raw
async def test_behind_a_blocked_write_only_the_latest_ping_is_answered(against) -> None:
    """P3, V7, R-66: what is owed does not grow."""
    async with against() as (ws, peer):
        peer.stall()
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.send, "blocked")
            await anyio.wait_all_tasks_blocked()
            for number in range(50):
                peer.send(PING, b"%d" % number)
                # One read each.
                with anyio.move_on_after(0.2):
                    while peer.stream.outgoing.data:
                        await anyio.sleep(0.001)
            peer.resume()
        peer.send(PING, b"last")
        with anyio.fail_after(5):
            while b"last" not in pongs(peer):
                await anyio.sleep(0.01)
        assert len(pongs(peer)) < 8
        assert pongs(peer)[-2:] == [b"49", b"last"]


@against_raw
async def test_a_flood_of_pings_by_a_peer_that_does_not_read_costs_little(against) -> None:
    """P3."""
    async with against(capacity=65536) as (ws, peer):
        for _ in range(300):
            for _ in range(20):
                peer.send(PING, b"x" * 125)
            with anyio.move_on_after(1):
                while peer.stream.outgoing.data:
                    await anyio.sleep(0)
        peer.resume()
        peer.send(PING, b"end")
        with anyio.fail_after(5):
            while b"end" not in pongs(peer):
                await anyio.sleep(0.01)
        assert len(peer.stream.incoming.log) < 400_000
        assert ws.is_open


# --- Keepalive ---


@both_backends
@both_roles
def test_a_silent_peer_is_asked_and_then_given_up(backend: str, role) -> None:
    """V38. The failure says in words what was missing."""

    async def main() -> None:
        config = Config(ping_interval=20, ping_timeout=5)
        async with role(config, guard=None) as (ws, peer):
            start = anyio.current_time()
            with pytest.raises(anyws.ConnectionBroken, match="sign of life") as caught:
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(25, abs=0.1)
            assert len(pings(peer)) == 1
            assert "25" in str(caught.value)
            assert caught.value.closure.clean is False
            await ws.wait_closed()
            assert peer.other.closed

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
@pytest.mark.parametrize("sign", ["pong", "ping", "message", "half a frame"])
def test_any_byte_is_a_sign_of_life(backend: str, role, sign: str) -> None:
    async def main() -> None:
        config = Config(ping_interval=20, ping_timeout=5)
        async with role(config, guard=None) as (ws, peer):
            peer.send(TEXT, b"begin", fin=False)

            async def live() -> None:
                answered = 0
                while True:
                    await anyio.sleep(1)
                    if sign == "pong":
                        for payload in pings(peer)[answered:]:
                            peer.send(PONG, payload)
                            answered += 1
                    elif len(pings(peer)) > answered:
                        answered += 1
                        if sign == "ping":
                            peer.send(PING)
                        elif sign == "message":
                            peer.send(0, b"x", fin=False)
                        else:
                            peer.push(b"\x80\x7e" if peer.is_server else b"\x80\xfe")
                            answered = 1_000_000

            async with anyio.create_task_group() as tg:
                tg.start_soon(live)
                await anyio.sleep(40 if sign == "half a frame" else 1000)
                assert ws.is_open
                assert len(pings(peer)) >= 1
                tg.cancel_scope.cancel()
            assert (ws.latency is not None) == (sign == "pong")

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_nobody_is_asked_while_something_arrives(backend: str, role) -> None:
    async def main() -> None:
        async with role(Config(ping_interval=20), guard=None) as (ws, peer):
            for _ in range(50):
                peer.send(TEXT, b"x")
                assert await ws.receive() == "x"
                await anyio.sleep(19)
            assert pings(peer) == []

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_a_full_inbox_is_silence_of_our_own_making(backend: str, role) -> None:
    """P5."""

    async def main() -> None:
        config = Config(ping_interval=20, ping_timeout=5, inbox_size=2)
        async with role(config, guard=None) as (ws, peer):
            for number in range(20):
                peer.send(TEXT, b"%d" % number)
            await anyio.sleep(1000)
            assert ws.is_open
            for number in range(20):
                assert await ws.receive() == str(number)
                await anyio.sleep(100)
                if number < 18:
                    assert ws.is_open
            # Now it is the peer that is silent.
            assert not ws.is_open

    run_in_virtual_time(backend, main)


@every_kind
@pytest.mark.parametrize("ends", [False, True])
async def test_nobody_is_blamed_while_messages_wait_for_room(kind: str, ends: bool) -> None:
    """What follows the messages may be a Close, or the end: it is not known yet."""
    config = Config(
        ping_interval=0.05, ping_timeout=0.05, inbox_size=1, cancel_grace=0.1, drain_timeout=0.1
    )
    async with against_bytes(kind, config) as (ws, stream):
        for number in range(4):
            await stream.send(frame(TEXT, b"%d" % number, mask=True))
        if ends:
            # TLS has no such thing: there it is that of the socket.
            await getattr(stream, "transport_stream", stream).send_eof()
        for number in range(4):
            # Several times what a silent peer is given.
            await anyio.sleep(0.2)
            assert await ws.receive() == str(number)
        with pytest.raises(anyws.ConnectionBroken, match="ended|lost" if ends else "sign of life"):
            await ws.receive()


@every_kind
async def test_a_large_message_that_gets_on_is_no_silence_however_long_it_takes(kind: str) -> None:
    """The question waits behind it, and so does the answer."""
    config = Config(
        ping_interval=0.6, ping_timeout=0.6, write_timeout=None, compression=None, cancel_grace=0.1
    )
    async with against_bytes(kind, config, receive_buffer=65536) as (ws, stream):
        if kind != "memory":
            # So that the system takes more in small steps.
            sock = ws.extra(SocketAttribute.raw_socket)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        size = 4 << 20
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.send, bytes(size))
            start = anyio.current_time()
            data = b""
            while len(data) < size // 2 and anyio.current_time() < start + 2.4:
                enough = len(data) + 65536
                while len(data) < enough:
                    data += await stream.receive(enough - len(data))
                # More slowly than it is sent, but so that each look finds that it got on.
                await anyio.sleep(0.05)
            while len(data) < size + 10:  # with its head
                data += await stream.receive()
        frames = split_frames(data)[0]
        assert len(frames[0].payload) == size
        # It has been silent all the while, and is asked now.
        with pytest.raises(anyws.ConnectionBroken, match="sign of life"):
            await ws.receive()


@both_backends
@both_roles
def test_a_large_message_on_a_slow_stream_is_no_silence_either(backend: str, role) -> None:
    async def main() -> None:
        config = Config(ping_interval=3, ping_timeout=2, write_timeout=None, compression=None)
        async with role(config, guard=None, capacity=8192) as (ws, peer):
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.send, bytes(1 << 20))
                start = anyio.current_time()
                received = 0
                while received < 1 << 20:
                    received += len(await peer.stream.receive(8192))
                    await anyio.sleep(0.4)
            assert anyio.current_time() - start > 40
            assert ws.is_open
            assert len(peer.wire[0].payload) == 1 << 20

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_a_message_that_stops_getting_on_is_given_up(backend: str, role) -> None:
    async def main() -> None:
        config = Config(ping_interval=3, ping_timeout=2, write_timeout=None, compression=None)
        async with role(config, guard=None, capacity=8192) as (ws, peer):
            async with anyio.create_task_group() as tg:

                async def send() -> None:
                    with pytest.raises(anyws.ConnectionBroken, match="sign of life"):
                        await ws.send(bytes(1 << 20))

                tg.start_soon(send)
                for _ in range(20):
                    await peer.stream.receive(8192)
                    await anyio.sleep(0.4)
                await anyio.sleep(5)
            assert not ws.is_open

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_without_an_interval_nobody_is_ever_asked(backend: str, role) -> None:
    async def main() -> None:
        async with role(Config(ping_interval=None), guard=None) as (ws, peer):
            await anyio.sleep(1_000_000)
            assert ws.is_open
            assert peer.wire == []

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
@pytest.mark.parametrize("receives", [False, True])
def test_a_peer_is_asked_after_each_interval_of_silence_however_long_it_may_take(
    backend: str, role, receives: bool
) -> None:
    """V39: proxies cut what is silent for longer."""

    async def main() -> None:
        config = Config(ping_interval=20, ping_timeout=300)
        async with role(config, guard=None) as (ws, peer), anyio.create_task_group() as tg:
            if receives:
                tg.start_soon(ws.receive)
            for number in range(1, 11):
                await anyio.sleep(20.5)
                assert len(pings(peer)) == number
                peer.send(PONG, pings(peer)[-1])
            tg.cancel_scope.cancel()

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_a_peer_that_takes_long_to_answer_is_asked_once(backend: str, role) -> None:
    async def main() -> None:
        config = Config(ping_interval=20, ping_timeout=90)
        async with role(config, guard=None) as (ws, peer):
            await anyio.sleep(105)
            assert len(pings(peer)) == 1
            peer.send(PONG, pings(peer)[0])
            await anyio.sleep(20.5)
            assert len(pings(peer)) == 2
            start = anyio.current_time()
            with pytest.raises(anyws.ConnectionBroken, match="sign of life"):
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(89.5, abs=0.2)

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_without_a_timeout_the_peer_is_asked_and_never_given_up(backend: str, role) -> None:
    async def main() -> None:
        async with role(Config(ping_interval=20, ping_timeout=None), guard=None) as (ws, peer):
            await anyio.sleep(205)
            assert ws.is_open
            assert len(pings(peer)) == 10

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_keepalive_breaks_off_a_blocked_send(backend: str, role) -> None:
    """P4: the peer neither reads nor says anything."""

    async def main() -> None:
        config = Config(ping_interval=3, ping_timeout=2, write_timeout=None)
        async with role(config, guard=None, capacity=1000) as (ws, _peer):
            start = anyio.current_time()
            with pytest.raises(anyws.ConnectionBroken, match="sign of life"):
                while True:
                    await ws.send("x" * 100_000, compress=False)
            assert anyio.current_time() - start == pytest.approx(5, abs=0.1)

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_keepalive_stays_quiet_during_the_closing_handshake(backend: str, role) -> None:
    """H31, R-73."""

    async def main() -> None:
        config = Config(ping_interval=1, ping_timeout=1, close_timeout=50)
        async with role(config, guard=None) as (ws, peer):
            await anyio.sleep(0.5)
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.close)
                await anyio.sleep(40)
                assert pings(peer) == []
                peer.leave()
            assert ws.closure.clean

    run_in_virtual_time(backend, main)


@every_kind
async def test_keepalive_keeps_an_idle_connection_alive(kind: str) -> None:
    config = Config(ping_interval=0.05, ping_timeout=5)
    async with connected(kind, config=config, server_config=config) as (client, server):
        with anyio.fail_after(10):
            while client.latency is None or server.latency is None:
                await anyio.sleep(0.01)
        assert client.is_open
        assert server.is_open


@every_kind
@pytest.mark.parametrize("receives", [False, True])
async def test_an_idle_connection_is_pinged_again_and_again(kind: str, receives: bool) -> None:
    config = Config(ping_interval=0.05, ping_timeout=100)
    quiet = Config(ping_interval=None)
    async with connected(kind, config=config, server_config=quiet) as (client, server):
        async with anyio.create_task_group() as tg:
            if receives:
                tg.start_soon(client.receive)
            with anyio.fail_after(10):
                # Each a ping: nothing else is sent.
                while server._protocol.engine_frames < 5:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()


@both_backends
def test_both_may_send_more_than_fits_before_either_reads(backend: str) -> None:
    """P14, H18: control frames get through, or a timeout ends it; nothing hangs for ever."""

    async def main() -> None:
        config = Config(ping_interval=2, ping_timeout=2, write_timeout=4, cancel_grace=0.5)
        async with connected("memory", config=config, server_config=config, guard=None) as (
            client,
            server,
        ):

            async def send_all(ws) -> None:
                with pytest.raises(anyws.ConnectionBroken):
                    for _ in range(60):
                        await ws.send("x" * 900_000, compress=False)

            start = anyio.current_time()
            async with anyio.create_task_group() as tg:
                tg.start_soon(send_all, client)
                tg.start_soon(send_all, server)
            assert anyio.current_time() - start < 12

    run_in_virtual_time(backend, main)

"""Ends other than `close`: abort, send_eof, and who is told that the connection has ended."""

from __future__ import annotations

import socket
import struct
from functools import partial

import anyio
import pytest
from anyio.abc import SocketAttribute
from connections import QUICK, against_raw, connected, every_kind, every_network, served
from streams import CLOSE, PING, TEXT, request_bytes, split_frames

import anyws
from anyws import Close, Config, Status, WebSocket

pytestmark = pytest.mark.timeout(30)


# --- abort ---


@every_kind
async def test_abort_cuts_the_connection_without_a_close(kind: str) -> None:
    async with connected(kind) as (client, server):
        await server.send("lost")
        client.abort()
        assert not client.is_open
        with anyio.fail_after(5):
            closure = await client.wait_closed()
            theirs = await server.wait_closed()
        assert (closure.sent, closure.received, closure.first) == (None, None, "ours")
        assert not closure.clean
        assert "cut" in closure.cause
        assert (theirs.received, theirs.clean) == (None, False)
        for call in (client.receive, client.ping, lambda: client.send("x")):
            with pytest.raises(anyws.ClosedByUs):
                await call()
        with pytest.raises(anyws.ConnectionBroken):
            await server.receive()
        client.abort()
        await client.close()
        assert client.closure == closure


@against_raw
async def test_abort_releases_everybody_who_waits(against) -> None:
    async with against() as (ws, peer):
        peer.stall()
        released = []

        async def expect(function, *args) -> None:
            with pytest.raises(anyws.ClosedByUs):
                await function(*args)
            released.append(function)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                tg.start_soon(expect, ws.send, "in the writer's hands")
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(expect, ws.send, "in the queue")
                tg.start_soon(expect, ws.ping)
                tg.start_soon(expect, ws.receive)
                tg.start_soon(ws.wait_closed)
                tg.start_soon(ws.close)
                await anyio.wait_all_tasks_blocked()
                ws.abort()
        assert len(released) == 4
        assert [f.opcode for f in peer.wire] == []


async def test_abort_after_the_end_changes_nothing() -> None:
    async with connected() as (client, _):
        closure = await client.close(4000)
        client.abort()
        assert client.closure == closure
        assert client.closure.clean


# --- wait_closed and cancel_when_closed ---


@every_kind
async def test_wait_closed_notices_a_peer_that_leaves(kind: str) -> None:
    async with connected(kind) as (client, server):
        async with anyio.create_task_group() as tg:
            closures = []

            async def wait(ws: WebSocket) -> None:
                closures.append(await ws.wait_closed())

            tg.start_soon(wait, server)
            tg.start_soon(wait, server)
            with anyio.move_on_after(0.02) as scope:
                await client.wait_closed()
            assert scope.cancelled_caught
            assert client.is_open
            await client.close(4000)
        assert [c.received for c in closures] == [Close(4000)] * 2
        assert await server.wait_closed() == closures[0]


@every_kind
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_work_is_cancelled_when_the_peer_leaves_where_one_asks_for_it(
    kind: str, end: str
) -> None:
    async with connected(kind) as (client, server):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tg:
                async with server.cancel_when_closed() as scope:
                    if end == "close":
                        tg.start_soon(client.close)
                    else:
                        client.abort()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert not server.is_open
        # The cancellation ended with the block, and one that comes later begins cancelled.
        await anyio.lowlevel.checkpoint()
        async with server.cancel_when_closed() as scope:
            await anyio.lowlevel.checkpoint()
            raise AssertionError
        assert scope.cancelled_caught


@against_raw
async def test_work_without_the_block_goes_on_when_the_peer_leaves(against) -> None:
    """H8: saving work must not be cut off."""
    async with against() as (ws, peer):
        peer.leave()
        for _ in range(10):
            await anyio.sleep(0.01)
        assert not ws.is_open


@against_raw
async def test_work_that_is_done_first_is_not_cancelled(against) -> None:
    async with against() as (ws, peer):
        async with ws.cancel_when_closed() as scope:
            await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
        with pytest.raises(KeyError):
            async with ws.cancel_when_closed():
                raise KeyError
        with anyio.move_on_after(0.02) as outer:
            async with ws.cancel_when_closed() as scope:
                await anyio.sleep_forever()
        assert outer.cancelled_caught
        assert not scope.cancelled_caught
        peer.leave()
        await ws.wait_closed()
        assert not scope.cancel_called


@against_raw
async def test_our_own_close_counts_as_the_end_of_work_too(against) -> None:
    async with against() as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(ws.close)
        with anyio.fail_after(5):
            async with ws.cancel_when_closed() as scope:
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        peer.leave()


# --- send_eof ---


@against_raw
async def test_after_send_eof_the_peers_messages_are_still_delivered(against) -> None:
    """R-73."""
    async with against() as (ws, peer):
        peer.send(TEXT, b"before")
        await ws.send_eof()
        await ws.send_eof()
        assert ws.status is Status.CLOSING
        for call in (ws.ping, lambda: ws.send("x")):
            with pytest.raises(anyws.ClosedByUs):
                await call()
        assert await ws.receive() == "before"
        peer.send(TEXT, b"after")
        peer.send(PING, b"no answer")
        assert await ws.receive() == "after"
        peer.send(TEXT, b"last")
        peer.send_close(1000)
        peer.end()
        assert [message async for message in ws] == ["last"]
        assert [(f.opcode, f.code) for f in peer.wire] == [(CLOSE, 1000)]
        assert ws.closure.first == "ours"
        assert ws.closure.clean


@against_raw
async def test_after_send_eof_the_peers_error_is_its_own(against) -> None:
    async with against() as (ws, peer):
        await ws.send_eof()
        peer.send_close(1011, "sorry")
        peer.end()
        with pytest.raises(anyws.ClosedWithError) as caught:
            await ws.receive()
        assert caught.value.closure.received == Close(1011, "sorry")


@every_kind
async def test_send_eof_lets_the_other_end_finish(kind: str) -> None:
    async def handler(ws: WebSocket) -> None:
        received = [message async for message in ws]
        assert received == ["a", "b"]

    async with served(kind, handler) as connect, connect() as ws:
        await ws.send("a")
        await ws.send("b")
        await ws.send_eof()
        with anyio.fail_after(5):
            assert [message async for message in ws] == []
        assert ws.closure.clean


@against_raw
async def test_send_eof_does_nothing_once_the_connection_ends(against) -> None:
    async with against() as (ws, peer):
        peer.send_close(4000)
        peer.end()
        await ws.wait_closed()
        closure = ws.closure
        await ws.send_eof()
        assert ws.closure == closure
        assert len(peer.wire) == 1


# --- Writes that fail ---


@against_raw
async def test_a_write_that_fails_because_the_peer_closed_reports_its_close(against) -> None:
    """H26: the Close was on its way while our write failed."""
    async with against() as (ws, peer):
        peer.stall()
        async with anyio.create_task_group() as tg:
            errors = []

            async def send() -> None:
                with pytest.raises(anyws.ConnectionClosed) as caught:
                    await ws.send("x" * 1000)
                errors.append(caught.value)

            tg.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            peer.other.incoming.chunk_size = 1
            peer.send_close(1008, "policy")
            peer.stream.incoming.refuse()
            peer.end()
        assert isinstance(errors[0], anyws.ClosedWithError)
        assert errors[0].closure.received == Close(1008, "policy")
        with pytest.raises(anyws.ClosedWithError):
            await ws.receive()


@against_raw
async def test_a_write_that_fails_breaks_the_connection(against) -> None:
    async with against(QUICK) as (ws, peer):
        error = anyio.BrokenResourceError("gone")
        peer.other.fail_send(error, call=0)
        with anyio.fail_after(5), pytest.raises(anyws.ConnectionBroken) as caught:
            await ws.send("x")
        assert caught.value.__cause__ is error
        assert "gone" in caught.value.closure.cause
        with pytest.raises(anyws.ConnectionBroken):
            await ws.receive()
        assert peer.wire == []


@every_network
async def test_a_reset_breaks_the_connection(kind: str) -> None:
    """H24. A blocked sender and a receiver are told within moments."""
    config = Config(max_message_size=60_000_000, inbox_size=1)
    async with connected(kind, config=config) as (client, server):
        # It fills the inbox, and the client reads no more.
        await server.send("first")
        errors = []

        async def expect(function, *args) -> None:
            with pytest.raises(anyws.ConnectionBroken) as caught:
                await function(*args)
            errors.append(caught.value)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                tg.start_soon(expect, partial(server.send, compress=False), bytes(50_000_000))
                tg.start_soon(expect, server.receive)
                await anyio.sleep(0.1)
                raw = client.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.abort()
        assert len(errors) == 2
        assert errors[0] is not errors[1]
        assert errors[0].closure == errors[1].closure


@every_network
async def test_everybody_who_sends_is_told_of_a_reset(kind: str) -> None:
    """H24. Also those who begin when a write has failed, and nobody has said so yet."""
    async with connected(kind) as (client, server):

        async def send() -> None:
            with pytest.raises(anyws.ConnectionBroken):
                while True:
                    await server.send("x")

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                for _ in range(5):
                    tg.start_soon(send)
                await anyio.sleep(0.01)
                raw = client.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.abort()


@against_raw
@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("end", ["fails", "is cut"])
async def test_a_close_that_is_torn_was_not_sent(against, first: str, end: str) -> None:
    """Both ends said Close, and no more than the start of ours is on the wire."""
    # What fails needs no timeout; what is cut must have read the peer's Close before.
    config = Config(close_timeout=30 if end == "fails" else 0.7)
    async with against(config) as (ws, peer):
        peer.resume(capacity=3)
        with anyio.fail_after(5):
            if first == "ours":
                await ws.send_eof()
                while len(peer.torn) < 3:
                    await anyio.sleep(0.001)
            peer.send_close(1000)
            while len(peer.torn) < 3 or ws._protocol.ending.received is None:
                await anyio.sleep(0.001)
            if end == "fails":
                peer.stream.incoming.refuse()
            closure = await ws.wait_closed()
        assert closure.received == Close(1000)
        assert (closure.sent, closure.clean, closure.first) == (None, False, first)
        if first == "ours":
            how = {"fails": "BrokenResourceError", "is cut": "our Close could not be sent in time"}
            assert how[end] in closure.cause


# --- Over sockets: nothing that was written is thrown away ---


async def raw_client(port: int, rcvbuf: int | None = None) -> socket.socket:
    """Open a WebSocket by hand, over a socket that reads nothing on its own."""
    raw = socket.socket()
    if rcvbuf is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    raw.settimeout(10)

    def connect() -> None:
        raw.connect(("127.0.0.1", port))
        raw.sendall(request_bytes())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += raw.recv(1)

    await anyio.to_thread.run_sync(connect)
    return raw


def read_slowly(raw: socket.socket) -> bytes:
    data = bytearray()
    while chunk := raw.recv(4096):
        data += chunk
    return bytes(data)


@pytest.mark.parametrize("who", ["client closes", "handler returns", "violation"])
async def test_a_slow_reader_gets_all_that_was_written_and_the_close(who: str) -> None:
    """H27, R-82. The server's stream is closed behind what it still has to send."""
    sent = 0

    async def handler(ws: WebSocket) -> None:
        nonlocal sent
        with anyio.move_on_after(0.3):
            while True:
                await ws.send(bytes(20_000), compress=False)
                sent += 1
        if who != "handler returns":
            await ws.wait_closed()

    # Nobody answers a handler that returns.
    config = Config(close_timeout=1.5 if who == "handler returns" else 8, write_timeout=8)
    with anyio.fail_after(20):
        listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
        # Little room in the system, so that what is written waits in the program.
        listener.extra(SocketAttribute.raw_socket).setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )
        async with anyws.open_server(handler, listeners=[listener], config=config) as server:
            raw = await raw_client(server.port, rcvbuf=4096)
            with raw:
                await anyio.sleep(0.5)
                if who == "client closes":
                    raw.sendall(bytes.fromhex("888200000000") + (1000).to_bytes(2, "big"))
                elif who == "violation":
                    raw.sendall(bytes.fromhex("838000000000"))
                data = await anyio.to_thread.run_sync(read_slowly, raw)
    frames, rest = split_frames(data)
    assert rest == b""
    assert [f.opcode for f in frames[:-1]] == [2] * (len(frames) - 1)
    assert len(frames) - 1 in {sent, sent + 1}
    assert frames[-1].opcode == CLOSE


async def test_a_close_behind_what_the_peer_never_took_was_not_sent() -> None:
    """Both ends said Close, but ours waited behind a message until it was too late."""
    closures = []

    async def handler(ws: WebSocket) -> None:
        with anyio.move_on_after(0.3):
            while True:
                await ws.send(bytes(200_000), compress=False)
        closures.append(await ws.wait_closed())

    config = Config(close_timeout=0.3, cancel_grace=0.2)
    with anyio.fail_after(20):
        async with anyws.open_server(handler, host="127.0.0.1", port=0, config=config) as server:
            raw = await raw_client(server.port, rcvbuf=4096)
            with raw:
                await anyio.sleep(0.5)
                raw.sendall(bytes.fromhex("888200000000") + (1000).to_bytes(2, "big"))
                await anyio.sleep(1)
    assert closures[0].received == Close(1000)
    assert (closures[0].sent, closures[0].clean) == (None, False)

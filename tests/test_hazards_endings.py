"""Hazards of how a connection ends: who may be held up, masked, cancelled or told nothing by it."""

from __future__ import annotations

import logging
import re
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest
import trio
from anyio.abc import SocketAttribute
from connections import (
    QUICK,
    against_raw,
    client_tls,
    every_kind,
    every_network,
    served,
    server_tls,
)
from streams import (
    CLOSE,
    GUARD,
    URL,
    RawPeer,
    client_of_raw,
    request_bytes,
    server_of_raw,
    split_frames,
)
from virtual_time import run_in_virtual_time

import anyws
from anyws import Close, Config, Status, WebSocket
from anyws._protocol.fields import accept_key
from anyws.testing import MemoryStream, memory_stream_pair

if TYPE_CHECKING:
    from anyio.abc import SocketStream

pytestmark = pytest.mark.timeout(30)
both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
both_roles = pytest.mark.parametrize("role", [client_of_raw, server_of_raw])


# --- H4: an outer deadline and a silent peer ---


async def close(ws: WebSocket) -> None:
    await ws.close()


async def aclose(ws: WebSocket) -> None:
    await ws.aclose()


async def leave(ws: WebSocket) -> None:
    pass


async def leave_after_send_eof(ws: WebSocket) -> None:
    await ws.send_eof()


@both_backends
@pytest.mark.parametrize("role", [client_of_raw, server_of_raw])
@pytest.mark.parametrize("body", [close, aclose, leave, leave_after_send_eof])
def test_a_deadline_of_half_a_second_ends_the_closing_handshake(backend: str, role, body) -> None:
    """H4: the socket is closed promptly, and the cancellation goes where it belongs."""

    async def main() -> None:
        start = anyio.current_time()
        with anyio.move_on_after(0.5) as scope:
            async with role(Config(close_timeout=60), guard=None) as (ws, peer):
                peer.stays = True
                await body(ws)
        # `LAST_ATTEMPT`, for a Close that was not out yet.
        assert 0.5 <= anyio.current_time() - start <= 0.61
        assert scope.cancelled_caught
        assert ws.status is Status.CLOSED
        assert peer.other.closed
        assert [f.code for f in peer.wire] == [1000]

    run_in_virtual_time(backend, main)


async def open_and_say_nothing(stream: SocketStream) -> None:
    head = (await stream.receive()).decode()
    key = re.search(r"(?i)sec-websocket-key: (\S+)", head)[1]
    await stream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
    )
    try:
        await anyio.sleep_forever()
    finally:
        await anyio.aclose_forcefully(stream)


async def test_a_deadline_of_half_a_second_ends_it_over_tcp_too() -> None:
    """H4."""
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    port = listener.extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, open_and_say_nothing)
        config = Config(close_timeout=60)
        with anyio.CancelScope() as scope:
            async with anyws.open_websocket(f"ws://127.0.0.1:{port}/", config=config) as ws:
                start = anyio.current_time()
                scope.deadline = start + 0.5
        assert scope.cancelled_caught
        # How soon exactly is seen in virtual time.
        assert 0.5 <= anyio.current_time() - start < 10
        assert ws.status is Status.CLOSED
        tg.cancel_scope.cancel()


# --- H5: a program that keeps the event loop busy while its time runs out ---


@every_kind
async def test_a_close_is_sent_however_busy_the_program_keeps_the_event_loop(kind: str) -> None:
    """Each turn of the loop takes longer than the whole grace; who has which turn, Trio draws."""
    told: list[Close | None] = []

    async def handler(ws: WebSocket) -> None:
        told.append((await ws.wait_closed()).received)

    async def be_busy(number: int) -> None:
        while len(told) < number:
            time.sleep(0.02)
            await anyio.lowlevel.checkpoint()

    config = Config(cancel_grace=0.01)
    with anyio.fail_after(GUARD):
        async with served(kind, handler) as connect, anyio.create_task_group() as task_group:
            for number in range(1, 7):
                with pytest.raises(ValueError, match="mine"):
                    async with connect(config=config):
                        task_group.start_soon(be_busy, number)
                        raise ValueError("mine")
                while len(told) < number:
                    await anyio.sleep(0.001)
    assert told == [Close(1001)] * 6


# --- H23: closing, and who notices ---


@both_backends
@pytest.mark.parametrize("role", [client_of_raw, server_of_raw])
def test_who_learns_that_the_connection_is_closing_does_not_shorten_that(
    backend: str, role
) -> None:
    """H23: one task closes, the block ends by the ClosedByUs of another; `close_timeout` holds."""

    async def main() -> None:
        closures = []

        async def close(ws: WebSocket) -> None:
            closures.append(await ws.close())

        async def answer_late(peer: RawPeer) -> None:
            await anyio.sleep(5)
            peer.send_close()
            peer.end()

        async with anyio.create_task_group() as tg:
            with pytest.raises(anyws.ClosedByUs):
                async with role(Config(close_timeout=10, cancel_grace=1), guard=None) as (ws, peer):
                    peer.stays = True
                    tg.start_soon(close, ws)
                    tg.start_soon(answer_late, peer)
                    await ws.receive()
        assert [c.clean for c in closures] == [True]

    run_in_virtual_time(backend, main)


@both_backends
@both_roles
def test_who_learns_it_and_is_cancelled_at_the_same_time_has_the_grace_and_no_more(
    backend: str, role
) -> None:
    """H4, H5: what the block ends with is not all that counts; its scope is cancelled."""

    async def main() -> None:
        start = 0.0
        async with anyio.create_task_group() as tg:
            with anyio.CancelScope() as scope, pytest.raises(anyws.ClosedByUs):
                async with role(Config(close_timeout=60, cancel_grace=1), guard=None) as (ws, peer):
                    peer.stays = True
                    tg.start_soon(ws.close)
                    try:
                        await ws.receive()
                    except anyws.ClosedByUs:
                        start = anyio.current_time()
                        scope.cancel()
                        raise
            assert anyio.current_time() - start <= 1.2
            assert ws.status is Status.CLOSED

    run_in_virtual_time(backend, main)


# --- H7: what a group of cancellations is ---


def test_a_body_cancelled_within_a_nursery_of_trio_s_own_was_cancelled() -> None:
    """H5, H7: several cancellations in a group are one, and no crash: 1001."""

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with server_of_raw(guard=None) as (_, peer):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    nursery.start_soon(trio.sleep_forever)
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert [f.code for f in peer.wire] == [1001]

    run_in_virtual_time("trio", main)


class Quit(BaseException):
    """None that event loops know."""


@against_raw
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Quit, GeneratorExit])
@pytest.mark.parametrize("meanwhile", ["nothing", "the reader fails", "the peer leaves"])
async def test_what_is_no_exception_leaves_the_block_as_itself_too(
    against, error: type[BaseException], meanwhile: str
) -> None:
    """H7: the same object, with its cause, and no context that it did not have."""
    raised, cause = error("mine"), KeyError("cause")
    with pytest.raises(error) as caught:
        async with against(QUICK) as (ws, peer):
            if meanwhile == "the reader fails":
                peer.other.fail_receive(anyio.BrokenResourceError("cable"), call=0)
            elif meanwhile == "the peer leaves":
                peer.leave()
            raise raised from cause
    assert caught.value is raised
    assert raised.__cause__ is cause
    assert raised.__context__ is None
    assert ws.status is Status.CLOSED


@against_raw
async def test_what_the_program_was_handling_keeps_its_traceback(against) -> None:
    """The library drops the tracebacks of a stream's errors, and of nothing that led to them."""
    async with against(QUICK) as (ws, peer):
        handled = KeyError("mine")
        error = anyio.BrokenResourceError("cable")
        peer.other.fail_receive(error, call=0)
        with pytest.raises(anyws.ConnectionBroken) as caught:
            try:
                raise handled
            except KeyError:
                await ws.receive()
        assert caught.value.__cause__ is error
        assert error.__traceback__ is None
        assert handled.__traceback__ is not None


# --- H6: closing fails, too ---


class Unclosable(MemoryStream):
    async def aclose(self) -> None:
        await super().aclose()
        raise anyio.BrokenResourceError("closing failed")


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("write", ["works", "fails", "blocks"])
@pytest.mark.parametrize("end", ["raises", "returns"])
async def test_an_error_of_closing_masks_nothing(role: str, write: str, end: str) -> None:
    """H6: neither the exception of the block nor that there was none."""
    near, far = memory_stream_pair()
    stream = Unclosable(near.incoming, near.outgoing)
    peer = RawPeer(far, is_server=role == "client", other=stream)
    if role == "client":
        peer.answer_handshake()
        opening = anyws.wrap_client_stream(stream, URL, config=QUICK)
    else:
        peer.push(request_bytes())
        opening = anyws.wrap_server_stream(stream, config=QUICK)
    error = ValueError("mine")
    raised = None
    with anyio.fail_after(GUARD):
        try:
            async with opening as ws:
                if write == "fails":
                    stream.fail_send(anyio.BrokenResourceError("writing failed"), call=0)
                elif write == "blocks":
                    peer.stall()
                peer.leave()
                if end == "raises":
                    raise error
        except ValueError as caught:
            raised = caught
    assert raised is (error if end == "raises" else None)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert ws.status is Status.CLOSED
    assert stream.closed


# --- H8: the connection fails, and the block has other things to do ---


@against_raw
@pytest.mark.parametrize("how", ["violation", "lost", "closed", "write fails"])
async def test_a_body_that_computes_is_not_cancelled_and_told_by_its_next_call(
    against, how: str
) -> None:
    """H8."""
    async with against(QUICK) as (ws, peer):
        if how == "violation":
            peer.send(3, b"there is no such opcode")
        elif how == "lost":
            peer.stream.outgoing.end(reset=True)
        elif how == "closed":
            peer.send_close(4000)
        else:
            peer.other.fail_send(anyio.BrokenResourceError("cable"), call=0)
            peer.send(9, b"a ping to be answered")
        computed = 0
        while ws.is_open or computed < 50:
            await anyio.sleep(0.002)
            computed += 1
        kind = anyws.ClosedWithError if how == "closed" else anyws.ConnectionBroken
        for call in (lambda: ws.send("x"), ws.receive, ws.ping):
            with pytest.raises(kind):
                await call()


# --- H24: a reset ---


def open_by_hand(port: int, kind: str) -> socket.socket:
    """Open a WebSocket on a socket that reads nothing on its own."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    if kind == "tls":
        raw = client_tls().wrap_socket(raw, server_hostname="127.0.0.1")
    raw.sendall(request_bytes())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    return raw


@every_network
async def test_a_blocked_sender_is_told_of_a_reset_at_once_and_why(kind: str) -> None:
    """H24: the error of the network is the cause, and no timeout has anything to do with it."""
    config = Config(ping_interval=None, write_timeout=None)
    started, told = anyio.Event(), anyio.Event()
    errors = []

    async def handler(ws: WebSocket) -> None:
        started.set()
        try:
            await ws.send(bytes(50_000_000), compress=False)
        except anyws.ConnectionBroken as error:
            errors.append(error)
        told.set()

    options = {"config": config} | ({"ssl_context": server_tls()} if kind == "tls" else {})
    with anyio.fail_after(GUARD):
        async with anyws.open_server(handler, host="127.0.0.1", port=0, **options) as server:
            raw = await anyio.to_thread.run_sync(open_by_hand, server.port, kind)
            await started.wait()
            with anyio.move_on_after(0.2):
                await told.wait()
            assert not errors, "it has to be blocked by now"
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
            await told.wait()
    assert "the connection was lost" in errors[0].closure.cause
    assert isinstance(errors[0].__cause__, (anyio.BrokenResourceError, OSError))


# --- H27: what is still being sent to us ---


@pytest.mark.parametrize("size", [10, 10_000_000])
async def test_a_peer_that_still_sends_gets_our_close(size: int) -> None:
    """H27: an upload that is refused by its head; the farewell must outlive what is not read."""

    async def handler(ws: WebSocket) -> None:
        with pytest.raises(anyws.ConnectionBroken):
            await ws.receive()

    def upload(port: int) -> bytes:
        with open_by_hand(port, "tcp") as raw:
            declared = (20_000_000).to_bytes(8, "big")
            raw.sendall(b"\x82\xff" + declared + bytes(4) + bytes(size))
            got = b""
            while chunk := raw.recv(4096):
                got += chunk
            return got

    with anyio.fail_after(GUARD):
        async with anyws.open_server(handler, host="127.0.0.1", port=0) as server:
            got = await anyio.to_thread.run_sync(upload, server.port)
    frames, rest = split_frames(got)
    assert rest == b""
    assert [(f.opcode, f.code) for f in frames] == [(CLOSE, 1009)]


# --- H31: a ping is due, and the connection closes ---


@both_backends
@both_roles
@pytest.mark.parametrize("moment", [20, 40], ids=["ping", "timeout"])
def test_closing_at_the_moment_of_a_ping_is_closing(
    backend: str, role, moment: int, caplog: pytest.LogCaptureFixture
) -> None:
    """H31: at that moment exactly, and some turns later."""

    async def main() -> None:
        for turns in range(10):
            config = Config(ping_interval=20, ping_timeout=20)
            async with role(config, guard=None) as (ws, peer):
                peer.stream.incoming.on_data = partial(answer_close, peer)
                await anyio.sleep(moment)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                closure = await ws.close()
                assert closure == ws.closure
                assert closure.clean or moment == 40
            assert ws.status is Status.CLOSED

    run_in_virtual_time(backend, main)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def answer_close(peer: RawPeer) -> None:
    if peer.wire and peer.wire[-1].opcode == CLOSE:
        peer.stream.incoming.on_data = None
        peer.leave()

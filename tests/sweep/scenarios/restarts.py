"""What a restart is made of: signals, sockets of another's, servers that retire, workers."""

from __future__ import annotations

import argparse
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.tls import TLSListener
from connections import server_tls
from world import CANCEL, MEMORY, QUICK, SLACK, STREAM_ERRORS, TCP, Peer, World, check

import anyws
from anyws import WebSocket
from anyws._cli.loading import Program
from anyws._cli.serve import RETIRE, serve

from ._registry import scenario
from .programs import signals_kept, terminal

if TYPE_CHECKING:
    from collections.abc import Callable

# A grace to close in, another for handlers that are cancelled, a second for a refusal to be read.
_SECONDS = 2 * (QUICK.cancel_grace + SLACK) + 1


async def _echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@scenario(kinds=(MEMORY, TCP))
async def a_server_that_retires(world: World) -> None:
    """While one client is there, and another sends the second half of its request afterwards."""
    listener, connect, context = await world.listener()
    peers: list[Peer] = []
    late: list[bytes] = []

    async def visit() -> None:
        try:
            peer = Peer(await connect(), is_server=False)
        except (anyio.ConnectionFailed, *STREAM_ERRORS, anyio.EndOfStream):
            return
        peers.append(peer)
        await peer.run()

    async def visit_late() -> None:
        data = b""
        try:
            stream = await connect()
        except (anyio.ConnectionFailed, *STREAM_ERRORS, anyio.EndOfStream):
            return
        try:
            await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await retiring.wait()
            await anyio.sleep(0.005)
            await stream.send(_REST)
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, *STREAM_ERRORS):
            late.append(data)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def operation() -> None:
        options = {"listeners": [listener], "ssl_context": context, "config": QUICK}
        async with anyws.open_server(_echo, **options) as server:
            try:
                with anyio.move_on_after(2):
                    while not (any(peer.open.is_set() for peer in peers) and server._served):
                        await anyio.sleep(0.001)
                retiring.set()
                await server.retire()
            finally:
                retiring.set()
            check(not server.connections, "the server has retired, and has connections")

    retiring = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(visit)
        tg.start_soon(visit_late)
        try:
            await world.attack(operation, within=_SECONDS)
        finally:
            retiring.set()
        await listener.aclose()
    for peer in peers:
        peer.check_wire()
        if peer.open.is_set():
            check(peer.close is not None or peer.reset, "a connection ended without a Close")
            check(peer.close is None or peer.close.code in {1001, 1012}, f"{peer.close}")
    if world.setting.virtual and not world.struck:
        check([peer.close.code for peer in peers if peer.close] == [1012], "not closed with 1012")
        check(late[0].startswith(b"HTTP/1.1 101 "), f"the late one was told {late[0][:40]!r}")
        check(late[0].endswith(b"\x88\x02\x03\xf4"), f"the late one was closed with {late[0]!r}")


@scenario(kinds=(MEMORY, TCP))
async def a_server_that_retires_while_tls_begins(world: World) -> None:
    """Whom a listener of the program's has not handed over yet is waited for, but not for ever."""
    inner, connect, _ = await world.listener()
    listener = TLSListener(inner, server_tls())  # type: ignore[arg-type] # any of streams will do

    async def operation() -> None:
        async with anyws.open_server(_echo, listeners=[listener], config=QUICK) as server:
            async with await connect():
                with anyio.move_on_after(2):
                    while not server._arrivals.any_left:
                        await anyio.sleep(0.001)
                began = anyio.current_time()
                await server.retire()
                waited = anyio.current_time() - began
                check(waited >= 0.9 * (QUICK.drain_timeout or 0), f"waited {waited:.3f} s")

    await world.attack(operation, within=_SECONDS)
    await listener.aclose()


_REST = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def _serve_and_ask(
    world: World, serve_on: Callable[[socket.socket], Any], ask: Callable[[], object]
) -> None:
    """Serve on a socket, have a client there, ask for the end, and see it come."""
    sock = socket.create_server(("127.0.0.1", 0))
    # The client connects before anybody accepts, and fails where nobody ever does.
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}/"

    async def visit() -> None:
        try:
            async with anyws.open_websocket(url, config=QUICK) as ws:
                await ws.send("hello")
                check(await ws.receive() == "hello", "no echo")
                ask()
                await ws.wait_closed()
                closure = ws.closure
                assert closure is not None
                check(world.struck or closure.code in {1001, 1012}, str(closure))
        except (anyws.WebSocketError, OSError, *STREAM_ERRORS):
            check(world.struck, "the server left early")

    with sock:
        async with anyio.create_task_group() as tg:
            tg.start_soon(visit)
            await world.attack(lambda: serve_on(sock), within=_SECONDS)
            sock.close()


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def serve_until_there_is_a_signal(world: World) -> None:
    with signals_kept() as send_signal:
        await _serve_and_ask(
            world,
            lambda sock: anyws.serve(_echo, listeners=[sock], config=QUICK, handle_signals=True),
            send_signal,
        )


_PROGRAM = Program(_echo, None, None, None, QUICK, None)
_OPTIONS = argparse.Namespace(cert=None)


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def the_command_that_serves(world: World) -> None:
    with terminal(), signals_kept() as send_signal:
        await _serve_and_ask(
            world, lambda sock: serve(_PROGRAM, [sock], _OPTIONS, None), send_signal
        )


async def _work(world: World, ask: Callable[[socket.socket], object]) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs, terminal(), signals_kept():
        await _serve_and_ask(
            world, lambda sock: serve(_PROGRAM, [sock], _OPTIONS, theirs), partial(ask, ours)
        )
        said = b""
        if not world.struck and ours.fileno() >= 0:
            said = ours.recv(100)
            check(said.startswith(b'{"drain_timeout": '), f"the worker said {said!r}")


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def a_worker_that_is_told_to_retire(world: World) -> None:
    await _work(world, lambda control: control.send(RETIRE))


@scenario(kinds=(TCP,), hows=(CANCEL,))
async def a_worker_whose_supervisor_has_gone(world: World) -> None:
    await _work(world, lambda control: control.close())

"""Either role of anyws on a real socket, and a peer at the other end that speaks in bytes.

The peer is a blocking socket: it reads when a test says so and never ahead, so what the other end
sends stays in the buffers of the system. Its methods block; where there may be something to wait
for, they are called in a thread.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import trustme
from anyio.to_thread import run_sync
from bars import raw as opening
from streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, frame, split_frames

import anyws
from anyws import Config, WebSocket

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "PING",
    "PONG",
    "TEXT",
    "Peer",
    "RawServer",
    "client_of_load",
    "client_of_peer",
    "client_tls",
    "load",
    "server_of_load",
    "server_of_peer",
]

TESTS = Path(__file__).parent.parent


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def server_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(opening.HOST).configure_cert(context)
    return context


@cache
def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


class Peer:
    """The other end of one connection, after the opening handshake."""

    def __init__(self, raw: socket.socket, head: str, received: bytes, *, is_server: bool) -> None:
        self.raw = raw
        self.head = head  # the other end's half of the opening handshake
        self.is_server = is_server
        self.received = bytearray(received)  # not taken yet
        self.reset = False  # how the stream ended

    @classmethod
    def connect(cls, port: int, kind: str = "tcp", *lines: str) -> Peer:
        raw = opening.connect(port)
        if kind == "tls":
            raw = client_tls().wrap_socket(raw, server_hostname=opening.HOST)
        return cls(raw, *opening.ask(raw, *lines), is_server=False)

    def close(self) -> None:
        self.raw.close()

    def frame(self, opcode: int, payload: bytes = b"", **options: Any) -> bytes:
        """A frame as this peer has to send it."""
        return frame(opcode, payload, mask=not self.is_server, **options)

    def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        self.push(self.frame(opcode, payload, **options))

    def push(self, data: bytes) -> None:
        self.raw.sendall(data)

    def next_frame(self) -> Frame:
        """Receive one frame; raise `EOFError` at the end of the stream."""
        while len(self.received) < (size := _size_of_first(self.received)):
            try:
                chunk = self.raw.recv(1 << 20)
            except ConnectionError:
                self.reset = True
                chunk = b""
            if not chunk:
                raise EOFError
            self.received += chunk
        [first], _ = split_frames(self.received[:size])
        del self.received[:size]
        return first

    def until_end(self) -> list[Frame]:
        """Receive to the end of the stream; what there is of half a frame stays in `received`."""
        frames = []
        try:
            while True:
                frames.append(self.next_frame())
        except EOFError:
            return frames

    def until_close(self) -> list[Frame]:
        """Receive up to their Close and answer it; then receive to the end, or be the end."""
        frames = []
        try:
            while not frames or frames[-1].opcode != CLOSE:
                frames.append(self.next_frame())
        except EOFError:
            return frames
        self.send(CLOSE, frames[-1].payload)
        if self.is_server:
            self.close()
            return frames
        return frames + self.until_end()


def _size_of_first(data: bytearray) -> int:
    """How many bytes the first frame has, as far as what is here of it tells."""
    if len(data) < 2:
        return 2
    short = data[1] & 0x7F
    extended = {126: 2, 127: 8}.get(short, 0)
    head = 2 + extended + (4 if data[1] & 0x80 else 0)
    if len(data) < head:
        return head
    return head + (int.from_bytes(data[2 : 2 + extended], "big") if extended else short)


class RawServer:
    """A server that takes one connection, does the opening handshake, and no more."""

    def __init__(self, kind: str = "tcp", *lines: str) -> None:
        self.ssl_context = client_tls() if kind == "tls" else None  # for who connects
        self._kind = kind
        self._lines = lines

    def __enter__(self) -> RawServer:
        self._listening = opening.listen()
        self.port: int = self._listening.getsockname()[1]
        scheme = "wss" if self._kind == "tls" else "ws"
        self.url = f"{scheme}://{opening.HOST}:{self.port}/"
        self._pool = ThreadPoolExecutor(1)
        self._accepted: Future[Peer] = self._pool.submit(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listening.close()
        self._pool.shutdown()
        if self._accepted.exception() is None:
            self._accepted.result().close()

    def _accept(self) -> Peer:
        raw = opening.accept(self._listening)
        if self._kind == "tls":
            raw = server_tls().wrap_socket(raw, server_side=True)
        return Peer(raw, *opening.answer(raw, *self._lines), is_server=True)

    def peer(self) -> Peer:
        """The other end of the connection; there must be one."""
        return self._accepted.result(opening.GUARD)


@asynccontextmanager
async def client_of_peer(
    kind: str = "tcp", *lines: str, config: Config | None = None
) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """Give a client, and the raw server that it is connected to."""
    with RawServer(kind, *lines) as server, anyio.fail_after(opening.GUARD):
        async with anyws.open_websocket(
            server.url, ssl_context=server.ssl_context, config=config
        ) as ws:
            peer = server.peer()
            try:
                yield ws, peer
            finally:
                peer.close()


@asynccontextmanager
async def server_of_peer(
    kind: str = "tcp", *lines: str, config: Config | None = None
) -> AsyncIterator[tuple[WebSocket, Peer]]:
    """Give a server's end of a connection, and the raw client that it serves."""
    handler = _Handler()
    with anyio.fail_after(opening.GUARD):
        async with anyws.open_server(
            handler,
            host=opening.HOST,
            port=0,
            ssl_context=server_tls() if kind == "tls" else None,
            config=config,
        ) as server:
            peer = await run_sync(Peer.connect, server.port, kind, *lines)
            try:
                yield await handler.arrival(), peer
            finally:
                peer.close()
                handler.released.set()


class _Handler:
    """Hands over the connection, and holds it until it is released."""

    def __init__(self) -> None:
        self.released = anyio.Event()
        self._arrived = anyio.Event()
        self._websockets: list[WebSocket] = []

    async def __call__(self, ws: WebSocket) -> None:
        self._websockets.append(ws)
        self._arrived.set()
        await self.released.wait()

    async def arrival(self) -> WebSocket:
        await self._arrived.wait()
        return self._websockets.pop()


# --- Peers in a process of their own ---


class Load:
    """A running load; see `loads.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def port(self) -> int:
        """Where it listens, if it was not told where to connect to."""
        assert self._process.stdout is not None
        return int(await run_sync(self._process.stdout.readline))

    async def report(self) -> dict[str, Any]:
        """Wait for its end, and return what it has done."""
        output, _ = await run_sync(self._process.communicate)
        assert self._process.returncode == 0
        result: dict[str, Any] = json.loads(output)
        return result


@asynccontextmanager
async def load(what: str, seconds: float, port: int | None = None) -> AsyncIterator[Load]:
    """Start a load; whatever happens, it does not outlive the block."""
    command = [sys.executable, "-m", "bars.loads", what, str(seconds)]
    if port is not None:
        command.append(str(port))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS)
    try:
        yield Load(process)
    finally:
        process.kill()
        with process:
            pass  # which waits, and closes the pipe


@asynccontextmanager
async def client_of_load(
    what: str, seconds: float, *, config: Config | None = None
) -> AsyncIterator[tuple[WebSocket, Load]]:
    """Give a client of a server that is a load; the connection is cut at the end."""
    async with load(what, seconds) as running:
        url = f"ws://{opening.HOST}:{await running.port()}/"
        async with anyws.open_websocket(url, config=config) as ws:
            try:
                yield ws, running
            finally:
                ws.abort()


@asynccontextmanager
async def server_of_load(
    what: str, seconds: float, *, config: Config | None = None
) -> AsyncIterator[tuple[WebSocket, Load]]:
    """Give a server's end of a connection to a client that is a load; it is cut at the end."""
    handler = _Handler()
    async with anyws.open_server(handler, host=opening.HOST, port=0, config=config) as server:
        async with load(what, seconds, server.port) as running:
            ws = await handler.arrival()
            try:
                yield ws, running
            finally:
                ws.abort()
                handler.released.set()

"""Either role of the blocking face, and a peer at the other end that speaks in bytes."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bars import peers
from bars import raw as opening
from bars.peers import client_tls, server_tls
from bars.raw import GUARD, HOST

import anyws.sync
from anyws import Config, Role
from anyws._handshake import Handshake
from anyws._protocol.http import Headers, Request, Response
from anyws._transports.blocking_stream import BlockingStream
from anyws.sync._made import make_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyws.sync import Server, WebSocket

# Answers at once, so that no test waits for a time-out that it does not want. Where handlers end by
# themselves, nobody waits for the last of these.
QUICK = Config(cancel_grace=0.2, close_timeout=2.0, drain_timeout=5.0)
# More than sockets between two processes keep, and less than what a message may have.
LARGE = 900_000


class Peer(peers.Peer):
    def next(self) -> tuple[int, bytes, bool]:
        """Receive one frame: its opcode, its payload, and whether it ends its message."""
        received = self.next_frame()
        return received.opcode, received.payload, received.fin


class RawServer(peers.RawServer):
    """A raw server that says something right behind its 101, and waits for nobody at its end."""

    def __init__(self, kind: str = "tcp", *lines: str, after: bytes = b"") -> None:
        super().__init__(kind, *lines)
        self._after = after

    def __exit__(self, *exc_info: object) -> None:
        # Wakes a thread that accepts still.
        self._listening.shutdown(socket.SHUT_RDWR)
        super().__exit__(*exc_info)

    def _accept(self) -> Peer:
        raw = opening.accept(self._listening)
        if self._kind == "tls":
            raw = server_tls().wrap_socket(raw, server_side=True)
        # One write: it arrives with the answer.
        answering = _Answering(raw, self._after)
        return Peer(raw, *opening.answer(answering, *self._lines), is_server=True)


class _Answering:
    """A socket whose one write has something behind it."""

    def __init__(self, raw: socket.socket, after: bytes) -> None:
        self.recv = raw.recv
        self.sendall = lambda data: raw.sendall(data + after)


class Watched(BlockingStream):
    """A stream that tells when a thread waits for it: to read, or for a write to get on."""

    def __init__(self, sock: socket.socket) -> None:
        self.reads = threading.Event()
        self.writes = threading.Event()
        super().__init__(sock)

    def fetch(self, deadline: float) -> bool:
        self.reads.set()
        return super().fetch(deadline)

    def wait(self, deadline: float, *, read: bool = False) -> tuple[bool, bool]:
        self.writes.set()
        return super().wait(deadline, read=read)


def made(
    sock: socket.socket,
    role: Role = Role.CLIENT,
    config: Config = QUICK,
    stream: type[BlockingStream] = Watched,
) -> WebSocket:
    """An open connection on a connected socket, its opening handshake left out."""
    handshake = Handshake(
        Request("GET", "/", Headers([])), Response(101, Headers([])), subprotocol=None, peer="test"
    )
    return make_websocket(role, stream(sock), config, handshake, None, b"")


def stream_of(ws: WebSocket) -> Watched:
    stream = ws._transport._stream
    assert isinstance(stream, Watched)
    return stream


@contextmanager
def pair(
    role: Role = Role.CLIENT, config: Config = QUICK, stream: type[BlockingStream] = Watched
) -> Iterator[tuple[WebSocket, Peer]]:
    """Give one end, and the raw other one. What the system takes of its writes is little."""
    near, far = socket.socketpair()
    far.settimeout(GUARD)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    ws = made(near, role, config, stream)
    peer = Peer(far, "", b"", is_server=role is Role.CLIENT)
    try:
        yield ws, peer
    finally:
        ws.abort()
        peer.close()


@contextmanager
def both_ends(
    config: Config = QUICK, server_config: Config = QUICK
) -> Iterator[tuple[WebSocket, WebSocket]]:
    """Give a client and a server that are connected, each an end made here."""
    near, far = socket.socketpair()
    client, server = made(near, Role.CLIENT, config), made(far, Role.SERVER, server_config)
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


@contextmanager
def client_of_peer(
    kind: str = "tcp", *lines: str, config: Config = QUICK, after: bytes = b"", **options: Any
) -> Iterator[tuple[WebSocket, Peer]]:
    """Give a client over the network, and the raw server that it is connected to."""
    with RawServer(kind, *lines, after=after) as server:
        with anyws.sync.open_websocket(
            server.url, ssl_context=server.ssl_context, config=config, **options
        ) as ws:
            peer = server.peer()
            try:
                yield ws, peer
            finally:
                peer.close()


@contextmanager
def served(handlers: Any, kind: str = "tcp", **options: Any) -> Iterator[Server]:
    """Serve over the network; `connect` is for this."""
    tls = {"ssl_context": server_tls()} if kind == "tls" else {}
    options = {"config": QUICK, "host": HOST, "port": 0, **tls, **options}
    with anyws.sync.open_server(handlers, **options) as server:
        yield server


def connect(server: Server, **options: Any) -> Any:
    if server.url.startswith("wss"):
        options.setdefault("ssl_context", client_tls())
    return anyws.sync.open_websocket(server.url, **{"config": QUICK, **options})


@contextmanager
def connected(
    kind: str = "tcp", config: Config = QUICK, server_config: Config = QUICK, **options: Any
) -> Iterator[tuple[WebSocket, WebSocket]]:
    """Give a client's `WebSocket` and the server's; its handler ends when the block does."""
    arrived: list[WebSocket] = []
    has_arrived, released = threading.Event(), threading.Event()

    def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        has_arrived.set()
        released.wait(GUARD)

    with served(handler, kind, config=server_config) as server:
        try:
            with connect(server, config=config, **options) as client:
                assert has_arrived.wait(GUARD)
                yield client, arrived[0]
                released.set()
        finally:
            released.set()
            arrived.clear()

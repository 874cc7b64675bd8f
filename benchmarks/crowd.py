"""One message to many: `broadcast`, beside that of websockets.

    python -m benchmarks.crowd [--peers N] [--silent N] [--messages N] [--size BYTES] [--deflate]

For each library and event loop a server in a process of its own, and in another one its peers: raw
sockets, most of which read all they get, and a few never. The server sends numbered text messages
to all of them, and is never so far ahead of the slowest reader that this one would count as slow.
Measured, of the server alone:

- CPU time for each message and peer, everything included
- the longest that a task which wants to run every millisecond had to wait: in CPU time of the
  server's, and by the clock
- how much its memory has grown at its peak

It takes less than two minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute

import anyws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

HOST = "127.0.0.1"
# Seconds that one server may take.
GUARD = 60
# Bytes that the slowest reader may be behind, half of what makes it count as slow.
AHEAD = 64 * 1024
# Of the connections that never read, so that the system does not take everything.
SEND_BUFFER = 16 * 1024
RECEIVE_BUFFER = 4096

SUBJECTS = [
    ("anyws", "asyncio"),
    ("anyws", "uvloop"),
    ("anyws", "trio"),
    ("websockets", "asyncio"),
    ("websockets", "uvloop"),
]


class Crowd:
    """Who is connected, and how many messages the readers have got by now."""

    def __init__(self) -> None:
        self.everybody: set[Any] = set()
        self.ready = anyio.Event()
        self.progress = 0
        self._changed = anyio.Event()

    async def hear(self, messages: AsyncIterator[str | bytes]) -> None:
        async for message in messages:
            self.progress = int(message)
            self._changed.set()
            self._changed = anyio.Event()
            self.ready.set()

    async def wait_for(self, number: int) -> None:
        while self.progress < number:
            await self._changed.wait()

    def keep(self, connection: Any, kind: str | None, raw: socket.socket) -> None:
        if kind == "silent":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.everybody.add(connection)


# --- The servers ---


async def serve_anyws(options: argparse.Namespace) -> None:
    crowd = Crowd()

    async def handler(ws: anyws.WebSocket) -> None:
        kind = ws.request.headers.get("X-Peer")
        if kind == "control":
            await crowd.hear(ws)
            return
        crowd.keep(ws, kind, ws.extra(SocketAttribute.raw_socket))
        await ws.wait_closed()

    backlog = anyws.Backlog(max_bytes=2 * AHEAD)
    config = anyws.Config(
        compression=anyws.Deflate() if options.deflate else None,
        ping_interval=None,
        close_timeout=1,
        drain_timeout=0,
    )
    async with anyws.open_server(handler, host=HOST, port=0, config=config) as server:
        say(server.port)
        await measure(
            crowd, lambda all_, text: anyws.broadcast(all_, text, backlog=backlog), options
        )
        for ws in crowd.everybody:
            ws.abort()


async def serve_websockets(options: argparse.Namespace) -> None:
    from websockets.asyncio import server as websockets
    from websockets.exceptions import ConnectionClosed

    crowd = Crowd()

    async def handler(connection: Any) -> None:
        kind = connection.request.headers.get("X-Peer")
        if kind == "control":
            with suppress(ConnectionClosed):
                await crowd.hear(connection)
            return
        crowd.keep(connection, kind, connection.transport.get_extra_info("socket"))
        await connection.wait_closed()

    compression = "deflate" if options.deflate else None
    async with websockets.serve(
        handler, HOST, 0, compression=compression, ping_interval=None, close_timeout=1
    ) as server:
        say(next(iter(server.sockets)).getsockname()[1])
        await measure(crowd, websockets.broadcast, options)
        for connection in crowd.everybody:
            connection.transport.abort()


async def measure(
    crowd: Crowd, broadcast: Callable[[Iterable[Any], str], object], options: argparse.Namespace
) -> None:
    await crowd.ready.wait()
    ahead = max(AHEAD // options.size, 1)
    gaps = Gaps()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(gaps.watch)
        await anyio.sleep(0.01)
        start = time.process_time()
        for number in range(options.messages):
            broadcast(crowd.everybody, text_of(number, options.size))
            await crowd.wait_for(number - ahead)
            await anyio.lowlevel.checkpoint()
        await crowd.wait_for(options.messages)
        spent = time.process_time() - start
        task_group.cancel_scope.cancel()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    result = {
        "cpu_us": spent * 1e6 / options.messages / options.peers,
        "gap_cpu_ms": gaps.cpu * 1000,
        "gap_wall_ms": gaps.wall * 1000,
        "grown_mib": grown / 1024,
    }
    say(json.dumps(result))


class Gaps:
    """The longest that a task had to wait that wants to run every millisecond, in seconds."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    async def watch(self) -> None:
        cpu, wall = time.thread_time(), time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            cpu_before, cpu = cpu, time.thread_time()
            wall_before, wall = wall, time.perf_counter()
            self.cpu = max(self.cpu, cpu - cpu_before)
            self.wall = max(self.wall, wall - wall_before)


def text_of(number: int, size: int) -> str:
    """A message of so many bytes, of which no two are the same, and which can be compressed."""
    words = f'{{"number": {number}, "place": "Oslo", "temperature": {number % 97 / 2}}} '
    return (words * (size // len(words) + 1))[:size]


# --- The peers ---


def be_peers(port: int, options: argparse.Namespace) -> None:
    """Connect, read to the last message, and tell the server how far the slowest reader is."""
    lines = ["Sec-WebSocket-Extensions: permessage-deflate"] if options.deflate else []
    control = connect(port, "X-Peer: control")
    quiet = [connect(port, "X-Peer: silent", *lines) for _ in range(options.silent)]
    selector = selectors.DefaultSelector()
    readers = [Reader(connect(port, *lines)) for _ in range(options.peers)]
    for reader in readers:
        selector.register(reader.raw, selectors.EVENT_READ, reader)
    tell(control, 0)
    told = 0
    while told < options.messages:
        ready = selector.select(GUARD)
        if not ready:
            sys.exit("nothing came for a minute")
        for key, _ in ready:
            key.data.read()
        if (slowest := min(reader.messages for reader in readers)) > told:
            told = slowest
            tell(control, told)
    # The server ends the connections.
    control.recv(1)
    for raw in quiet:
        raw.close()


class Reader:
    """A connection of which the messages are counted."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.messages = 0
        self._rest = b""
        raw.setblocking(False)

    def read(self) -> None:
        chunk = self.raw.recv(1 << 16)
        if not chunk:
            sys.exit("the server has closed the connection of a peer that reads")
        data = self._rest + chunk
        start = 0
        while len(data) - start >= 4:
            size = data[start + 1]
            end = start + 2 + size
            if size == 126:
                end = start + 4 + int.from_bytes(data[start + 2 : start + 4])
            if end > len(data):
                break
            self.messages += 1
            start = end
        self._rest = data[start:]


def connect(port: int, *lines: str) -> socket.socket:
    raw = socket.socket()
    if "X-Peer: silent" in lines:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    raw.settimeout(GUARD)
    raw.connect((HOST, port))
    request = [
        "GET / HTTP/1.1",
        f"Host: {HOST}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    raw.sendall("\r\n".join([*request, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return raw


def tell(control: socket.socket, number: int) -> None:
    payload = str(number).encode()
    # Masked with zeros, which leaves it as it is.
    control.sendall(bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload)


# --- The program ---


def say(words: object) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def compare(options: argparse.Namespace, arguments: list[str]) -> None:
    kind = "permessage-deflate" if options.deflate else "not compressed"
    print(
        f"{options.messages} messages of {options.size} bytes, {kind}, to {options.peers} peers"
        f" that read and {options.silent} that never do"
    )
    print("| | CPU for each message and peer | longest gap, CPU | by the clock | memory |")
    print("|---|---|---|---|---|")
    for library, loop in SUBJECTS:
        result = run(library, loop, arguments)
        print(
            f"| {library}, {loop} | {result['cpu_us']:.1f} µs | {result['gap_cpu_ms']:.0f} ms |"
            f" {result['gap_wall_ms']:.0f} ms | {result['grown_mib']:.1f} MiB |",
            flush=True,
        )


def run(library: str, loop: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.crowd", *arguments]
    serve = [*command, "--serve", library, "--loop", loop]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip()
            connect_to = [*command, "--connect", port]
            subprocess.run(connect_to, check=True, timeout=GUARD)  # noqa: S603
            result: dict[str, float] = json.loads(server.stdout.readline())
            server.wait(GUARD)
            return result
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description="broadcast, beside that of websockets")
    parser.add_argument("--peers", type=int, default=500, help="that read")
    parser.add_argument("--silent", type=int, default=5, help="peers that never read")
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--size", type=int, default=1024, help="of a message, in bytes")
    parser.add_argument("--deflate", action="store_true", help="with permessage-deflate")
    # For the processes that it starts.
    parser.add_argument("--serve", choices=["anyws", "websockets"], help=argparse.SUPPRESS)
    parser.add_argument("--loop", default="asyncio", help=argparse.SUPPRESS)
    parser.add_argument("--connect", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.connect is not None:
        be_peers(options.connect, options)
    elif options.serve is not None:
        serve = serve_anyws if options.serve == "anyws" else serve_websockets
        backend = "trio" if options.loop == "trio" else "asyncio"
        uvloop = {"use_uvloop": True} if options.loop == "uvloop" else {}
        anyio.run(serve, options, backend=backend, backend_options=uvloop)
    else:
        compare(options, sys.argv[1:])


if __name__ == "__main__":
    main()

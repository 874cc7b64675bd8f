"""Open and close a great many connections, and see that nothing is left of them.

    python tests/cycles.py [--cycles 10000] [--backend asyncio|uvloop|trio|all]
                           [--kind tcp|tls|memory]

Client and server are in this one process. Each connection carries a compressed message each way and
ends in one of six ways, in turn. The garbage collector is off until all is counted: what is alive
then has not died by reference count alone. Only memory is measured after a collection: each
transport of asyncio's own is a reference cycle. Prints a line of figures for each backend; exits
with 1, and says why, where something has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import ssl
import struct
import sys
import time
import tracemalloc
import types
import weakref
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import trio
import trustme
from anyio.abc import SocketAttribute

import anyws
from anyws import Config, Deflate, WebSocket
from anyws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
KINDS = ["tcp", "tls", "memory"]

CONFIG = Config(compression=Deflate(threshold=0), close_timeout=20, cancel_grace=20)
TEXT = "a message that gets smaller, smaller, smaller, smaller when it is compressed"

# Everything that is made only once is made during these.
WARM_UP = 500
# Clients at a time. The server's end of each connection stays in TIME_WAIT for a minute; with
# several ports to connect to, that leaves ports enough to connect from.
CLIENTS = 8
PORTS = 4
MAX_GROWTH = 1024 * 1024

#: whose objects are counted
PACKAGES = ("anyws", "wsproto", "h11")


# --- Connections ---


async def serve_one(ws: WebSocket) -> None:
    watch(ws)
    async for message in ws:
        await ws.send(message)
        if message == "close":
            await ws.close(4000, "enough")
            return


class EnoughError(Exception):
    """What a client's block raises."""


async def talk(ws: WebSocket) -> None:
    await ws.send(TEXT)
    assert await ws.receive() == TEXT


async def client_returns(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    async with opening as ws:
        watch(ws)
        await talk(ws)


async def client_raises(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    try:
        async with opening as ws:
            watch(ws)
            await talk(ws)
            raise EnoughError
    except EnoughError:
        pass


async def client_is_cancelled(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    with anyio.CancelScope() as scope:
        async with opening as ws:
            watch(ws)
            await talk(ws)
            scope.cancel()
            await ws.receive()


async def client_aborts(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    async with opening as ws:
        watch(ws)
        await talk(ws)
        ws.abort()


async def client_resets(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    """Cut the connection so that the server's end sees an error, and not just the end."""
    async with opening as ws:
        watch(ws)
        await talk(ws)
        raw = ws.extra(SocketAttribute.raw_socket, None)
        if raw is None:
            ws._transport._stream.outgoing.end(reset=True)
        else:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ws.abort()


async def server_closes(opening: AbstractAsyncContextManager[WebSocket]) -> None:
    async with opening as ws:
        watch(ws)
        await ws.send("close")
        assert await ws.receive() == "close"
        assert (await ws.wait_closed()).code == 4000


WAYS = [
    client_returns,
    client_raises,
    client_is_cancelled,
    client_aborts,
    client_resets,
    server_closes,
]

_watched: set[weakref.ref[WebSocket]] = set()


def watch(ws: WebSocket) -> None:
    """Count it as alive until it dies."""
    _watched.add(weakref.ref(ws, _watched.discard))


@asynccontextmanager
async def serving(
    kind: str,
) -> AsyncIterator[tuple[anyws.Server, Callable[[], AbstractAsyncContextManager[WebSocket]]]]:
    """Serve, and give the server and a function that makes what opens a connection to it."""
    if kind == "memory":
        memory = MemoryListener()
        async with anyws.open_server(serve_one, listeners=[memory], config=CONFIG) as server:
            yield (
                server,
                lambda: anyws.wrap_client_stream(memory.connect(), "ws://test/", config=CONFIG),
            )
        return
    theirs, ours = contexts() if kind == "tls" else (None, None)
    scheme = "ws" if ours is None else "wss"
    listeners = [
        (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0] for _ in range(PORTS)
    ]
    ports = cycle([one.extra(SocketAttribute.local_port) for one in listeners])
    async with anyws.open_server(
        serve_one, listeners=listeners, ssl_context=theirs, config=CONFIG
    ) as server:
        yield (
            server,
            lambda: anyws.open_websocket(
                f"{scheme}://127.0.0.1:{next(ports)}/", ssl_context=ours, config=CONFIG
            ),
        )


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    return theirs, ours


# --- Figures ---


@dataclass
class Figures:
    """What there is at one moment."""

    memory: int = 0  # bytes
    files: int = 0
    tasks: int = 0
    loggers: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    watched: int = 0


async def take_figures() -> Figures:
    # What has just ended may be held by the loop until its next turns.
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    figures = Figures(
        files=len(os.listdir("/proc/self/fd")),
        tasks=sum(1 for _ in living_tasks()),
        loggers=len(logging.root.manager.loggerDict),
        objects=Counter(living_objects()),
        watched=len(_watched),
    )
    gc.collect()
    figures.memory = tracemalloc.get_traced_memory()[0]
    return figures


def living_tasks() -> Iterator[Any]:
    try:
        yield from asyncio.all_tasks()
    except RuntimeError:
        tasks = [trio.lowlevel.current_root_task()]
        while tasks:
            task = tasks.pop()
            yield task
            tasks += [child for n in task.child_nurseries for child in n.child_tasks]


def living_objects() -> Iterator[str]:
    """Name every object of our packages that is alive, and every coroutine of their functions."""
    for thing in gc.get_objects():
        # Not by isinstance(), which asks a weak proxy for the class of what it stood for.
        kind = type(thing)
        if kind is types.CoroutineType:
            if any(f"{os.sep}{name}{os.sep}" in thing.cr_code.co_filename for name in PACKAGES):
                yield thing.__qualname__
        # Of some types, in C, it is a descriptor.
        elif str(kind.__module__).split(".")[0] in PACKAGES:
            yield f"{kind.__module__}.{kind.__qualname__}"


def violations(before: Figures, after: Figures) -> list[str]:
    """Say what has grown."""
    found = []
    for name in ("files", "tasks", "loggers", "watched"):
        low, high = getattr(before, name), getattr(after, name)
        if high > low:
            found.append(f"{name}: {low} -> {high}")
    for name, count in (after.objects - before.objects).items():
        found.append(f"{count} more {name} alive")
    if after.memory - before.memory >= MAX_GROWTH:
        found.append(f"{(after.memory - before.memory) / 1024:.0f} KiB more memory")
    return found


# --- The program ---


async def measure(kind: str, cycles: int) -> tuple[Figures, Figures, float, float]:
    """Open and close so many connections; return what there was before and after, and how long
    it took, on the clock and of the processor's time.
    """
    async with serving(kind) as (server, make):
        await open_and_close(server, make, min(WARM_UP, cycles // 2))
        # Such garbage as there is by now is not to be taken for what was always there.
        gc.collect()
        before = await take_figures()
        start, cpu_start = time.monotonic(), time.process_time()
        await open_and_close(server, make, cycles)
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
        return before, await take_figures(), seconds, cpu_seconds


async def open_and_close(
    server: anyws.Server,
    make: Callable[[], AbstractAsyncContextManager[WebSocket]],
    cycles: int,
) -> None:
    rest = iter(range(cycles))

    async def go_on() -> None:
        for number in rest:
            await WAYS[number % len(WAYS)](make())

    async with anyio.create_task_group() as tg:
        for _ in range(CLIENTS):
            tg.start_soon(go_on)
    # The client is told first; the server's tasks have a few steps to go.
    while server._served:
        await anyio.sleep(0.001)


class Complaints(logging.Handler):
    """Every warning and error that was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname}: {record.getMessage()}")


def run(backend: str, kind: str, cycles: int) -> list[str]:
    """Do it on one backend, print the figures, and return what is wrong with them."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    gc.collect()
    gc.disable()
    tracemalloc.start(1)
    try:
        name, options = BACKENDS[backend]
        before, after, seconds, cpu_seconds = anyio.run(
            measure, kind, cycles, backend=name, backend_options=options
        )
    finally:
        tracemalloc.stop()
        gc.enable()
        logging.getLogger().removeHandler(complaints)
    grown = after.objects - before.objects
    sys.stdout.write(
        f"{backend} {kind}: {cycles} cycles, {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), "
        f"{(after.memory - before.memory) / 1024:+.1f} KiB, {after.files - before.files:+} files, "
        f"{after.tasks - before.tasks:+} tasks, {after.loggers - before.loggers:+} loggers, "
        f"{sum(grown.values())} objects and {after.watched} WebSockets alive\n"
    )
    sys.stdout.flush()
    return violations(before, after) + complaints.said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--backend", choices=[*BACKENDS, "all"], default="all")
    parser.add_argument("--kind", choices=KINDS, default="tcp")
    arguments = parser.parse_args()
    backends = list(BACKENDS) if arguments.backend == "all" else [arguments.backend]
    failed = False
    for backend in backends:
        for what in run(backend, arguments.kind, arguments.cycles):
            failed = True
            sys.stderr.write(f"{backend} {arguments.kind}: {what}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

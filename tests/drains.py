"""A server that ends, in virtual time, and those who watch: for `tests/test_drain.py`.

Clients are made by hand and write down what they see, and when; so do the handlers. There are five
ways to end a server. Three are in a hurry and give handlers `cancel_grace`, two are not and give
them `drain_timeout`; otherwise they have to be alike.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.streams.tls import TLSListener, TLSStream
from connections import client_tls
from streams import CLOSE, URL, RawPeer, request_bytes
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config, WebSocket
from anyws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.abc import TaskGroup

GRACE, DRAIN = 2, 7
CONFIG = Config(
    cancel_grace=GRACE,
    drain_timeout=DRAIN,
    close_timeout=60,
    handshake_timeout=90,
    ping_interval=None,
    write_timeout=None,
)


# --- A server that ends, and those who watch ---


@dataclass
class Stage:
    """A server that is about to end. Times count from that moment; those before it are -1."""

    task_group: TaskGroup  # outlives the server
    listener: MemoryListener
    clients: list[Client] = field(default_factory=list)
    log: list[tuple[str, float]] = field(default_factory=list)
    start: float | None = None

    def begin(self) -> None:
        self.start = anyio.current_time()

    @property
    def now(self) -> float:
        if self.start is None:
            return -1
        # The one attempt at Close of a connection that is cut takes a moment.
        return round(anyio.current_time() - self.start, 1)

    def note(self, what: str) -> None:
        self.log.append((what, self.now))

    def client(self, **options: Any) -> Client:
        client = Client(self, **options)
        self.clients.append(client)
        self.task_group.start_soon(client.watch)
        return client

    def when(self, what: str) -> list[float]:
        return [at for noted, at in self.log if noted == what]


class Client(RawPeer):
    """A client by hand that notes what the server says: a status, a Close, the end."""

    def __init__(
        self, stage: Stage, *, asks: bool = True, answers: bool = True, reads: bool = True
    ) -> None:
        super().__init__(stage.listener.connect(), is_server=False)
        self.seen: list[tuple[str, float]] = []
        self._stage = stage
        self._answers = answers
        if not reads:
            self.stream.incoming.capacity = 500
        self._reads = reads
        if asks:
            self.ask()

    def ask(self) -> None:
        self.push(request_bytes())

    async def watch(self) -> None:
        try:
            await self._read_head()
            if not self._reads:
                return
            while True:
                frame = await self.next_frame()
                if frame.opcode == CLOSE:
                    self._note(f"Close {frame.code}")
                    if self._answers:
                        self.send_close(frame.code)
        except anyio.EndOfStream:
            self._note("end")
        assert self.unread == b"", "the stream ended inside a frame"
        await self.stream.aclose()

    async def _read_head(self) -> None:
        head, separator = b"", b""
        while not separator:
            self.unread += await self.stream.receive(200)
            head, separator, rest = self.unread.partition(b"\r\n\r\n")
        status = head[9:12].decode()
        if status != "101":
            self._note(status)
        self.unread = rest if status == "101" else b""

    def _note(self, what: str) -> None:
        self.seen.append((what, self._stage.now))


class Encrypted(TLSListener):
    """The program's own TLS, in front of the server."""

    def connect(self) -> Any:
        return self.listener.connect()


async def encrypted_client(stage: Stage, late: float = 0) -> None:
    """Note what it is closed with; the handshake of TLS begins so many seconds late."""
    transport = stage.listener.connect()
    await anyio.sleep(late)
    stream = await TLSStream.wrap(
        transport, hostname="localhost", ssl_context=client_tls(), standard_compatible=False
    )
    async with anyws.wrap_client_stream(stream, URL, config=CONFIG) as ws:
        closure = await ws.wait_closed()
    stage.note(f"client: {closure.received}")


@asynccontextmanager
async def noted(stage: Stage) -> AsyncIterator[None]:
    """Note how a handler ends."""
    try:
        yield
    except anyio.get_cancelled_exc_class():
        stage.note("cancelled")
        raise
    except anyws.ConnectionClosed:
        stage.note("closed")
        raise
    else:
        stage.note("done")


# --- Handlers ---


async def idle(stage: Stage, ws: WebSocket) -> None:
    async with noted(stage):
        await ws.receive()


async def busy(stage: Stage, ws: WebSocket) -> None:
    async with noted(stage):
        while True:
            await ws.send("x" * 100, compress=False)
            await anyio.sleep(0.1)


async def stuck(stage: Stage, ws: WebSocket) -> None:
    async with noted(stage):
        await anyio.sleep_forever()


async def saving(seconds: float, stage: Stage, ws: WebSocket) -> None:
    """Work that has to be done when the connection has ended."""
    async with noted(stage):
        try:
            async for _ in ws:
                pass
        except anyws.ClosedByUs:
            pass
        await anyio.sleep(seconds)


async def deaf(seconds: float, stage: Stage, ws: WebSocket) -> None:
    """Work that nobody can cancel."""
    with anyio.CancelScope(shield=True):
        await ws.wait_closed()
        await anyio.sleep(seconds - stage.now)
    stage.note("done")


# --- The ways to end a server ---


async def serve_cancelled(stage: Stage, begin: Any, serve: Any) -> None:
    async with anyio.create_task_group() as tg:
        await tg.start(partial(anyws.serve, serve.args[0], **serve.keywords))
        await begin()
        tg.cancel_scope.cancel()


async def body_cancelled(stage: Stage, begin: Any, serve: Any) -> None:
    with anyio.CancelScope() as scope:
        async with serve():
            await begin()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def body_raises(stage: Stage, begin: Any, serve: Any) -> None:
    error = KeyError("the body's")
    with pytest.raises(KeyError) as caught:
        async with serve():
            await begin()
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


async def left(stage: Stage, begin: Any, serve: Any) -> None:
    async with serve():
        await begin()


async def closed(stage: Stage, begin: Any, serve: Any) -> None:
    async with serve() as server:
        await begin()
        await server.aclose()
        stage.note("aclose returned")
        assert server.connections == frozenset()


HURRIED = {
    "serve is cancelled": serve_cancelled,
    "body is cancelled": body_cancelled,
    "body raises": body_raises,
}
PATIENT = {"body returns": left, "aclose": closed}
ENDS = {**HURRIED, **PATIENT}

every_end = pytest.mark.parametrize("end", ENDS)


def deadline(end: str) -> int:
    return GRACE if end in HURRIED else DRAIN


def run(
    backend: str,
    end: str | Callable[..., Awaitable[None]],
    handler: Callable[[Stage, WebSocket], Awaitable[None]],
    prepare: Callable[[Stage], object],
    *,
    config: Config = CONFIG,
    listener: MemoryListener | None = None,
    **options: Any,
) -> Stage:
    """Run a server to its end, with the clients that `prepare` makes."""
    stages = []

    async def main() -> None:
        async with anyio.create_task_group() as tg:
            stage = Stage(tg, listener or MemoryListener())
            stages.append(stage)

            async def begin() -> None:
                prepare(stage)
                # Not to the moment: handlers that do something every 0.1 s are in between.
                await anyio.sleep(1.02)
                stage.begin()

            way = ENDS[end] if isinstance(end, str) else end
            serve = partial(
                anyws.open_server,
                partial(handler, stage),
                listeners=[stage.listener],
                config=config,
                **options,
            )
            await way(stage, begin, serve)
            stage.note("over")
            with pytest.raises(anyio.ClosedResourceError):
                stage.listener.connect()
            tg.cancel_scope.cancel()

    run_in_virtual_time(backend, main)
    return stages[0]


def one_client(stage: Stage) -> None:
    stage.client()


def one_silent_client(stage: Stage) -> None:
    stage.client(answers=False)

"""What every peer has to offer, so that a case need not know which one it talks to.

A peer is another library, run as its documentation says, on an event loop and in a thread of its
own (`PeerThread`). Its connections are wrapped so thinly that a case says the same to each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
from anyio import TASK_STATUS_IGNORED, to_thread

from anyws import Close

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskStatus
    from anyio.from_thread import BlockingPortal

    # What a case does at the peer's end; it returns how they saw the connection end.
    Theirs = Callable[["PeerConnection"], Coroutine[Any, Any, Close | None]]

HOST = "127.0.0.1"
# Seconds for whatever one end waits for from the other: an end to hanging, never a wait.
PATIENCE = 20.0
LOST = Close(1006)
MIB = 1024 * 1024


class PeerClosed(Exception):
    """The peer saw its connection end: with this Close of ours, or `LOST`."""

    def __init__(self, close: Close) -> None:
        super().__init__(close)
        self.close = close


@dataclass(frozen=True)
class Refusal:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


@dataclass(frozen=True)
class Setup:
    """What the peer is told when it connects or listens.

    compression:
        Without it the peer is left as it comes, which may well be to offer it.
    manual_pongs:
        The case is about pongs: where a peer shows them only to those who answer pings on their
        own, it is set up so.
    max_size:
        Of a message, and more than the cases have: some count the frame, and what does not
        compress grows a little.
    """

    server_ssl: ssl.SSLContext | None = None
    client_ssl: ssl.SSLContext | None = None
    compression: bool = False
    offered: Sequence[str] = ()
    known: Sequence[str] = ()
    refusal: Refusal | None = None
    manual_pongs: bool = False
    max_size: int = 2 * MIB

    def url(self, port: int) -> str:
        return f"{'wss' if self.client_ssl else 'ws'}://{HOST}:{port}/"


class PeerConnection(ABC):
    """A connection of the peer's."""

    @property
    @abstractmethod
    def subprotocol(self) -> str | None: ...

    @property
    @abstractmethod
    def compressed(self) -> bool:
        """Whether both directions are compressed and keep their context."""

    @abstractmethod
    async def send(self, message: str | bytes) -> None: ...

    @abstractmethod
    async def receive(self) -> str | bytes:
        """Return the next message, or raise `PeerClosed`."""

    async def send_fragments(self, fragments: Sequence[str] | Sequence[bytes]) -> None:
        raise NotImplementedError

    @abstractmethod
    async def ping(self, payload: bytes) -> None:
        """Return when the pong with this payload has come."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> Close:
        """Close, and return the Close that came back."""

    @abstractmethod
    def drop(self) -> None:
        """End the TCP connection without a Close."""


class Peer(ABC):
    name: ClassVar[str]  # of its distribution
    backend: ClassVar[str]
    # (its role, or "" for both; the beginning of a case's name) -> why there is no such case.
    impossible: ClassVar[dict[tuple[str, str], str]] = {}
    no_compression: ClassVar[str] = ""  # why

    @abstractmethod
    def connect(self, setup: Setup, port: int) -> AbstractAsyncContextManager[PeerConnection]: ...

    @abstractmethod
    def listen(
        self, setup: Setup, handler: Callable[[PeerConnection], Awaitable[None]]
    ) -> AbstractAsyncContextManager[int]:
        """Serve, and refuse everybody if `setup` has a refusal; yield the port."""

    @abstractmethod
    async def be_refused(self, setup: Setup, port: int) -> Refusal:
        """Connect to who refuses, and return what there is to see of it."""

    def answer_to(self, close: Close) -> Close:
        """Return the Close that this peer answers with: usually the same."""
        return close


class PeerThread:
    """The thread of one peer, and how a test waits for it on another event loop."""

    def __init__(self, peer: Peer, portal: BlockingPortal) -> None:
        self.peer = peer
        self._portal = portal

    async def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run in the peer's loop, and return or raise what comes out."""
        future = await to_thread.run_sync(self._portal.start_task_soon, function, *args)
        try:
            return await _result(future)
        finally:
            future.cancel()

    @asynccontextmanager
    async def serving(self, setup: Setup, theirs: Theirs | None) -> AsyncIterator[_PeerServer]:
        """Run a server of the peer's for one connection."""
        start = self._portal.start_task
        future, server = await to_thread.run_sync(start, _serve, self.peer, setup, theirs)
        try:
            yield server
            if theirs is None:
                await self.call(_set, server.ended)
            await _result(future)
        except Exception as error:
            with anyio.move_on_after(1):
                await note_about_peer(error, future)
            raise
        finally:
            future.cancel()

    async def connecting(self, setup: Setup, port: int, theirs: Theirs) -> Close | None:
        """Connect, do `theirs`, and return how they saw it end."""
        seen: Close | None = await self.call(_connect, self.peer, setup, port, theirs)
        return seen


async def _set(event: anyio.Event) -> None:
    event.set()


async def _result(future: Future[Any]) -> Any:
    return await to_thread.run_sync(future.result, PATIENCE, abandon_on_cancel=True)


async def note_about_peer(error: Exception, future: Future[Any]) -> None:
    """Of two ends that failed, one is raised: let it tell of the other."""
    try:
        await _result(future)
    except Exception as theirs:  # noqa: BLE001 - told in the note
        if theirs is not error:
            error.add_note(f"and the peer: {theirs!r}")


class _PeerServer:
    def __init__(self, port: int) -> None:
        self.port = port
        self.ended = anyio.Event()
        self.error: Exception | None = None
        self.saw: Close | None = None


async def _serve(
    peer: Peer,
    setup: Setup,
    theirs: Theirs | None,
    *,
    task_status: TaskStatus[_PeerServer] = TASK_STATUS_IGNORED,
) -> None:
    async def handler(connection: PeerConnection) -> None:
        try:
            assert theirs is not None
            _check(connection, setup)
            server.saw = await theirs(connection)
        except Exception as error:  # noqa: BLE001 - raised by `_serve`
            server.error = error
        finally:
            server.ended.set()

    async with peer.listen(setup, handler) as port:
        server = _PeerServer(port)
        task_status.started(server)
        await server.ended.wait()
    if server.error is not None:
        raise server.error


async def _connect(peer: Peer, setup: Setup, port: int, theirs: Theirs) -> Close | None:
    async with peer.connect(setup, port) as connection:
        _check(connection, setup)
        return await theirs(connection)


def _check(connection: PeerConnection, setup: Setup) -> None:
    assert connection.compressed == setup.compression
    chosen = next((name for name in setup.offered if name in setup.known), None)
    assert connection.subprotocol == chosen

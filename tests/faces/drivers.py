"""The same calls for every face, so that one test shows one thing of all of them.

What a driver gives waits in the test's own thread, whatever waits underneath: an event loop in
another thread, the call itself, or the program that polls.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import fail_after, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from callbacks.clients import GUARD, QUICK

import anyws
import anyws.sync
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened, Pong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyws import Closure

__all__ = ["FACES", "SERVERS", "AsyncFace", "Awaited", "Face", "Paths", "ServerFace"]


class Paths(dict[str, Any]):
    """Handlers, or tables of them, by path: to be `anyws.Routes` once they are the face's own."""


def _each(handlers: Any, wrap: Callable[[Any], Any]) -> Any:
    """Give handlers, one or a table of them, made into ones of a face."""
    if isinstance(handlers, Paths):
        return anyws.Routes({path: _each(one, wrap) for path, one in handlers.items()})
    if isinstance(handlers, dict):
        return {name: wrap(one) for name, one in handlers.items()}
    return wrap(handlers)


class Face(ABC):
    """A way to be a client."""

    name: str

    @abstractmethod
    def make(self, url: str, **options: Any) -> object:
        """Give the arguments, and open nothing."""

    @abstractmethod
    def opened(self, url: str, **options: Any) -> Any:
        """Give an open connection, for a ``with`` block that closes it."""

    @abstractmethod
    def failure(self, url: str, **options: Any) -> tuple[str, Exception]:
        """Open what cannot be opened; return what a person is told, and the error."""


class ServerFace(ABC):
    """A way to be a server. Handlers are plain functions, called with a connection."""

    name: str

    @abstractmethod
    def make(self, handlers: Any, **options: Any) -> object:
        """Give the arguments, and serve nothing."""

    @abstractmethod
    def serving(self, handlers: Any, **options: Any) -> Any:
        """Give a running server, for a ``with`` block that closes it."""

    @staticmethod
    def _options(options: dict[str, Any]) -> dict[str, Any]:
        return {"config": QUICK, "host": "127.0.0.1", "port": 0, **options}


# --- Async ---


class Awaited:
    """Something async for a test that is not: what it returns to be awaited is awaited."""

    def __init__(self, portal: BlockingPortal, inner: Any) -> None:
        self._portal = portal
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            # In the loop, whose thread changes what is read.
            found = self._portal.call(getattr, self._inner, name)
        except RuntimeError:  # the loop has ended
            found = getattr(self._inner, name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            with fail_after(GUARD):
                result = function(*arguments, **options)
                return await result if inspect.isawaitable(result) else result

        return self._portal.call(call)

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                yield self.receive()
            except anyws.ClosedByPeer:
                return

    def end(self) -> Closure:
        return end_of(self)

    def kind(self) -> type:
        return type(self._inner)


def end_of(ws: Any) -> Closure:
    """Receive to the end, and return how that was."""
    try:
        while True:
            ws.receive()
    except anyws.ConnectionClosed as error:
        return error.closure


class AsyncFace(Face, ServerFace):
    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        backend = "trio" if name == "trio" else "asyncio"
        self._portal = partial(start_blocking_portal, backend, options)

    def make(self, what: Any, **options: Any) -> object:
        if isinstance(what, str):
            return anyws.open_websocket(what, **options)
        return anyws.open_server(what, **options)

    @contextmanager
    def opened(self, url: str, **options: Any) -> Iterator[Awaited]:
        opening = anyws.open_websocket(url, **{"config": QUICK, **options})
        with self._portal() as portal:
            with portal.wrap_async_context_manager(opening) as ws:
                yield Awaited(portal, ws)

    def failure(self, url: str, **options: Any) -> tuple[str, Exception]:
        try:
            with self.opened(url, **options):
                raise AssertionError("it is open")
        except (anyws.WebSocketError, OSError) as error:
            return str(error), error

    @contextmanager
    def serving(self, handlers: Any, **options: Any) -> Iterator[Awaited]:
        with self._portal() as portal:
            ours = _each(handlers, partial(_in_thread, portal))
            if default := options.pop("default", None):
                options["default"] = _in_thread(portal, default)
            opening = anyws.open_server(ours, **self._options(options))
            with portal.wrap_async_context_manager(opening) as server:
                awaited = Awaited(portal, server)
                awaited.close = awaited.aclose
                yield awaited


def _in_thread(portal: BlockingPortal, handler: Callable[[Any], object]) -> Any:
    async def serve(ws: anyws.WebSocket) -> None:
        await to_thread.run_sync(handler, Awaited(portal, ws))

    return serve


# --- Blocking ---


class Blocking:
    """A connection of the blocking face."""

    def __init__(self, ws: anyws.sync.WebSocket) -> None:
        self._ws = ws

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ws, name)

    def __iter__(self) -> Iterator[str | bytes]:
        return iter(self._ws)

    def receive(self) -> str | bytes:
        return self._ws.receive(GUARD)

    def end(self) -> Closure:
        return end_of(self)

    def kind(self) -> type:
        return type(self._ws)


class SyncFace(Face, ServerFace):
    name = "sync"

    def make(self, what: Any, **options: Any) -> object:
        if isinstance(what, str):
            return anyws.sync.open_websocket(what, **options)
        return anyws.sync.open_server(what, **options)

    @contextmanager
    def opened(self, url: str, **options: Any) -> Iterator[Blocking]:
        with anyws.sync.open_websocket(url, **{"config": QUICK, **options}) as ws:
            yield Blocking(ws)

    def failure(self, url: str, **options: Any) -> tuple[str, Exception]:
        try:
            with self.opened(url, **options):
                raise AssertionError("it is open")
        except (anyws.WebSocketError, OSError) as error:
            return str(error), error

    @contextmanager
    def serving(self, handlers: Any, **options: Any) -> Iterator[anyws.sync.Server]:
        ours = _each(handlers, _with_driver)
        if default := options.pop("default", None):
            options["default"] = _with_driver(default)
        with anyws.sync.open_server(ours, **self._options(options)) as server:
            yield server


def _with_driver(handler: Callable[[Any], object]) -> Callable[[anyws.sync.WebSocket], object]:
    return lambda ws: handler(Blocking(ws))


# --- Callbacks ---


class Polled:
    """A client of the callbacks face, in a program that has nothing to do but to poll."""

    def __init__(self, url: str, **options: Any) -> None:
        self._events: list[Event] = []
        self._client = Client(url, self._events.append, polled=True, **{"config": QUICK, **options})
        self._client.open()

    def __getattr__(self, name: str) -> Any:
        if name in {"request", "response", "subprotocol"}:
            return getattr(self.next(Opened, Failed, keep=True), name)
        return getattr(self._client, name)

    def next(self, *kinds: type[Event], keep: bool = False) -> Any:
        """Return the first event of these kinds that was not returned before."""
        while True:
            for event in self._events:
                if isinstance(event, kinds):
                    if not keep:
                        self._events.remove(event)
                    return event
            assert self._client.poll(GUARD), f"none of {kinds} came"

    def receive(self) -> str | bytes:
        return self.next(Message).data

    def ping(self) -> float:
        self._client.ping()
        return self.next(Pong).latency

    def close(self, *arguments: Any) -> Closure:
        self._client.close(*arguments)
        return self.end()

    def end(self) -> Closure:
        return self.next(Closed, keep=True).closure


class CallbacksFace(Face):
    name = "callbacks"

    def make(self, url: str, **options: Any) -> object:
        return Client(url, **options)

    @contextmanager
    def opened(self, url: str, **options: Any) -> Iterator[Polled]:
        polled = Polled(url, **options)
        event = polled.next(Opened, Failed, keep=True)
        assert isinstance(event, Opened), event
        try:
            yield polled
        finally:
            polled.close()

    def failure(self, url: str, **options: Any) -> tuple[str, Exception]:
        event = Polled(url, **options).next(Opened, Closed, Failed)
        assert isinstance(event, Failed)
        return event.what, event.error


_ASYNC = [AsyncFace("asyncio"), AsyncFace("trio")]
if sys.platform != "win32":
    _ASYNC.append(AsyncFace("uvloop", use_uvloop=True))
FACES: list[Face] = [*_ASYNC, SyncFace(), CallbacksFace()]
SERVERS: list[ServerFace] = [*_ASYNC, SyncFace()]

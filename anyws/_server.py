"""Ways in: a listener becomes `WebSocket`s, each with a handler as its task.

**Tasks.** The server has a task group. In it, each listener has a task that accepts from it and
closes it at the end, and each connection has one that does the opening handshake, runs the handler
and closes. The latter are shielded: a cancelled server closes its connections in order, it does
not tear them down. Only what a listener of the program's does before it hands a stream over is not
(`_arrivals.py`).

**The end**, in this order: listeners accept no more, half-open handshakes are refused with 503,
Close 1001 is sent to every connection (`_drain`), handlers get until the deadline to end, then they
are cancelled and the streams cut (`_cut_off`). The deadline is `drain_timeout` from when the
program asks for the end, and `cancel_grace` from when it is cancelled or fails: the nearer one.
What breaks off the waiting, as a second `asyncio.Task.cancel` does, only makes it shorter.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from anyio import (
    TASK_STATUS_IGNORED,
    CancelScope,
    Event,
    create_task_group,
    current_time,
    get_cancelled_exc_class,
    move_on_at,
    sleep,
    sleep_forever,
    to_thread,
)
from anyio.abc import SocketAttribute, SocketListener
from anyio.lowlevel import checkpoint
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSListener

from ._arrivals import Arrivals
from ._config import as_config
from ._connection import leave_task_group
from ._handlers import Handlers
from ._listening import Listening, Place
from ._policy import Policy
from ._served import Served, Service
from ._transports.sockets import AcceptedStream, accept_sockets, socket_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio.abc import ByteStream, Listener, TaskGroup, TaskStatus

    from ._config import Config
    from ._handlers import Handler, HandlersLike
    from ._listening import Hosts
    from ._policy import OnRequest
    from ._protocol.http import HeadersLike
    from ._protocol.origin import Origins
    from ._transports.sockets import Accepted
    from ._websocket import WebSocket

__all__ = ["Server", "open_server", "serve"]

_logger = logging.getLogger("anyws.server")

# Seconds until accepting is tried again where the system has run out of something.
_ACCEPT_PAUSE = 0.1


async def serve(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    listeners: Iterable[Listener[Any]] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequest | None = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
    task_status: TaskStatus[Server] = TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets until cancelled.

    ::

        async def echo(ws):
            async for message in ws:
                await ws.send(message)

        await serve(echo, port=8080)

    Cancelled, it closes every connection with 1001, lets handlers end for ``Config.cancel_grace``,
    cancels those that have not, and ends.

    :param task_status: for ``await task_group.start(serve, ...)``, which returns the `Server`
        once it listens

    Other arguments and errors are those of `open_server`.
    """
    opening = open_server(
        handlers,
        default=default,
        host=host,
        port=port,
        listeners=listeners,
        ssl_context=ssl_context,
        on_request=on_request,
        origins=origins,
        headers=headers,
        config=config,
    )
    async with opening as server:
        task_status.started(server)
        await sleep_forever()


def open_server(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    listeners: Iterable[Listener[Any]] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequest | None = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
) -> AbstractAsyncContextManager[Server]:
    """Serve WebSockets for the length of an ``async with`` block, which gets the `Server`.

    Each connection's handler is a task of its own. Where it returns, the connection is closed with
    1000; where it raises, that is logged with its traceback, the connection is closed with 1011,
    and no other connection notices. Leaving the block is `Server.aclose`.

    :param handlers: an async function that takes the `WebSocket`, for everybody; or a mapping
        from subprotocols to such functions, with ``None`` for clients that offer none. Among the
        subprotocols that both ends know, the client's order decides
    :param default: for clients that offer none of the mapping's subprotocols, and, where it has
        no ``None``, for those that offer none at all; without it they are refused with 400
    :param host: name or address to listen at, or several of them; ``"*"``, like ``None``, for all
        interfaces
    :param port: TCP port, the same for all of them; 0 lets the system choose: `Server.port` tells
    :param listeners: AnyIO listeners to accept from instead of a host and port: Unix sockets,
        inherited sockets, TLS of one's own. The server closes them
    :param ssl_context: to serve ``wss://``
    :param on_request: a function, async or not, that is shown every `Request` and answers with a
        `Response`, a `Reject` (which it may also raise), or ``None`` to let the handshake go on.
        It sees requests that are no WebSocket's, too, and may answer them
    :param origins: which ``Origin`` a browser may come from beside the host itself: a collection of
        origins and compiled patterns, or ``"*"``. Requests without ``Origin`` are no browser's
        and always allowed
    :param headers: more headers for the 101
    :param config: limits, timeouts and compression, for each connection
    :raises ValueError, TypeError: an argument is wrong (the caller's fault)
    :raises OSError: listening failed
    """
    if (port is None) == (listeners is None):
        raise TypeError("a server needs a port=, or else listeners=")
    place = None if port is None else Place(host, port)
    table = Handlers(handlers, default)
    service = Service(
        table,
        Policy.make(table.choose, on_request, origins, headers),
        as_config(config),
        ssl_context,
    )
    return _Serving(Server(service), place, listeners)


async def _listen(place: Place) -> list[Listener[Any]]:
    """Return what listens at each address of each host. Raises OSError."""
    await checkpoint()
    addresses: list[Any] = []
    for host in place.hosts:
        addresses += place.known_addresses_of(host) or await to_thread.run_sync(
            place.addresses_of, host, abandon_on_cancel=True
        )
    sockets = place.listen(addresses)
    try:
        return [await SocketListener.from_socket(sock) for sock in sockets]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def _single(listener: Listener[Any]) -> Iterator[Listener[Any]]:
    """Yield the listeners that one stands for: a name has several addresses."""
    if isinstance(listener, MultiListener):
        for one in listener.listeners:
            yield from _single(one)
    else:
        yield listener


def _is_passing(error: BaseException) -> bool:
    """Whether accepting may succeed later. A composite listener raises groups."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_passing, error.exceptions))
    return isinstance(error, OSError)


class Server(Listening):
    """A running server. Made by `open_server`, and by `serve` through ``task_status``."""

    def __init__(self, service: Service) -> None:
        super().__init__(secure=service.ssl_context is not None)
        self._service = service
        self._config = service.config
        self._listeners: list[Listener[Any]] = []
        self._accepting: list[CancelScope] = []
        self._served: set[Served] = set()
        self._task_group: TaskGroup
        self._arrivals: Arrivals
        self._listening = True
        self._closing = False
        self._drained_by = math.inf
        self._deaf = Event()  # every listener is closed
        self._all_gone = Event()  # of the current wait for connections; see `_wait_until_gone`
        self._keep_connections = False

    @property
    def listeners(self) -> tuple[Listener[Any], ...]:
        """What the server accepts from."""
        return tuple(self._listeners)

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections whose handlers run."""
        return frozenset(s.websocket for s in self._served if s.websocket is not None)

    def __repr__(self) -> str:
        if self._listening:
            state = "serving"
        elif not self._closing:
            state = "listening no more"
        else:
            state = "closing" if self._served else "closed"
        return f"<anyws.Server {state}, {len(self.connections)} connections>"

    # --- Serving ---

    async def _accept_from(self, listener: Listener[Any], scope: CancelScope) -> None:
        try:
            with scope:
                await self._accept_until_cancelled(listener)
        finally:
            try:
                with CancelScope(shield=True):
                    await listener.aclose()
            except Exception as error:
                _logger.warning("closing %r failed", listener, exc_info=error)
            self._accepting.remove(scope)
            if not self._accepting:
                self._deaf.set()

    async def _accept_until_cancelled(self, listener: Listener[Any]) -> None:
        while True:
            try:
                await self._accept(listener)
                _logger.error("%r accepts no more connections", listener)
                return
            except Exception as error:
                if not self._listening:
                    return
                if not _is_passing(error):
                    _logger.error("accepting from %r has ended", listener, exc_info=error)
                    return
                # Out of file descriptors or memory, or a connection that was gone before it
                # was accepted: no reason to stop.
                _logger.warning("accepting a connection failed, trying again: %s", error)
                await sleep(_ACCEPT_PAUSE)

    async def _accept(self, listener: Listener[Any]) -> None:
        listening = socket_of(listener)
        if listening is None:
            if isinstance(listener, TLSListener):
                handler = self._arrivals.handing_over(self._serve_stream)
                await listener.serve(handler, self._arrivals)
            else:
                await listener.serve(self._serve_stream, self._task_group)
            return
        while True:
            for accepted in await accept_sockets(listening):
                self._task_group.start_soon(self._serve, accepted)

    async def _serve_stream(self, stream: ByteStream) -> None:
        await self._serve(AcceptedStream(stream))

    async def _serve(self, accepted: Accepted) -> None:
        served = Served(self._service)
        self._served.add(served)
        if self._closing:
            served.refuse()
            served.send_away(self._config.close_timeout)
        try:
            await served.run(accepted)
        finally:
            self._served.discard(served)
            if not self._served:
                self._all_gone.set()

    # --- Closing ---

    async def aclose(self, *, keep_connections: bool = False) -> None:
        """Stop listening and, unless they are kept, close the connections; wait for that.

        Half-open handshakes are refused with 503, connections closed with 1001. Handlers have
        ``Config.drain_timeout`` to end, and are cancelled after that. With ``keep_connections``
        nothing but listening ends; leaving `open_server` then waits for the connections.

        Any number of tasks may call it; a handler that does waits for itself, too, and so until
        ``drain_timeout``. Cancelled, the server does not listen any more, and the
        connections are closing: leaving `open_server` waits for that, too.
        """
        self._stop_listening()
        if keep_connections:
            self._keep_connections = True
        else:
            await self._drain(self._config.drain_timeout)
            self._cut_off()
            await self._wait_until_gone()
        await self._deaf.wait()

    def _stop_listening(self) -> None:
        self._listening = False
        for scope in self._accepting:
            scope.cancel()

    async def _drain(self, timeout: float | None) -> None:
        """Send everybody away, and give handlers until then, or until an earlier time given."""
        self._closing = True
        if timeout is not None:
            self._drained_by = min(self._drained_by, current_time() + timeout)
        for served in self._served:
            served.refuse()
        self._arrivals.cut_off()
        # Who is sent away may come back at once, and is not to find an open door.
        try:
            with move_on_at(self._drained_by):
                await self._deaf.wait()
        finally:
            for served in self._served:
                served.send_away(timeout)
        with move_on_at(self._drained_by):
            await self._wait_until_gone()

    def _cut_off(self) -> None:
        """Cancel the handlers that are left, and cut their streams."""
        for served in self._served:
            served.cut_off()

    async def _wait_until_gone(self) -> None:
        while self._served:
            if self._all_gone.is_set():
                self._all_gone = Event()
            await self._all_gone.wait()


class _Serving:
    """The context manager of a server."""

    def __init__(
        self,
        server: Server,
        place: Place | None,
        listeners: Iterable[Listener[Any]] | None,
    ) -> None:
        self._server = server
        self._place = place
        self._given = listeners
        self._entered = False

    async def __aenter__(self) -> Server:
        if self._entered:
            raise RuntimeError("this context manager was entered before: make another")
        self._entered = True
        server = self._server
        if self._given is not None:
            server._listeners = [one for given in self._given for one in _single(given)]
        else:
            assert self._place is not None
            server._listeners = await _listen(self._place)
        server._addresses = [
            one.extra(SocketAttribute.local_address, None) for one in server._listeners
        ]
        server._task_group = create_task_group()
        await server._task_group.__aenter__()
        server._arrivals = Arrivals(server._task_group)
        if not server._listeners:
            server._deaf.set()
        for one in server._listeners:
            scope = CancelScope()
            server._accepting.append(scope)
            server._task_group.start_soon(server._accept_from, one, scope, name="anyws listener")
        return server

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server = self._server
        cancelled = get_cancelled_exc_class()
        finished = Event()
        try:
            try:
                if exc is None and server._keep_connections:
                    await server._wait_until_gone()
                elif exc is None:
                    await server.aclose()
            finally:
                try:
                    with CancelScope(shield=True):
                        server._stop_listening()
                        await server._drain(server._config.cancel_grace)
                finally:
                    server._cut_off()
        except cancelled:
            if exc is None:
                raise
        finally:
            finished.set()
            await leave_task_group(server._task_group, finished, exc)

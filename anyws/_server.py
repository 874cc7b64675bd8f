"""Ways in: a listener becomes `WebSocket`s, each with a handler as its task.

**Tasks.** The server has a task group. In it, each listener has a task that accepts from it and
closes it at the end (`_accepting.py`), and each connection has one that does the opening handshake,
runs the handler and closes. The latter are shielded: a cancelled server closes its connections in
order, it does not tear them down. Only what a listener of the program's does before it hands a
stream over is not (`_arrivals.py`).

**The end**, in this order: listeners accept no more, half-open handshakes are refused with 503,
Close 1001 is sent to every connection (`_drain`), handlers get until the deadline to end, then they
are cancelled and the streams cut (`_cut_off`). The deadline is `drain_timeout` from when the
program asks for the end, and `cancel_grace` from when it is cancelled or fails: the nearer one.
What breaks off the waiting, as a second `asyncio.Task.cancel` does, only makes it shorter.

A server that retires leaves its sockets to another process, which accepts what waits in their
queues. What it has accepted itself cannot be handed on: those handshakes are served to their end,
and connections closed with 1012.
"""

from __future__ import annotations

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
    sleep_forever,
)
from anyio.abc import SocketAttribute

from ._accepting import Accepting, listen, listeners_of
from ._arrivals import Arrivals
from ._asked import close_when_asked, receive_signals
from ._close import CloseCode
from ._config import MAX_TURNED_AWAY, as_config
from ._connection import leave_task_group
from ._listening import Listening, Place, check_listening
from ._policy import Policy
from ._routes import make_table
from ._served import Served, Service

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from anyio.abc import Listener, TaskGroup, TaskStatus

    from ._config import Config
    from ._counters import Totals
    from ._handlers import Handler, HandlersLike
    from ._listening import Hosts
    from ._policy import OnRequests
    from ._protocol.http import HeadersLike
    from ._protocol.origin import Origins
    from ._transports.sockets import Accepted
    from ._websocket import WebSocket

__all__ = ["Server", "open_server", "serve"]


async def serve(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    listeners: Iterable[Listener[Any] | socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequests = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
    handle_signals: bool = False,
    task_status: TaskStatus[Server] = TASK_STATUS_IGNORED,
) -> None:
    """Serve WebSockets until cancelled, or asked for the end by a signal.

    ::

        async def echo(ws):
            async for message in ws:
                await ws.send(message)

        await serve(echo, port=8080)

    Cancelled, it closes every connection with 1001, lets handlers end for ``Config.cancel_grace``,
    cancels those that have not, and ends.

    :param handle_signals: take over SIGTERM and SIGINT while this runs. The first to come ends it
        as `Server.aclose` does, with ``Config.drain_timeout`` for the handlers, and then this
        function returns; another one, more than a quarter of a second after the event loop has
        learned of that, cuts off whoever is left. Only one function of a program can have the
        signals, and only in its main thread. On asyncio on Windows there are none to be had: there
        Ctrl-C cancels the program
    :param task_status: for ``await task_group.start(serve, ...)``, which returns the `Server`
        once it listens
    :raises RuntimeError: ``handle_signals`` outside the main thread, or while another server
        handles them (the caller's fault)

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
    if handle_signals:
        # From before it listens: a signal is not to be lost in between.
        with receive_signals() as signals:
            async with opening as server:
                task_status.started(server)
                await close_when_asked(server, signals)
        return
    async with opening as server:
        task_status.started(server)
        await sleep_forever()


def open_server(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    listeners: Iterable[Listener[Any] | socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequests = None,
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
        subprotocols that both ends know, the client's order decides. Or `Routes`, a table of paths
    :param default: for clients that offer none of the mapping's subprotocols, and, where it has
        no ``None``, for those that offer none at all; without it they are refused with 400
    :param host: name or address to listen at, or several of them; ``"*"``, like ``None``, for all
        interfaces
    :param port: TCP port, the same for all of them; 0 lets the system choose: `Server.port` tells
    :param listeners: what to accept from instead of a host and port: AnyIO listeners, as for TLS
        of one's own, and listening sockets, TCP or Unix, as from `inherited_sockets`. The server
        closes them, and leaves the file of a Unix socket where it is
    :param ssl_context: to serve ``wss://``
    :param on_request: a function, async or not, that is shown every `Request` and answers with a
        `Response`, a `Reject` (which it may also raise), or ``None`` to let the handshake go on.
        It sees requests that are no WebSocket's, too, and may answer them. Or a sequence of such
        functions: they are asked in order, and the first that answers is the last that is asked
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
    given = None if listeners is None else [check_listening(one) for one in listeners]
    table = make_table(handlers, default)
    service = Service(
        table,
        Policy.make(table.choose, on_request, origins, headers),
        as_config(config),
        ssl_context,
    )
    return _Serving(Server(service), place, given)


class Server(Listening):
    """A running server. Made by `open_server`, and by `serve` through ``task_status``."""

    def __init__(self, service: Service) -> None:
        super().__init__(secure=service.ssl_context is not None)
        self._service = service
        self._config = service.config
        self._accepting = Accepting()
        self._served: set[Served] = set()
        self._turned_away: set[Served] = set()  # of those, whom there is no room for
        self._task_group: TaskGroup
        self._arrivals: Arrivals
        self._closing = False
        self._retiring = False
        self._drained_by = math.inf
        self._all_gone = Event()  # of the current wait for connections; see `_wait_until_gone`
        self._keep_connections = False

    @property
    def listeners(self) -> tuple[Listener[Any], ...]:
        """What the server accepts from."""
        return self._accepting.listeners

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections whose handlers run."""
        return frozenset(s.websocket for s in self._served if s.websocket is not None)

    @property
    def totals(self) -> Totals:
        """What the server has counted over all its clients, open and gone."""
        return self._service.tally.totals([ws.counters for ws in self.connections])

    def __repr__(self) -> str:
        if self._accepting.goes_on:
            state = "serving"
        elif not self._closing:
            state = "listening no more"
        else:
            state = "closing" if self._served else "closed"
        return f"<anyws.Server {state}, {len(self.connections)} connections>"

    # --- Serving ---

    @property
    def _is_full(self) -> bool:
        most = self._config.max_connections
        return most is not None and len(self._served) - len(self._turned_away) >= most

    async def _serve(self, accepted: Accepted) -> None:
        served = Served(self._service)
        if self._is_full:
            # Telling takes a moment for each, and memory: beyond a bound they are not told.
            served.turn_away(tell=len(self._turned_away) < MAX_TURNED_AWAY)
            self._turned_away.add(served)
        self._served.add(served)
        if self._closing:
            if not self._retiring:
                served.refuse()
            served.send_away(self._config.close_timeout, self._code)
        try:
            await served.run(accepted)
        finally:
            self._turned_away.discard(served)
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
        self._accepting.stop()
        if keep_connections:
            self._keep_connections = True
        else:
            await self._drain(self._config.drain_timeout)
            self._cut_off()
            await self._wait_until_gone()
        await self._accepting.over.wait()

    async def retire(self) -> None:
        """Leave the listening sockets to another process, and end without refusing anybody.

        For sockets that others accept from as well, as after a restart. This server accepts no
        more; opening handshakes that have begun are served to their end; connections are closed
        with 1012 (service restart, IANA registry), those of such late handshakes too. Handlers
        have ``Config.drain_timeout`` to end, and whoever is left then is cut off. In all else,
        and where it is cancelled, it is like `aclose`. ``Config.max_connections`` holds until the
        end: who came when there was no room gets 503.

        That nobody is lost goes for sockets, also those in AnyIO's own listeners. Other listeners,
        as AnyIO's for TLS, may lose a client when they are told to stop: give sockets, and an
        ``ssl_context``.
        """
        begins = not self._closing
        # Not taken back where another task has begun it.
        self._retiring |= begins
        try:
            await self.aclose()
        except BaseException:
            # There is no more time for handshakes.
            self._retiring &= not begins
            raise

    @property
    def _code(self) -> CloseCode:
        return CloseCode.SERVICE_RESTART if self._retiring else CloseCode.GOING_AWAY

    def _hurry(self) -> bool:
        """Cut off whoever is left, and have nobody wait any more; tell whether anybody was."""
        self._drained_by = -math.inf
        self._cut_off()
        return bool(self._served)

    async def _drain(self, timeout: float | None) -> None:
        """Send everybody away, and give handlers until then, or until an earlier time given."""
        self._closing = True
        if timeout is not None:
            self._drained_by = min(self._drained_by, current_time() + timeout)
        if not self._retiring:
            for served in self._served:
                served.refuse()
            self._arrivals.cut_off()
        # Who is sent away may come back at once, and is not to find an open door.
        try:
            with move_on_at(self._drained_by):
                await self._accepting.over.wait()
        finally:
            for served in self._served:
                served.send_away(timeout, self._code)
        with move_on_at(self._drained_by):
            await self._wait_until_gone()

    def _cut_off(self) -> None:
        """Cancel the handlers that are left, and cut their streams."""
        for served in self._served:
            served.cut_off()
        self._arrivals.cut_off()

    async def _wait_until_gone(self) -> None:
        # Who is still at a listener's own handshake is waited for only where it is to be served.
        while self._served or (self._retiring and self._arrivals.any_left):
            if not self._served:
                await self._arrivals.wait_until_gone()
                continue
            if self._all_gone.is_set():
                self._all_gone = Event()
            await self._all_gone.wait()


class _Serving:
    """The context manager of a server."""

    def __init__(
        self,
        server: Server,
        place: Place | None,
        listeners: list[Listener[Any] | socket.socket] | None,
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
            listeners = await listeners_of(self._given)
        else:
            assert self._place is not None
            listeners = await listen(self._place)
        server._addresses = [one.extra(SocketAttribute.local_address, None) for one in listeners]
        server._task_group = create_task_group()
        await server._task_group.__aenter__()
        server._arrivals = Arrivals(server._task_group)
        server._accepting.begin(listeners, server._task_group, server._arrivals, server._serve)
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
                        server._accepting.stop()
                        await server._drain(server._config.cancel_grace)
                finally:
                    server._cut_off()
        except cancelled:
            if exc is None:
                raise
        finally:
            finished.set()
            await leave_task_group(server._task_group, finished, exc)

"""Ways in: a listening socket becomes `WebSocket`s, each with a handler in a thread of its own.

**Threads.** One accepts from every listening socket (`_acceptor.py`). Each connection has one, which
does the opening handshake, runs the handler and closes.

**The end**, in this order: nothing more is accepted, half-open handshakes are refused with 503,
Close 1001 is sent to every connection, handlers get until the deadline to end, then the streams
are cut. A thread cannot be cancelled: a handler that waits for its connection ends with that; one
that does something else is waited for no longer than another `Config.cancel_grace`, and named in
the log. Several threads may close at once: the nearest of their deadlines is that of all.

**Interrupts.** One that comes while the end is waited for cuts all connections.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from .._close import Close, CloseCode
from .._config import MAX_TURNED_AWAY, as_config
from .._counters import Tally
from .._errors import HandshakeError
from .._handlers import call_at_once, no_coroutines
from .._listening import Listening, Place, check_listening
from .._observed import count_refused, note_refused
from .._policy import NO_ROOM, TOO_MANY, Policy, hooks_of, peer_of
from .._protocol.notes import call_on_end
from .._routes import make_table
from .._transports.blocking_stream import network_may_fail
from ._accept import Refused, accept, turn_away
from ._acceptor import Acceptor, wait_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .._config import Config
    from .._counters import Totals
    from .._listening import Hosts
    from .._protocol.http import HeadersLike, Reject, Request, Response
    from .._protocol.origin import Origins
    from .._routes import Routes, Table
    from ._websocket import WebSocket

__all__ = ["Handler", "HandlersLike", "OnRequest", "Server", "open_server", "serve"]

Handler: TypeAlias = "Callable[[WebSocket], object]"
HandlersLike: TypeAlias = "Handler | Mapping[str | None, Handler] | Mapping[str, Handler] | Routes"
OnRequest: TypeAlias = "Callable[[Request], Response | Reject | None]"
OnRequests: TypeAlias = "OnRequest | Sequence[OnRequest] | None"

_logger = logging.getLogger("anyws.server")


def serve(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    sockets: Iterable[socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequests = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
) -> None:
    """Serve WebSockets until interrupted, as by Ctrl-C.

    ::

        def echo(ws):
            for message in ws:
                ws.send(message)

        serve(echo, port=8080)

    Interrupted, it closes every connection with 1001, waits for handlers for
    ``Config.cancel_grace``, cuts the connections of those that go on, and raises the interrupt.

    Arguments and errors are those of `open_server`.
    """
    with open_server(
        handlers,
        default=default,
        host=host,
        port=port,
        sockets=sockets,
        ssl_context=ssl_context,
        on_request=on_request,
        origins=origins,
        headers=headers,
        config=config,
    ):
        # In pieces: on Windows, a wait without an end cannot be interrupted.
        while True:
            time.sleep(1)


def open_server(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    sockets: Iterable[socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequests = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
) -> AbstractContextManager[Server]:
    """Serve WebSockets in threads for the length of a ``with`` block, which gets the `Server`.

    Each connection's handler runs in a thread of its own, and is called with the `WebSocket`.
    Where it returns, the connection is closed with 1000; where it raises, that is logged with its
    traceback, the connection is closed with 1011, and no other connection notices. Leaving the
    block is `Server.close`; where its body raises, handlers have ``Config.cancel_grace`` to end.

    :param handlers: a function that takes the `WebSocket`, for everybody; or a mapping from
        subprotocols to such functions, or `anyws.Routes`, as for `anyws.open_server`
    :param sockets: listening sockets, TCP or Unix, to accept from instead of a host and port, as
        from `anyws.inherited_sockets`. The server closes them, and leaves the file of a Unix
        socket where it is
    :param on_request: a function that is shown every `Request`, in the connection's thread; or a
        sequence of such functions

    Other arguments and errors are those of `anyws.open_server`.
    """
    if (port is None) == (sockets is None):
        raise TypeError("a server needs a port=, or else sockets=")
    place = None if port is None else Place(host, port)
    given = [check_listening(one) for one in sockets or ()]
    table: Table[Handler] = make_table(handlers, default, "a function")
    for one in table:
        no_coroutines(one, "a handler of anyws.sync")
    hooks: list[Any] = []
    for hook in hooks_of(on_request):
        no_coroutines(hook, "on_request in anyws.sync")
        hooks.append(partial(call_at_once, hook, what="on_request"))
    policy = Policy.make(table.choose, hooks, origins, headers)
    server = Server(table, policy, as_config(config), ssl_context)
    return _Serving(server, lambda: given if place is None else _listen(place))


def _listen(place: Place) -> list[socket.socket]:
    return place.listen(one for host in place.hosts for one in place.addresses_of(host))


class Server(Listening):
    """A running server. Made by `open_server`."""

    def __init__(
        self,
        handlers: Table[Handler],
        policy: Policy,
        config: Config,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(secure=ssl_context is not None)
        self._handlers = handlers
        self._policy = policy
        self._config = config
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._served: dict[_Served, threading.Thread] = {}
        self._waiters: list[threading.Lock] = []  # one for each thread that waits for the end
        self._named: set[threading.Thread] = set()  # in the log, for not ending
        self._turned_away: set[_Served] = set()  # of those, whom there is no room for
        self._tally = Tally()
        self._is_closing = False
        self._deadline = math.inf  # of the handlers
        self._cut_at = math.inf  # when the connections of those that are late were cut, all of them
        self._keeps_connections = False
        self._acceptor = Acceptor()

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections whose handlers run."""
        with self._lock:
            return frozenset(s.websocket for s in self._served if s.websocket is not None)

    @property
    def totals(self) -> Totals:
        """What the server has counted over all its clients, open and gone."""
        with self._lock:
            present = [s.websocket for s in self._served if s.websocket is not None]
            return self._tally.totals([ws.counters for ws in present])

    # --- Accepting ---

    def _start(self, sockets: list[socket.socket]) -> None:
        """Accept from these sockets, which are closed in the end, or where this fails."""
        self._acceptor.start(sockets, self._take)
        self._addresses = self._acceptor.addresses

    def _take(self, sock: socket.socket, address: object) -> None:
        served = _Served(sock, address)
        if not self._has_room(served):
            return
        # The end of the process waits for it, unlike for the thread that accepts.
        thread = threading.Thread(
            target=self._serve, args=(served,), name=f"anyws {peer_of(address)}", daemon=False
        )
        with self._lock:
            if self._is_closing:
                self._turned_away.discard(served)
                sock.close()
                return
            self._served[served] = thread
        try:
            thread.start()
        except RuntimeError as error:
            _logger.warning("a client is sent away: %s", error)
            sock.close()
            self._forget(served)

    def _has_room(self, served: _Served) -> bool:
        """Tell whether the client gets a thread, be it only to be told that there is no room."""
        most = self._config.max_connections
        with self._lock:
            if most is None or len(self._served) - len(self._turned_away) < most:
                return True
            self._tally.refused += 1
            self._tally.turned_away += 1
            if len(self._turned_away) < MAX_TURNED_AWAY:
                self._turned_away.add(served)
                return True
        served.socket.close()
        self._note_no_room(served)
        return False

    # --- Serving ---

    def _serve(self, served: _Served) -> None:
        try:
            if served in self._turned_away:
                self._turn_away(served)
            else:
                self._serve_in_thread(served)
        except Exception as error:
            _logger.error("anyws failed while serving a client", exc_info=error)
        finally:
            self._forget(served)

    def _forget(self, served: _Served) -> None:
        with self._lock:
            del self._served[served]
            if served.websocket is not None:
                self._tally.add(served.websocket.counters)
            self._turned_away.discard(served)
            self._note_change()

    def _admit(self, served: _Served) -> bool:
        """Whether the client may still have its 101."""
        with self._lock:
            served.is_admitted = not self._is_closing
        return served.is_admitted

    def _note_no_room(self, served: _Served) -> None:
        note_refused(self._config, peer_of(served.address), NO_ROOM, time.monotonic())

    def _turn_away(self, served: _Served) -> None:
        self._note_no_room(served)
        with network_may_fail():
            turn_away(served.socket, TOO_MANY, self._ssl_context)

    def _serve_in_thread(self, served: _Served) -> None:
        peer = peer_of(served.address)
        try:
            ws = accept(
                served.socket,
                served.address,
                self._policy,
                self._config,
                self._ssl_context,
                lambda: self._is_closing,
                partial(self._admit, served),
            )
        except (HandshakeError, Refused, OSError) as error:
            with self._lock:
                count_refused(self._tally, error)
            note_refused(self._config, peer, error, time.monotonic())
            return
        try:
            handler = self._handlers.handler(ws.request, ws.subprotocol)
            with self._lock:
                self._tally.accepted += 1
                served.websocket = ws
                if self._is_closing:
                    ws._begin_close(CloseCode.GOING_AWAY, "")
            try:
                self._run_handler(handler, ws)
            finally:
                ws._note_end()
        finally:
            call_on_end(ws.request)

    def _run_handler(self, handler: Handler, ws: WebSocket) -> None:
        try:
            call_at_once(handler, ws, "the handler")
        except Exception as error:
            if ws._protocol.ending.is_told_by(error):
                ws._leave(Close(CloseCode.GOING_AWAY), error)
            else:
                _logger.error("the handler of %r failed", ws, exc_info=error)
                ws._leave(Close(CloseCode.INTERNAL_ERROR), error)
        except BaseException as error:
            # It asks for the end of the thread.
            ws._leave(Close(CloseCode.INTERNAL_ERROR), error)
            raise
        else:
            ws.close()

    # --- Closing ---

    def close(self, *, keep_connections: bool = False) -> None:
        """Stop listening and, unless they are kept, close the connections; wait for that.

        Half-open handshakes are refused with 503, connections closed with 1001. Handlers have
        ``Config.drain_timeout`` to end; the connections of those that have not are cut then. With
        ``keep_connections`` nothing but listening ends; leaving `open_server` then waits for the
        connections. From within a handler, it does not wait for that handler.

        Any number of threads may call it: the nearest deadline is that of all. Interrupted, what is
        open stays so until the block of `open_server` is left.
        """
        self._stop_listening()
        if keep_connections:
            self._keeps_connections = True
        else:
            self._drain(self._config.drain_timeout)

    def _stop_listening(self) -> None:
        self._acceptor.stop()

    def _drain(self, timeout: float | None) -> None:
        with self._lock:
            self._is_closing = True
            if timeout is not None:
                self._deadline = min(self._deadline, time.monotonic() + timeout)
            self._note_change()
            present = list(self._served)
        for served in present:
            served.send_away()
        if self._wait_until_gone():
            return
        self._cut()
        if not self._wait_until_gone(self._config.cancel_grace):
            self._name_late_handlers()

    def _name_late_handlers(self) -> None:
        with self._lock:
            late = [t for t in self._served.values() if t not in self._named]
            self._named.update(late)
        names = [thread.name for thread in late if thread is not threading.current_thread()]
        if names:
            _logger.warning("handlers still run: %s", ", ".join(names))

    def _cut(self) -> None:
        """Cut every connection that is left."""
        with self._lock:
            self._is_closing = True
            self._deadline = min(self._deadline, time.monotonic())
            self._note_change()
            late = list(self._served)
        for served in late:
            served.cut()
        with self._lock:
            self._cut_at = min(self._cut_at, time.monotonic())

    def _end(self, *, interrupted: bool) -> None:
        """End what the end of the block finds."""
        self._stop_listening()
        if interrupted:
            self._drain(self._config.cancel_grace)
        elif not self._keeps_connections or self._is_closing or not self._wait_until_gone():
            # Where `close` has been called, its deadline is the nearer one.
            self._drain(self._config.drain_timeout)

    def _give_up(self) -> None:
        """End at once, since an interrupt came while the end was waited for."""
        self._acceptor.wake()
        self._cut()
        self._wait_until_gone(self._config.cancel_grace)

    def _note_change(self) -> None:
        """Wake who waits for the end. The lock is held."""
        while self._waiters:
            self._waiters.pop().release()

    def _wait_until_gone(self, grace: float | None = None) -> bool:
        """Wait for the threads of the connections, but for the caller's; tell whether they ended.

        Until the deadline, which another thread may bring nearer; with a grace, for so many seconds
        after the connections were cut.
        """
        me = threading.current_thread()
        seen: set[threading.Thread] = set()
        while True:
            waiter = threading.Lock()
            waiter.acquire()
            with self._lock:
                until = self._deadline if grace is None else self._cut_at + grace
                left = until - time.monotonic()
                late = {thread for thread in self._served.values() if thread is not me}
                if late and left > 0:
                    self._waiters.append(waiter)
            seen |= late
            if not late:
                break
            if left <= 0:
                return False
            waiter.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        for thread in seen:
            # It has nothing left to do.
            wait_for(thread)
        return True


class _Served:
    """One client."""

    def __init__(self, sock: socket.socket, address: object) -> None:
        self.socket = sock
        self.address = address
        self.is_admitted = False  # it gets, or has got, its 101
        self.websocket: WebSocket | None = None  # while the handler runs

    def send_away(self) -> None:
        """Close with 1001, or wake the thread that waits for a request, so that it answers 503.

        The server closes: who is admitted already, but not served yet, sees to that itself.
        """
        if self.websocket is not None:
            self.websocket._begin_close(CloseCode.GOING_AWAY, "")
        elif not self.is_admitted:
            with network_may_fail():
                self.socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        if self.websocket is not None:
            self.websocket._transport.abort("the server had no more time", by_us=True)
            return
        with network_may_fail():
            self.socket.shutdown(socket.SHUT_RDWR)


class _Serving:
    """The context manager of a server."""

    def __init__(self, server: Server, listen: Callable[[], list[socket.socket]]) -> None:
        self._server = server
        self._listen = listen
        self._entered = False

    def __enter__(self) -> Server:
        if self._entered:
            raise RuntimeError("this context manager was entered before: make another")
        self._entered = True
        try:
            self._server._start(self._listen())
        except BaseException:
            # An interrupt may have come behind it, and clients before that.
            self._end(interrupted=True)
            raise
        return self._server

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(interrupted=exc is not None)

    def _end(self, *, interrupted: bool) -> None:
        try:
            self._server._end(interrupted=interrupted)
        except BaseException:
            self._server._give_up()
            raise

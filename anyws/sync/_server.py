"""Ways in: a listening socket becomes `WebSocket`s, each with a handler in a thread of its own.

**Threads.** One accepts from every listening socket. Each connection has one, which does the
opening handshake, runs the handler and closes.

**The end**, in this order: nothing more is accepted, half-open handshakes are refused with 503,
Close 1001 is sent to every connection, handlers get until the deadline to end, then the streams
are cut. A thread cannot be cancelled: a handler that waits for its connection ends with that; one
that does something else is waited for no longer than another `Config.cancel_grace`, and named in
the log.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from .._close import Close, CloseCode
from .._config import as_config
from .._errors import HandshakeError
from .._handlers import Handlers, call_at_once, no_coroutines
from .._listening import Listening, Place, check_listening
from .._policy import Policy, peer_of
from ._accept import Refused, accept

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .._config import Config
    from .._listening import Hosts
    from .._protocol.http import HeadersLike, Reject, Request, Response
    from .._protocol.origin import Origins
    from ._websocket import WebSocket

__all__ = ["Handler", "HandlersLike", "OnRequest", "Server", "open_server", "serve"]

Handler: TypeAlias = "Callable[[WebSocket], object]"
HandlersLike: TypeAlias = "Handler | Mapping[str | None, Handler] | Mapping[str, Handler]"
OnRequest: TypeAlias = "Callable[[Request], Response | Reject | None]"

_logger = logging.getLogger("anyws.server")

# Seconds until accepting is tried again where the system has run out of something.
_ACCEPT_PAUSE = 0.1
# Seconds that a thread may take to start.
_START_PATIENCE = 1.0


def serve(
    handlers: HandlersLike,
    *,
    default: Handler | None = None,
    host: Hosts = "localhost",
    port: int | None = None,
    sockets: Iterable[socket.socket] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequest | None = None,
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
    on_request: OnRequest | None = None,
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
        subprotocols to such functions, as for `anyws.open_server`
    :param sockets: listening sockets, TCP or Unix, to accept from instead of a host and port, as
        from `anyws.inherited_sockets`. The server closes them, and leaves the file of a Unix
        socket where it is
    :param on_request: a function that is shown every `Request`, in the connection's thread

    Other arguments and errors are those of `anyws.open_server`.
    """
    if (port is None) == (sockets is None):
        raise TypeError("a server needs a port=, or else sockets=")
    place = None if port is None else Place(host, port)
    given = [check_listening(one) for one in sockets or ()]
    table: Handlers[Handler] = Handlers(handlers, default, "a function")
    for one in table:
        no_coroutines(one, "a handler of anyws.sync")
    no_coroutines(on_request, "on_request in anyws.sync")
    ask: Any = on_request
    if callable(on_request):
        ask = partial(call_at_once, on_request, what="on_request")
    policy = Policy.make(table.choose, ask, origins, headers)
    server = Server(table, policy, as_config(config), ssl_context)
    return _Serving(server, lambda: given if place is None else _listen(place))


def _wait_for(thread: threading.Thread) -> None:
    """Wait for a thread's end, if it was started, or is about to be."""
    deadline = time.monotonic() + _START_PATIENCE
    while thread in threading.enumerate() and time.monotonic() < deadline:
        try:
            thread.join()
        except RuntimeError:
            time.sleep(0.001)  # not yet; or never, where an interrupt came in the middle


def _listen(place: Place) -> list[socket.socket]:
    return place.listen(one for host in place.hosts for one in place.addresses_of(host))


class Server(Listening):
    """A running server. Made by `open_server`."""

    def __init__(
        self,
        handlers: Handlers[Handler],
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
        self._is_closing = False
        self._keeps_connections = False
        self._acceptor: threading.Thread | None = None
        self._alarm: socket.socket  # what is written to it wakes the thread that accepts

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections whose handlers run."""
        with self._lock:
            return frozenset(s.websocket for s in self._served if s.websocket is not None)

    # --- Accepting ---

    def _start(self, sockets: list[socket.socket]) -> None:
        ours = list(sockets)
        try:
            self._alarm, alarmed = socket.socketpair()
            ours += self._alarm, alarmed
            self._addresses = [sock.getsockname() for sock in sockets]
            for sock in sockets:
                sock.setblocking(False)
            # No process waits for it at its end.
            self._acceptor = threading.Thread(
                target=self._accept, args=(sockets, alarmed), name="anyws acceptor", daemon=True
            )
            self._acceptor.start()
        except BaseException:
            self._undo_start(ours)
            raise

    def _undo_start(self, ours: list[socket.socket]) -> None:
        """Leave nothing of a start that failed, or that an interrupt hit, behind its end perhaps."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            self._alarm.close()
            _wait_for(acceptor)
        for sock in ours:
            sock.close()

    def _accept(self, sockets: list[socket.socket], alarmed: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            try:
                for sock in (*sockets, alarmed):
                    selector.register(sock, selectors.EVENT_READ)
            except ValueError:
                return  # they were closed before this had begun
            while True:
                ready: list[Any] = [key.fileobj for key, _ in selector.select()]
                if alarmed in ready:
                    break
                for sock in ready:
                    self._accept_one(sock)
        for sock in (*sockets, alarmed, self._alarm):
            sock.close()

    def _accept_one(self, listening: socket.socket) -> None:
        try:
            sock, address = listening.accept()
        except BlockingIOError:
            return  # it has left
        except OSError as error:
            _logger.warning("accepting a connection failed, trying again: %s", error)
            time.sleep(_ACCEPT_PAUSE)
            return
        served = _Served(sock, address)
        # The end of the process waits for it, unlike for the thread that accepts.
        thread = threading.Thread(
            target=self._serve, args=(served,), name=f"anyws {peer_of(address)}", daemon=False
        )
        with self._lock:
            self._served[served] = thread
        try:
            thread.start()
        except RuntimeError as error:
            _logger.warning("a client is sent away: %s", error)
            sock.close()
            self._forget(served)

    # --- Serving ---

    def _serve(self, served: _Served) -> None:
        try:
            self._serve_in_thread(served)
        except Exception as error:
            _logger.error("anyws failed while serving a client", exc_info=error)
        finally:
            self._forget(served)

    def _forget(self, served: _Served) -> None:
        with self._lock:
            del self._served[served]

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
            )
        except (HandshakeError, Refused, OSError) as error:
            _logger.info("%s: no WebSocket: %s", peer, str(error) or repr(error))
            return
        handler = self._handlers.handler(ws.request.subprotocols, ws.subprotocol)
        with self._lock:
            served.websocket = ws
            if self._is_closing:
                ws._begin_close(CloseCode.GOING_AWAY, "")
        try:
            call_at_once(handler, ws, "the handler")
        except Exception as error:
            if ws._protocol.ending.is_told_by(error):
                _logger.info("%r", ws)
                ws._leave(Close(CloseCode.GOING_AWAY))
            else:
                _logger.error("the handler of %r failed", ws, exc_info=error)
                ws._leave(Close(CloseCode.INTERNAL_ERROR))
        except BaseException:
            # It asks for the end of the thread.
            ws._leave(Close(CloseCode.INTERNAL_ERROR))
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
        """
        self._stop_listening()
        if keep_connections:
            self._keeps_connections = True
        else:
            self._drain(self._config.drain_timeout)

    def _stop_listening(self) -> None:
        self._wake_acceptor()
        if self._acceptor is not None and self._acceptor is not threading.current_thread():
            self._acceptor.join()

    def _wake_acceptor(self) -> None:
        """Have the thread that accepts close its sockets and end."""
        if self._acceptor is not None:
            with contextlib.suppress(OSError):
                self._alarm.send(b"\0")

    def _drain(self, timeout: float | None) -> None:
        with self._lock:
            self._is_closing = True
            present = list(self._served)
        for served in present:
            served.send_away()
        if self._wait_until_gone(timeout):
            return
        with self._lock:
            late = dict(self._served)
        for served in late:
            served.cut()
        if not self._wait_until_gone(self._config.cancel_grace):
            with self._lock:
                names = [thread.name for thread in self._served.values()]
            _logger.warning("handlers still run: %s", ", ".join(names))

    def _wait_until_gone(self, timeout: float | None) -> bool:
        """Wait for the threads of the connections, but for the caller's; tell whether they ended."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        me = threading.current_thread()
        with self._lock:
            threads = [thread for thread in self._served.values() if thread is not me]
        for thread in threads:
            thread.join(max(min(deadline - time.monotonic(), threading.TIMEOUT_MAX), 0))
        return not any(thread.is_alive() for thread in threads)


class _Served:
    """One client."""

    def __init__(self, sock: socket.socket, address: object) -> None:
        self.socket = sock
        self.address = address
        self.websocket: WebSocket | None = None  # while the handler runs

    def send_away(self) -> None:
        """Close with 1001, or wake the thread that waits for a request, so that it answers 503."""
        if self.websocket is not None:
            self.websocket._begin_close(CloseCode.GOING_AWAY, "")
            return
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        if self.websocket is not None:
            self.websocket._transport.abort("the server had no more time", by_us=True)
            return
        with contextlib.suppress(OSError):
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
            self._server._stop_listening()
            self._server._drain(self._server._config.cancel_grace)
            raise
        return self._server

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        server = self._server
        try:
            server._stop_listening()
        except BaseException:
            # An interrupt: nobody waits, but nothing is accepted any more.
            server._wake_acceptor()
            raise
        if exc is not None:
            server._drain(server._config.cancel_grace)
        elif server._is_closing:
            pass  # by `close`, which has waited as long as there is any use in that
        elif server._keeps_connections:
            server._wait_until_gone(None)
        else:
            server._drain(server._config.drain_timeout)

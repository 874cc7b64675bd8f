"""WebSocket for structured concurrency: one library for asyncio and Trio.

A map of the house, from the top down; data goes out this way and comes in the other::

    _cli/                        the command
    sync/                        a face for programs without an event loop
    callbacks/                   a face for programs with a main loop of their own
    testing/                     for tests of programs: pairs in memory, faults, virtual time
    _client.py  _target.py  _proxy.py  _reconnect.py
                                 ways in: a URL becomes a WebSocket, or one after another
    _server.py  _listening.py  _accepting.py  _served.py  _accept.py  _asked.py
                                 ways in: a listener becomes WebSockets with handlers
    _handlers.py  _routes.py  _policy.py  _hooks.py
                                 which handler that is, and who gets in
    _broadcast.py  _byte_stream.py
                                 a message to many at once; a connection without messages
    _connection.py               who owns a connection, and how it is left
    _websocket.py  _fragments.py  _handshake.py
                                 what a program has of it
    _keepalive.py                when to ping, and when to give up
    _observed.py                 what is counted, logged and traced of it
    _transports/                 who moves the bytes
    _protocol/                   no I/O and no clock: wsproto, and what it leaves to its callers
    _close.py  _config.py  _errors.py  _counters.py  _trace.py
                                 words: codes, limits, exceptions, figures
"""

from ._accept import wrap_server_stream
from ._broadcast import BroadcastResult, broadcast
from ._byte_stream import WebSocketByteStream
from ._client import connect_websocket, open_websocket, wrap_client_stream
from ._close import Close, CloseCode, Closure, Role, Status
from ._config import Backlog, Backoff, Config, Deflate
from ._counters import Counters, Totals
from ._errors import (
    ClosedByPeer,
    ClosedByUs,
    ClosedWithError,
    ConnectionBroken,
    ConnectionClosed,
    HandshakeError,
    HandshakeInvalid,
    HandshakeRejected,
    HandshakeTimeout,
    InvalidURL,
    ProxyError,
    TooManyRedirects,
    WebSocketError,
)
from ._fragments import FragmentReceiver, FragmentSender
from ._handlers import Handler, HandlersLike
from ._handshake import WebSocketAttribute
from ._hooks import AllowedHosts, BasicAuth, BearerAuth, PerAddressLimit
from ._listening import inherited_sockets
from ._policy import OnRequest, OnRequests
from ._protocol.http import Headers, HeadersLike, Redirect, Reject, Request, Response
from ._protocol.origin import Origins
from ._protocol.proxies import Proxy, ProxyLike
from ._reconnect import Interruption, Reconnecting, reconnecting
from ._routes import RouteLike, Routes
from ._server import Server, open_server, serve
from ._trace import Trace, TraceEvent
from ._websocket import WebSocket

__all__ = [
    "AllowedHosts",
    "Backlog",
    "Backoff",
    "BasicAuth",
    "BearerAuth",
    "BroadcastResult",
    "Close",
    "CloseCode",
    "ClosedByPeer",
    "ClosedByUs",
    "ClosedWithError",
    "Closure",
    "Config",
    "ConnectionBroken",
    "ConnectionClosed",
    "Counters",
    "Deflate",
    "FragmentReceiver",
    "FragmentSender",
    "Handler",
    "HandlersLike",
    "HandshakeError",
    "HandshakeInvalid",
    "HandshakeRejected",
    "HandshakeTimeout",
    "Headers",
    "HeadersLike",
    "Interruption",
    "InvalidURL",
    "OnRequest",
    "OnRequests",
    "Origins",
    "PerAddressLimit",
    "Proxy",
    "ProxyError",
    "ProxyLike",
    "Reconnecting",
    "Redirect",
    "Reject",
    "Request",
    "Response",
    "Role",
    "RouteLike",
    "Routes",
    "Server",
    "Status",
    "TooManyRedirects",
    "Totals",
    "Trace",
    "TraceEvent",
    "WebSocket",
    "WebSocketAttribute",
    "WebSocketByteStream",
    "WebSocketError",
    "broadcast",
    "connect_websocket",
    "inherited_sockets",
    "open_server",
    "open_websocket",
    "reconnecting",
    "serve",
    "wrap_client_stream",
    "wrap_server_stream",
]
# Errors and reprs name what a program imports, not the rooms of the house.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("anyws."):
        globals()[_name].__module__ = "anyws"
del _name

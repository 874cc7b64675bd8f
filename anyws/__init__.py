"""WebSocket for structured concurrency: one library for asyncio and Trio.

A map of the house, from the top down; data goes out this way and comes in the other::

    _cli.py                      the command
    sync/                        a face for programs without an event loop
    callbacks/                   a face for programs with a main loop of their own
    testing/                     for tests of programs: pairs in memory, faults, virtual time
    _client.py  _target.py  _proxy.py
                                 ways in: a URL becomes a WebSocket
    _server.py  _served.py  _accept.py  _handlers.py  _listening.py
                                 ways in: a listener becomes WebSockets with handlers
    _connection.py               who owns a connection, and how it is left
    _websocket.py  _fragments.py  _handshake.py
                                 what a program has of it
    _keepalive.py                when to ping, and when to give up
    _transports/                 who moves the bytes
    _protocol/                   no I/O and no clock: wsproto, and what it leaves to its callers
    _close.py  _config.py  _errors.py
                                 words: codes, limits, exceptions
"""

from ._accept import wrap_server_stream
from ._client import connect_websocket, open_websocket, wrap_client_stream
from ._close import Close, CloseCode, Closure, Role, Status
from ._config import Config, Deflate
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
from ._policy import OnRequest
from ._protocol.http import Headers, HeadersLike, Redirect, Reject, Request, Response
from ._protocol.origin import Origins
from ._protocol.proxies import Proxy, ProxyLike
from ._server import Server, open_server, serve
from ._websocket import WebSocket

__all__ = [
    "Close",
    "CloseCode",
    "ClosedByPeer",
    "ClosedByUs",
    "ClosedWithError",
    "Closure",
    "Config",
    "ConnectionBroken",
    "ConnectionClosed",
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
    "InvalidURL",
    "OnRequest",
    "Origins",
    "Proxy",
    "ProxyError",
    "ProxyLike",
    "Redirect",
    "Reject",
    "Request",
    "Response",
    "Role",
    "Server",
    "Status",
    "TooManyRedirects",
    "WebSocket",
    "WebSocketAttribute",
    "WebSocketError",
    "connect_websocket",
    "open_server",
    "open_websocket",
    "serve",
    "wrap_client_stream",
    "wrap_server_stream",
]
# Errors and reprs name what a program imports, not the rooms of the house.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("anyws."):
        globals()[_name].__module__ = "anyws"
del _name

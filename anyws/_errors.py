"""Every exception of the library's own. Each says what happened and whose doing it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

if TYPE_CHECKING:
    from ._close import Closure
    from ._protocol.http import Response

__all__ = [
    "ClosedByPeer",
    "ClosedByUs",
    "ClosedWithError",
    "ConnectionBroken",
    "ConnectionClosed",
    "HandshakeError",
    "HandshakeInvalid",
    "HandshakeRejected",
    "HandshakeTimeout",
    "InvalidURL",
    "ProxyError",
    "TooManyRedirects",
    "WebSocketError",
]


class WebSocketError(Exception):
    """The base of every exception that only this library raises."""


class InvalidURL(WebSocketError, ValueError):
    """The caller's URL is not one of a WebSocket (RFC 6455, section 3). Nothing was sent."""


class HandshakeError(WebSocketError):
    """The opening handshake did not succeed: the connection was never open."""


class HandshakeRejected(HandshakeError):
    """The server understood and answered with another status than 101.

    ``response`` has its status, its headers and its body, the latter cut at a bound. A redirect
    that is not followed is such an answer, too, and the message says why not.
    """

    def __init__(self, response: Response, why: str = "") -> None:
        self.response = response
        message = f"the server refused the WebSocket: {response.describe()}"
        super().__init__(f"{message}; {why}" if why else message)


class HandshakeInvalid(HandshakeError):
    """The peer's half of the handshake broke HTTP or RFC 6455; the message says where.

    ``cut_short`` tells whether it only ended too soon: the peer left, or the network was lost.
    """

    def __init__(self, *args: object, cut_short: bool = False) -> None:
        self.cut_short = cut_short
        super().__init__(*args)


class HandshakeTimeout(HandshakeError, TimeoutError):
    """The handshake was not over after ``Config.handshake_timeout`` seconds."""


class TooManyRedirects(HandshakeError):
    """The servers sent the client on more often than ``Config.max_redirects`` allows.

    ``response`` is the last one's, with the redirects that led there in ``response.redirects``.
    """

    def __init__(self, response: Response) -> None:
        self.response = response
        followed = len(response.redirects)
        times = "one redirect" if followed == 1 else f"{followed} redirects"
        super().__init__(f"the server redirects once more after {times}: {response.describe()}")


class ProxyError(HandshakeError):
    """There is no way through the proxy; the message says whose doing that is.

    proxy:
        Which one, without its credentials.
    status:
        What it answered, where it did: the status of HTTP (407, 502), or the code of SOCKS.
    response:
        The answer of an HTTP proxy, without a body; ``None`` otherwise.
    transient:
        Whether it may well be different the next time: the proxy could not be reached, or could
        not reach the server. False where it refuses, breaks its protocol, or is set up wrongly.

    Where python-socks is not installed, it is an `ImportError` as well.
    """

    def __init__(
        self,
        message: str,
        *,
        proxy: str = "",
        status: int | None = None,
        response: Response | None = None,
        transient: bool = False,
    ) -> None:
        self.proxy = proxy
        self.status = status
        self.response = response
        self.transient = transient
        super().__init__(message)


class ConnectionClosed(WebSocketError):
    """The connection is closed or closing: no more can be sent, or no more received.

    ``closure`` tells how it ended. Every raise has an instance of its own.
    """

    # Of which connection, for whoever has to tell: see `Ending.is_told_by`.
    _token: object = None

    def __init__(self, closure: Closure) -> None:
        self.closure = closure
        super().__init__(closure.cause)


class ClosedByPeer(ConnectionClosed, EndOfStream, BrokenResourceError):
    """The peer closed with 1000, 1001 or no code: ``async for`` just ends."""


class ClosedWithError(ConnectionClosed, BrokenResourceError):
    """The peer closed properly, with a code that reports an error or one of the application's."""


class ClosedByUs(ConnectionClosed, ClosedResourceError):
    """This side had closed the connection before."""


class ConnectionBroken(ConnectionClosed, BrokenResourceError):
    """No closing handshake: a violation, a limit, a lost network or a write that stalled."""

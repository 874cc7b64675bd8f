"""Ways in: a URL becomes a `WebSocket`."""

from __future__ import annotations

import math
import socket
import ssl
import time
from typing import TYPE_CHECKING

from anyio import ConnectionFailed

from .._close import Close, CloseCode, Role
from .._config import as_config
from .._errors import HandshakeInvalid, HandshakeRejected
from .._handshake import Handshake
from .._target import Arguments, Target
from .._transports.blocking_stream import BlockingStream, OutOfTime, is_interruption
from ._made import make_websocket
from ._proxy import ask, reach

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from .._config import Config
    from .._protocol.http import HeadersLike, Response
    from .._protocol.proxies import ProxyLike
    from .._target import Attempt
    from ._websocket import WebSocket

__all__ = ["open_websocket"]


def open_websocket(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeadersLike | None = None,
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: ProxyLike = True,
    port: int | None = None,
    config: Config | None = None,
) -> AbstractContextManager[WebSocket]:
    """Open a WebSocket for the length of a ``with`` block, which owns it.

    ::

        with open_websocket("wss://example.com/feed") as ws:
            ws.send("hello")
            print(ws.receive())

    Leaving the block closes the connection: with 1000 and waiting for the peer's Close where the
    body returns, with 1001 and a short grace (``Config.cancel_grace``) where it raises, Ctrl-C
    included; a `ConnectionClosed` of this connection's shortens nothing. What the body raises
    leaves the block as it is.

    Arguments and errors are those of `anyws.open_websocket`. `HandshakeTimeout` is raised when
    looking up the name, connecting, proxies, TLS, the opening handshake and redirects together have
    taken longer than ``Config.handshake_timeout``. A lookup in the system's resolver cannot be
    broken off: where it takes longer than that, `HandshakeTimeout` is raised when it is over.

    Interrupted while it opens, the socket is closed. (RFC 6455, section 4.1.)
    """
    return _Opening(
        Target(url, port, ssl_context, proxy),
        Arguments(subprotocols, headers, origin),
        as_config(config),
    )


class _Opening:
    def __init__(self, target: Target, arguments: Arguments, config: Config) -> None:
        self._target = target
        self._arguments = arguments
        self._config = config
        # Errors in the arguments are the caller's, and raised where the caller stands.
        self._first: Attempt | None = target.attempt(arguments, config)
        self._websocket: WebSocket | None = None

    def __enter__(self) -> WebSocket:
        if self._websocket is not None:
            raise RuntimeError("this context manager is entered already: make another")
        attempt = self._first or self._target.attempt(self._arguments, self._config)
        self._first = None
        timeout = self._config.handshake_timeout
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        try:
            self._websocket = _open(self._target, attempt, self._config, deadline)
        except OutOfTime:
            raise attempt.late(timeout) from None
        except OSError as error:
            self._target.explain(error, attempt.url)
            raise
        return self._websocket

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        websocket, self._websocket = self._websocket, None
        assert websocket is not None
        try:
            if exc is None:
                websocket.close()
            else:
                websocket._leave(Close(CloseCode.GOING_AWAY), exc)
        finally:
            websocket._note_end()


def _open(target: Target, attempt: Attempt, config: Config, deadline: float) -> WebSocket:
    while True:
        try:
            return _open_once(target, attempt, config, deadline)
        except HandshakeRejected as refusal:
            attempt.follow(refusal)


def _open_once(target: Target, attempt: Attempt, config: Config, deadline: float) -> WebSocket:
    url = attempt.url
    proxy = target.choose(attempt)
    if proxy is None:
        sock = _connect(url.host, url.port, deadline)
    else:
        sock = reach(proxy, deadline, _connect)
    try:
        stream = BlockingStream(sock)
        if proxy is not None:
            ask(proxy, target.proxy_tls(proxy), url, stream, deadline)
        if (context := target.tls(url)) is not None:
            try:
                stream.start_tls(context, deadline, server_hostname=url.host)
            except ConnectionError as error:
                if is_interruption(error):
                    raise
                raise ConnectionError(f"{url.authority} left during the TLS handshake") from None
        handshake = attempt.handshake
        try:
            response = _shake_hands(stream, attempt, deadline)
        except OSError as error:
            if isinstance(error, OutOfTime) or is_interruption(error):
                raise
            if isinstance(error, ssl.SSLError):
                # A server that wants a certificate refuses a client of TLS 1.3 after that has
                # taken the handshake of TLS for done.
                raise
            if handshake.rejected is not None:
                raise HandshakeRejected(handshake.rejected) from error
            raise HandshakeInvalid(
                f"the connection to {url.authority} was lost during the opening handshake",
                cut_short=True,
            ) from error
        settled = Handshake(
            handshake.request, response, subprotocol=handshake.subprotocol, peer=url.safe
        )
        return make_websocket(
            Role.CLIENT, stream, config, settled, handshake.deflate, handshake.trailing_data
        )
    except BaseException:
        sock.close()
        raise


def _shake_hands(stream: BlockingStream, attempt: Attempt, deadline: float) -> Response:
    handshake = attempt.handshake
    stream.send_all(stream.wrap(handshake.request_bytes()), deadline)
    response = None
    while response is None:
        if stream.eof:
            handshake.receive_eof()
        elif stream.fetch_in_time(deadline):
            response = attempt.receive_data(stream.take())
    return response


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect over TCP, to the first of the host's addresses that answers.

    Raises OSError, of which OutOfTime is: also where the lookup, which nobody can break off, has
    taken all the time.
    """
    errors: list[OSError] = []
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, number, _, address) in enumerate(infos):
        if time.monotonic() >= deadline:
            raise OutOfTime
        sock: socket.socket | None = None
        try:
            # The system may know nothing of one family.
            sock = socket.socket(family, kind, number)
            if deadline < math.inf:
                # One that does not answer leaves time for those behind it.
                left = (deadline - time.monotonic()) / (len(infos) - index)
                sock.settimeout(max(left, 0.001))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
            return sock
        except OSError as error:
            if sock is not None:
                sock.close()
            if is_interruption(error):
                raise
            errors.append(error)
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    if time.monotonic() >= deadline:
        raise OutOfTime
    cause = errors[0] if len(errors) == 1 else ExceptionGroup("each address failed", errors)
    words = "; ".join(dict.fromkeys(str(error.strerror or error) for error in errors))
    raise ConnectionFailed(f"cannot connect to {host} port {port}: {words}") from cause

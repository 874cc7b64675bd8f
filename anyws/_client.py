"""Ways in: a URL, or a stream, becomes a `WebSocket`."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from anyio import (
    TASK_STATUS_IGNORED,
    BrokenResourceError,
    EndOfStream,
    aclose_forcefully,
    move_on_after,
)

from ._close import Role
from ._config import CHUNK_BYTES, as_config
from ._connection import Connection, Opening
from ._errors import HandshakeInvalid, HandshakeRejected
from ._handshake import Handshake
from ._protocol.url import parse_url
from ._proxy import connect_through
from ._target import Arguments, Attempt, Target, explain_tls
from ._transports.holding import hold_back
from ._transports.sockets import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteStream, TaskGroup, TaskStatus

    from ._config import Config
    from ._protocol.http import HeadersLike
    from ._protocol.proxies import ProxyLike
    from ._websocket import WebSocket

__all__ = ["connect_websocket", "open_websocket", "wrap_client_stream"]


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
) -> AbstractAsyncContextManager[WebSocket]:
    """Open a WebSocket for the length of an ``async with`` block, which owns it.

    ::

        async with open_websocket("wss://example.com/feed") as ws:
            await ws.send("hello")
            print(await ws.receive())

    Leaving the block closes the connection: with 1000 and waiting for the peer's Close where the
    body returns, with 1001 and a short grace (``Config.cancel_grace``) where it raises or is
    cancelled. What the body raises leaves the block as it is.

    :param url: ``ws://`` or ``wss://``; user information in it is sent as Basic authorization
    :param subprotocols: offered to the server, the preferred first
    :param headers: more headers for the request: a mapping, pairs, or one string of lines with
        CRLF between them
    :param origin: the ``Origin`` header, for servers that ask for one
    :param ssl_context: for ``wss://``; default: certificates are verified, TLS 1.2 at least
    :param proxy: the URL of a proxy, or a `Proxy`; ``None`` for none. Default: the one that the
        environment names (``HTTPS_PROXY``, ``ALL_PROXY`` and so on), unless ``NO_PROXY`` does
    :param port: instead of the URL's
    :param config: limits, timeouts, compression and redirects
    :raises ValueError: an argument is wrong, `InvalidURL` for the URL (the caller's fault);
        nothing was sent
    :raises OSError: name resolution, connecting or TLS failed (the network, or the server)
    :raises HandshakeRejected: the server answered with another status than 101
    :raises HandshakeInvalid: the server's answer is none of a WebSocket server
    :raises ProxyError: there is no way through the proxy
    :raises TooManyRedirects: there were more than ``Config.max_redirects``, and that is not 0
    :raises HandshakeTimeout: all that took longer than ``Config.handshake_timeout``

    Cancelled while it opens, the socket is closed. (RFC 6455, section 4.1.)
    """
    return _ClientOpening(
        _TCP(Target(url, port, ssl_context, proxy)),
        Arguments(subprotocols, headers, origin),
        config,
    )


def wrap_client_stream(
    stream: ByteStream,
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeadersLike | None = None,
    origin: str | None = None,
    config: Config | None = None,
) -> AbstractAsyncContextManager[WebSocket]:
    """Open a WebSocket over any AnyIO byte stream: a tunnel, a Unix socket, TLS of one's own.

    The stream belongs to the block from entering on and is closed with it. It has to lose nothing
    when its `receive` is cancelled, as AnyIO's own streams do.

    :param stream: connected, with nothing sent on it
    :param url: what to ask the server for; nothing is resolved, connected or encrypted
    :param config: as ever; redirects are not followed, since a stream leads to one place

    Otherwise like `open_websocket`.
    """
    return _ClientOpening(_Given(stream, url), Arguments(subprotocols, headers, origin), config)


async def connect_websocket(
    task_group: TaskGroup,
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeadersLike | None = None,
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: ProxyLike = True,
    port: int | None = None,
    config: Config | None = None,
) -> WebSocket:
    """Open a WebSocket that the caller's task group owns.

    One task in the group stands for the connection. Cancelling the group closes it with 1001 and
    a short grace; leaving the group's block waits until it is closed, as for any child: close it.
    Dropped while the group lives, it is aborted, with a `ResourceWarning`.

    Arguments and errors are those of `open_websocket`. An error is raised here, never in the
    group. Cancelled while it opens, the socket is closed.
    """
    opening = _ClientOpening(
        _TCP(Target(url, port, ssl_context, proxy)),
        Arguments(subprotocols, headers, origin),
        config,
    )
    name = f"anyws connection to {opening.url.safe}"
    # Not through `started`: both backends keep its value for as long as the task lives, and the
    # program is to be the only one to hold the connection.
    made: list[WebSocket] = []
    try:
        await task_group.start(opening.run, made.append, name=name)
    except BaseException:
        for websocket in made:
            websocket.abort()
        raise
    return made.pop()


class _TCP:
    """The streams that URLs name."""

    def __init__(self, target: Target) -> None:
        self.url = target.url
        self._target = target

    def attempt(self, arguments: Arguments, config: Config) -> Attempt:
        return self._target.attempt(arguments, config)

    async def open(self, attempt: Attempt) -> ByteStream:
        target, url = self._target, attempt.url
        try:
            proxy = target.choose(attempt)
            if proxy is None:
                return await connect(url.host, url.port, target.tls(url), url.authority)
            return await connect_through(proxy, target.proxy_tls(proxy), url, target.tls(url))
        except OSError as error:
            target.explain(error, url)
            raise


class _Given:
    """A stream of the caller's."""

    def __init__(self, stream: ByteStream, url: str) -> None:
        self.url = parse_url(url)
        self._stream = stream

    def attempt(self, arguments: Arguments, config: Config) -> Attempt:
        return Attempt(self.url, arguments, config, is_tied=True)

    async def open(self, attempt: Attempt) -> ByteStream:
        hold_back(self._stream)
        return self._stream


class _ClientOpening(Opening):
    def __init__(self, source: _TCP | _Given, arguments: Arguments, config: Config | None) -> None:
        super().__init__()
        self.url = source.url
        self._source = source
        self._arguments = arguments
        self._config = as_config(config)
        # Errors in the arguments are the caller's, and raised where the caller stands.
        self._first: Attempt | None = source.attempt(arguments, self._config)

    async def run(
        self,
        hand_over: Callable[[WebSocket], None],
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Be the task that stands for a connection: it ends when that is closed."""
        connection = await self.connect()
        async with connection:
            hand_over(connection.websocket())
            task_status.started()
            await connection.transport.closed.wait()

    async def connect(self) -> Connection:
        timeout = self._config.handshake_timeout
        attempt = self._first or self._source.attempt(self._arguments, self._config)
        self._first = None
        with move_on_after(timeout):
            while True:
                stream = await self._source.open(attempt)
                try:
                    return await self._shake_hands(stream, attempt)
                except HandshakeRejected as refusal:
                    await aclose_forcefully(stream)
                    attempt.follow(refusal)
                except BaseException:
                    await aclose_forcefully(stream)
                    raise
        raise attempt.late(timeout)

    async def _shake_hands(self, stream: ByteStream, attempt: Attempt) -> Connection:
        handshake = attempt.handshake
        try:
            await stream.send(handshake.request_bytes())
            response = None
            while response is None:
                response = attempt.receive_data(await stream.receive(CHUNK_BYTES))
        except EndOfStream:
            handshake.receive_eof()
        except ssl.SSLError as error:
            # A server that wants a certificate refuses a client of TLS 1.3 after that has taken
            # the handshake of TLS for done.
            explain_tls(error, attempt.url.authority)
            raise
        except BrokenResourceError as error:
            if handshake.rejected is not None:
                raise HandshakeRejected(handshake.rejected) from error
            cause = error.__cause__
            if isinstance(cause, ssl.SSLEOFError):
                # Cut off without a word: so end most streams without TLS, too.
                handshake.receive_eof()
            if isinstance(cause, ssl.SSLError):
                explain_tls(cause, attempt.url.authority)
                raise cause from None
            raise HandshakeInvalid(
                f"the connection to {attempt.url.authority} was lost during the opening handshake",
                cut_short=True,
            ) from error
        return Connection(
            Role.CLIENT,
            stream,
            self._config,
            Handshake(
                handshake.request,
                response,
                subprotocol=handshake.subprotocol,
                peer=attempt.url.safe,
            ),
            negotiated=handshake.deflate,
            trailing_data=handshake.trailing_data,
        )

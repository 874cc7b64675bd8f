"""The way through a proxy: a stream to the server, over one to the proxy.

python-socks says to the proxy what there is to say. It gets a stream of ours for that (`_Talk`),
so what it may do is send and receive: connecting, TLS, time and closing are here. Both kinds of TLS,
that with the proxy and that with the server within it, are AnyIO's, on every event loop.
"""

from __future__ import annotations

import math
import ssl
from typing import TYPE_CHECKING, Any

from anyio import EndOfStream, aclose_forcefully

from ._config import CHUNK_BYTES
from ._errors import ProxyError
from ._protocol.proxies import (
    HTTP,
    SOCKS4,
    ConnectAnswer,
    lost,
    malformed,
    refused_by_socks,
    spoke_early,
    unreachable,
)
from ._target import explain_failure
from ._transports.errors import STREAM_ERRORS, is_tls_verdict
from ._transports.sockets import connect_plainly, encrypt

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from ._protocol.proxies import Proxy
    from ._protocol.url import URL

__all__ = [
    "arguments_for",
    "connect_through",
    "lost_because",
    "missing",
    "unreachable_because",
]


class _ExtraMissing(ProxyError, ImportError):
    """The proxy is asked for, and what speaks to proxies is not installed."""


_ExtraMissing.__name__ = _ExtraMissing.__qualname__ = "ProxyError"
_ExtraMissing.__module__ = "anyws"


async def connect_through(
    proxy: Proxy, proxy_tls: ssl.SSLContext | None, url: URL, tls: ssl.SSLContext | None
) -> ByteStream:
    """Connect to the server that a URL names, through a proxy, and with TLS if there is a context.

    proxy_tls:
        The context for TLS with the proxy, where there is to be any.

    Raises `ProxyError` for what the proxy does, and OSError for the TLS of the server, or where
    its name is to be looked up here and is not found. Cancelled, nothing is left open.
    """
    make = _proxy_class(proxy)
    stream = await _reach(proxy, proxy_tls)
    try:
        await _ask(make, proxy, url, stream)
    except BaseException:
        await aclose_forcefully(stream)
        raise
    if tls is None:
        return stream
    return await encrypt(stream, tls, url.host, url.authority)


def _proxy_class(proxy: Proxy) -> Callable[..., Any]:
    try:
        from python_socks.async_.anyio.v2 import Proxy as AnyIOProxy
    except ImportError as error:
        raise missing(proxy, error) from error
    return AnyIOProxy


def missing(proxy: Proxy, error: ImportError) -> ProxyError:
    """Return the error for a program without python-socks."""
    # Which one, and how to do without: it may be the environment that names it.
    return _ExtraMissing(
        f"the proxy {proxy.safe} needs python-socks, which is not installed:"
        f" pip install 'anyio-websocket[proxy]', or proxy=None for none ({error})",
        proxy=proxy.safe,
    )


def arguments_for(proxy: Proxy, url: URL, forward: object) -> tuple[dict[str, Any], str]:
    """Return what python-socks makes its proxy of, and the host that it is to ask for.

    forward:
        What it takes for another proxy on the way to this one: it gives a stream of ours.
    """
    from python_socks import ProxyType  # it is installed, as the caller has found

    kinds = {HTTP: ProxyType.HTTP, SOCKS4: ProxyType.SOCKS4}
    username, password = proxy.username, proxy.password
    if username is not None and proxy.kind.protocol == HTTP:
        # It sends Latin-1. RFC 7617, section 2.1, has UTF-8, and every password has a place.
        username, password = _as_latin1(username), _as_latin1(password or "")
    arguments = {
        "proxy_type": kinds.get(proxy.kind.protocol, ProxyType.SOCKS5),
        "host": proxy.host,
        "port": proxy.port,
        "username": username,
        "password": password,
        "rdns": proxy.kind.resolves,
        "forward": forward,
    }
    # The zone of an IPv6 address means nothing to anybody else.
    return arguments, url.host.partition("%")[0]


def _as_latin1(text: str) -> str:
    return text.encode().decode("latin-1")


def unreachable_because(proxy: Proxy, error: OSError) -> ProxyError:
    """Return the error for a connection to a proxy, or its TLS, that failed."""
    explain_failure(error, proxy.host, proxy.safe, proxy.scheme_without_tls)
    words = str(error.strerror or error)
    return unreachable(proxy, words, transient=not is_tls_verdict(error))


def lost_because(proxy: Proxy, error: Exception) -> ProxyError:
    """Return the error for a proxy that was lost while it was asked.

    One that wants a certificate refuses a client of TLS 1.3 only then.
    """
    for one in (error, error.__cause__):
        if isinstance(one, ssl.SSLError) and is_tls_verdict(one):
            return unreachable_because(proxy, one)
    return lost(proxy)


async def _reach(proxy: Proxy, tls: ssl.SSLContext | None) -> ByteStream:
    """Connect to the proxy itself."""
    try:
        stream = await connect_plainly(proxy.host, proxy.port)
        if tls is None:
            return stream
        # The connection within has an end of its own, and says whether something was cut off.
        return await encrypt(stream, tls, proxy.host, proxy.safe, standard_compatible=False)
    except OSError as error:
        raise unreachable_because(proxy, error) from error


async def _ask(make: Callable[..., Any], proxy: Proxy, url: URL, stream: ByteStream) -> None:
    """Have the proxy connect the stream to the server."""
    from python_socks import ProxyError as Refused

    talk = _Talk(proxy, url, stream)
    arguments, host = arguments_for(proxy, url, talk)
    try:
        # How long it may take is for the caller to say.
        await make(**arguments).connect(host, url.port, timeout=math.inf)
    except Refused as error:
        raise refused_by_socks(proxy, url, str(error), error.error_code) from None
    except UnicodeDecodeError:
        raise malformed(proxy) from None
    if talk.rest:
        raise spoke_early(proxy)


class _Talk:
    """A stream as python-socks wants it, and what it gets that from.

    rest:
        What came behind the proxy's answers.
    """

    def __init__(self, proxy: Proxy, url: URL, stream: ByteStream) -> None:
        self.rest = b""
        self._proxy = proxy
        self._answer = ConnectAnswer(proxy, url)
        self._stream = stream

    async def connect(self, **_: object) -> _Talk:
        return self

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send(data)
        except STREAM_ERRORS as error:
            raise lost_because(self._proxy, error) from error

    async def read(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Return the answer to CONNECT. It is what python-socks reads without a length for."""
        answer = None
        while answer is None:
            answer = self._answer.receive_data(await self._receive())
        return answer

    async def read_exactly(self, n: int) -> bytes:
        while len(self.rest) < n:
            self.rest += await self._receive()
        data, self.rest = self.rest[:n], self.rest[n:]
        return data

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive(CHUNK_BYTES)
        except (EndOfStream, *STREAM_ERRORS) as error:
            raise lost_because(self._proxy, error) from error

    async def close(self) -> None:
        """Leave that to who opened it."""

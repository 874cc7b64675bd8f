"""Whom to ask and what for: the arguments of every way in that starts with a URL, checked."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeGuard
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from ._errors import HandshakeError, HandshakeTimeout
from ._protocol.handshake_client import ClientHandshake
from ._protocol.proxies import Proxy, as_proxy, check_headers, check_reachable, choose_proxy
from ._protocol.redirects import Course
from ._protocol.url import parse_url
from ._transports.errors import explain_lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._config import Config
    from ._errors import HandshakeRejected
    from ._protocol.http import HeadersLike, Response
    from ._protocol.proxies import ProxyLike
    from ._protocol.url import URL

__all__ = ["Arguments", "Attempt", "Target", "explain_failure", "explain_tls"]

# What Python puts around the words of OpenSSL.
_AROUND_TLS_RE: Final = re.compile(r"\[.*?\] | \(_ssl\.c:\d+\)")
# What those words mean to a client.
_MEANINGS: Final = {
    "wrong version number": "it does not speak TLS there; for a {plain}:// URL?",
    "alert certificate required": "it asks for a certificate of the client's",
    "alert unknown ca": "it does not know who vouches for the client's certificate",
    "alert bad certificate": "it refuses the client's certificate",
    "alert certificate expired": "the client's certificate has expired",
}


class Arguments:
    """What a caller may say about the request."""

    def __init__(
        self, subprotocols: Sequence[str], headers: HeadersLike | None, origin: str | None
    ) -> None:
        self._subprotocols = subprotocols
        # Iterables of pairs can be read once, and opening twice is legal.
        self._headers = list(headers) if _is_read_once(headers) else headers
        self._origin = origin

    def course(self, url: URL, max_redirects: int | None) -> Course:
        return Course(url, self._headers, max_redirects)

    def handshake(self, course: Course, config: Config) -> ClientHandshake:
        return ClientHandshake(
            course.url,
            subprotocols=self._subprotocols,
            headers=course.headers,
            origin=self._origin,
            compression=config.compression,
        )


class Attempt:
    """One opening of a connection: whom it asks now, and with which request.

    is_tied:
        Whether there is no other server that could be asked.
    handshake:
        Fresh for each request: its key, and the order of what was received.
    proxy:
        The one on the way, once that is known.
    """

    def __init__(
        self, url: URL, arguments: Arguments, config: Config, *, is_tied: bool = False
    ) -> None:
        self._arguments = arguments
        self._config = config
        self._course = arguments.course(url, None if is_tied else config.max_redirects)
        self.handshake: ClientHandshake = arguments.handshake(self._course, config)
        self.proxy: Proxy | None = None

    @property
    def url(self) -> URL:
        return self._course.url

    @property
    def place(self) -> str:
        """Whom it asks, in words."""
        through = "" if self.proxy is None else f" through the proxy {self.proxy.safe}"
        return f"{self.url.authority}{through}"

    def receive_data(self, data: bytes) -> Response | None:
        """Like that of `ClientHandshake`; what comes behind a redirect is not waited for."""
        response = self.handshake.receive_data(data)
        if response is not None:
            return self._course.arrived(response)
        rejected = self.handshake.rejected
        if rejected is not None and self._course.is_over_with(rejected):
            self.handshake.receive_eof()
        return None

    def follow(self, refusal: HandshakeRejected) -> None:
        """Go on to where an answer leads, or raise what it means that it leads nowhere."""
        try:
            self._course.follow(refusal)
        except HandshakeError as error:
            raise error from refusal.__cause__
        self.handshake = self._arguments.handshake(self._course, self._config)

    def late(self, timeout: float | None) -> HandshakeError:
        """Return what it means that its time is over."""
        rejected = self.handshake.rejected
        if rejected is not None and not self._course.is_over_with(rejected):
            # The body was late, but the answer had come.
            return self._course.refusal(rejected)
        return HandshakeTimeout(
            f"the opening handshake with {self.place} was not over after {timeout:g} s"
        )


def _is_read_once(headers: HeadersLike | None) -> TypeGuard[Iterable[tuple[str, str]]]:
    return headers is not None and not isinstance(headers, (Mapping, str))


class Target:
    """Servers on the network: the one that a URL names, and those that it sends on to.

    url:
        Where the caller means to go.
    """

    def __init__(
        self,
        url: str,
        port: int | None,
        ssl_context: ssl.SSLContext | None,
        proxy: ProxyLike = None,
    ) -> None:
        self.url: URL = parse_url(url, port)
        if ssl_context is not None and not self.url.secure:
            raise ValueError("ssl_context is for wss:// URLs, and this is a ws:// URL")
        self._ssl_context = ssl_context
        self._proxy = as_proxy(proxy)

    def tls(self, url: URL) -> ssl.SSLContext | None:
        """Return the context for TLS with a server, where its URL asks for that."""
        if not url.secure:
            return None
        return self._ssl_context or _default_context()

    def attempt(self, arguments: Arguments, config: Config) -> Attempt:
        """Return a new attempt. Raises `ValueError` or `TypeError` for what the caller gave."""
        attempt = Attempt(self.url, arguments, config)
        if isinstance(self._proxy, Proxy):
            check_headers(attempt.handshake.request.headers)
        return attempt

    def choose(self, attempt: Attempt) -> Proxy | None:
        """Return the proxy on the way to a server, if there is one.

        Raises `ProxyError` where what the environment says is of no use, and `ValueError` for a
        request that would tell the server what is for the proxy.
        """
        if isinstance(self._proxy, Proxy):
            proxy: Proxy | None = self._proxy
        elif self._proxy:
            proxy = choose_proxy(attempt.url, _proxies_of_this_machine(), proxy_bypass)
        else:
            proxy = None
        attempt.proxy = proxy
        if proxy is not None:
            check_headers(attempt.handshake.request.headers)
            check_reachable(proxy, attempt.url)
        return proxy

    def proxy_tls(self, proxy: Proxy) -> ssl.SSLContext | None:
        """Return the context for TLS with a proxy, where its URL asks for that."""
        if not proxy.kind.secure:
            return None
        return proxy.ssl_context or _default_context()

    @staticmethod
    def explain(error: OSError, url: URL) -> None:
        """Have an error of the resolver's or of TLS's say with whom, and in words for a person."""
        explain_failure(error, url.host, url.authority)


def _proxies_of_this_machine() -> dict[str, str]:
    """Return `getproxies()`, without what it costs where nothing names a proxy.

    It decodes each variable of the environment several times, which took a tenth of a handshake.
    Some systems have settings besides the environment.
    """
    is_all = getproxies is getproxies_environment
    if is_all and not any(name[-6:].lower() == "_proxy" for name in os.environ):
        return {}
    return getproxies()


def explain_failure(error: OSError, host: str, name: str, plain: str = "ws") -> None:
    """Have an error of the resolver's or of TLS's say with whom, and in words for a person.

    plain:
        The scheme for those without TLS.
    """
    if isinstance(error, socket.gaierror):
        explain_lookup(error, host)
    elif isinstance(error, ssl.SSLError):
        explain_tls(error, name, plain)


def explain_tls(error: ssl.SSLError, name: str, plain: str = "ws") -> None:
    """Have an error of TLS's say with whom, and in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        error.strerror = f"the certificate of {name} was refused: {error.verify_message}"
    elif isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        # Which of the two it is depends on the version of Python.
        error.strerror = f"{name} left during the TLS handshake"
    else:
        what = _AROUND_TLS_RE.sub("", str(error))
        for words, meaning in _MEANINGS.items():
            if words in what:
                what = f"{meaning.format(plain=plain)} ({what})"
                break
        error.strerror = f"TLS with {name} failed: {what}"


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

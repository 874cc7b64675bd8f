"""Proxies: what one is, which one is taken, and what its answers mean. Decisions, without I/O.

What goes to a proxy is python-socks' work, and so is reading what SOCKS answers. The answer to
CONNECT is read here: python-socks takes whatever arrives first for the whole of it.

Nothing may follow an answer that grants: the server speaks only when it is asked, and nobody has.
What comes all the same was put there by somebody else, and must not be taken for the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import h11

from .._config import MAX_INTERIM_RESPONSES
from .._errors import InvalidURL, ProxyError
from .fields import excerpt
from .head import HeadError, HeadReader, NotHTTP, read_response
from .http import Headers, Response, reason_phrase
from .url import is_scheme, split_host, split_user_info

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from .url import URL

__all__ = [
    "ConnectAnswer",
    "Kind",
    "Proxy",
    "ProxyLike",
    "as_proxy",
    "check_headers",
    "check_reachable",
    "choose_proxy",
    "lost",
    "malformed",
    "refused_by_socks",
    "spoke_early",
    "unreachable",
]

HTTP: Final = "http"
SOCKS4: Final = "socks4"
SOCKS5: Final = "socks5"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a scheme stands for.

    protocol:
        Of which python-socks speaks three.
    secure:
        Whether the way to the proxy itself is TLS.
    resolves:
        Whether the proxy looks names up. Otherwise that is done here.
    """

    protocol: str
    secure: bool
    resolves: bool
    default_port: int


# As curl has them.
_KINDS: Final = {
    "http": Kind(HTTP, False, True, 80),
    "https": Kind(HTTP, True, True, 443),
    "socks4": Kind(SOCKS4, False, False, 1080),
    "socks4a": Kind(SOCKS4, False, True, 1080),
    "socks5": Kind(SOCKS5, False, False, 1080),
    "socks5h": Kind(SOCKS5, False, True, 1080),
    "socks4+tls": Kind(SOCKS4, True, False, 1080),
    "socks4a+tls": Kind(SOCKS4, True, True, 1080),
    "socks5+tls": Kind(SOCKS5, True, False, 1080),
    "socks5h+tls": Kind(SOCKS5, True, True, 1080),
}
# RFC 1929, section 2: a length is one byte.
_MAX_SOCKS5: Final = 255

# Where the environment, or the system, has the proxy for a scheme. RFC 6455, section 4.1, is for
# SOCKS first, and for HTTP's proxy with TLS before the one without.
_NAMES: Final = {
    True: ("wss", "socks", "https", "all"),
    False: ("ws", "socks", "https", "http", "all"),
}

# RFC 1928, section 6: general failure, network or host unreachable, refused, TTL expired; and of
# SOCKS4 the one code that stands for everything.
_PASSING_IN_SOCKS: Final = {SOCKS5: {1, 3, 4, 5, 6}, SOCKS4: {0x5B}}
# Of the statuses below 500, those that ask for patience.
_PASSING_STATUSES: Final = {408, 425, 429}
_GRANTED: Final = b"HTTP/1.1 200 OK\r\n\r\n"


class Proxy:
    """A proxy: where it is, what it speaks, and as whom to ask it.

    For ``proxy=``, where the URL alone does not say enough.

    :param url: ``http://``, ``https://`` (CONNECT, over TLS), ``socks4://``, ``socks4a://``,
        ``socks5://`` or ``socks5h://``, the latter four with ``+tls`` behind their name for TLS
        to the proxy. With ``socks4a`` and ``socks5h`` the proxy looks names up, with the other
        two this machine. User name and password stand before the host, as in any URL
    :param ssl_context: for TLS to the proxy; default: certificates are verified, TLS 1.2 at least.
        That of the server is another one
    :raises ValueError: the URL is none of a proxy, or ``ssl_context`` is given without TLS (the
        caller's fault). Never shows what may be a password
    """

    __slots__ = ("host", "kind", "password", "port", "scheme", "ssl_context", "username")

    def __init__(self, url: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        if not isinstance(url, str):
            raise TypeError(f"a proxy's URL must be a str, not {type(url).__name__}")
        scheme, separator, rest = url.partition("://")
        kind = _KINDS.get(scheme.lower())
        if not separator or kind is None:
            known = ", ".join(f"{one}://" for one in _KINDS if "+" not in one)
            # What is no scheme may be the first half of a password.
            said = f", not {excerpt(scheme)}" if separator and is_scheme(scheme) else ""
            raise ValueError(f"a proxy's URL must begin with one of {known}{said}")
        if ssl_context is not None and not kind.secure:
            raise ValueError(f"ssl_context is for TLS to the proxy, and {scheme}:// has none")
        try:
            username, password, place = split_user_info(rest.removesuffix("/"))
            if any(character in place for character in "/?#"):
                raise InvalidURL("a proxy has neither path nor query")
            host, port = split_host(place)
        except InvalidURL as error:
            raise ValueError(f"the proxy's URL is wrong: {error}") from None
        _check_credentials(kind, username, password)
        self.scheme: str = scheme.lower()
        self.kind: Kind = kind
        self.host: str = host
        self.port: int = kind.default_port if port is None else port
        self.username: str | None = username or None
        self.password: str | None = password
        self.ssl_context: ssl.SSLContext | None = ssl_context

    @property
    def scheme_without_tls(self) -> str:
        """What the URL would begin with, were the proxy one without TLS."""
        return "http" if self.scheme == "https" else self.scheme.removesuffix("+tls")

    @property
    def safe(self) -> str:
        """The URL without credentials."""
        host = self.host.partition("%")[0]
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Proxy {self.safe}>"


#: what ``proxy=`` takes
ProxyLike: TypeAlias = Proxy | str | bool | None


def as_proxy(proxy: object) -> Proxy | bool:
    """Return the proxy that a caller gave; ``True`` for the environment's, ``False`` for none."""
    if proxy is None or isinstance(proxy, (bool, Proxy)):
        return proxy or False
    if isinstance(proxy, str):
        return Proxy(proxy)
    raise TypeError(
        "proxy must be a URL, a Proxy, None for none or True for the environment's,"
        f" not {type(proxy).__name__}"
    )


def choose_proxy(
    url: URL, proxies: Mapping[str, str], is_bypassed: Callable[[str], object]
) -> Proxy | None:
    """Return the proxy that the environment names for a URL, if it does.

    proxies:
        URLs by scheme, as `urllib.request.getproxies` gives them.
    is_bypassed:
        Tells whether a host, its port behind it or not, needs none: `urllib.request.proxy_bypass`.

    Raises `ProxyError` where what it names is no proxy's URL: the fault of who set it up.
    """
    found = [(name, proxies[name]) for name in _NAMES[url.secure] if proxies.get(name)]
    host = url.host.partition("%")[0]
    # That of the standard library wants a port behind an IPv6 address in brackets, or else none.
    if not found or is_bypassed(url.authority) or (":" in host and is_bypassed(host)):
        return None
    name, address = found[0]
    if "://" not in address:
        address = f"http://{address}"
    if name == "socks" and address.startswith("http://"):
        # So the systems' own settings come.
        address = address.replace("http", "socks5h", 1)
    try:
        return Proxy(address)
    except ValueError as error:
        raise ProxyError(
            f"the environment names a proxy ({name}_proxy) that is none: {error}"
        ) from None


def check_headers(headers: Headers) -> None:
    """Raise `ValueError` for a header that is meant for a proxy, and would go to the server."""
    if "Proxy-Authorization" in headers:
        raise ValueError(
            "Proxy-Authorization would go through the proxy, to the server: put user name and"
            " password into the proxy's URL"
        )


def _check_credentials(kind: Kind, username: str | None, password: str | None) -> None:
    if kind.protocol == HTTP:
        if password and not username:
            raise ValueError("there is a password in the proxy's URL, and no user name before it")
        return
    if kind.protocol == SOCKS4 and password is not None:
        raise ValueError("SOCKS4 knows a user name, and no password")
    for value in (username or "", password or ""):
        if not value.isascii() or len(value) > _MAX_SOCKS5:
            raise ValueError(
                f"user name and password of a SOCKS proxy are ASCII, {_MAX_SOCKS5} bytes at most"
            )
    if kind.protocol == SOCKS5 and bool(username) is not bool(password):
        raise ValueError("SOCKS5 knows a user name with a password, or neither")


# --- Answers ---


class ConnectAnswer:
    """Reads what an HTTP proxy answers to CONNECT (RFC 9110, section 9.3.6)."""

    def __init__(self, proxy: Proxy, url: URL) -> None:
        self._proxy = proxy
        self._url = url
        self._http = h11.Connection(h11.CLIENT)
        request = h11.Request(
            method="CONNECT", target=url.authority, headers=[("Host", url.authority)]
        )
        self._http.send(request)
        self._head = HeadReader(b"HTTP/1.")
        self._interim = 0

    def receive_data(self, data: bytes) -> bytes | None:
        """Take bytes from the network; return an answer for python-socks once it is granted.

        Raises `ProxyError` for every other answer, and for one beyond its bounds.
        """
        while True:
            try:
                head = self._head.feed(data)
                event = None if head is None else read_response(self._http, head)
            except NotHTTP as error:
                what = "TLS: does its URL begin with https://?" if error.is_tls else "no HTTP"
                raise self._error(f"the proxy {self._proxy.safe} answered with {what}") from None
            except HeadError as error:
                message = f"the answer of the proxy {self._proxy.safe} is malformed: {error}"
                raise self._error(message) from None
            if event is None:
                return None
            data = self._head.rest
            if event.status_code >= 200:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise self._error(f"the proxy {self._proxy.safe} does not get to an answer")
            self._head = HeadReader(b"HTTP/1.")
        status = event.status_code
        if not 200 <= status < 300:
            raise self._refused(Response(status, Headers.decode(event.headers.raw_items())))
        if data:
            raise spoke_early(self._proxy)
        return _GRANTED

    def _refused(self, response: Response) -> ProxyError:
        status, place = response.status, self._url.authority
        words = f"{status} {reason_phrase(status)}".rstrip()
        if status == 407:
            had = "refuses the credentials that it got" if self._proxy.username else "asks for some"
            message = f"the proxy {self._proxy.safe} {had}: {words}"
        elif status >= 500:
            message = f"the proxy {self._proxy.safe} could not connect to {place}: {words}"
        else:
            message = f"the proxy {self._proxy.safe} refused to connect to {place}: {words}"
        return self._error(
            message,
            status=status,
            response=response,
            transient=status >= 500 or status in _PASSING_STATUSES,
        )

    def _error(
        self,
        message: str,
        *,
        status: int | None = None,
        response: Response | None = None,
        transient: bool = False,
    ) -> ProxyError:
        return ProxyError(
            message,
            proxy=self._proxy.safe,
            status=status,
            response=response,
            transient=transient,
        )


def refused_by_socks(proxy: Proxy, url: URL, words: str, code: int | None) -> ProxyError:
    """Return what python-socks has made of a proxy's answer.

    code:
        That of the answer, where it has one.
    """
    return ProxyError(
        f"the proxy {proxy.safe} did not connect to {url.authority}: {words}",
        proxy=proxy.safe,
        status=None if code is None else int(code),
        transient=code in _PASSING_IN_SOCKS.get(proxy.kind.protocol, ()),
    )


def check_reachable(proxy: Proxy, url: URL) -> None:
    """Raise `ProxyError` for an address that the proxy's protocol has no words for."""
    if proxy.kind.protocol == SOCKS4 and ":" in url.host:
        raise ProxyError(
            f"SOCKS4 knows no IPv6, and {url.authority} is such an address: use SOCKS5",
            proxy=proxy.safe,
        )


def unreachable(proxy: Proxy, words: str, *, transient: bool = True) -> ProxyError:
    """Return the error for a proxy to which there was no connection, or no TLS."""
    return ProxyError(
        f"there is no way to the proxy {proxy.safe}: {words}",
        proxy=proxy.safe,
        transient=transient,
    )


def lost(proxy: Proxy) -> ProxyError:
    """Return the error for a proxy that left before it had answered."""
    return ProxyError(
        f"the proxy {proxy.safe} left without an answer", proxy=proxy.safe, transient=True
    )


def malformed(proxy: Proxy) -> ProxyError:
    """Return the error for an answer in SOCKS that python-socks chokes on."""
    return ProxyError(f"the answer of the proxy {proxy.safe} is malformed", proxy=proxy.safe)


def spoke_early(proxy: Proxy) -> ProxyError:
    """Return the error for bytes behind an answer, which nobody has asked for."""
    return ProxyError(
        f"the proxy {proxy.safe} sent more than its answer, before the server was asked anything",
        proxy=proxy.safe,
    )

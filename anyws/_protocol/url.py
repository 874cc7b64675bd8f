"""A WebSocket URL, taken apart (RFC 6455, section 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from .._errors import InvalidURL
from .fields import MAX_HOST_CHARACTERS, excerpt, parse_host, parse_port

__all__ = ["URL", "encode_host", "is_scheme", "parse_url", "split_host", "split_user_info"]

_SECURE: Final = {"ws": False, "wss": True}
_MEANT: Final = {"http": "ws", "https": "wss"}
_DEFAULT_PORT: Final = {False: 80, True: 443}

_CONTROL_RE: Final = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_RE: Final = re.compile(r"[\x00-\x20\x7f]")
_SCHEME_RE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_ZONE_RE: Final = re.compile(r"[A-Za-z0-9._~\-]+")
_TARGET_RE: Final = re.compile(r"[/?]")
# What was written is kept: only what cannot stand in a request line is percent-encoded.
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True, repr=False)
class URL:
    """Where a client connects to, and what it asks for.

    host:
        A domain name in lower case and in ASCII (A-labels), or an address without brackets.
    target:
        Path and query, percent-encoded: what the request line carries.
    username, password:
        The user info, percent-decoded.
    """

    secure: bool
    host: str
    port: int
    target: str
    username: str | None = None
    password: str | None = None

    @property
    def authority(self) -> str:
        """Host and port, IPv6 in brackets: what a proxy is asked for."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        if self.port == _DEFAULT_PORT[self.secure]:
            return self._bracketed
        return self.authority

    @property
    def bare(self) -> str:
        """The URL without user info."""
        scheme = "wss" if self.secure else "ws"
        return f"{scheme}://{self.host_header}{self.target}"

    @property
    def safe(self) -> str:
        """The URL for logs: without user info and query."""
        return self.bare.partition("?")[0]

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What has to be the same for two URLs to be of one origin (RFC 6454, section 4)."""
        # The zone of an IPv6 address is nothing that the other end knows of.
        return self.secure, self.host.partition("%")[0], self.port

    @property
    def _bracketed(self) -> str:
        # RFC 6874, section 4: the zone of an IPv6 address means nothing to anybody else.
        return f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host

    def __repr__(self) -> str:
        return f"<URL {self.safe}>"


def parse_url(url: str, port: int | None = None) -> URL:
    """Take a WebSocket URL apart; a ``port`` given here takes the place of its own.

    Characters outside of ASCII are encoded: those of the host as A-labels (IDNA 2003, the
    standard library's), those of path and query as percent-encoded UTF-8 (RFC 3987).

    Raises `InvalidURL`, which never shows what the URL says beyond its scheme, since that may be
    a password; `ValueError` or `TypeError` for the port.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL must be a str, not {type(url).__name__}")
    if _UNSAFE_RE.search(url):
        raise InvalidURL("the URL contains a space or a control character")
    scheme, separator, rest = url.partition("://")
    if not separator or not is_scheme(scheme):
        raise InvalidURL("the URL must begin with ws:// or wss://")
    scheme = scheme.lower()
    if scheme in _MEANT:
        raise InvalidURL(f"{scheme}:// is not for WebSockets: use {_MEANT[scheme]}://")
    if scheme not in _SECURE:
        raise InvalidURL(f"the URL must begin with ws:// or wss://, not {excerpt(scheme)}")
    if "#" in rest:
        raise InvalidURL("a WebSocket URL has no fragment: write %23 for a # in path or query")
    cut = _TARGET_RE.search(rest)
    end = len(rest) if cut is None else cut.start()
    username, password, place = split_user_info(rest[:end])
    host, own_port = split_host(place)
    secure = _SECURE[scheme]
    if port is not None:
        own_port = _check_port(port)
    elif own_port is None:
        own_port = _DEFAULT_PORT[secure]
    return URL(secure, host, own_port, _encode_target(rest[end:]), username, password)


def is_scheme(text: str) -> bool:
    """Tell whether this can be the scheme of a URL (RFC 3986, section 3.1)."""
    return _SCHEME_RE.fullmatch(text) is not None


def encode_host(host: str) -> str:
    """Return a domain name in ASCII, with A-labels for what is not, or raise `ValueError`."""
    # The limit stands before IDNA, which takes quadratic time (CVE-2022-45061).
    if host.isascii() or len(host) > MAX_HOST_CHARACTERS:
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("the host is not a valid internationalized domain name") from None


def split_user_info(authority: str) -> tuple[str | None, str | None, str]:
    user_info, _, place = authority.rpartition("@")
    if not user_info:
        return None, None, place
    name, colon, secret = user_info.partition(":")
    if "@" in user_info:
        raise InvalidURL("an @ in user name or password must be written %40")
    try:
        username = unquote(name, errors="strict")
        password = unquote(secret, errors="strict") if colon else None
        f"{username}{password or ''}".encode()
    except UnicodeError:
        malformed = True
    else:
        # RFC 7617, section 2: neither may contain control characters, nor the name a colon.
        malformed = ":" in username or bool(_CONTROL_RE.search(f"{username}{password or ''}"))
    if malformed:
        # Raised here, since a UnicodeError shows what it could not decode.
        raise InvalidURL("the user name or password is not text that HTTP can carry")
    return username, password, place


def split_host(place: str) -> tuple[str, int | None]:
    zone = ""
    if place.startswith("["):
        address, percent, rest = place.partition("%25")
        if percent:
            zone, bracket, rest = rest.partition("]")
            if not bracket or "]" in address or not _ZONE_RE.fullmatch(zone):
                raise InvalidURL("the zone of the IPv6 address is malformed")
            place = address + bracket + rest
    if place.count(":") > 1 and not place.startswith("["):
        raise InvalidURL("the host has several colons: an IPv6 address belongs in brackets")
    if not place.partition(":")[0]:
        raise InvalidURL("the URL names no host")
    try:
        # An empty port is the scheme's own (RFC 3986, section 3.2.3).
        name, colon, rest = place.removesuffix(":").partition(":")
        host, port = parse_host(encode_host(name) + colon + rest)
    except ValueError as error:
        raise InvalidURL(f"in the URL, {error}") from None
    return (f"{host}%{zone}" if zone else host), port


def _check_port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    return parse_port(str(int(port)))


def _encode_target(target: str) -> str:
    try:
        target = quote(target, safe=_VISIBLE)
    except UnicodeEncodeError:
        raise InvalidURL("path or query contain a lone surrogate, which no URL can") from None
    return target if target.startswith("/") else f"/{target}"

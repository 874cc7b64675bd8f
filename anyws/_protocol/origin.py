"""Which browsers' pages may open a WebSocket here (RFC 6455, section 10.2), and under which names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .fields import parse_host
from .url import encode_host

if TYPE_CHECKING:
    from .http import Request

__all__ = [
    "Origins",
    "check_host",
    "check_hosts_argument",
    "check_origin",
    "check_origins_argument",
]

Origins: TypeAlias = Collection[str | re.Pattern[str]] | Literal["*"] | None

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# What browsers write for pages that have no host: never equal to a place, only to themselves.
_OPAQUE: Final = frozenset({"null", "file://"})
_SCHEME_RE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")

_Origin: TypeAlias = tuple[str, str, int | None]


def check_origins_argument(origins: Origins) -> Origins:
    """Return the ``origins`` that a caller gave, as `check_origin` takes them.

    ``None`` allows pages of the same host only, ``"*"`` any. A collection widens the first: its
    strings are whole origins, such as ``"https://example.com:8000"`` or ``"null"``, and its
    compiled patterns must match an origin as a whole.

    Raises `ValueError` or `TypeError` where an entry could never match, or is not one.
    """
    if origins is None or origins == "*":
        return origins
    if isinstance(origins, (str, bytes)):
        raise TypeError(f'origins must be a collection, such as [{origins!r}], "*" or None')
    if not isinstance(origins, Collection):
        raise TypeError(f'origins must be a collection, "*" or None, not {type(origins).__name__}')
    for entry in origins:
        _check_entry(entry)
    return tuple(origins)


def _check_entry(entry: object) -> None:
    if isinstance(entry, re.Pattern):
        if not isinstance(entry.pattern, str):
            raise TypeError("a pattern in origins must be one of str, not of bytes")
        return
    if not isinstance(entry, str):
        raise TypeError(
            f"an entry of origins must be a str or a compiled pattern, not {type(entry).__name__}"
        )
    if entry == "*":
        raise ValueError('"*" stands for origins as a whole, not for an entry of it')
    if entry in _OPAQUE:
        return
    try:
        _parse(_in_ascii(entry))
    except ValueError as error:
        raise ValueError(
            f"{entry!r} in origins is not an origin, such as https://example.com: {error}"
        ) from None


def check_origin(request: Request, origins: Origins) -> bool:
    """Tell whether the page that this request comes from may open a WebSocket.

    No Origin means no browser: allowed. ``origins`` come from `check_origins_argument`. The Host
    header is the peer's word, so that a server which is reached under names of others (DNS
    rebinding) has to look at it too.
    """
    value = request.origin
    if value is None or origins == "*":
        return True
    for entry in origins or ():
        if isinstance(entry, re.Pattern):
            if entry.fullmatch(value):
                return True
        elif entry in _OPAQUE:
            if entry == value:
                return True
        elif _is_same(entry, value):
            return True
    return _is_same_host(request.host, value)


def _is_same(entry: str, value: str) -> bool:
    try:
        return _parse(_in_ascii(entry)) == _parse(value)
    except ValueError:
        return False


def _is_same_host(host_header: str, value: str) -> bool:
    try:
        scheme, host, port = _parse(value)
        our_host, our_port = parse_host(host_header)
    except ValueError:
        return False
    # Host has no scheme: without a port it stands for the default of whichever it was.
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return False
    return (host, port) == (our_host, our_port or default)


def _in_ascii(entry: str) -> str:
    # Ours only. Browsers send A-labels, and what IDNA forgives is no part of an origin.
    scheme, separator, place = entry.partition("://")
    host, colon, port = place.partition(":")
    return scheme + separator + encode_host(host) + colon + port


def _parse(origin: str) -> _Origin:
    scheme, separator, place = origin.partition("://")
    if not separator or not _SCHEME_RE.fullmatch(scheme):
        raise ValueError("it has no scheme")
    scheme = scheme.lower()
    host, port = parse_host(place)
    return scheme, host, port or _DEFAULT_PORTS.get(scheme)


# --- The Host header ---


def check_hosts_argument(hosts: object) -> tuple[str | re.Pattern[str], ...]:
    """Return the hosts that a caller gave, as `check_host` takes them.

    Raises `ValueError` or `TypeError` where an entry could never match, or is not one.
    """
    if isinstance(hosts, (str, bytes)) or not isinstance(hosts, Collection):
        raise TypeError(f"hosts must be a collection, not {type(hosts).__name__}")
    if not hosts:
        raise ValueError("hosts is empty: nobody could be served")
    for entry in hosts:
        if isinstance(entry, re.Pattern) and isinstance(entry.pattern, str):
            continue
        if not isinstance(entry, str):
            raise TypeError("an entry of hosts must be a str or a compiled pattern of str")
        try:
            parse_host(_host_in_ascii(entry))
        except ValueError as error:
            raise ValueError(f"{entry!r} in hosts is not a host: {error}") from None
    return tuple(hosts)


def check_host(value: str, hosts: tuple[str | re.Pattern[str], ...]) -> bool:
    """Tell whether a Host header names one of these; those without a port go with any.

    A header without a port stands for the default one of its scheme, which nothing here tells: a
    proxy in front may have taken TLS off.
    """
    try:
        host, port = parse_host(value)
    except ValueError:
        return False
    for entry in hosts:
        if isinstance(entry, re.Pattern):
            if entry.fullmatch(value):
                return True
            continue
        our_host, our_port = parse_host(_host_in_ascii(entry))
        if host != our_host:
            continue
        if our_port in (None, port) or (port is None and our_port in _DEFAULT_PORTS.values()):
            return True
    return False


def _host_in_ascii(entry: str) -> str:
    if entry.startswith("["):
        return entry
    host, colon, port = entry.partition(":")
    return encode_host(host) + colon + port

"""The grammar of header field values: tokens, lists, hosts, keys, extensions.

Everything here takes what a peer wrote. Each function is linear in its argument: in the patterns,
what may follow a repetition never begins with what may be repeated. Going back into one is then in
vain at once, at each of its places, and never multiplies. Possessive repetitions (``*+``) would say
the same, but around groups Python 3.11.2 and its neighbours get them wrong: they pass for matched
where they are not.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
from typing import Final, TypeAlias

__all__ = [
    "EXCERPT_CHARACTERS",
    "MAX_HOST_CHARACTERS",
    "Extension",
    "accept_key",
    "excerpt",
    "is_key",
    "is_token",
    "make_key",
    "parse_extensions",
    "parse_host",
    "parse_port",
    "parse_subprotocols",
    "parse_tokens",
    "split_list",
    "tls_name",
]

# The name of an extension and its parameters, in the order of the wire.
Extension: TypeAlias = tuple[str, list[tuple[str, str | None]]]

EXCERPT_CHARACTERS: Final = 80
# RFC 1035, section 2.3.4, with one more for the dot at the end.
MAX_HOST_CHARACTERS: Final = 254
# RFC 6455, section 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# RFC 9110, section 5.6.2; the same set as RFC 6455 takes from RFC 2616.
_TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_LABEL = r"[0-9A-Za-z_\-]{1,63}"
_TOKEN_RE: Final = re.compile(rf"{_TCHAR}+")
_HOST_RE: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_PORT_RE: Final = re.compile(r"[0-9]{1,5}")
# The base64 of 16 bytes: 24 characters, and the last one before the padding carries two bits.
_KEY_RE: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_SEPARATOR_RE: Final = re.compile(r"[ \t,]*")
_EXTENSION_RE: Final = re.compile(rf"({_TCHAR}+)")
# RFC 6455, section 9.1: a quoted value "MUST" be a token when unescaped, so only characters of
# tokens, each behind a backslash or not, can stand between the quotes.
_PARAMETER_RE: Final = re.compile(
    rf"[ \t]*;[ \t]*({_TCHAR}+)"
    rf'(?:[ \t]*=[ \t]*(?:({_TCHAR}+)|"((?:\\?{_TCHAR})+)"))?'
)
_END_RE: Final = re.compile(r"[ \t]*(?:,|$)")


def excerpt(value: str | bytes) -> str:
    """Return the ``repr`` of what a peer wrote, cut to a length that suits a line of a log."""
    if len(value) <= EXCERPT_CHARACTERS:
        return repr(value)
    return f"{value[:EXCERPT_CHARACTERS]!r}..."


def is_token(value: str) -> bool:
    """Tell whether this is a token (RFC 9110, section 5.6.2)."""
    return _TOKEN_RE.fullmatch(value) is not None


def split_list(value: str) -> list[str]:
    """Return the elements of a comma list; empty ones do not count (RFC 9110, 5.6.1.2)."""
    return [element for part in value.split(",") if (element := part.strip(" \t"))]


def parse_tokens(value: str) -> list[str]:
    """Return the elements of a list of one or more tokens, or raise `ValueError`."""
    tokens = split_list(value)
    if not tokens:
        raise ValueError("it is empty")
    for token in tokens:
        if not is_token(token):
            raise ValueError("it is not a list of tokens")
    return tokens


def parse_subprotocols(value: str) -> list[str]:
    """Return what Sec-WebSocket-Protocol offers: distinct tokens (RFC 6455, section 4.1)."""
    subprotocols = parse_tokens(value)
    if len(set(subprotocols)) != len(subprotocols):
        raise ValueError("it names a subprotocol twice")
    return subprotocols


def parse_extensions(value: str) -> list[Extension]:
    """Return what Sec-WebSocket-Extensions lists, in its order (RFC 6455, section 9.1).

    Raises `ValueError` where the value breaks the grammar. What the names and parameters mean is
    not judged here.
    """
    extensions: list[Extension] = []
    position = _skip(_SEPARATOR_RE, value, 0)
    while position < len(value):
        name = _EXTENSION_RE.match(value, position)
        if name is None:
            raise ValueError("it is not a list of extensions")
        position = name.end()
        parameters: list[tuple[str, str | None]] = []
        while (parameter := _PARAMETER_RE.match(value, position)) is not None:
            key, token, quoted = parameter.groups()
            parameters.append((key, token if quoted is None else quoted.replace("\\", "")))
            position = parameter.end()
        end = _END_RE.match(value, position)
        if end is None:
            raise ValueError(f"the parameters of {excerpt(name[1])} are malformed")
        extensions.append((name[1], parameters))
        position = _skip(_SEPARATOR_RE, value, end.end())
    if not extensions:
        raise ValueError("it is empty")
    return extensions


def _skip(pattern: re.Pattern[str], value: str, position: int) -> int:
    match = pattern.match(value, position)
    return position if match is None else match.end()


def parse_host(value: str) -> tuple[str, int | None]:
    """Return host and port of a Host header or an authority, or raise `ValueError`.

    The host comes in lower case, an IPv6 address in its shortest form and without brackets, so
    that two of them can be compared. RFC 3986 allows a host more than this does: names are those
    of the DNS here, underscores included; user info, percent-encoding and IPv6 zones are refused.
    """
    if len(value) > MAX_HOST_CHARACTERS + len(":65535"):
        raise ValueError("the host is too long")
    if value.startswith("["):
        literal, bracket, rest = value[1:].partition("]")
        if not bracket or "%" in literal:
            raise ValueError("the IPv6 address is malformed")
        try:
            host = ipaddress.IPv6Address(literal).compressed
        except ValueError:
            raise ValueError("the IPv6 address is malformed") from None
    else:
        host, colon, rest = value.partition(":")
        rest = colon + rest
        if len(host) > MAX_HOST_CHARACTERS or not _HOST_RE.fullmatch(host):
            raise ValueError("the host is not a domain name or an address")
        host = host.lower()
    if not rest:
        return host, None
    if rest[0] != ":":
        raise ValueError("there is something between the IPv6 address and the port")
    return host, parse_port(rest[1:])


def tls_name(host: str) -> str:
    """Return what TLS calls a host, as `parse_host` gives it, with the zone of an address or not.

    That is a name without a dot at its end (RFC 6066, section 3), and an address without its zone,
    which means nothing to the other end. Certificates have them so.
    """
    return host.partition("%")[0].removesuffix(".")


def parse_port(value: str) -> int:
    """Return the number of a port, 1 to 65535, or raise `ValueError`."""
    if _PORT_RE.fullmatch(value) is None or not 1 <= int(value) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(value)


def make_key() -> str:
    """Return a fresh Sec-WebSocket-Key: the base64 of 16 random bytes (RFC 6455, 4.1)."""
    return base64.b64encode(os.urandom(16)).decode("ascii")


def is_key(value: str) -> bool:
    """Tell whether this is the base64 of 16 bytes, written the one canonical way."""
    return _KEY_RE.fullmatch(value) is not None


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers this key (RFC 6455, section 4.2.2)."""
    # SHA-1 is the protocol's choice, and no secret depends on it.
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")

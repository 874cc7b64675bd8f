"""Whom to ask and what for: the arguments of every way in that starts with a URL, checked."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeGuard

from ._protocol.handshake_client import ClientHandshake
from ._protocol.url import parse_url
from ._transports.errors import explain_lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._config import Config
    from ._protocol.http import HeadersLike
    from ._protocol.url import URL

__all__ = ["Arguments", "Target", "explain_tls"]

# What Python puts around the words of OpenSSL.
_AROUND_TLS_RE: Final = re.compile(r"\[.*?\] | \(_ssl\.c:\d+\)")
# What those words mean to a client.
_MEANINGS: Final = {
    "wrong version number": "it does not speak TLS there; for a ws:// URL?",
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

    def handshake(self, url: URL, config: Config) -> ClientHandshake:
        return ClientHandshake(
            url,
            subprotocols=self._subprotocols,
            headers=self._headers,
            origin=self._origin,
            compression=config.compression,
        )


def _is_read_once(headers: HeadersLike | None) -> TypeGuard[Iterable[tuple[str, str]]]:
    return headers is not None and not isinstance(headers, (Mapping, str))


class Target:
    """A server on the network.

    tls:
        The context for TLS, where the URL asks for that.
    """

    def __init__(self, url: str, port: int | None, ssl_context: ssl.SSLContext | None) -> None:
        self.url: URL = parse_url(url, port)
        if ssl_context is not None and not self.url.secure:
            raise ValueError("ssl_context is for wss:// URLs, and this is a ws:// URL")
        self._ssl_context = ssl_context

    def tls(self) -> ssl.SSLContext | None:
        if not self.url.secure:
            return None
        return self._ssl_context or _default_context()

    def explain(self, error: OSError) -> None:
        """Have an error of the resolver's or of TLS's say with whom, and in words for a person."""
        if isinstance(error, socket.gaierror):
            explain_lookup(error, self.url.host)
        elif isinstance(error, ssl.SSLError):
            explain_tls(error, self.url.authority)


def explain_tls(error: ssl.SSLError, authority: str) -> None:
    """Have an error of TLS's say with whom, and in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        error.strerror = f"the certificate of {authority} was refused: {error.verify_message}"
    elif isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        # Which of the two it is depends on the version of Python.
        error.strerror = f"{authority} left during the TLS handshake"
    else:
        what = _AROUND_TLS_RE.sub("", str(error))
        for words, meaning in _MEANINGS.items():
            if words in what:
                what = f"{meaning} ({what})"
                break
        error.strerror = f"TLS with {authority} failed: {what}"


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

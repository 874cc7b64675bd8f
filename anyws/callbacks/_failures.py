"""What kept a connection from opening, in words for a person."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from .._errors import WebSocketError

if TYPE_CHECKING:
    from .._protocol.url import URL

__all__ = ["describe"]


def describe(error: Exception, url: URL) -> str:
    """Say what happened; the library's own errors do so already, the system's seldom."""
    if isinstance(error, WebSocketError):
        return str(error)
    if isinstance(error, socket.gaierror):
        return f"the host {url.host} was not found: {error.strerror or error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {url.authority} was refused: {error.verify_message or error}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {url.authority} failed: {error.reason or error}"
    return str(error) or repr(error)

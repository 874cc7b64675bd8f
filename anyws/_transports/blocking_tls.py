"""TLS over memory: what goes in at one end comes out, enciphered or deciphered, at the other.

TLS has to say something now and then that nobody asked for: an answer to a new key, an alert. And
while it renegotiates (TLS 1.2), it takes nothing until it has read.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from .._config import CHUNK_BYTES
from .._protocol.fields import tls_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Layer"]


class Layer:
    """backlog: what TLS takes only when it has read something; it goes with the next `encipher`."""

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None
    ) -> None:
        self.backlog: bytes = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object: ssl.SSLObject = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname and tls_name(server_hostname),
        )

    def is_up(self) -> bool:
        """Go on with the handshake; tell whether it is over. Raises OSError."""
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            if self._incoming.eof:
                raise ConnectionError("the peer left during the TLS handshake") from None
            return False
        return True

    # --- In ---

    def put(self, chunk: bytes, *, is_end: bool = False) -> None:
        """Take what has come, and whether that is the end of it."""
        if chunk:
            self._incoming.write(chunk)
        if is_end:
            self._incoming.write_eof()

    def decipher(self, found: Callable[[bytes], object]) -> bool:
        """Give all that can be read now, piece by piece; tell whether nothing follows.

        Raises ssl.SSLError, behind what was found before it.
        """
        try:
            while piece := self.ssl_object.read(CHUNK_BYTES):
                found(piece)
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # The latter: cut off; whether something is missing, the closing handshake tells.
            pass
        return True

    # --- Out ---

    @property
    def speaks(self) -> bool:
        """Whether there is something for `encipher` to give out."""
        return bool(self._outgoing.pending or self.backlog)

    def said(self) -> bytes:
        """Return what TLS itself has to say."""
        return self._outgoing.read()

    def encipher(self, data: bytes) -> bytes:
        """Return what is to be sent for this, behind what TLS itself has to say."""
        if self.backlog or data:
            self._write(self.backlog + data)
        return self._outgoing.read()

    def _write(self, data: bytes) -> None:
        self.backlog = data
        try:
            taken = self.ssl_object.write(data)
        except ssl.SSLWantReadError:
            return
        self.backlog = data[taken:]

    def say_the_end(self) -> None:
        """Have it tell the peer that nothing follows, if that can be said."""
        try:
            self.ssl_object.unwrap()
        except ssl.SSLError:
            pass  # it goes out all the same, or cannot be said any more

"""One message for many connections: encoded once for each kind of them.

Server's frames are not masked, so those of a message are the same bytes for all connections that
compress alike. A client's frame has a masking key of its own (RFC 6455, section 5.3), and shares
only the payload.

**Compression.** What a connection has sent is the context of what it sends next (RFC 7692, section
7.1.1), and no two connections have sent the same. So a shared payload is compressed with no context
at all, which every peer can inflate, whatever it has received: it refers to nothing before itself.
But the peer takes it into its window, where our own compressor would not know of it, and would
refer to the wrong places. So that begins anew with the connection's next message. What a shared
message costs is the history up to it; what it saves is compressing it for each connection.

As nothing depends on it, a payload that compression does not make smaller is sent as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .codec import build_frame
from .deflate import deflate_alone
from .frames import BINARY, TEXT
from .masking import new_key

if TYPE_CHECKING:
    from .deflate import PerMessageDeflate, Settings

__all__ = ["SharedMessage"]

_FIN = 0x80
_RSV1 = 0x40


class SharedMessage:
    """A message, and what of it is encoded so far.

    size:
        Bytes of its payload, as it is.
    """

    def __init__(self, data: str | bytes, compress: bool | None) -> None:
        if isinstance(data, str):
            self._first, self._payload = _FIN | TEXT, data.encode()
        else:
            self._first, self._payload = _FIN | BINARY, data
        self.size: int = len(self._payload)
        self._compress = compress
        # How it is compressed, or None -> the first byte and the payload; and the unmasked frame.
        self._plain = (self._first, self._payload)
        self._encoded: dict[Settings, tuple[int, bytes]] = {}
        self._frames: dict[Settings | None, bytes] = {}

    def frame(self, deflate: PerMessageDeflate | None, *, masked: bool) -> bytes:
        """Return the frame for a connection, to be written at once."""
        settings = None
        first, payload = self._plain
        if deflate is not None and deflate.would_compress(self.size, self._compress):
            settings = deflate.settings
            first, payload = self._encoded.get(settings) or self._encode(settings)
            if first & _RSV1:
                deflate.forget_sent()
        if masked:
            return build_frame(first, payload, new_key())
        frame = self._frames.get(settings)
        if frame is None:
            self._frames[settings] = frame = build_frame(first, payload, None)
        return frame

    def _encode(self, settings: Settings) -> tuple[int, bytes]:
        payload = deflate_alone(self._payload, settings)
        encoded = (self._first | _RSV1, payload) if len(payload) < self.size else self._plain
        self._encoded[settings] = encoded
        return encoded

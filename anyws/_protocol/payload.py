"""Large messages on their way in: put where they stay, as they come.

A frame is read when it is whole, and until then its bytes are kept. Of a large one that takes two
blocks of its size; and memory that is asked for, filled once and given back costs more than the
copying. So a large frame that is a message is not kept first: each chunk is unmasked into the
message itself.

`PurePayload` stands here in Python, and again in `_speedups.c`, which is used where it was built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._config import CHUNK_BYTES
from .compiled import speedups
from .frames import BINARY, TEXT
from .masking import pure_mask

if TYPE_CHECKING:
    from .frames import Head

__all__ = ["ArrivingMessage", "Payload", "PurePayload"]

# Bytes; a smaller frame is quicker read when it is whole.
_LARGE = CHUNK_BYTES
# A peer has to have sent one in so many bytes before there is memory for all of them.
_MOST_AHEAD = 32


class PurePayload:
    """A payload of so many bytes, which arrives masked where there is a key."""

    def __init__(self, size: int, key: bytes | bytearray | memoryview | None, /) -> None:
        if size < 0:
            raise ValueError("the size is negative")
        if key is not None and len(key) != 4:
            raise ValueError("a masking key has four bytes")
        self.size = size
        self.received = 0
        self._bytes: bytearray | None = bytearray()
        self._key = None if key is None else bytes(key)

    def add(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take what belongs to the payload, and return how many bytes that was."""
        kept = self._kept()
        piece = memoryview(data)[: self.size - self.received]
        kept += piece if self._key is None else pure_mask(piece, self._turned(self._key))
        self.received += len(piece)
        return len(piece)

    def _turned(self, key: bytes) -> bytes:
        phase = self.received % 4
        return key[phase:] + key[:phase]

    def take(self, as_text: bool, /) -> str | bytes:
        """Return the message, once; raises `UnicodeDecodeError`, and then there is no other."""
        kept = self._kept()
        if self.received < self.size:
            raise ValueError("the payload is not complete")
        message = kept.decode() if as_text else bytes(kept)
        self._bytes = None
        return message

    def wire(self) -> bytes:
        """Return what has arrived, as it was."""
        kept = self._kept()
        return bytes(kept) if self._key is None else pure_mask(kept, self._key)

    def _kept(self) -> bytearray:
        if self._bytes is None:
            raise ValueError("the payload was taken")
        return self._bytes


Payload: type[PurePayload]
Payload = PurePayload if speedups is None else speedups.Payload


class ArrivingMessage:
    """One frame that is a whole message, in the middle of its arrival."""

    __slots__ = ("_head", "_is_text", "_payload")

    def __init__(self, head: bytes, *, length: int, is_text: bool) -> None:
        """`head` as it came, and of so many bytes of payload."""
        is_masked = head[1] >= 0x80
        self._head = head
        self._payload = Payload(length, head[-4:] if is_masked else None)
        self._is_text = is_text

    @staticmethod
    def is_worth_it(head: Head, here: int) -> bool:
        """Whether a frame with this head, of which so many bytes are here, is to be one."""
        return (
            head.fin
            and not head.rsv1
            and head.opcode in (TEXT, BINARY)
            and _LARGE <= head.length <= here * _MOST_AHEAD
        )

    @property
    def received(self) -> int:
        """Bytes of the frame so far."""
        return len(self._head) + self._payload.received

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return self._payload.size

    @property
    def is_complete(self) -> bool:
        return self._payload.received == self._payload.size

    def add(self, data: bytes | memoryview) -> bytes | memoryview:
        """Take what belongs to the frame, and return the rest."""
        taken = self._payload.add(data)
        return b"" if taken == len(data) else memoryview(data)[taken:]

    def message(self) -> str | bytes:
        """Return the message, once. Raises `UnicodeDecodeError`."""
        return self._payload.take(self._is_text)

    def wire(self) -> bytes:
        """Return the frame so far, as it came."""
        return self._head + self._payload.wire()

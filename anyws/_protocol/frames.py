"""The head of the next frame, looked at before its bytes are handed to the engine.

Limits have to be enforced from the head alone, before the payload is kept, and wsproto shows a
head to nobody. So the two to fourteen bytes are read here as well (RFC 6455, section 5.2). The
verdict on a violation stays with the engine: a head that is not `plain` is handed to it as is.
"""

from __future__ import annotations

from typing import NamedTuple

from .._close import Role
from .._config import CHUNK_BYTES

__all__ = [
    "BINARY",
    "CHUNK_FRAME_BYTES",
    "CLOSE",
    "CONTINUATION",
    "MAX_HEAD_BYTES",
    "PING",
    "PONG",
    "TEXT",
    "Head",
    "peek",
    "unmask_control",
]

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

MAX_HEAD_BYTES = 14  # of a frame, masking key included
# A frame that carries a chunk. Of plain streams, one read or write takes as much, so that none
# leaves a few bytes of such a frame to another one.
CHUNK_FRAME_BYTES = CHUNK_BYTES + MAX_HEAD_BYTES

_KNOWN = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})


class Head(NamedTuple):
    size: int  # of the head itself, masking key included
    length: int  # of the payload
    opcode: int
    fin: bool
    rsv1: bool
    plain: bool  # nothing about the head alone looks wrong

    @property
    def is_control(self) -> bool:
        return self.opcode >= CLOSE


def peek(
    buffer: bytes | bytearray, role: Role, *, compression: bool, start: int = 0
) -> Head | None:
    """Read the head at `start` in the buffer; ``None`` when it is not complete."""
    if len(buffer) < start + 2:
        return None
    first, second = buffer[start], buffer[start + 1]
    opcode = first & 0x0F
    fin = first >= 0x80
    rsv1 = bool(first & 0x40)
    masked = second >= 0x80
    length = second & 0x7F
    size = 2
    # Section 5.2: a length takes the fewest bytes that hold it, and its highest bit is 0.
    minimal = True
    if length == 126:
        size = 4
        length = int.from_bytes(buffer[start + 2 : start + 4], "big")
        minimal = length > 125
    elif length == 127:
        size = 10
        length = int.from_bytes(buffer[start + 2 : start + 10], "big")
        minimal = 0xFFFF < length < 1 << 63
    if masked:
        size += 4
    if len(buffer) < start + size:
        return None
    plain = (
        minimal
        and opcode in _KNOWN
        and not first & 0x30
        # Section 5.1: a client masks every frame, a server none.
        and masked is (role is Role.SERVER)
    )
    if opcode >= CLOSE:
        # Section 5.5: whole, and at most 125 bytes.
        plain = plain and fin and not rsv1 and length <= 125
    elif rsv1:
        # RFC 7692, section 6.1: only on the first frame of a message.
        plain = plain and compression and opcode != CONTINUATION
    return Head(size, length, opcode, fin, rsv1, plain)


def unmask_control(frame: bytes | bytearray, head: Head) -> bytes:
    """Return the payload of a whole control frame, without its mask (RFC 6455, section 5.3)."""
    payload = frame[head.size : head.size + head.length]
    if frame[1] < 0x80:
        return bytes(payload)
    key = frame[head.size - 4 : head.size]
    return bytes(byte ^ key[index & 3] for index, byte in enumerate(payload))

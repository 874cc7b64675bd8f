"""Frames of whole messages, read and built with as little work as possible.

This is the part of the fast lane that touches bytes. It takes what is certainly in order and needs
no thought: a data frame that is a whole message, all of it there. At anything else it stops, be it
incomplete, a control frame, a fragment or wrong, and says where: the engine behind the lane then
has the verdict, and there is one judge of violations.

Each function stands here in Python, and again in `_speedups.c`, which is used where it was built
(`COMPILED`). Both do the same; the tests compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .compiled import COMPILED, speedups
from .frames import BINARY, TEXT
from .masking import pure_mask

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COMPILED",
    "Whole",
    "build_frame",
    "pure_build_frame",
    "pure_read_frames",
    "read_frames",
]

# A message; or the opcode and the payload of a compressed one, to be inflated.
Whole: TypeAlias = "str | bytes | tuple[int, bytes]"

_FIN = 0x80
_RSV1 = 0x40
_MASKED = 0x80
_LARGE = 16384
_WHOLE_TEXT = _FIN | TEXT
_WHOLE = frozenset({_FIN | TEXT, _FIN | BINARY})
_WHOLE_OR_COMPRESSED = _WHOLE | {first | _RSV1 for first in _WHOLE}


def pure_read_frames(
    data: bytes | bytearray | memoryview,
    start: int,
    masked: bool,
    limit: int,
    compressed_limit: int,
    max_messages: int,
    max_bytes: int,
    /,
) -> tuple[list[Whole], int, int]:
    """Read whole, unfragmented data frames one after another, from the head of one at `start`.

    It stops at the first that is anything else or larger than its limit in bytes (-1: no limit; for
    compressed ones -2: there may be none), after `max_messages`, and when the payloads together
    have reached `max_bytes`. Frames have to be `masked`, or not to be.

    Returns the messages, the position behind the last frame taken, and the bytes of the payloads.
    Whatever the data, it raises nothing.
    """
    if start < 0:
        raise ValueError("the start is negative")
    if isinstance(data, memoryview):
        data = data.tobytes()
    messages: list[Whole] = []
    taken = 0
    end = len(data)
    whole = _WHOLE if compressed_limit < -1 else _WHOLE_OR_COMPRESSED
    mask_bit = _MASKED if masked else 0
    while start + 2 <= end and taken < max_bytes and len(messages) < max_messages:
        first = data[start]
        # RFC 6455, section 5.2. Not from 0 to 127: masked where it must not be, or the reverse.
        length = data[start + 1] - mask_bit
        body = start + 2
        if not 0 <= length <= 127 or first not in whole:
            break
        # A length that is cut off may read as any number: the body then starts behind the end.
        if length == 126:
            body = start + 4
            length = int.from_bytes(data[start + 2 : body])
            if length < 126:
                break
        elif length == 127:
            body = start + 10
            length = int.from_bytes(data[start + 2 : body])
            if not 0xFFFF < length < 1 << 63:
                break
        if masked:
            body += 4
        if length > (compressed_limit if first & _RSV1 else limit) >= 0 or body + length > end:
            break
        payload: bytes | bytearray = b""
        if masked:
            key = data[body - 4 : body]
            # Of a large one there are copies enough without that of a slice.
            is_large = length > _LARGE
            source = (
                memoryview(data)[body : body + length] if is_large else data[body : body + length]
            )
            payload = pure_mask(source, key)
        else:
            payload = data[body : body + length]
        if first == _WHOLE_TEXT:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                break
        elif first & _RSV1:
            messages.append((first & 0x0F, bytes(payload)))
        else:
            messages.append(bytes(payload))
        taken += length
        start = body + length
    return messages, start, taken


def pure_build_frame(first: int, payload: bytes, key: bytes | None, /) -> bytes:
    """Return the frame with this first byte; masked, if there is a key."""
    length = len(payload)
    mask_bit = 0 if key is None else _MASKED
    if length < 126:
        head = bytes((first, mask_bit | length))
    elif length <= 0xFFFF:
        head = bytes((first, mask_bit | 126)) + length.to_bytes(2)
    else:
        head = bytes((first, mask_bit | 127)) + length.to_bytes(8)
    if key is None:
        return head + payload
    return b"".join((head, key, pure_mask(payload, key)))


read_frames: Callable[
    [bytes | bytearray | memoryview, int, bool, int, int, int, int], tuple[list[Whole], int, int]
]
read_frames = pure_read_frames if speedups is None else speedups.read_frames

build_frame: Callable[[int, bytes, bytes | None], bytes]
build_frame = pure_build_frame if speedups is None else speedups.build_frame

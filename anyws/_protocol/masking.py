"""Masks of frames: XOR with a key of four bytes (RFC 6455, section 5.3), and fresh keys.

Python has no loop over bytes that is fast enough, but two things that are done in C. XOR of two
integers is the quickest for what is short; for what is long its conversions cost more than
`bytes.translate`, once for each of the four bytes of the key, which goes over every fourth byte.

Section 5.3 wants each key unpredictable. `os.urandom` is a system call, so keys are cut from
larger pieces of it. They wait in a list, whose `pop` no other thread can get in between of. A
child process starts with an empty list: with its parent's it would mask as the parent does.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from .compiled import speedups

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["mask", "new_key", "pure_mask"]

# Bytes, measured: below it integers are quicker, above it translation is.
_CROSSOVER = 640

_number = int.from_bytes

# One per byte of a key: every byte XOR that one.
_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def pure_mask(data: bytes | bytearray | memoryview, key: bytes | bytearray, /) -> bytes:
    """Return `data` with the mask of `key` put on, or taken off: that is the same."""
    if len(key) != 4:
        raise ValueError("a masking key has four bytes")
    # The length of a view may count something else than bytes.
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size < _CROSSOVER:
        if isinstance(data, memoryview):
            data = data.tobytes()
        repeated = (key * ((size + 3) >> 2))[:size]
        return (_number(data) ^ _number(repeated)).to_bytes(size)
    masked = bytearray(data)
    for index in range(4):
        masked[index::4] = masked[index::4].translate(_TABLES[key[index]])
    return bytes(masked)


mask: Callable[[bytes | bytearray | memoryview, bytes | bytearray], bytes]
mask = pure_mask if speedups is None else speedups.mask


# One piece of randomness, cut into keys.
_PIECE = struct.Struct("4s" * 256)
_keys: list[bytes] = []
# Windows has no fork.
if hasattr(os, "register_at_fork"):  # pragma: no branch
    os.register_at_fork(after_in_child=_keys.clear)


def new_key() -> bytes:
    """Return a masking key that nobody can predict and that was not returned before."""
    while True:
        try:
            return _keys.pop()
        except IndexError:
            _keys.extend(_PIECE.unpack(os.urandom(_PIECE.size)))

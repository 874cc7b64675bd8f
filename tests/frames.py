"""Frames made and read by hand (RFC 6455, section 5.2), with nothing of the library in them."""

from __future__ import annotations

import zlib
from typing import NamedTuple

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

RSV1 = 4
RSV2 = 2
RSV3 = 1

MASK = b"\x12\x9a\xe7\x0f"


class Frame(NamedTuple):
    """A frame as it was on the wire; `mask` is empty where there was none."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    mask: bytes = b""


def xor(data: bytes, mask: bytes) -> bytes:
    """Byte i with key[i mod 4] (section 5.3), the slow and obvious way."""
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def head(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool | bytes = False,
    form: int | None = None,
) -> bytes:
    """Return a head alone; `form` is 0, 126 or 127 where it shall not be the shortest."""
    if form is None:
        form = 0 if length < 126 else 126 if length < 65536 else 127
    masked = 0x80 if mask else 0
    data = bytes([fin << 7 | rsv << 4 | opcode, masked | (form or length)])
    if form:
        data += length.to_bytes(2 if form == 126 else 8, "big")
    if mask:
        data += MASK if mask is True else mask
    return data


def frame(
    opcode: int,
    payload: bytes = b"",
    fin: bool = True,
    rsv: int = 0,
    mask: bool | bytes = False,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """Return a frame: `mask` true for a fixed key, or the key itself.

    `length` is what the head says where that shall not be the truth.
    """
    size = len(payload) if length is None else length
    if mask:
        payload = xor(payload, MASK if mask is True else mask)
    return head(opcode, size, fin=fin, rsv=rsv, mask=mask, form=form) + payload


def close_frame(code: int | None = None, reason: bytes = b"", mask: bool | bytes = False) -> bytes:
    payload = b"" if code is None else code.to_bytes(2, "big") + reason
    return frame(CLOSE, payload, mask=mask)


def read_frames(data: bytes) -> list[Frame]:
    """Read whole frames; raises ValueError where the last is cut or a length is not minimal."""
    frames = []
    while data:
        if len(data) < 2:
            raise ValueError("cut within a head")
        first, second = data[0], data[1]
        length, size = second & 0x7F, 2
        if length >= 126:
            size = 4 if length == 126 else 10
            form, length = length, int.from_bytes(data[2:size], "big")
            if not (0xFFFF < length < 1 << 63 if form == 127 else length >= 126):
                raise ValueError(f"{length} bytes in the long form {form}")
        mask = b""
        if second & 0x80:
            mask = data[size : size + 4]
            size += 4
        if len(data) < size + length:
            raise ValueError("cut within a frame")
        payload = data[size : size + length]
        if mask:
            payload = xor(payload, mask)
        frames.append(Frame(first & 0x0F, payload, first >= 0x80, first >> 4 & 7, mask))
        data = data[size + length :]
    return frames


def deflated(data: bytes, *, level: int = 6) -> bytes:
    """The payload of a compressed message (RFC 7692, section 7.2.1), without history."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

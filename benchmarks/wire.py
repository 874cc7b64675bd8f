"""The load's end of a WebSocket: bytes made beforehand, and just enough reading to count answers.

All of it is independent of the libraries under test. An answer that is not compressed has a known
length, so its bytes are counted; the length of a compressed one is the compressor's affair, so the
heads of its frames are read.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .workloads import Workload

__all__ = [
    "CLOSE_MASKED",
    "CLOSE_UNMASKED",
    "ByteCounter",
    "Counter",
    "FrameCounter",
    "Miscount",
    "answer",
    "counter",
    "first_frame",
    "frame",
    "hello",
    "payload_of",
    "request",
    "windows",
]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
# Any key will do for the load: it is not the load that needs protection from proxies.
_MASK = b"\x12\x34\x56\x78"
_RSV1 = 0x40
_TEXT, _BINARY, _CLOSE = 0x81, 0x82, 0x88
# What permessage-deflate leaves out at the end of a message (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class Miscount(Exception):
    """The process under test sent something else than it had to."""


def mask(payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def frame(first: int, payload: bytes, *, masked: bool) -> bytes:
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 1 << 16:
        head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
    return head + (_MASK + mask(payload, _MASK) if masked else payload)


_NORMAL = (1000).to_bytes(2, "big")
CLOSE_MASKED = frame(_CLOSE, _NORMAL, masked=True)
CLOSE_UNMASKED = frame(_CLOSE, _NORMAL, masked=False)


def windows(workload: Workload, *, masked: bool, bare: bool) -> list[bytes]:
    """Return what one write sends, in all its varieties."""
    pieces = []
    for message in workload.messages:
        if bare:
            pieces.append(message)
        elif workload.mode == "deflate":
            # Each by a compressor of its own: it may be sent at any point of any connection.
            deflate = zlib.compressobj(wbits=-12, memLevel=5)
            data = deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH)
            pieces.append(frame(_TEXT | _RSV1, data.removesuffix(_TAIL), masked=masked))
        else:
            pieces.append(frame(_BINARY, message, masked=masked))
    if len(pieces) == 1:
        return [pieces[0] * workload.depth]
    return pieces if workload.depth == 1 else [b"".join(pieces[: workload.depth])]


class Counter(Protocol):
    def feed(self, data: memoryview) -> bool:
        """Take what was received; return whether a whole window has come."""
        ...


class ByteCounter:
    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def feed(self, data: memoryview) -> bool:
        self._left -= len(data)
        if self._left > 0:
            return False
        if self._left < 0:
            raise Miscount(f"{-self._left} bytes more than the answers have")
        self._left = self._size
        return True


class FrameCounter:
    def __init__(self, frames: int) -> None:
        self._frames = self._left = frames
        self._kept = b""

    def feed(self, data: memoryview) -> bool:
        kept = self._kept + data
        while (found := first_frame(kept)) is not None:
            first, _, _, end = found
            if first != _TEXT | _RSV1:
                raise Miscount(f"a frame that begins with {first:#x}, not a compressed text")
            kept = kept[end:]
            self._left -= 1
        self._kept = kept
        if self._left > 0:
            return False
        if self._left < 0 or kept:
            raise Miscount("more frames than were asked for")
        self._left = self._frames
        return True


def counter(workload: Workload, *, masked: bool, bare: bool) -> Counter:
    """Return a counter of what comes back in one window."""
    if workload.mode == "deflate":
        return FrameCounter(workload.depth)
    return ByteCounter(len(windows(workload, masked=masked, bare=bare)[0]))


def first_frame(data: bytes) -> tuple[int, int, int, int] | None:
    """Return the first byte, the start of mask and payload, and the end; None if not all there."""
    if len(data) < 2:
        return None
    start, size = 2, data[1] & 0x7F
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    masked = start
    start += 4 if data[1] & 0x80 else 0
    end = start + size
    return None if len(data) < end else (data[0], masked, start, end)


def payload_of(data: bytes) -> tuple[bytes, bytes]:
    """Return the payload of the first frame, which must be whole, and what follows it."""
    found = first_frame(data)
    if found is None:
        raise Miscount("half a frame")
    first, masked, start, end = found
    payload = data[start:end]
    if start > masked:
        payload = mask(payload, data[masked:start])
    if first & _RSV1:
        payload = zlib.decompressobj(wbits=-15).decompress(payload + _TAIL)
    return payload, data[end:]


def hello(size: int) -> bytes:
    """Return what a bare connection begins with in place of a handshake: the messages' size."""
    return size.to_bytes(4, "big")


def request(*, deflate: bool) -> bytes:
    lines = [
        b"GET / HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + _KEY,
        b"Sec-WebSocket-Version: 13",
    ]
    if deflate:
        lines.append(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    return b"\r\n".join([*lines, b"", b""])


def answer(head: bytes, *, deflate: bool) -> bytes:
    """Return the 101 for a request."""
    headers = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _GUID).digest())  # noqa: S324
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
    ]
    if deflate:
        if b"permessage-deflate" not in headers.get(b"sec-websocket-extensions", b""):
            raise Miscount("the client does not offer permessage-deflate")
        lines.append(b"Sec-WebSocket-Extensions: permessage-deflate")
    return b"\r\n".join([*lines, b"", b""])

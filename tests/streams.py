"""A peer that speaks in bytes, over the streams in memory of `anyws.testing`.

All deterministic: nothing here sleeps or starts a task. `tests/test_streams.py` tests it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import EndOfStream, fail_after
from anyio.abc import SocketAttribute

import anyws
from anyws import Config, WebSocket
from anyws._protocol.fields import accept_key
from anyws.testing import MemoryStream, memory_stream_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# Seconds that no test may take: what hangs says where.
GUARD = 15

URL = "ws://server.test/"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"


class SocketLike(MemoryStream):
    """A stream that looks like a socket: the task that receives reads it."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: None}


def pair(capacity: int = 65536, *, inline: bool = False) -> tuple[MemoryStream, MemoryStream]:
    """Return two connected streams; `inline` makes them look like sockets."""
    near, far = memory_stream_pair(capacity)
    if inline:
        near = SocketLike(near.incoming, near.outgoing)
        far = SocketLike(far.incoming, far.outgoing)
    return near, far


# --- Frames, as the RFC has them: an independent hand ---


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes
    fin: bool = True
    rsv1: bool = False
    masked: bool = False

    @property
    def code(self) -> int:
        return int.from_bytes(self.payload[:2], "big")

    @property
    def reason(self) -> str:
        return self.payload[2:].decode()


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False, mask: bool = False
) -> bytes:
    """Return one frame (RFC 6455, section 5.2)."""
    head = bytearray([opcode | 0x80 * fin | 0x40 * rsv1])
    size = len(payload)
    if size < 126:
        head.append(size)
    elif size < 1 << 16:
        head += b"\x7e" + size.to_bytes(2, "big")
    else:
        head += b"\x7f" + size.to_bytes(8, "big")
    if not mask:
        return bytes(head) + payload
    head[1] |= 0x80
    return bytes(head) + MASK + _unmask(payload, MASK)


def close_frame(code: int, reason: str = "", *, mask: bool = False) -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), mask=mask)


def split_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames that `data` begins with, and the rest."""
    frames = []
    data = bytes(data)
    while True:
        if len(data) < 2:
            return frames, data
        length, start = data[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        masked = bool(data[1] & 0x80)
        key = data[start : start + 4] if masked else bytes(4)
        start += 4 * masked
        if len(data) < start + length:
            return frames, data
        payload = data[start : start + length]
        frames.append(
            Frame(
                data[0] & 0xF,
                _unmask(payload, key) if masked else payload,
                bool(data[0] & 0x80),
                bool(data[0] & 0x40),
                masked,
            )
        )
        data = data[start + length :]


def _unmask(data: bytes, key: bytes) -> bytes:
    long_key = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(long_key, "big")).to_bytes(
        len(data), "big"
    )


def request_bytes(*lines: str, key: str = KEY, target: str = "/") -> bytes:
    """Return a client's half of the opening handshake."""
    head = [
        f"GET {target} HTTP/1.1",
        "Host: server.test",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    return "\r\n".join([*head, "", ""]).encode()


class RawPeer:
    """The other end of a connection, by hand: it does exactly what a test says."""

    def __init__(
        self, stream: MemoryStream, *, is_server: bool, other: MemoryStream | None = None
    ) -> None:
        self.stream = stream
        self.other = other or stream  # the stream that the library has
        self.is_server = is_server
        self.stays = False  # when the other end leaves its block
        self.unread = b""  # received, not yet split into frames
        self._frames: list[Frame] = []

    # The handshake happens inside the other end's `send`: it takes no task.

    def answer_handshake(self, *lines: str, after: bytes = b"") -> None:
        """Answer the client's request as soon as it is complete; then send `after`."""
        pipe = self.stream.incoming

        def respond() -> None:
            head, separator, rest = bytes(pipe.data).partition(b"\r\n\r\n")
            if separator:
                pipe.on_data = None
                pipe.data[:] = rest
                fields = dict(
                    line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:]
                )
                answer = [
                    "HTTP/1.1 101 Switching Protocols",
                    "Upgrade: websocket",
                    "Connection: Upgrade",
                    f"Sec-WebSocket-Accept: {accept_key(fields['Sec-WebSocket-Key'])}",
                    *lines,
                ]
                pipe.log.clear()
                self.push("\r\n".join([*answer, "", ""]).encode() + after)

        pipe.on_data = respond

    def drop_response(self) -> bytes:
        """Take the server's half of the handshake off the wire, and return it."""
        pipe = self.stream.incoming
        head, separator, rest = bytes(pipe.data).partition(b"\r\n\r\n")
        assert separator, head
        pipe.data[:] = rest
        pipe.log[:] = rest
        return head

    def push(self, data: bytes) -> None:
        """Send bytes now, without regard to the capacity."""
        self.stream.outgoing.push(data)

    def send(
        self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False
    ) -> None:
        self.push(frame(opcode, payload, fin=fin, rsv1=rsv1, mask=not self.is_server))

    def send_close(self, code: int = 1000, reason: str = "") -> None:
        self.push(close_frame(code, reason, mask=not self.is_server))

    def end(self) -> None:
        """End the stream in our direction, as a TCP peer does that closes its half."""
        self.stream.outgoing.end()

    def leave(self) -> None:
        """Close as a good peer does, unless it is to stay or the stream has ended."""
        if not (self.stays or self.stream.outgoing.ended):
            self.send_close()
            self.end()

    def stall(self) -> None:
        """Take nothing more: the other end's writes block."""
        self.stream.incoming.capacity = 0

    def resume(self, capacity: int = 1 << 30) -> None:
        self.stream.incoming.capacity = capacity
        self.stream.incoming.notify()

    async def next_frame(self) -> Frame:
        """Receive one frame; raise `EndOfStream` at the end."""
        while not self._frames:
            self.unread += await self.stream.receive()
            self._frames, self.unread = split_frames(self.unread)
        return self._frames.pop(0)

    async def next_close(self) -> Frame:
        """Receive frames until there is a Close."""
        while (received := await self.next_frame()).opcode != CLOSE:
            pass
        return received

    async def until_end(self) -> list[Frame]:
        """Receive frames to the end of the stream; there must be no half frame at the end."""
        frames = []
        try:
            while True:
                frames.append(await self.next_frame())
        except EndOfStream:
            assert self.unread == b"", "the stream ended inside a frame"
            return frames

    @property
    def wire(self) -> list[Frame]:
        """The whole frames that the other end has sent since the handshake, taken or not."""
        return split_frames(bytes(self.stream.incoming.log))[0]

    @property
    def torn(self) -> bytes:
        """What follows the last whole frame on the wire."""
        return split_frames(bytes(self.stream.incoming.log))[1]


@asynccontextmanager
async def client_of_raw(
    config: Config | None = None,
    *,
    capacity: int = 1 << 20,
    inline: bool = False,
    guard: float | None = GUARD,
    answer: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[tuple[WebSocket, RawPeer]]:
    """Give a client's `WebSocket`, and the raw server that it is connected to."""
    near, far = pair(1 << 20, inline=inline)
    peer = RawPeer(far, is_server=True, other=near)
    peer.answer_handshake(*answer)
    with fail_after(guard):
        async with anyws.wrap_client_stream(near, URL, config=config, **options) as ws:
            near.outgoing.capacity = far.outgoing.capacity = capacity
            try:
                yield ws, peer
            finally:
                peer.leave()


@asynccontextmanager
async def server_of_raw(
    config: Config | None = None,
    *,
    capacity: int = 1 << 20,
    inline: bool = False,
    guard: float | None = GUARD,
    ask: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[tuple[WebSocket, RawPeer]]:
    """Give a server's `WebSocket`, and the raw client that it serves."""
    near, far = pair(1 << 20, inline=inline)
    peer = RawPeer(far, is_server=False, other=near)
    peer.push(request_bytes(*ask))
    with fail_after(guard):
        async with anyws.wrap_server_stream(near, config=config, **options) as ws:
            peer.drop_response()
            near.outgoing.capacity = far.outgoing.capacity = capacity
            try:
                yield ws, peer
            finally:
                peer.leave()

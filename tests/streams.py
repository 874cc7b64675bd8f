"""Byte streams that misbehave on purpose, and a peer that speaks in bytes.

All in memory, all deterministic: nothing here sleeps or starts a task. `tests/test_streams.py`
tests them. They are honest about cancellation: a cancelled `send` may have sent any part.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    Event,
    create_memory_object_stream,
    fail_after,
)
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.lowlevel import checkpoint

import anyws
from anyws import Config, WebSocket
from anyws._protocol.fields import accept_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anyio.abc import TaskGroup

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# Seconds that no test may take: what hangs says where.
GUARD = 15

URL = "ws://server.test/"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"


class _Pipe:
    """One direction: bytes that were sent and not yet received."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.log = bytearray()  # all that ever went in
        self.ended = False  # no more will come
        self.broken = False  # nobody reads any more
        self.closed = False  # its writer is closed
        self.changed = Event()
        self.respond: Callable[[], None] | None = None  # called after each part that goes in

    def notify(self) -> None:
        self.changed.set()
        self.changed = Event()

    def put(self, data: bytes) -> None:
        self.data += data
        self.log += data
        if self.respond is not None:
            self.respond()
        self.notify()

    def end(self) -> None:
        self.ended = True
        self.notify()


class MemoryStream(ByteStream):
    """One end of a pair; see `pair`.

    Set at any time: `chunk`, the most that one `receive` returns; `fail_send` and
    `fail_receive`, what the nth call from now on raises.
    """

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, *, inline: bool) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.chunk: int | None = None
        self.fail_send: tuple[int, Exception] | None = None
        self.fail_receive: tuple[int, Exception] | None = None
        self.forever_closing = False
        self.closed = False
        self.sends = 0
        self.receives = 0
        self._inline = inline
        self._sending = False
        self._receiving = False

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        # A stream with a socket is read by the task that receives.
        return {SocketAttribute.raw_socket: lambda: None} if self._inline else {}

    async def send(self, item: bytes) -> None:
        self.sends += 1
        if self._sending:
            raise BusyResourceError("sending to")
        self._sending = True
        try:
            await checkpoint()
            rest = memoryview(bytes(item))
            while rest:
                self._check_sending()
                pipe = self.outgoing
                room = pipe.capacity - len(pipe.data)
                if room > 0:
                    pipe.put(bytes(rest[:room]))
                    rest = rest[room:]
                else:
                    await pipe.changed.wait()
        finally:
            self._sending = False

    def _check_sending(self) -> None:
        if self.closed or self.outgoing.closed:
            raise ClosedResourceError
        if self.fail_send is not None:
            calls, error = self.fail_send
            if self.sends >= calls:
                raise error
        if self.outgoing.broken:
            raise BrokenResourceError("the reader is gone")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.receives += 1
        if self._receiving:
            raise BusyResourceError("receiving from")
        self._receiving = True
        try:
            await checkpoint()
            pipe = self.incoming
            while True:
                if self.closed:
                    raise ClosedResourceError
                if self.fail_receive is not None and self.receives >= self.fail_receive[0]:
                    raise self.fail_receive[1]
                if pipe.data:
                    size = min(max_bytes, self.chunk or max_bytes)
                    data = bytes(pipe.data[:size])
                    del pipe.data[:size]
                    pipe.notify()
                    return data
                if pipe.ended:
                    raise EndOfStream
                await pipe.changed.wait()
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        self.outgoing.closed = True
        self.outgoing.end()

    async def aclose(self) -> None:
        if self.forever_closing:
            try:
                await Event().wait()
            finally:
                self._close()
        self._close()
        await checkpoint()

    def _close(self) -> None:
        self.closed = self.incoming.broken = True
        self.outgoing.end()
        self.incoming.notify()


def pair(capacity: int = 65536, *, inline: bool = False) -> tuple[MemoryStream, MemoryStream]:
    """Return two connected streams; each direction holds at most `capacity` bytes.

    `inline` makes them look like sockets to a transport that asks.
    """
    there, back = _Pipe(capacity), _Pipe(capacity)
    return (
        MemoryStream(back, there, inline=inline),
        MemoryStream(there, back, inline=inline),
    )


class MemoryListener(Listener[ByteStream]):
    """Serves whoever calls `connect`."""

    def __init__(self, *, inline: bool = False, capacity: int = 65536) -> None:
        self._queue_in, self._queue_out = create_memory_object_stream[ByteStream](100)
        self._inline = inline
        self._capacity = capacity
        self.errors: list[Exception] = []  # what the next attempts to accept raise

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}

    def connect(self) -> MemoryStream:
        near, far = pair(self._capacity, inline=self._inline)
        self._queue_in.send_nowait(far)
        return near

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        assert task_group is not None
        while True:
            await checkpoint()
            if self.errors:
                raise self.errors.pop(0)
            task_group.start_soon(handler, await self._queue_out.receive())

    async def aclose(self) -> None:
        self._queue_in.close()
        self._queue_out.close()
        await checkpoint()


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
                pipe.respond = None
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

        pipe.respond = respond

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
        self.stream.outgoing.put(data)

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

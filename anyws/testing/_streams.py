"""Byte streams in memory that misbehave when told to.

A pair of streams is two pipes, one for each direction. A pipe is what the network is in between: it
holds so much, takes so long, delivers in such pieces, stalls, ends. A stream is one end: its calls
can be made to fail. Nothing here starts a task, and everything can be changed while it is used.

They are honest about cancellation: a cancelled `send` has sent any part of its bytes, as over a
socket. (A stream made of memory object streams would withdraw all of them, and never show a torn
write.)
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    aclose_forcefully,
    create_memory_object_stream,
    current_time,
    move_on_after,
)
from anyio.abc import ByteStream, Listener
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

__all__ = ["MemoryListener", "MemoryStream", "Pipe", "memory_stream_pair"]


class Pipe:
    """One direction of a pair: what one end has sent and the other has not received.

    capacity:
        Bytes that it holds; a `send` of more sends what there is room for and waits for the rest.
    chunk_size:
        The most bytes that one `receive` returns; ``None`` for as many as are asked for.
    latency:
        Seconds from sending a byte to its arrival.
    data:
        What was sent and has not been received.
    log:
        Everything that was ever sent.
    on_data:
        Called whenever bytes have gone in: a peer that needs no task.
    """

    def __init__(self, capacity: int = 65536) -> None:
        self.capacity: int = capacity
        self.chunk_size: int | None = None
        self.latency: float = 0
        self.data: bytearray = bytearray()
        self.log: bytearray = bytearray()
        self.on_data: Callable[[], None] | None = None
        self._changed = Event()
        self._stalled = False
        self._arrivals: deque[tuple[float, int]] = deque()  # when, and how many of `data`
        self._ends_at: float | None = None  # no more will come: known to the receiver by then
        self._left: int | None = None  # bytes until it ends by itself
        self._reset = False
        self._refused = False

    @property
    def ended(self) -> bool:
        """Whether no more can be sent."""
        return self._ends_at is not None

    def push(self, data: bytes) -> None:
        """Send bytes now, whatever the capacity."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data:
            self.data += data
            self.log += data
            if self.latency:
                self._arrivals.append((current_time() + self.latency, len(data)))
            if self.on_data is not None:
                self.on_data()
            self.notify()
        if self._left == 0:
            self.end(reset=self._reset)

    def stall(self) -> None:
        """Deliver nothing, not even an end: receiving waits, and sending, once it is full."""
        self._stalled = True

    def resume(self) -> None:
        """End a `stall`."""
        self._stalled = False
        self.notify()

    def end(self, *, reset: bool = False) -> None:
        """End this direction, behind what was sent; with `reset`, as a lost connection does."""
        if not self.ended:
            self._ends_at = current_time() + self.latency if self.latency else -math.inf
        self._reset = reset
        self.notify()

    def end_after(self, size: int, *, reset: bool = False) -> None:
        """End this direction when so many more bytes have gone in, be it within a frame."""
        self._left = size
        self._reset = reset
        if size == 0:
            self.end(reset=reset)

    def refuse(self) -> None:
        """Take nothing more, as where the receiving end is gone: sending fails."""
        self._refused = True
        self.notify()

    def notify(self) -> None:
        """Wake who waits for this pipe: call it after setting `capacity` or changing `data`."""
        self._changed.set()
        self._changed = Event()

    # --- For the streams ---

    def _room(self) -> int:
        return self.capacity - len(self.data)

    def _arrived(self, now: float) -> int:
        while self._arrivals and self._arrivals[0][0] <= now:
            self._arrivals.popleft()
        return len(self.data) - sum(size for _, size in self._arrivals)

    def _take(self, size: int) -> bytes:
        data = bytes(self.data[:size])
        del self.data[:size]
        self.notify()
        return data

    def _next_change(self) -> float:
        """When something arrives that is on its way."""
        if self._stalled:
            return math.inf
        if self._arrivals:
            return self._arrivals[0][0]
        return math.inf if self._ends_at is None else self._ends_at


class MemoryStream(ByteStream):
    """One end of a pair, made by `memory_stream_pair`.

    incoming, outgoing:
        The `Pipe` of each direction: ``near.outgoing`` is ``far.incoming``.
    hangs_on_close:
        Whether `aclose` waits for ever: only a cancellation ends it.
    closed:
        Whether this end is closed.
    sends, receives:
        How often each was called.
    """

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming: Pipe = incoming
        self.outgoing: Pipe = outgoing
        self.hangs_on_close: bool = False
        self.closed: bool = False
        self.sends: int = 0
        self.receives: int = 0
        self._failing_send: tuple[int, Exception] | None = None
        self._failing_receive: tuple[int, Exception] | None = None
        self._sending = False
        self._receiving = False
        self._eof_sent = False

    def fail_send(self, error: Exception, *, call: int = 1) -> None:
        """Let the nth call of `send` from now, and all after it, raise this."""
        self._failing_send = (self.sends + call, error)
        self.outgoing.notify()

    def fail_receive(self, error: Exception, *, call: int = 1) -> None:
        """Let the nth call of `receive` from now, and all after it, raise this."""
        self._failing_receive = (self.receives + call, error)
        self.incoming.notify()

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
                room = pipe._room()
                if room > 0:
                    pipe.push(bytes(rest[:room]))
                    rest = rest[room:]
                else:
                    await pipe._changed.wait()
        finally:
            self._sending = False

    def _check_sending(self) -> None:
        if self.closed or self._eof_sent:
            raise ClosedResourceError
        if self._failing_send is not None and self.sends >= self._failing_send[0]:
            raise self._failing_send[1]
        if self.outgoing._refused or self.outgoing.ended:
            raise BrokenResourceError("the other end receives no more")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.receives += 1
        if self._receiving:
            raise BusyResourceError("receiving from")
        self._receiving = True
        try:
            await checkpoint()
            while (data := self._receive_now(max_bytes)) is None:
                pipe = self.incoming
                delay = max(pipe._next_change() - current_time(), 0)
                with move_on_after(None if delay == math.inf else delay):
                    await pipe._changed.wait()
            return data
        finally:
            self._receiving = False

    def _receive_now(self, max_bytes: int) -> bytes | None:
        pipe = self.incoming
        now = current_time()
        if self.closed:
            raise ClosedResourceError
        if self._failing_receive is not None and self.receives >= self._failing_receive[0]:
            raise self._failing_receive[1]
        if pipe._stalled:
            return None
        if arrived := pipe._arrived(now):
            return pipe._take(min(arrived, max_bytes, pipe.chunk_size or max_bytes))
        if pipe.data or pipe._ends_at is None or pipe._ends_at > now:
            return None
        if pipe._reset:
            raise BrokenResourceError("the connection was reset")
        raise EndOfStream

    async def send_eof(self) -> None:
        self._eof_sent = True
        self.outgoing.end()
        await checkpoint()

    async def aclose(self) -> None:
        try:
            if self.hangs_on_close:
                await Event().wait()
        finally:
            self.closed = True
            self.outgoing.end()
            self.incoming.refuse()
        await checkpoint()


def memory_stream_pair(capacity: int = 65536) -> tuple[MemoryStream, MemoryStream]:
    """Return two connected byte streams; each direction holds at most `capacity` bytes.

    ::

        near, far = memory_stream_pair(capacity=100)
        far.outgoing.chunk_size = 1  # near receives byte by byte
        near.outgoing.end_after(10)  # far sees the end after ten bytes
        far.fail_send(OSError("no route"), call=3)
    """
    there, back = Pipe(capacity), Pipe(capacity)
    return MemoryStream(back, there), MemoryStream(there, back)


class MemoryListener(Listener[ByteStream]):
    """A listener whose clients are in the same program: for a server without a network.

    ::

        listener = MemoryListener()
        async with anyws.open_server(handler, listeners=[listener]):
            async with anyws.wrap_client_stream(listener.connect(), "ws://test/") as ws:
                ...

    errors:
        What the next attempts to accept raise, in turn.
    """

    def __init__(
        self, make_pair: Callable[[], tuple[ByteStream, ByteStream]] | None = None
    ) -> None:
        self.errors: list[Exception] = []
        self._make_pair: Callable[[], tuple[Any, Any]] = make_pair or memory_stream_pair
        self._arriving, self._arrived = create_memory_object_stream[ByteStream](math.inf)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}

    def connect(self) -> Any:
        """Return the client's end of a new pair, a `MemoryStream`, whose other end is accepted.

        :raises anyio.ClosedResourceError: the listener is closed
        """
        near, far = self._make_pair()
        self._arriving.send_nowait(far)
        return near

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        if task_group is None:
            raise TypeError("a MemoryListener serves within a task group: give it one")
        while True:
            await checkpoint()
            if self.errors:
                raise self.errors.pop(0)
            task_group.start_soon(handler, await self._arrived.receive())

    async def aclose(self) -> None:
        """Close it; whoever has connected and was not accepted sees the end of the stream."""
        self._arriving.close()
        with CancelScope(shield=True):
            while self._arrived.statistics().current_buffer_used:
                await aclose_forcefully(self._arrived.receive_nowait())
        self._arrived.close()
        await checkpoint()

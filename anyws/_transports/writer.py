"""The one task that writes to a plain stream, and that closes it.

A cancelled write to a plain stream may have sent any part of its bytes. So nobody but this task
writes, and nobody cancels it while the connection is meant to live. A sender puts its message into
the queue and waits. The writer takes messages when it is their turn, encodes them there and then,
and writes; control frames that the protocol owes go first. A sender that is cancelled takes its
message back out of the queue or, where it is not in there any more, just goes: the frame is
finished without it.

At the end it is the writer that closes the stream: in order or, when it was cancelled, by force.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time, move_on_after

from .._close import Role
from .._config import CHUNK_BYTES, LINGER
from .._protocol.protocol import Half
from .errors import forget_frames, is_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from .._protocol.protocol import Protocol

__all__ = ["Writer"]

_logger = logging.getLogger("anyws.protocol")


class _Outgoing:
    """A message, or a fragment of one, on its way to the writer."""

    __slots__ = ("compress", "data", "done", "finished", "written")

    def __init__(self, data: str | bytes, finished: bool, compress: bool | None) -> None:
        self.data = data
        self.finished = finished
        self.compress = compress
        self.done = Event()
        self.written = False


class Writer:
    """What it needs of the transport are two callbacks.

    on_write:
        A write begins: told the time.
    on_change:
        The protocol has changed, or somebody has to read now: for the end of the stream, or for
        what the peer has to say while a long write goes on.
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: Protocol,
        *,
        on_write: Callable[[float], None],
        on_change: Callable[[], None],
    ) -> None:
        self.writing_since: float | None = None
        self.is_long = False  # the write in progress has gone on for a while
        self._hurry: str | None = None  # why nothing is waited for any more
        self.wants_eof = False  # nothing is left to write, and the peer is to end its half
        self.eof = Event()  # set by the transport: nothing will be read any more
        self._stream = stream
        self._protocol = protocol
        self._on_write = on_write
        self._on_change = on_change
        self._queue: deque[_Outgoing] = deque()
        self._batch: list[_Outgoing] = []  # in the write in progress
        self._work: Event | None = None  # while there is nothing to write
        self._reads_during_write = 0
        self._scope = CancelScope(shield=True)

    async def write(self, data: str | bytes, *, finished: bool, compress: bool | None) -> None:
        """Send a message, or its next fragment; see `Transport.write`."""
        outgoing = _Outgoing(data, finished, compress)
        self._queue.append(outgoing)
        self.wake()
        try:
            await outgoing.done.wait()
        except BaseException:
            # Not there any more: the writer has it, and finishes it without us.
            if outgoing in self._queue:
                self._queue.remove(outgoing)
            raise
        if not outgoing.written:
            raise self._protocol.exception()

    def wake(self) -> None:
        """Look for something to write, or for the end."""
        if self._work is not None:
            self._work.set()

    def cut(self) -> None:
        """Close the stream by force, whatever is still to be written."""
        self._scope.cancel()

    def hurry(self, cause: str) -> None:
        """Write what is owed to the peer, and then close the stream by force."""
        self._hurry = cause
        self.wake()

    def note_read(self) -> None:
        """Take note that a read went by: a write that outlasts two waits for the peer."""
        if self.writing_since is not None:
            self._reads_during_write += 1
            self._protocol.write_blocked = self._reads_during_write > 2

    async def run(self) -> None:
        """Write until the protocol has finished, then close the stream. Raises no `Exception`."""
        try:
            with self._scope:
                await self._write_until_the_end()
                if self._hurry is None:
                    await self._close_in_order()
        except Exception as error:
            _logger.error("anyws failed while writing to a connection", exc_info=error)
        finally:
            if not self._protocol.finished:
                cause = "the task that served the connection was cancelled"
                self._protocol.abort(self._hurry or cause, by_us=self._hurry is not None)
            try:
                with CancelScope(shield=True):
                    await self._quietly(self._close_by_force())
            finally:
                self._refuse([*self._batch, *self._queue])

    def detach(self) -> None:
        """Let go of the transport, which refers to us: no cycle is left behind."""
        del self._on_write, self._on_change

    # --- Writing ---

    async def _write_until_the_end(self) -> None:
        while True:
            frames = self._take_batch()
            if frames:
                if not await self._write_out(frames):
                    return
            elif self._protocol.finished or self._hurry is not None:
                return
            else:
                self._work = Event()
                await self._work.wait()
                self._work = None

    def _take_batch(self) -> list[bytes]:
        """Encode what there is to write, as much as makes one write worth its while."""
        protocol = self._protocol
        self._batch = []
        frames = []
        size = 0
        if protocol.has_replies:
            frames.append(protocol.take_replies())
        while self._queue and protocol.sendable and size < CHUNK_BYTES:
            outgoing = self._queue.popleft()
            self._batch.append(outgoing)
            frame = protocol.encode(
                outgoing.data, finished=outgoing.finished, compress=outgoing.compress
            )
            frames.append(frame)
            size += len(frame)
        if not protocol.sendable:
            self._refuse(self._queue)
            self._queue.clear()
        return frames

    @staticmethod
    def _refuse(queue: list[_Outgoing] | deque[_Outgoing]) -> None:
        for outgoing in queue:
            outgoing.done.set()

    async def _write_out(self, frames: list[bytes]) -> bool:
        """Write a batch; tell whether the stream took it."""
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        try:
            # In pieces, so that a large write shows whether it gets on.
            for start in range(0, len(data), CHUNK_BYTES):
                self._begin_write()
                if start == CHUNK_BYTES:
                    self.is_long = True
                    self._on_change()
                whole = len(data) <= CHUNK_BYTES
                await self._stream.send(data if whole else data[start : start + CHUNK_BYTES])
        except BaseException as error:
            if not is_failure(error):
                raise
            self._fail(error)
            return False
        finally:
            self.writing_since = None
            self.is_long = False
            self._protocol.write_blocked = False
        for outgoing in self._batch:
            outgoing.written = True
            outgoing.done.set()
        self._batch = []
        return True

    def _begin_write(self) -> None:
        self.writing_since = now = current_time()
        self._reads_during_write = 0
        self._protocol.write_blocked = False
        self._on_write(now)

    def _fail(self, error: Exception) -> None:
        self._protocol.write_failed(error)
        self._on_change()

    # --- The end ---

    async def _close_in_order(self) -> None:
        """Close the stream so that everything written arrives (RFC 6455, section 7.1.1)."""
        protocol = self._protocol
        if protocol.ours is Half.FAILED:
            # Their Close may be among what they sent before they stopped reading. Behind a full
            # inbox nobody gets to it.
            if not protocol.wants_room:
                with move_on_after(LINGER):
                    await self._read_to_end()
            return
        if protocol.theirs is Half.CLOSED:
            if protocol.role is Role.CLIENT:
                # The server closes first, so that waiting for stray segments is up to the client.
                await self._read_to_end()
        elif not self.eof.is_set():
            # Closing over unread data resets the connection, and the reset may overtake our
            # Close. So only our half is closed, and what still comes is dropped.
            with move_on_after(LINGER):
                # TLS has no such thing, and says so.
                await self._quietly(self._stream.send_eof())
                await self._read_to_end()
        with move_on_after(LINGER):
            await self._quietly(self._stream.aclose())

    async def _read_to_end(self) -> None:
        self.wants_eof = True
        self._on_change()
        await self.eof.wait()

    async def _close_by_force(self) -> None:
        with CancelScope() as scope:
            scope.cancel()
            await self._quietly(self._stream.aclose())

    @staticmethod
    async def _quietly(closing: Awaitable[None]) -> None:
        try:
            await closing
        except BaseException as error:
            forget_frames(error)
            if not isinstance(error, Exception):
                raise
            # The peer was faster: closed is closed.
            _logger.debug("closing a stream: %r", error)

"""The one task that writes to a plain stream, and that closes it.

A cancelled write to a plain stream may have sent any part of its bytes. So nobody but this task
writes, and nobody cancels it while the connection is meant to live. A sender puts its message into
the queue and waits. The writer takes messages when it is their turn, encodes them there and then,
and writes; control frames that the protocol owes go first. A sender that is cancelled takes its
message back out of the queue or, where it is not in there any more, just goes: the frame is
finished without it.

A socket that can be written to directly tells how much it has taken. There the sender writes
itself, and the task is started only where something is left over: to write that, and whatever
comes meanwhile.

While messages wait in the inbox, the frames that answer them are held together (`_corked`), and
their senders go on. They go out in one write, as soon as the task or the attendant gets its turn.
To a socket, so do those that follow one another at once, with nothing received in between.

At the end it is the writer that closes the stream: in order or, when it was cancelled, by force.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from anyio import CancelScope, Event, current_time, move_on_after

from .._close import Role
from .._config import CHUNK_BYTES, LINGER
from .._protocol.frames import CHUNK_FRAME_BYTES
from .._protocol.protocol import Half
from .base import LateEvent
from .bursts import Burst
from .errors import forget_frames, note_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from .._protocol.protocol import Protocol
    from .trio import DirectSocket

__all__ = ["Writer"]

_logger = logging.getLogger("anyws.protocol")


# Of what is held together, in bytes or code points.
_LARGEST_HELD = CHUNK_BYTES // 4
# Messages in a row that go to a socket at once. To have those that follow written by another task,
# and then it was not for nothing, costs as much as some more system calls.
_MOST_AT_ONCE = 7


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
    """What it needs of the transport are callbacks.

    on_write:
        A write begins, or gets on: told the time, and which.
    on_start:
        The task is to be started: it runs `run`.
    on_cork:
        Frames are held together: told to have `flush` called soon, answers whether it will be.
    on_change:
        The protocol has changed, or somebody has to read now: for the end of the stream, or for
        what the peer has to say while a long write goes on.
    """

    def __init__(
        self,
        stream: ByteStream,
        protocol: Protocol,
        *,
        direct: DirectSocket | None,
        on_start: Callable[[], None],
        on_cork: Callable[[], bool],
        on_write: Callable[[float, bool], None],
        on_change: Callable[[], None],
    ) -> None:
        self.writing_since: float | None = None
        self.is_long = False  # the write in progress has gone on for a while
        self._hurry: str | None = None  # why nothing is waited for any more
        self.wants_eof = False  # nothing is left to write, and the peer is to end its half
        self.eof = LateEvent()  # set by the transport: nothing will be read any more
        self.ended = False  # the stream is closed
        self._stream = stream
        self._direct = direct
        self._protocol = protocol
        self._on_start = on_start
        self._on_cork = on_cork
        self._on_write = on_write
        self._on_change = on_change
        self._queue: deque[_Outgoing] | None = None  # made by the first who waits
        self._batch: list[_Outgoing] = []  # in the write in progress
        self._work: Event | None = None  # while there is nothing to write
        self._reads_during_write = 0
        self._running = False
        self._is_cut = False
        self._was_cut_short = False  # in the middle of a write
        self._scope: CancelScope | None = None  # while the task runs
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._burst = Burst(_MOST_AT_ONCE)
        self._rest: memoryview | None = None  # of a direct write, for the task to go on with
        # Frames that nobody waits for, behind the write in progress.
        self._pushed: deque[bytes] | None = None
        self.backlog = 0  # bytes of them

    def write(
        self, data: str | bytes, *, finished: bool, compress: bool | None
    ) -> Awaitable[None] | None:
        """Send a message, or its next fragment; see `Transport.write`."""
        if self._direct is not None and not self._running:
            if self._write_directly(self._direct, data, finished, compress):
                return None
            # The task has the rest.
            outgoing = _Outgoing(data, finished, compress)
            self._batch = [outgoing]
        elif len(data) <= _LARGEST_HELD and self._may_hold:
            self._cork(data, finished, compress)
            self.wake()
            return None
        else:
            outgoing = _Outgoing(data, finished, compress)
            if self._queue is None:
                self._queue = deque()
            self._queue.append(outgoing)
            self.wake()
        return self._wait_until_written(outgoing)

    def push(self, frame: bytes) -> None:
        """Write a frame that nobody waits for; see `Transport.push`."""
        if self._direct is not None and not self._running:
            self._corked.append(frame)
            self._send_corked(self._direct)
            return
        if self._pushed is None:
            self._pushed = deque()
        # What is held together was there before.
        for one in (*self._corked, frame):
            self._pushed.append(one)
            self.backlog += len(one)
        self._corked = []
        self._corked_bytes = 0
        self.wake()

    async def _wait_until_written(self, outgoing: _Outgoing) -> None:
        try:
            await outgoing.done.wait()
        except BaseException:
            # Not there any more: the writer has it, and finishes it without us.
            if self._queue is not None and outgoing in self._queue:
                self._queue.remove(outgoing)
            raise
        if not outgoing.written:
            raise self._protocol.exception()

    @property
    def owes(self) -> bool:
        """Whether there are frames that no write has begun with, and nobody waits for."""
        return bool(self._corked or self._pushed or self._protocol.replies)

    def wake(self) -> None:
        """Look for something to write, or for the end."""
        if self._work is not None:
            self._work.set()
        elif self._direct is not None and not self._running and not self.ended:
            self.flush()
            if self._protocol.finished or self._hurry is not None:
                self._start()

    def cut(self) -> None:
        """Close the stream by force, whatever is still to be written."""
        self._is_cut = True
        if self._scope is not None:
            self._scope.cancel()
        elif self._direct is not None:
            self._start()

    def _start(self) -> None:
        if not self._running and not self.ended:
            self._running = True
            self._on_start()

    def hurry(self, cause: str) -> None:
        """Write what is owed to the peer, and then close the stream by force."""
        self._hurry = cause
        self.wake()

    def note_read(self) -> None:
        """Take note that a read went by: a write that outlasts two waits for the peer."""
        self._burst.messages = 0
        if self.writing_since is not None:
            self._reads_during_write += 1
            self._protocol.write_blocked = self._reads_during_write > 2

    async def run(self) -> None:
        """Write until there is nothing left or, at the end, close the stream.

        Without a direct socket it is run once, from the beginning to the end. Raises no
        `Exception`.
        """
        self._running = True
        self._scope = scope = CancelScope(shield=True)
        if self._is_cut:
            scope.cancel()
        is_over = True
        try:
            with scope:
                is_over = await self._write_until_the_end()
                if is_over and self._hurry is None:
                    await self._close_in_order()
        except Exception as error:
            is_over = True
            _logger.error("anyws failed while writing to a connection", exc_info=error)
        finally:
            self._running = False
            self._scope = None
            if is_over or scope.cancel_called:
                await self._end()

    async def _end(self) -> None:
        self.ended = True
        self._corked.clear()
        self._pushed = None
        self.backlog = 0
        is_cut = self._was_cut_short
        if is_cut or not self._protocol.finished:
            cause = self._hurry or "the task that served the connection was cancelled"
            self._protocol.abort(cause, by_us=self._hurry is not None, is_cut=is_cut)
        try:
            with CancelScope(shield=True):
                await self._quietly(self._close_by_force())
        finally:
            self._refuse_all()

    def drop(self) -> None:
        """End without the task: the stream is closed."""
        self.ended = True
        is_cut = self._rest is not None
        if is_cut or not self._protocol.finished:
            self._protocol.abort("there was no task to serve the connection", is_cut=is_cut)
        self._refuse_all()

    def detach(self) -> None:
        """Let go of the transport, which refers to us: no cycle is left behind."""
        del self._on_write, self._on_change, self._on_start, self._on_cork

    # --- Writing directly ---

    def _write_directly(
        self, direct: DirectSocket, data: str | bytes, finished: bool, compress: bool | None
    ) -> bool:
        """Write a message, or as much of it as is taken; tell whether that was all."""
        protocol = self._protocol
        if not protocol.sendable:
            raise protocol.exception()
        self._cork(data, finished, compress)
        is_one_of_many = protocol.inbox.messages or self._burst.holds()
        if is_one_of_many and self._corked_bytes < CHUNK_BYTES and self._on_cork():
            return True
        is_written = self._send_corked(direct)
        if not protocol.sendable:
            raise protocol.exception()
        return is_written

    def _cork(self, data: str | bytes, finished: bool, compress: bool | None) -> None:
        frame = self._protocol.encode(data, finished=finished, compress=compress)
        self._corked_bytes += len(frame)
        self._corked.append(frame)

    def flush(self) -> None:
        """Write what was held together, and the protocol's replies."""
        if self._direct is not None and not self._running and not self.ended:
            self._send_corked(self._direct)

    def _send_corked(self, direct: DirectSocket) -> bool:
        frames = self._corked
        if self._protocol.replies:
            frames.append(self._protocol.take_replies())
        if not frames:
            return True
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        self._corked = []
        self._corked_bytes = 0
        try:
            sent = direct.send_now(data)
        except OSError as error:
            note_failure(error)
            # Those whose frames they were find out with their next call.
            self._fail(error)
            return False
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self.writing_since = current_time()
            self._start()
            return False
        return True

    # --- Writing by the task ---

    @property
    def _may_hold(self) -> bool:
        """Whether the task waits, and a frame for it may be held together with those to come."""
        protocol = self._protocol
        return (
            self._work is not None
            and protocol.sendable
            and not self._queue
            and not self._pushed
            and self._corked_bytes < CHUNK_BYTES
            and bool(protocol.inbox.messages)
        )

    async def _write_until_the_end(self) -> bool:
        """Tell whether the connection has come to its end."""
        while True:
            frames = self._take_batch()
            if frames:
                if not await self._write_out(frames):
                    return True
            elif self._protocol.finished or self._hurry is not None:
                return True
            elif self._direct is not None:
                return False
            else:
                self._work = Event()
                await self._work.wait()
                self._work = None

    def _take_batch(self) -> list[bytes | memoryview]:
        """Encode what there is to write, as much as makes one write worth its while."""
        protocol = self._protocol
        frames: list[bytes | memoryview] = []
        if self._rest is not None:
            frames.append(self._rest)
            self._rest = None
            return frames
        self._batch = []
        frames += self._corked
        size = self._corked_bytes
        self._corked = []
        self._corked_bytes = 0
        while self._pushed and size < CHUNK_BYTES:
            frames.append(pushed := self._pushed.popleft())
            size += len(pushed)
            self.backlog -= len(pushed)
        if protocol.replies and (protocol.sendable or not self._pushed):
            # A Close among them goes last.
            frames.append(protocol.take_replies())
        while self._queue and not self._pushed and protocol.sendable and size < CHUNK_BYTES:
            outgoing = self._queue.popleft()
            self._batch.append(outgoing)
            frame = protocol.encode(
                outgoing.data, finished=outgoing.finished, compress=outgoing.compress
            )
            frames.append(frame)
            size += len(frame)
        if not protocol.sendable:
            self._refuse_queue()
        return frames

    def _refuse_queue(self) -> None:
        for outgoing in self._queue or ():
            outgoing.done.set()
        self._queue = None

    def _refuse_all(self) -> None:
        for outgoing in self._batch:
            outgoing.done.set()
        self._refuse_queue()

    async def _write_out(self, frames: list[bytes | memoryview]) -> bool:
        """Write a batch; tell whether the stream took it."""
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        try:
            if self._direct is None:
                await self._write_in_pieces(data)
            else:
                await self._write_what_is_taken(self._direct, memoryview(data))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the connection
            note_failure(error)
            self._fail(error)
            return False
        except BaseException as error:
            self._was_cut_short = True
            forget_frames(error)
            raise
        finally:
            self.writing_since = None
            self.is_long = False
            self._protocol.write_blocked = False
        if self._protocol.replies:
            # They, a ping among them perhaps, have waited behind this.
            self._on_write(current_time(), True)
        for outgoing in self._batch:
            outgoing.written = True
            outgoing.done.set()
        self._batch = []
        return True

    async def _write_in_pieces(self, data: bytes | memoryview) -> None:
        # In pieces, so that a large write shows whether it gets on.
        for start in range(0, len(data), CHUNK_FRAME_BYTES):
            self.is_long = start > 0
            self._begin_write(gets_on=start > 0)
            piece = (
                data if len(data) <= CHUNK_FRAME_BYTES else data[start : start + CHUNK_FRAME_BYTES]
            )
            await self._stream.send(bytes(piece))

    async def _write_what_is_taken(self, direct: DirectSocket, data: memoryview) -> None:
        self._begin_write()
        while data:
            if sent := direct.send_now(data):
                data = data[sent:]
                self._begin_write(gets_on=True)
            elif not self.is_long:
                self.is_long = True
                self._on_change()
            else:
                await direct.wait_writable()

    def _begin_write(self, *, gets_on: bool = False) -> None:
        self.writing_since = now = current_time()
        self._reads_during_write = 0
        self._protocol.write_blocked = False
        self._on_write(now, gets_on)

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
        except Exception as error:  # noqa: BLE001 - the peer was faster: closed is closed
            _logger.debug("closing a stream: %r", error)
            forget_frames(error)
        except BaseException as error:
            forget_frames(error)
            raise

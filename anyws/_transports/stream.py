"""The plain transport, over any AnyIO byte stream, and the reference for every other.

**Writing** is done by one task, the writer (`writer.py`), which also closes the stream.

**Reading.** Somebody always reads, but it is not always the same task. On a socket, the task that
calls `receive` reads itself, which is twice as fast as being handed the bytes. When nobody has
called for `IDLE_AFTER` seconds the second task, the attendant, reads ahead: pings are answered
and a Close is noticed. So it does as soon as a call was cancelled: a program that asks for messages
with short timeouts may never wait long enough to read one itself. Whoever finds the other reading
waits for it. On a stream that is not a socket, the attendant does all the reading: closing such a
stream may not wake a reader.

**Time.** The attendant also has the timers: liveness, a write that does not get on, the closing
handshake. Each of its waits ends at the nearest of them. A timer that has to be nearer than it
was planned for moves the deadline of the wait in progress (`_plan`), which costs no task switch;
the one for writes is planned once and then put off, not planned anew with each write.

**The end.** Both tasks are shielded and raise nothing. The writer returns when the stream is
closed; then everybody is released, and the attendant ends.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, EndOfStream, Event, current_time
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from .._config import IDLE_AFTER, LAST_ATTEMPT
from .._protocol.frames import CHUNK_FRAME_BYTES
from .base import LateEvent, Transport
from .errors import forget_frames, note_failure
from .writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import ByteStream, TaskGroup

    from .._config import Config
    from .._protocol.protocol import Protocol
    from .base import Liveness
    from .trio import DirectSocket

__all__ = ["StreamTransport"]

_logger = logging.getLogger("anyws.protocol")

# Seconds from the second piece of a write until somebody reads beside it: the peer may be writing
# as well. Most writes are over by then.
_READ_BESIDE_AFTER = 0.001
# Enough for a write that has been asked for, through TLS.
_FEW_TURNS = 5


class StreamTransport(Transport):
    needs_task_group = True

    def __init__(
        self,
        stream: ByteStream,
        protocol: Protocol,
        config: Config,
        liveness: Liveness,
        direct: DirectSocket | None = None,
    ) -> None:
        self.protocol = protocol
        self.closed = LateEvent()
        self._stream = stream
        self._liveness = liveness
        self._write_timeout = config.write_timeout
        self._close_timeout = config.close_timeout
        self._on_ending = []
        self._writer = Writer(
            stream,
            protocol,
            direct=direct,
            on_start=self._start_writer,
            on_cork=self._look_around,
            on_write=self._note_write,
            on_change=self._note_change,
        )
        self._direct = direct
        self._task_group: TaskGroup | None = None
        # Reading.
        self._receive = stream.receive if direct is None else direct.receive
        self._reads_inline = SocketAttribute.raw_socket in stream.extra_attributes
        self._eof = False
        self._inline_reading = False
        self._attendant_reading = False
        self._read_cancelled = False  # by who received: then the attendant is to read
        self._progress: Event | None = None  # while a receiver waits for the attendant
        self._receives = 0
        self._readers_wanted = 0
        # The attendant.
        self._scope = CancelScope(shield=True)
        self._wait_scope: CancelScope | None = None
        self._poked: Event | None = None
        self._parked = False  # waiting for more than `IDLE_AFTER`
        self._write_planned = False
        self._close_deadline = math.inf
        self._late_close = ""  # what to say when that passes, if not the usual

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes

    def start(self, task_group: TaskGroup | None) -> None:
        assert task_group is not None
        self._task_group = task_group
        if self._direct is None:
            self._start_writer()
        task_group.start_soon(self._run_attendant, name="anyws attendant")

    # --- For the connection ---

    async def read_more(self) -> None:
        self._writer.flush()
        if self._reads_inline and not self._attendant_reading and not self._read_cancelled:
            self._inline_reading = self._read_cancelled = True
            try:
                await self._read()
                self._read_cancelled = False
            finally:
                self._inline_reading = False
                self._receives += 1
                if self._parked or self._read_cancelled:
                    self._look_around()
            self._react()
        else:
            self._receives += 1
            self._progress = Event()
            if self._parked or self._read_cancelled:
                self._look_around()
            try:
                await self._progress.wait()
            finally:
                self._progress = None

    def parse(self, *, one_message: bool = False) -> None:
        self.protocol.parse(one_message=one_message)
        self._react()

    def taken(self) -> None:
        if self._parked and not self._inline_reading and not self.protocol.wants_room:
            self._look_around()

    def write(
        self, data: str | bytes, *, finished: bool, compress: bool | None
    ) -> Awaitable[None] | None:
        return self._writer.write(data, finished=finished, compress=compress)

    def push(self, frame: bytes) -> None:
        self._writer.push(frame)

    @property
    def backlog(self) -> int:
        return self._writer.backlog

    def write_replies(self) -> None:
        self._writer.wake()

    def abort(self, cause: str, *, by_us: bool = False) -> None:
        self.protocol.abort(cause, by_us=by_us, is_cut=self._is_writing)
        self._writer.cut()
        self._react()

    def give_up(self, cause: str) -> None:
        since = self._writer.writing_since
        if since is None:
            hopeless = not self._writer.owes
        else:
            hopeless = current_time() - since >= LAST_ATTEMPT
        if hopeless:
            self.abort(cause, by_us=True)
        else:
            self._late_close = cause
            self._writer.hurry(cause)
            self.close_within(LAST_ATTEMPT)

    @property
    def _is_writing(self) -> bool:
        return self._writer.writing_since is not None

    # --- What follows from a change ---

    def _react(self) -> None:
        """Wake whoever has something to do after the protocol changed."""
        protocol = self.protocol
        if not protocol.sendable:
            if self._close_deadline == math.inf and self._close_timeout is not None:
                self._close_deadline = current_time() + self._close_timeout
                self._plan(self._close_deadline)
            self._liveness.end()
            for callback in self._on_ending:
                callback()
            self._writer.wake()
        elif protocol.replies:
            self._writer.wake()
        if self._progress is not None and (protocol.inbox.available or not protocol.receivable):
            self._progress.set()

    def _note_change(self) -> None:
        self._react()
        self._look_around()

    # --- Reading ---

    async def _read(self) -> None:
        """Feed one chunk, or the end of the stream, to the protocol, up to its first message."""
        handled = sys.exception()
        try:
            data = await self._receive(CHUNK_FRAME_BYTES)
        except EndOfStream:
            self._end_reading(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the connection
            note_failure(error, handled)
            self._end_reading(error)
        except BaseException as error:
            forget_frames(error, handled)
            raise
        else:
            self._liveness.heard(current_time())
            self._writer.note_read()
            self.protocol.feed(data)

    def _end_reading(self, error: Exception | None) -> None:
        self._eof = True
        self._writer.eof.set()
        self.protocol.receive_eof(error)
        self._note_change()

    async def _run_attendant(self) -> None:
        try:
            with self._scope:
                await self._attend()
        except Exception as error:
            _logger.error("anyws failed while reading from a connection", exc_info=error)
        finally:
            # At the end of the connection, it was the writer that cancelled the scope.
            if not self.closed.is_set():
                self.abort("the task that served the connection was cancelled")

    async def _attend(self) -> None:
        # As if something had just been received: the program gets to call first.
        receives = -1
        while True:
            self._writer.flush()
            if current_time() >= self._close_deadline:
                await self._let_others_run()
            now = current_time()
            deadline = self._check_timers(now)
            if self._liveness.suspects:
                await self._look_again()
            elif self._inline_reading:
                await self._wait(deadline, parked=True)
            elif self._reads_inline and receives != self._receives and not self._must_read:
                receives = self._receives
                await self._wait(min(deadline, now + IDLE_AFTER), parked=False)
            elif self.protocol.has_unparsed and not self.protocol.inbox.full:
                self.parse()
                await checkpoint()
            elif self._eof or self._paused:
                await self._wait(deadline, parked=True)
            else:
                await self._read_ahead(deadline)

    @property
    def _must_read(self) -> bool:
        return (
            self._read_cancelled
            or self._readers_wanted > 0
            or self._writer.is_long
            or not self.protocol.sendable
            # A receiver that found us reading, and has not got what it waits for.
            or (self._progress is not None and not self._progress.is_set())
        )

    @property
    def _paused(self) -> bool:
        """Whether reading waits for the program to take messages."""
        if not self.protocol.reading:
            # What comes is dropped, and only the end of the stream is of interest.
            return not self._writer.wants_eof
        if self._progress is not None:
            return self.protocol.inbox.full
        return self.protocol.wants_room

    async def _wait(self, deadline: float, *, parked: bool) -> None:
        """Wait until poked, or until a deadline."""
        self._poked = Event()
        self._parked = parked
        with CancelScope(deadline=deadline) as self._wait_scope:
            await self._poked.wait()
        self._wait_scope = self._poked = None
        self._parked = False

    def _look_around(self) -> bool:
        """Have the attendant look around; tell whether it waits for that."""
        if self._poked is None:
            return False
        self._poked.set()
        return True

    async def _read_ahead(self, deadline: float) -> None:
        self._attendant_reading = True
        self._read_cancelled = False
        with CancelScope(deadline=deadline) as self._wait_scope:
            await self._read()
        self._wait_scope = None
        if self._progress is None:
            self.parse()
            if self._direct is not None:
                # A turn's worth of frames; and there, reading more of them need not wait.
                await checkpoint()
        else:
            # What follows the message that somebody waits for is theirs to parse.
            self._react()
        self._attendant_reading = False

    async def _look_again(self) -> None:
        """Read once more before the peer is given up.

        What it sent while the program kept the event loop busy has not been read either.
        """
        if self._inline_reading:
            await self._let_others_run()
        else:
            await self._read_ahead(current_time() + IDLE_AFTER)
        self._liveness.judge(current_time())

    async def _let_others_run(self) -> None:
        """Wait for a few turns of the event loop, no longer, if there is anything to wait for.

        Where the program kept it busy, time has passed and nothing was done in it: a read may have
        something already, and our Close may not have been written.
        """
        for _ in range(_FEW_TURNS):
            if not (self._inline_reading or self._is_writing or self._writer.owes):
                break
            await checkpoint()

    # --- Time ---

    def _plan(self, deadline: float) -> None:
        """See to it that the attendant looks at its timers by then."""
        scope = self._wait_scope
        if scope is not None and deadline < scope.deadline:
            scope.deadline = deadline

    def _note_write(self, now: float, gets_on: bool) -> None:
        if gets_on:
            # The peer takes what we write, and may not have been asked anything yet.
            self._liveness.heard(now)
        if not self._write_planned and self._write_timeout is not None:
            self._write_planned = True
            self._plan(now + self._write_timeout)
        if self._writer.is_long and not self._attendant_reading:
            self._plan(now + _READ_BESIDE_AFTER)

    def _check_timers(self, now: float) -> float:
        """Do what is due, and return when something will be due next."""
        deadline = self._check_close(now)
        deadline = min(deadline, self._check_write(now))
        if self._paused:
            # Nothing can be heard, and that is our doing.
            self._liveness.heard(now)
        self._liveness.check(now)
        if self._liveness.failure is not None and self.protocol.sendable:
            self.abort(self._liveness.failure)
        self._react()
        return min(deadline, self._liveness.deadline)

    def _check_close(self, now: float) -> float:
        if now >= self._close_deadline:
            self._close_deadline = math.inf
            self.abort(self._late_close or self._what_was_late())
        return self._close_deadline

    def _check_write(self, now: float) -> float:
        timeout = self._write_timeout
        since = self._writer.writing_since
        if timeout is None or since is None:
            self._write_planned = False
            return math.inf
        if now < since + timeout:
            return since + timeout
        self.abort(f"a write stalled: the peer took nothing for {timeout:.3g} s")
        return math.inf

    # --- The end ---

    def _start_writer(self) -> None:
        assert self._task_group is not None
        running = self._run_writer()
        try:
            self._task_group.start_soon(lambda: running, name="anyws writer")
        except RuntimeError:
            running.close()
            if self._direct is None:
                raise
            # The task that entered the connection is gone, and its task group with it: what can
            # be done without a task has to do.
            self._direct.close()
            self._writer.drop()
            self._end()

    async def _run_writer(self) -> None:
        try:
            await self._writer.run()
        finally:
            if self._writer.ended:
                self._end()

    def _end(self) -> None:
        self._eof = True
        self.closed.set()
        self.protocol.receive_eof()
        self._react()
        self._scope.cancel()
        self._writer.detach()
        self._task_group = None

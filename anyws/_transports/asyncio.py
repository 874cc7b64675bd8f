"""The native transport on asyncio's loops: a protocol of our own, and no task at all.

**Reading.** The loop calls `data_received`, and what came is parsed there and then: pings are
answered and a Close is noticed whether anybody is in `receive` or not. A receiver that waits is
woken once there is a message. Behind messages parsing stops, so that who reads one at a time meets
a violation in its place; where nobody comes for the rest, it is parsed `IDLE_AFTER` seconds later.
Reading pauses while more than a chunk waits for room in the inbox.

**Writing.** The loop's transport finishes what it was given, so no frame is ever torn, and a
cancelled sender just goes. Its buffer is allowed to hold one write: while there is anything in it
(`_congested`) senders wait in line, and encode only when it is their turn. While messages wait in
the inbox, the frames that answer them are held together (`_corked`), and so are those that follow
one another without anything received in between: they go out in one write, at the latest when the
loop comes around.

**Time.** One timer of the loop, at the nearest of all deadlines. A deadline that moves away leaves
it alone: it looks, and is set anew.

**The end** goes step by step, each taken by whatever the loop calls next: everything is written,
the peer has ended its half, the stream is closed. `connection_lost` is the last thing that is
called, and everybody is released there.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from .._close import Role
from .._config import CHUNK_BYTES, IDLE_AFTER, LAST_ATTEMPT, LINGER
from .._protocol.protocol import Half
from .base import LateEvent, Transport
from .bursts import Burst
from .errors import forget_frames
from .link import BufferedProtocol, leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from .._config import Config
    from .._protocol.protocol import Protocol
    from .base import Liveness
    from .link import Link

__all__ = ["AsyncioTransport"]

# A stalled write is looked at so many times before it is given up.
_LOOKS = 8
# Messages in a row that go out at once, before others are held together with what follows.
_MOST_AT_ONCE = 2
# What the loop's transport gets at once, in bytes.
_PIECE = 2 * CHUNK_BYTES


class AsyncioTransport(Transport, BufferedProtocol):
    # There is one for every connection, and a dictionary of that many names takes 1.5 KB.
    __slots__ = (
        "__weakref__",
        "_burst",
        "_close_timeout",
        "_congested",
        "_corked",
        "_corked_bytes",
        "_drains",
        "_eof",
        "_hurry",
        "_is_cut",
        "_is_ending",
        "_is_lost",
        "_is_unlimited",
        "_judge_at",
        "_late_close",
        "_linger_until",
        "_link",
        "_liveness",
        "_loop",
        "_parse_at",
        "_paused",
        "_pending",
        "_pending_bytes",
        "_pushed_bytes",
        "_receives",
        "_receives_seen",
        "_senders",
        "_sink",
        "_stalled_bytes",
        "_stalled_since",
        "_then",
        "_timer",
        "_timer_at",
        "_waiter",
        "_write_timeout",
    )
    needs_task_group = False

    def __init__(self, link: Link, protocol: Protocol, config: Config, liveness: Liveness) -> None:
        self.protocol = protocol
        self.closed = LateEvent()
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._liveness = liveness
        self._write_timeout = config.write_timeout
        self._close_timeout = config.close_timeout
        self._is_unlimited = config.max_message_size is None
        self._on_ending = []
        # Reading.
        self._waiter: asyncio.Future[None] | None = None  # of who waits in `read_more`
        self._eof = False
        self._paused = False
        self._readers_wanted = 0
        self._receives = 0
        self._receives_seen = 0
        self._parse_at = math.inf  # when what is left unparsed is, if nobody receives
        # Writing.
        self._congested = False
        self._senders: deque[asyncio.Future[None]] | None = None  # of who waits for their turn
        self._drains: list[asyncio.Future[bool]] = []  # of who waits in `_drain`
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._burst = Burst(_MOST_AT_ONCE)
        self._pending: deque[bytes | memoryview] | None = None  # behind what the sink has
        self._pending_bytes = 0
        self._pushed_bytes = 0  # of `push`, since nothing was pending: what is pending ends in them
        self._is_cut = False  # something was not taken: the stream is closing
        self._stalled_since = 0.0
        self._stalled_bytes = 0
        # The end.
        self._is_ending = False
        self._is_lost = False
        self._hurry: str | None = None  # why the stream is cut as soon as all is written
        self._then: Callable[[], None] | None = None  # to be done as soon as all is written
        self._linger_until = math.inf
        self._close_deadline = math.inf
        self._late_close = ""  # what to say when that passes, if not the usual
        self._judge_at = math.inf  # when the peer is given up, unless something arrives
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._sink, received = link.take_over(self)
        protocol.receive_data(received)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._link.extra_attributes

    def start(self, task_group: TaskGroup | None) -> None:
        # "Written" is to mean that the system has it. With 0, TLS would pause for no bytes at all.
        self._sink.set_write_buffer_limits(high=1, low=0)
        if self._link.is_lost:
            self.connection_lost(self._link.error)
        else:
            self.parse(one_message=True)
            if self._link.is_at_end:
                self.eof_received()
            self._plan(self._liveness.deadline)

    # --- For the connection ---

    def read_more(self) -> Awaitable[None]:
        self._receives += 1
        self._waiter = waiter = self._loop.create_future()
        if self._paused:
            self._look_around()
        return waiter

    def parse(self, *, one_message: bool = False) -> None:
        self.protocol.parse(one_message=one_message)
        self._react()
        self._look_around()

    def taken(self) -> None:
        self._receives += 1
        # There is more room than before: that lets reading go on, or has what is left parsed.
        if self._paused or (self.protocol.has_unparsed and self._parse_at == math.inf):
            self._look_around()

    def write(
        self, data: str | bytes, *, finished: bool, compress: bool | None
    ) -> Awaitable[None] | None:
        if self._congested or self._senders:
            return self._write_in_turn(data, finished, compress)
        if self._write_now(data, finished, compress):
            return None
        return self._drain()

    def push(self, frame: bytes) -> None:
        if not self._congested:
            self._flush(frame)
            self._pushed_bytes = self._pending_bytes
            return
        if self._corked:
            self._flush()  # it was encoded before
        protocol = self.protocol
        if protocol.replies:
            # Where messages come faster than the peer takes them, the line may never be empty.
            frame = protocol.take_replies() + frame
        if not self._pending_bytes:
            self._pushed_bytes = 0
        self._pushed_bytes += len(frame)
        # More in line is no sign that the peer takes nothing.
        self._stalled_bytes += len(frame)
        self._put_in_line(frame)

    @property
    def backlog(self) -> int:
        # Whoever sends waits for an empty line: no message of theirs comes behind one of these.
        return min(self._pushed_bytes, self._pending_bytes)

    def write_replies(self) -> None:
        self._flush()

    def abort(self, cause: str, *, by_us: bool = False) -> None:
        if self._is_lost:
            return
        if self._corked:
            # As if it had been written when it was sent.
            self._flush()
        self.protocol.abort(cause, by_us=by_us, is_cut=self._is_writing)
        self._drop_unwritten()
        self._is_ending = True
        self._sink.abort()
        self._react()

    def give_up(self, cause: str) -> None:
        if self._is_lost:
            return
        self._flush()
        stalled = self._congested and self._loop.time() - self._stalled_since >= LAST_ATTEMPT
        if stalled or not self._unwritten_bytes():
            self.abort(cause, by_us=True)
        else:
            self._hurry = self._late_close = cause
            self.close_within(LAST_ATTEMPT)

    # --- What the loop calls ---

    def data_received(self, data: memoryview) -> None:
        self._liveness.heard(self._loop.time())
        self._burst.messages = 0
        protocol = self.protocol
        # Whoever receives comes for the next one soon, and if not, `_look_around` sees to it.
        protocol.feed(data)
        self._react()
        if protocol.has_unparsed or self._paused:
            self._look_around()
        elif self._is_unlimited and protocol.wants_room:
            # Within a message that is larger than the inbox.
            self._look_around()

    def eof_received(self) -> bool:
        self._eof = True
        self.protocol.receive_eof()
        self._react()
        self._look_around()
        if self._is_ending and self._hurry is None:
            self._finish()
        # Open still, for our half. TLS has no halves.
        return self._sink.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        if exc is not None:
            forget_frames(exc)
        self._link.let_go()
        leave(self._sink)
        self._eof = self._is_lost = self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        is_cut = self._is_writing
        self._drop_unwritten()
        protocol = self.protocol
        protocol.receive_eof(exc)
        while protocol.has_unparsed and not protocol.inbox.full:
            protocol.parse()
        if is_cut or not protocol.finished:
            # Behind a full inbox there may be a Close, and then that is the reason.
            protocol.write_failed(exc, is_cut=is_cut)
        self._release_drains(written=False)
        self.closed.set()
        self._react()

    def pause_writing(self) -> None:
        self._congested = self.protocol.write_blocked = True
        self._stalled_since = now = self._loop.time()
        self._stalled_bytes = self._unwritten_bytes()
        if self._write_timeout is not None:
            self._plan(now + self._write_timeout / _LOOKS)

    def resume_writing(self) -> None:
        self._congested = self.protocol.write_blocked = False
        if self._pending or self.protocol.replies:
            # The peer takes what we write, and may not have been asked anything yet.
            self._liveness.heard(self._loop.time())
        self._write_pending()
        if self._congested:
            return
        self._release_drains(written=True)
        if self._hurry is not None or self._then is not None:
            # The loop's transport does not bear being closed from here.
            self._loop.call_soon(self._end_written)
        self._flush()
        self._let_next_send()

    def _end_written(self) -> None:
        """Do what was to be done once all is written."""
        action, self._then = self._then, None
        if self._hurry is not None:
            self.abort(self._hurry, by_us=True)
        elif action is not None:
            self._once_written(action)

    # --- What follows from a change ---

    def _react(self) -> None:
        """Wake whoever has something to do after the protocol changed."""
        protocol = self.protocol
        if not protocol.sendable:
            self._react_to_end()
        elif protocol.replies:
            self._flush()
        waiter = self._waiter
        if waiter is not None and (
            protocol.inbox.messages
            or protocol.inbox.available
            or not protocol.receivable
            or self._eof
        ):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _react_to_end(self) -> None:
        if self._close_deadline == math.inf and self._close_timeout is not None:
            self._close_deadline = self._loop.time() + self._close_timeout
            self._plan(self._close_deadline)
        self._liveness.end()
        for callback in self._on_ending:
            callback()
        for turn in self._senders or ():
            if not turn.done():
                turn.set_result(None)
        self._flush()
        if self.protocol.finished and not self._is_ending:
            self._is_ending = True
            self._begin_end()

    # --- Reading ---

    def _look_around(self) -> None:
        """Read and parse on, or stop to, as there is room for it."""
        protocol = self.protocol
        too_much = protocol.reading and (
            (protocol.has_unparsed and protocol.unparsed_bytes >= CHUNK_BYTES)
            or (not self._is_awaited() and protocol.wants_room and not protocol.inbox.full)
        )
        if too_much is not self._paused and not self._eof:
            self._paused = too_much
            if too_much:
                self._sink.pause_reading()
            else:
                self._sink.resume_reading()
        if protocol.has_unparsed and not protocol.inbox.full and self._parse_at == math.inf:
            soon = self._readers_wanted or not protocol.inbox.available
            self._receives_seen = self._receives
            self._parse_at = self._loop.time() + (0 if soon else IDLE_AFTER)
            self._plan(self._parse_at)

    def _is_awaited(self) -> bool:
        """Whether somebody waits in `read_more`; who was cancelled has left without a word."""
        return self._waiter is not None and not self._waiter.done()

    def _parse_on(self, now: float) -> None:
        """Parse what a receiver has left, unless it still comes for it."""
        self._parse_at = math.inf
        if self._receives != self._receives_seen and not self._readers_wanted:
            self._look_around()
        elif self.protocol.has_unparsed and not self.protocol.inbox.full:
            self.parse()

    # --- Writing ---

    async def _write_in_turn(
        self, data: str | bytes, finished: bool, compress: bool | None
    ) -> None:
        await self._wait_for_turn()
        is_written = self._write_now(data, finished, compress)
        self._let_next_send()
        if not is_written:
            await self._drain()

    def _write_now(self, data: str | bytes, finished: bool, compress: bool | None) -> bool:
        """Write a message, or hold it together with others; tell whether the system takes more."""
        protocol = self.protocol
        if not protocol.sendable:
            raise protocol.exception()
        frame = protocol.encode(data, finished=finished, compress=compress)
        sink = self._sink
        if (
            not self._congested
            and self._corked_bytes + len(frame) < CHUNK_BYTES
            and (protocol.inbox.messages or self._burst.holds())
        ):
            if not self._corked:
                self._loop.call_soon(self._flush)
            self._corked.append(frame)
            self._corked_bytes += len(frame)
        elif self._corked or protocol.replies or self._congested or len(frame) > _PIECE:
            # It may have to wait in line: then that ends in nothing of `push` any more.
            self._pushed_bytes = 0
            self._flush(frame)
        elif not sink.is_closing():
            sink.write(frame)
        # Closing already: a write has failed, and the loop is about to say so.
        return not (self._congested or sink.is_closing())

    async def _wait_for_turn(self) -> None:
        if self._senders is None:
            self._senders = deque()
        turn = self._loop.create_future()
        self._senders.append(turn)
        try:
            await turn
        except BaseException:
            self._senders.remove(turn)
            self._let_next_send()
            raise
        self._senders.remove(turn)

    def _let_next_send(self) -> None:
        if self._senders and not self._congested and not self._senders[0].done():
            self._senders[0].set_result(None)

    async def _drain(self) -> None:
        """Wait until the system has taken what was written."""
        drained = self._loop.create_future()
        self._drains.append(drained)
        if not await drained:
            raise self.protocol.exception()

    def _release_drains(self, *, written: bool) -> None:
        drains, self._drains = self._drains, []
        for drained in drains:
            if not drained.done():
                drained.set_result(written)

    def _flush(self, frame: bytes = b"") -> None:
        """Write what was held together, the protocol's replies and a frame, in this order.

        Behind a blocked write replies wait, as long as something may take their place.
        """
        protocol = self.protocol
        frames = self._corked
        if protocol.replies and not (self._congested and protocol.sendable):
            frames.append(protocol.take_replies())
        if frames:
            self._corked = []
            self._corked_bytes = 0
            frames.append(frame)
            frame = b"".join(frames)
        if self._congested or len(frame) > _PIECE:
            self._put_in_line(frame)
        elif frame:
            self._give(frame)

    def _give(self, frame: bytes | memoryview) -> None:
        if not self._sink.is_closing():
            self._sink.write(frame)
        # A write that fails closes it, and that is all it says here.
        self._is_cut = self._sink.is_closing()

    # A transport of the loop's copies what it cannot write at once, and one with TLS tells of a
    # blocked write only with the next one. So it gets a large frame in pieces.
    def _put_in_line(self, frame: bytes) -> None:
        if self._pending is None:
            self._pending = deque()
        self._pending.append(frame)
        self._pending_bytes += len(frame)
        self._write_pending()

    def _write_pending(self) -> None:
        pending = self._pending
        while pending and not self._congested and not self._sink.is_closing():
            frame = pending.popleft()
            if len(frame) > _PIECE:
                view = memoryview(frame)
                pending.appendleft(view[_PIECE:])
                frame = view[:_PIECE]
            self._pending_bytes -= len(frame)
            self._give(frame)

    def _drop_unwritten(self) -> None:
        self._corked.clear()
        self._pending = None
        self._pending_bytes = 0
        self._then = None

    @property
    def _is_writing(self) -> bool:
        return self._is_cut or self._congested or self._unwritten_bytes() > 0

    def _unwritten_bytes(self) -> int:
        return self._pending_bytes + self._sink.get_write_buffer_size()

    def _once_written(self, action: Callable[[], None]) -> None:
        """Do this now or, where there is more for the sink, when it has that."""
        if self._pending:
            self._then = action
        elif not self._is_lost:
            action()

    # --- Time ---

    def _plan(self, deadline: float) -> None:
        """See to it that the timers are looked at by then."""
        if deadline < self._timer_at and not self._is_lost:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._check_timers)

    def _check_timers(self) -> None:
        """Do what is due, and plan for what will be due next."""
        self._timer = None
        self._timer_at = math.inf
        now = self._loop.time()
        self._check_close(now)
        if self._congested:
            self._check_write(now)
        if self._parse_at <= now:
            self._parse_on(now)
        if self._is_lost:
            return
        if self._paused or self._eof or self.protocol.inbox.full:
            # Nothing can be heard, and that is our doing: or it was, and waits to be received.
            self._liveness.heard(now)
        self._check_liveness(now)
        self._react()
        for deadline in (self._close_deadline, self._linger_until, self._parse_at):
            self._plan(deadline)
        self._plan(self._judge_at if self._liveness.suspects else self._liveness.deadline)

    def _check_liveness(self, now: float) -> None:
        liveness = self._liveness
        if not liveness.suspects:
            liveness.check(now)
            if liveness.suspects:
                # What came while the program kept the loop busy has not been read either.
                self._judge_at = now + IDLE_AFTER
        elif now >= self._judge_at:
            liveness.judge(now)
        if liveness.failure is not None and self.protocol.sendable:
            self.abort(liveness.failure)

    def _check_close(self, now: float) -> None:
        if now >= self._close_deadline:
            self._close_deadline = math.inf
            by_us = self._hurry is not None
            self.abort(self._late_close or self._what_was_late(), by_us=by_us)
        elif now >= self._linger_until:
            self._linger_until = math.inf
            self._finish()

    def _check_write(self, now: float) -> None:
        size = self._unwritten_bytes()
        if size < self._stalled_bytes:
            self._stalled_since = now
            self._liveness.heard(now)
        self._stalled_bytes = size
        timeout = self._write_timeout
        if timeout is None:
            return
        if now >= self._stalled_since + timeout:
            self.abort(f"a write stalled: the peer took nothing for {timeout:.3g} s")
        else:
            self._plan(min(self._stalled_since + timeout, now + timeout / _LOOKS))

    # --- The end ---

    def _begin_end(self) -> None:
        """Everything that was to be said is said: close in order (RFC 6455, section 7.1.1)."""
        protocol = self.protocol
        if self._paused:
            # What still comes is dropped, and only the end of the stream is of interest.
            self._paused = False
            self._sink.resume_reading()
        if self._hurry is not None:
            if not self._unwritten_bytes():
                self.abort(self._hurry, by_us=True)
        elif self._eof:
            self._finish()
        elif protocol.theirs is Half.CLOSED:
            # The server closes first, so that waiting for stray segments is up to the client; the
            # deadline for closing bounds that.
            if protocol.role is Role.SERVER:
                self._finish()
        else:
            # Closing over unread data resets the connection, and the reset may overtake our
            # Close. So only our half is closed, and what still comes is dropped.
            if self._sink.can_write_eof():
                self._once_written(self._end_our_half)
            self._linger_until = self._loop.time() + LINGER
            self._plan(self._linger_until)

    def _end_our_half(self) -> None:
        try:
            self._sink.write_eof()
        except OSError:
            pass  # the peer was faster: it has reset the connection

    def _finish(self) -> None:
        """Close the stream; the loop's transport writes what it has before."""
        self._once_written(self._close)

    def _close(self) -> None:
        # Told twice, one with TLS forgets what it has to do.
        if not self._sink.is_closing():
            self._sink.close()

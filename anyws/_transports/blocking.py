"""The transport of programs without an event loop: whoever calls does the work.

There is no task and no thread. Pings are answered, a Close is noticed and keepalive works while
some thread is in a call that waits: it *serves* the connection meanwhile.

**Threads.** One lock (`lock`) guards the protocol and everything here; it is never held while a
thread waits for the network. One thread at a time reads (`_is_reading`) and one writes
(`is_writing`); the others wait for a change. Reading and writing are independent: a thread
whose write does not get on reads meanwhile, where nobody else does, since the peer may be stuck in
the same way. Whether the peer lives is judged by no other thread than the one that reads: it may
have read a sign of life already, and be about to say so.

**Writing.** What the system does not take at once is `_unsent`, and goes out before anything else.
A frame is encoded only by the thread that may write, so order of encoding is order on the wire.
What the peer takes of a write that was stuck is a sign of life: our ping waits behind it.

**Interrupts.** An exception that comes from outside (`KeyboardInterrupt`) while a frame is written
breaks the connection, which says so; no other frame follows half a frame. The same goes for the
moment in which what was received is parsed. While a thread waits, nothing is lost.

An interrupt comes at the end of a call, or where a call that waits is broken off, at the start of
a function, and where a loop begins anew; that is what the order of statements around the lock
relies on: what is released is taken again, and what was entered is left. A loop with a condition
stands in a function of its own, not within a block that has something to undo: at its end Python
3.13 (3.13.0 to 3.13.2 at least) lets an interrupt pass by the handlers of the block around it.

**The end.** The socket is closed by whoever ends the connection or, while another thread is within
a call of the system for it, by that thread: the number of a closed socket may be another's.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from .._close import Role
from .._config import LINGER
from .._protocol.protocol import Half
from .blocking_stream import is_interruption

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._close import Close
    from .._config import Config
    from .._protocol.protocol import Protocol
    from .base import Liveness
    from .blocking_stream import BlockingStream

__all__ = ["BlockingTransport"]

P = ParamSpec("P")
R = TypeVar("R")

# Seconds for which a thread reads, or does not, until it looks what other threads have done.
_GLANCE: Final = 0.05
# Seconds for which it waits for a write to get on until it looks at the timers again.
_PATIENCE: Final = 1.0
# What is done when there is no more time, for what has arrived already: steps of a bounded size.
_LAST_STEPS: Final = 64
_AND_WAIT: Final = (True,)


class BlockingTransport:
    def __init__(
        self, stream: BlockingStream, protocol: Protocol, config: Config, liveness: Liveness
    ) -> None:
        self.protocol = protocol
        self.closed: bool = False  # the socket is, or will be as soon as nobody waits for it
        self.is_received: bool = False  # a thread waits for a message
        self._stream = stream
        self._liveness = liveness
        self._write_timeout = config.write_timeout
        self._close_timeout = config.close_timeout
        self.lock: threading.Lock = threading.Lock()
        self.is_writing: bool = False
        self._waiters: list[threading.Lock] = []  # one for each thread that waits for a change
        self._is_reading = False
        self._watchers = 0  # threads that wait until the system takes more, and do not write
        self._unsent: bytes | memoryview = b""
        self._eof = False
        self._is_ending = False
        self._has_deadline = False  # `close_timeout` runs
        self._close_deadline = math.inf

    # --- For the connection ---

    def serve_until(self, ready: Callable[[], object], deadline: float) -> bool:
        """Serve the connection until it is so; tell whether it was in time.

        The caller holds the lock, and has it back when this returns.
        """
        steps = _LAST_STEPS
        while not ready():
            is_served = self._serve(deadline)
            if deadline < math.inf and time.monotonic() >= deadline:
                steps -= 1
                if not (is_served and steps):
                    return bool(ready())
        return True

    def wait_for_turn(self) -> None:
        """Wait for what another thread sends, and serve the connection; it may come back early."""
        if self.is_writing:
            self._wait_for_change(math.inf)
        else:
            self._serve(time.monotonic() + _GLANCE)

    def taken(self) -> None:
        """Take note that something was taken from the inbox. The caller holds the lock."""
        self._note_change()

    def changed(self) -> None:
        """Send what the protocol was given to say, as far as that is taken at once.

        The caller holds the lock.
        """
        self._reply()
        self._note_change()

    def close(self, close: Close) -> None:
        """Begin the closing handshake, unless it has begun, and its time. The caller holds the lock."""
        try:
            self.protocol.close(close)
        except BaseException:
            self._abort("the closing handshake was interrupted", by_us=True)
            raise
        self._note_ending()
        self.changed()

    def write(self, data: str | bytes, *, finished: bool, compress: bool | None) -> None:
        """Send a message, or its next fragment. Raises what `Protocol.exception` gives.

        The caller holds the lock, and has it back when this returns. Nobody else writes.
        """
        protocol = self.protocol
        if not protocol.sendable:
            raise protocol.exception()
        self.is_writing = True
        is_out = False
        try:
            self._put(protocol.encode(data, finished=finished, compress=compress))
            self._push()
            if self._unsent or self._stream.backlog:
                self._push_on()
            is_out = True
            self.is_writing = protocol.write_blocked = False
            if protocol.replies or self._stream.speaks:
                # Of what another thread has received meanwhile.
                self._reply()
        except BaseException as error:
            if isinstance(error, OSError) and not is_interruption(error):
                self._fail(error)
                raise protocol.exception() from error
            if not (self.closed or is_out):
                self._abort("a write was interrupted", by_us=True)
            raise
        finally:
            self.is_writing = False
            if self.closed:
                self._leave_socket()
            if self._waiters:
                self._note_change()

    def end_within(self, seconds: float | None) -> None:
        """Go through the closing handshake, which has begun, and close the stream."""
        with self.lock:
            now = time.monotonic()
            if seconds is not None:
                self._close_deadline = min(self._close_deadline, now + seconds)
            if self._is_ending:
                self._wait_until_closed()
                return
            self._is_ending = True
            try:
                self._end()
                self._close()
            except BaseException:
                self._abort("the closing handshake was interrupted", by_us=True)
                raise

    def abort(self, cause: str, *, by_us: bool = False) -> None:
        """Cut the stream now."""
        with self.lock:
            self._abort(cause, by_us=by_us)
            self._close()

    # --- Serving; the lock is held ---

    def _serve(self, deadline: float) -> bool:
        """Do what there is to do, or wait for it; tell whether anything was done."""
        protocol = self.protocol
        if self._check_timers(time.monotonic()) or self.closed:
            return True
        if protocol.has_unparsed and not protocol.inbox.full:
            self._parse()
            return True
        until = min(deadline, self._next_timer())
        return self._read(until) if self._may_read() else self._wait_beside(until)

    def _may_read(self) -> bool:
        """Whether nobody reads, and there is room for more."""
        if self._is_reading or self._eof:
            return False
        protocol = self.protocol
        return not (protocol.inbox.full if self.is_received else protocol.wants_room)

    def _wait_beside(self, deadline: float) -> bool:
        """Wait without reading, since another thread does or nobody may; write what is unsent."""
        if self.is_writing or not self._unsent:
            return self._wait_for_change(deadline)
        self._watchers += 1
        try:
            deadline = min(deadline, time.monotonic() + _GLANCE)
            _, takes_more = self._wait_for_stream(deadline, read=False)
        finally:
            self._watchers -= 1
            if self.closed:
                self._leave_socket()
        if takes_more:
            self._reply()
        return takes_more

    def _wait_for_change(self, deadline: float) -> bool:
        wait = max(min(deadline - time.monotonic(), threading.TIMEOUT_MAX), 0)
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            return self._unlocked(waiter.acquire, timeout=wait)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wait_until_closed(self) -> None:
        """Wait for the thread that closes, which may not know yet that it has less time."""
        while not self.closed:
            if time.monotonic() < self._close_deadline:
                self._wait_for_change(self._close_deadline)
            elif self._is_ended():
                self._close()
            else:
                self._abort(self._what_was_late())

    def _note_change(self) -> None:
        while self._waiters:
            self._waiters.pop().release()

    def _wait_for_stream(self, deadline: float, *, read: bool) -> tuple[bool, bool]:
        """Wait until the system takes more or, with `read`, there is something to read.

        It may come back early: another thread may have brought a timer nearer.
        """
        deadline = min(deadline, time.monotonic() + _PATIENCE)
        return self._unlocked(self._stream.wait, deadline, read=read)

    def _unlocked(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call something that waits, with the lock released meanwhile."""
        held: list[bool] = []
        try:
            self.lock.release()
            return call(*args, **kwargs)
        finally:
            # Another thread may have it, and an interrupt come while we wait. It may come at the
            # start of `_acquire`, too: that is not what we begin with.
            try:
                held.extend(map(self.lock.acquire, _AND_WAIT))
            finally:
                if not held:
                    _acquire(self.lock)

    # --- Reading; the lock is held ---

    def _read(self, deadline: float) -> bool:
        """Read once; tell whether anything came."""
        stream = self._stream
        self._is_reading = True
        try:
            if self._unsent and not self.is_writing:
                came, takes_more = self._wait_for_stream(deadline, read=True)
                if takes_more:
                    self._reply()
                if not came:
                    return takes_more
                deadline = 0
            came = self._unlocked(stream.fetch, deadline)
            if came:
                self._take()
            return came
        except OSError as error:
            if is_interruption(error):
                raise
            self._end_reading(error)
            return True
        finally:
            self._is_reading = False
            if self.closed:
                self._leave_socket()
            if self._waiters:
                self._note_change()

    def _take(self) -> None:
        """Feed what was fetched to the protocol."""
        self._parse(fetched=True)
        if self._stream.eof:
            self._end_reading(None)

    def _end_reading(self, error: OSError | None) -> None:
        if error is not None:
            # It is kept, and its frames would keep the connection.
            error.__traceback__ = None
        self._eof = True
        self.protocol.receive_eof(error)
        if self._stream.speaks:
            # Why TLS goes no further.
            self._reply()
        self._note_change()

    def _parse(self, *, fetched: bool = False) -> None:
        """Go on to the next message in what was received, or in what was fetched."""
        protocol = self.protocol
        try:
            if not fetched:
                protocol.parse(one_message=True)
            elif data := self._stream.take():
                self._liveness.heard(time.monotonic())
                protocol.feed(data)
        except BaseException as error:
            # Else TLS cannot decipher it.
            if not isinstance(error, OSError) or is_interruption(error):
                self._abort("an interrupt came while something was received", by_us=True)
            raise
        if not protocol.sendable:
            self._note_ending()
        if protocol.replies or self._stream.speaks:
            self._reply()
        if self._waiters:
            self._note_change()

    # --- Writing; the lock is held ---

    def _put(self, frame: bytes) -> None:
        """Put what the protocol owes, and a frame, behind what is unsent."""
        protocol = self.protocol
        if protocol.replies:
            frame = protocol.take_replies() + frame
        data = self._stream.wrap(frame)
        self._unsent = b"".join((self._unsent, data)) if self._unsent else data

    def _push(self) -> None:
        """Write what the system takes at once."""
        sent = self._stream.send_now(self._unsent)
        if sent == len(self._unsent):
            self._unsent = b""
        elif sent:
            self._unsent = memoryview(self._unsent)[sent:]

    def _push_on(self) -> None:
        """Write all of it, and read meanwhile where nobody else does."""
        protocol = self.protocol
        limit = math.inf if self._write_timeout is None else self._write_timeout
        stalled_at = time.monotonic() + limit
        protocol.write_blocked = True
        while (self._unsent or self._stream.backlog) and not self.closed:
            now = time.monotonic()
            if now >= stalled_at:
                cause = f"a write stalled: the peer took nothing for {limit:.3g} s"
                self._abort(cause)
                raise protocol.exception()
            self._check_timers(now)
            until = min(stalled_at, self._next_timer())
            if protocol.has_unparsed and not protocol.inbox.full:
                self._parse()
            elif self._unsent:
                if self._push_once(until):
                    stalled_at = time.monotonic() + limit
            elif self._eof:
                self._abort("the peer ended the stream while TLS waited for it")
            elif self._may_read():
                # TLS takes it when it has read something.
                self._read(min(until, now + _PATIENCE))
            else:
                self._wait_for_change(min(until, now + _GLANCE))
            if not self._unsent and (protocol.replies or self._stream.speaks):
                self._put(b"")
        if self.closed:
            # Cut by another thread, or by a timer.
            raise protocol.exception()

    def _push_once(self, deadline: float) -> bool:
        """Wait until the system takes more, or there is something to read; tell whether it did."""
        reads = self._may_read()
        if not reads:
            deadline = min(deadline, time.monotonic() + _GLANCE)
        self._is_reading |= reads
        try:
            came, takes_more = self._wait_for_stream(deadline, read=reads)
            if came and self._stream.fetch(0):
                self._take()
        finally:
            if reads:
                self._is_reading = False
                self._note_change()
        return takes_more and not self.closed and self._push_more()

    def _push_more(self) -> bool:
        """Write more of what is unsent, if the peer has made room; tell whether it has."""
        before = len(self._unsent)
        self._push()
        if len(self._unsent) == before:
            return False
        self._liveness.heard(time.monotonic())
        return True

    def _reply(self) -> None:
        """Write what is owed; what the system does not take is left for the next who writes."""
        protocol = self.protocol
        if self.is_writing or self.closed or not (self._is_owing() or self._stream.speaks):
            return
        try:
            self._push_more()
            if not self._unsent:
                self._put(b"")
                self._push()
            # Then of several pongs the latest is kept.
            protocol.write_blocked = bool(self._unsent or self._stream.backlog)
        except BaseException as error:
            if isinstance(error, OSError) and not is_interruption(error):
                self._fail(error)
                return
            self._abort("a write was interrupted", by_us=True)
            raise

    def _fail(self, error: OSError) -> None:
        """A write has failed: their Close may be here already, and then it is the reason."""
        # It is kept, and its frames would keep the connection.
        error.__traceback__ = None
        self._unsent = b""
        protocol = self.protocol
        protocol.write_failed(error)
        self._note_ending()
        if self._is_reading:
            return
        try:
            for _ in range(_LAST_STEPS):
                if not protocol.reading or protocol.inbox.full:
                    break
                if protocol.has_unparsed:
                    self._parse()
                elif not self._eof and self._stream.fetch(0):
                    self._take()
                else:
                    break
        except OSError as other:
            if is_interruption(other):
                raise
            self._end_reading(other)

    # --- Time; the lock is held ---

    def _next_timer(self) -> float:
        if self._is_reading and self._liveness.suspects:
            return self._close_deadline
        return min(self._close_deadline, self._liveness.deadline)

    def _check_timers(self, now: float) -> bool:
        """Do what is due; tell whether anything was, and the caller has to look again.

        What is read here may be all that it waits for.
        """
        if now >= self._close_deadline and not self._is_ended():
            self._catch_up()
            if not self._is_ended():
                self._abort(self._what_was_late())
            return True
        liveness = self._liveness
        if not self.protocol.sendable or now < liveness.deadline:
            return False
        liveness.check(now)
        if liveness.suspects:
            if self._is_reading:
                return False
            self._look_for_life(now)
        if liveness.failure is not None and self.protocol.sendable:
            self._abort(liveness.failure)
        self._reply()
        return True

    def _look_for_life(self, now: float) -> None:
        liveness = self._liveness
        # Our question may not be out: the program was elsewhere.
        self._reply()
        if not self._may_read():
            # The inbox is full: a silence of our own making.
            liveness.heard(now)
        elif liveness.suspects:
            # What came while the program was elsewhere has not been read either.
            self._read(0)
        if liveness.suspects:
            liveness.judge(now)

    def _catch_up(self) -> None:
        """Read and parse what came while the program was elsewhere."""
        protocol = self.protocol
        for _ in range(_LAST_STEPS):
            if protocol.finished:
                break
            if protocol.has_unparsed and not protocol.inbox.full:
                self._parse()
            elif not self._may_read() or not self._read(0):
                break

    def _is_owing(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._unsent or self.protocol.replies or self._stream.backlog)

    def _is_ended(self) -> bool:
        """Whether the closing handshake is over: the closing of the stream alone may be left."""
        if self.closed:
            return True
        return self.protocol.finished and not (self.is_writing or self._is_owing())

    def _what_was_late(self) -> str:
        if self._is_owing():
            return "our Close could not be sent in time"
        return "the peer's Close did not come in time"

    # --- The end; the lock is held ---

    def _note_ending(self) -> None:
        if not self._has_deadline:
            self._has_deadline = True
            if self._close_timeout is not None:
                deadline = time.monotonic() + self._close_timeout
                self._close_deadline = min(self._close_deadline, deadline)
        self._liveness.end()

    def _end(self) -> None:
        protocol = self.protocol
        self._note_ending()
        self._reply()
        while not protocol.finished:
            self._serve(self._close_deadline)
        if self.closed or protocol.ours is Half.FAILED:
            return
        while self._is_owing() and not self._eof:
            if time.monotonic() >= self._close_deadline:
                break
            self._read_or_wait(self._close_deadline)
        if self._is_owing():
            self._abort(self._what_was_late())
        if not self.closed:
            self._end_stream()

    def _end_stream(self) -> None:
        """Close the stream in order, as far as there is time for that."""
        protocol = self.protocol
        if protocol.theirs is Half.CLOSED and protocol.role is Role.SERVER:
            self._stream.end_our_half()
            return
        linger = math.inf
        if protocol.theirs is not Half.CLOSED:
            # Closing over unread data resets the connection, and the reset may overtake our Close.
            self._stream.end_our_half()
            linger = time.monotonic() + LINGER
        # The server closes first (RFC 6455, section 7.1.1).
        while not self._eof:
            # Another thread may bring it nearer.
            deadline = min(self._close_deadline, linger)
            if time.monotonic() >= deadline:
                break
            self._read_or_wait(deadline)
        if linger == math.inf and not self.closed:
            # With TLS, the answer to its close_notify.
            self._stream.end_our_half()

    def _read_or_wait(self, deadline: float) -> None:
        if self._is_reading:
            self._wait_beside(deadline)
        else:
            self._read(deadline)

    def _abort(self, cause: str, *, by_us: bool = False) -> None:
        is_cut = self.is_writing or bool(self._unsent or self._stream.backlog)
        self.protocol.abort(cause, by_us=by_us, is_cut=is_cut)
        self._unsent = b""
        self._liveness.end()
        self._close()

    def _close(self) -> None:
        if not self.closed:
            self.closed = self._eof = True
            self._stream.cut()
        self.protocol.receive_eof()
        if not self.protocol.finished:
            self.protocol.abort("the stream was closed")
        self._leave_socket()
        self._note_change()

    def _leave_socket(self) -> None:
        """Close the socket, if that is to be done, unless some thread is in a call for it."""
        if self.closed and not (self._is_reading or self.is_writing or self._watchers):
            self._stream.close()


def _acquire(lock: threading.Lock) -> None:
    """Acquire a lock, also where an interrupt comes meanwhile; that leaves afterwards."""
    acquired: list[bool] = []
    try:
        # It was acquired or it was not, and the list knows.
        acquired.extend(map(lock.acquire, _AND_WAIT))
    finally:
        if not acquired:
            _acquire(lock)

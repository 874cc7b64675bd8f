"""What a transport is: the one interface between a connection and whatever carries its bytes.

One object per connection. It feeds the protocol and writes what the protocol has to say; it never
decides anything about WebSocket. `WebSocket` calls it from the user's tasks; what a transport does
besides, it does in tasks that `start` starts in the owner's task group. Those are shielded: they
end when the connection does, never raise, and refer to nothing of the user's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from typing import Protocol as Interface

from anyio import Event, current_time
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from anyio.abc import TaskGroup

    from .._protocol.protocol import Protocol

__all__ = ["LateEvent", "Liveness", "Transport"]


class LateEvent:
    """An event that costs next to nothing until somebody waits for it."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._event: Event | None = None
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if self._is_set:
            await checkpoint()
            return
        if self._event is None:
            self._event = Event()
        await self._event.wait()


class Liveness(Interface):
    """What a transport needs of the policy of pings; `_keepalive.py` has it."""

    failure: str | None
    suspects: bool

    @property
    def deadline(self) -> float: ...
    def heard(self, now: float) -> None: ...
    def check(self, now: float) -> None: ...
    def judge(self, now: float) -> None: ...
    def end(self) -> None: ...


class Transport(ABC):
    __slots__ = ("_close_deadline", "_on_ending", "_readers_wanted", "closed", "protocol")

    protocol: Protocol
    # Set when the stream is closed and nothing of the transport's is left but to return.
    closed: LateEvent
    _on_ending: list[Callable[[], object]]
    _readers_wanted: int
    _close_deadline: float

    # Whether `start` has tasks to start.
    needs_task_group: ClassVar[bool]

    @abstractmethod
    def start(self, task_group: TaskGroup | None) -> None:
        """Start what serves the connection; called once."""

    @abstractmethod
    def read_more(self) -> Awaitable[None]:
        """Return what to await, at once: until more was fed to the protocol and parsed, or the
        stream has ended.

        One task at a time. Cancelled, it loses nothing: the next call goes on from there.
        """

    @abstractmethod
    def parse(self, *, one_message: bool = False) -> None:
        """Let the protocol parse what it has, and act on what that brings."""

    @abstractmethod
    def taken(self) -> None:
        """Take note that something was taken from the inbox: there may be room again."""

    @abstractmethod
    def write(
        self, data: str | bytes, *, finished: bool, compress: bool | None
    ) -> Awaitable[None] | None:
        """Send a message, or its next fragment: whole, or not at all.

        Returns ``None`` when it was handed to the network, or else what is to be awaited for that,
        at once. Cancelled before its first byte went out it sends nothing; after that the frame
        is finished without the caller, or the connection ends. Raises, or the awaiting does, what
        `Protocol.exception` gives when the connection is over.
        """

    @abstractmethod
    def push(self, frame: bytes) -> None:
        """Write a frame now, or keep it to be written behind what is on its way; never wait.

        It goes before every message that `write` has not encoded yet. For an open connection.
        """

    @property
    @abstractmethod
    def backlog(self) -> int:
        """Bytes of frames from `push` that wait for the peer to take what is before them."""

    @abstractmethod
    def write_replies(self) -> None:
        """See to it that the protocol's replies go out soon."""

    @contextmanager
    def want_reader(self) -> Iterator[None]:
        """Return a context manager in which reading does not wait for a `receive`."""
        self._readers_wanted += 1
        self._look_around()
        try:
            yield
        finally:
            self._readers_wanted -= 1

    @contextmanager
    def on_ending(self, callback: Callable[[], object]) -> Iterator[None]:
        """Return a context manager in which `callback` is called when the connection ends.

        Not where it has ended before; and more than once where it ends in several steps.
        """
        self._on_ending.append(callback)
        try:
            yield
        finally:
            self._on_ending.remove(callback)

    def close_within(self, seconds: float | None) -> None:
        """The closing handshake has begun: cut the stream when it takes longer than this.

        With 0, that is `give_up`.
        """
        if seconds is not None and seconds <= 0:
            self.give_up("there was no time for the closing handshake")
            return
        if seconds is not None:
            self._close_deadline = min(self._close_deadline, current_time() + seconds)
            self._plan(self._close_deadline)
        self._react()
        self._look_around()

    @abstractmethod
    def abort(self, cause: str, *, by_us: bool = False) -> None:
        """Cut the stream now; at once for the protocol, for the stream as soon as tasks run."""

    @abstractmethod
    def give_up(self, cause: str) -> None:
        """Cut the stream, after one attempt at whatever reply is still due."""

    @abstractmethod
    def _react(self) -> None:
        """Wake whoever has something to do after the protocol changed."""

    @abstractmethod
    def _look_around(self) -> object:
        """Have reading begin, or go on, where somebody wants it now."""

    @abstractmethod
    def _plan(self, deadline: float) -> None:
        """See to it that the timers are looked at by then."""

    @property
    @abstractmethod
    def _is_writing(self) -> bool:
        """Whether what was taken from the protocol has not all gone out."""

    def _what_was_late(self) -> str:
        """Say why the closing handshake took too long."""
        if self.protocol.ending.received is None:
            return "the peer's Close did not come in time"
        if self.protocol.replies or self._is_writing:
            return "our Close could not be sent in time"
        return "the end of the stream did not come in time"

    @property
    @abstractmethod
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the stream."""

"""A connection that tells what goes over it.

Whoever traces nothing pays nothing: a connection is made as a `TracedProtocol` or as a `Protocol`,
once, and the latter has no question to ask for each message. What the peer sends is looked at
beside the reading, head by head, so that a traced connection reads as any other does: through the
lane, and as it comes.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

from .._close import Role
from .._trace import TraceEvent
from .frames import CLOSE, MAX_HEAD_BYTES, peek
from .protocol import Half, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._config import Config
    from .._trace import Trace
    from .deflate import PerMessageDeflate
    from .frames import Head
    from .negotiation import Negotiated
    from .shared import SharedMessage

__all__ = ["TracedProtocol", "make_protocol", "tell_refused"]

_logger = logging.getLogger("anyws.protocol")

_numbers = itertools.count(1)


def make_protocol(
    role: Role, config: Config, extension: Negotiated | None, clock: Callable[[], float]
) -> Protocol:
    """Return the protocol of a connection whose opening handshake has settled this extension.

    clock:
        What a trace takes the time from.
    """
    if config.trace is None:
        return Protocol.negotiated(role, config, extension)
    protocol = TracedProtocol.negotiated(role, config, extension)
    assert isinstance(protocol, TracedProtocol)
    protocol.clock = clock
    return protocol


def tell_refused(trace: Trace, time: float, detail: str) -> None:
    """Show the program a client of a server that got no connection."""
    event = TraceEvent(
        kind="refused", time=time, connection=next(_numbers), role=Role.SERVER, detail=detail
    )
    _show(trace, event)


def _show(trace: Trace, event: TraceEvent) -> bool:
    """Tell whether that went well. What it raises is logged."""
    try:
        trace(event)
    except Exception as error:
        _logger.error("Config.trace failed, and is not called again", exc_info=error)
        return False
    return True


class TracedProtocol(Protocol):
    clock: Callable[[], float]

    def __init__(
        self, role: Role, config: Config, deflate: PerMessageDeflate | None = None
    ) -> None:
        super().__init__(role, config, deflate)
        self._trace: Trace | None = config.trace
        self._number = next(_numbers)
        self._heads = HeadScanner(role, compression=deflate is not None)

    def tell(self, kind: Any, **fields: Any) -> None:
        """Show the program an event. What it raises is logged, and it is shown no more."""
        trace = self._trace
        if trace is None:
            return
        event = TraceEvent(
            kind=kind, time=self.clock(), connection=self._number, role=self.role, **fields
        )
        if not _show(trace, event):
            self._trace = None

    # --- In ---

    def receive_data(self, data: bytes | memoryview) -> None:
        if self.theirs is Half.OPEN and self._trace is not None:
            for head in self._heads.feed(data):
                self._tell_frame("received", head)
        super().receive_data(data)

    def feed(self, data: bytes | memoryview) -> None:
        # What it means, without the short way for chunks that need not be kept.
        self.receive_data(data)
        self.parse(one_message=True)

    # --- Out ---

    def encode(
        self, data: str | bytes, *, finished: bool = True, compress: bool | None = None
    ) -> bytes:
        frame = super().encode(data, finished=finished, compress=compress)
        self._tell_sent(frame)
        return frame

    def encode_shared(self, message: SharedMessage) -> bytes:
        frame = super().encode_shared(message)
        self._tell_sent(frame)
        return frame

    def take_replies(self) -> bytes:
        # Not when they are made: of several pongs, the latest may be all that goes out.
        for _, frame in self.replies:
            self._tell_sent(frame)
        return super().take_replies()

    def _tell_sent(self, frame: bytes) -> None:
        head = peek(frame[:MAX_HEAD_BYTES], self.role, compression=True)
        assert head is not None
        self._tell_frame("sent", head)

    def _tell_frame(self, kind: str, head: Head) -> None:
        self.tell(
            kind, opcode=head.opcode, length=head.length, final=head.fin, compressed=head.rsv1
        )


class HeadScanner:
    """Finds the heads of frames in chunks of any size, and keeps nothing else of them."""

    def __init__(self, role: Role, *, compression: bool) -> None:
        self._role = role
        self._compression = compression
        self._start = b""  # of a head that is not complete
        self._passing = 0  # bytes still to come of a payload
        self._at_end = False  # behind a Close, or what is no frame, is nothing to be found

    def feed(self, data: bytes | memoryview) -> list[Head]:
        """Return the heads that are complete with this chunk."""
        found: list[Head] = []
        position = 0
        while not self._at_end:
            step = min(self._passing, len(data) - position)
            position += step
            self._passing -= step
            if self._passing or position == len(data):
                break
            # What was kept of a head is shorter than one.
            start = self._start + bytes(data[position : position + MAX_HEAD_BYTES])
            head = peek(start, self._role, compression=self._compression)
            if head is None:
                self._start = start
                break
            position += head.size - len(self._start)
            self._start = b""
            self._passing = head.length
            self._at_end = not head.plain or head.opcode == CLOSE
            found.append(head)
        return found

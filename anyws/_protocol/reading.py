"""What the peer sends, from bytes to messages: the half of a connection that reads.

`receive_data` keeps a chunk, `parse` works through what is kept, and `feed`, which a transport
calls, does both for the next message, mostly without keeping it. Parsing stops where the inbox is
full, after a bounded number of frames and bytes (`has_unparsed` then says that there is more), and,
where the caller asks for it, after each message: whoever reads one message at a time meets a
violation only behind the messages in front of it.

**A frame goes one of three ways.** Whole messages go through the fast lane. A large one goes where
it stays, as it comes (`payload.py`). Anything else is handed to the engine when it is whole; only a
reader that streams gets an incomplete one. A head that looks wrong goes to the engine alone, for
its verdict. After our Close there is a fourth way: what is compressed is passed over, since nobody
needs to know what it inflates to.

What a Close, a ping or a violation leads to is for the whole of the connection to say
(`protocol.py`): those are the abstract methods.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from .._close import (
    MAX_REASON_BYTES,
    Close,
    CloseCode,
    Role,
    is_wire_code,
)
from .._config import CHUNK_BYTES, LANE, MAX_FRAMES_PER_TURN, MIB, Config
from .fastlane import FastLane, WrongMessageError, compressed_limit
from .frames import CLOSE, CONTINUATION, TEXT, Head, peek, unmask_control
from .inbox import Inbox
from .payload import ArrivingMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from .deflate import PerMessageDeflate

__all__ = ["Half", "Reading"]

# Section 7.4.1 of RFC 6455 has a reading for a Close without a code.
_NO_CODE = Close(CloseCode.NO_STATUS_RECEIVED)
# Two bytes that no end accepts, whatever its role: a reserved opcode. They end wsproto's parser.
_INVALID_FRAME = b"\x83\x00"
# Milliseconds at most, and only where the end came within a frame.
_MAX_FILLER = 4 * MIB


class Half(enum.Enum):
    """One end's half of the connection."""

    OPEN = "open"
    CLOSED = "closed"
    FAILED = "failed"


class Reading(ABC):
    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        self.role: Role = role
        self.theirs: Half = Half.OPEN
        self.inbox: Inbox = Inbox(config.inbox_size, config.inbox_bytes)
        # Called with the payload of each pong.
        self.on_pong: Callable[[bytes], None] | None = None
        self.has_unparsed: bool = False  # whether `parse` would get on without more data
        self.engine_frames: int = 0  # that went past the fast lane
        self._config = config
        self._deflate = deflate
        self._made_engine: Connection | None = None
        self._lane = FastLane(role, config, deflate) if LANE else None
        # The invariant: what is left of the buffer starts with the head of a frame, unless
        # `_passing`, `_skipping` or `_arriving`.
        self._buffer: bytes | bytearray = b""
        self._start = 0  # of what is left of the buffer
        self._head: Head | None = None  # of the first frame that is here, checked
        self._arriving: ArrivingMessage | None = None  # in front of the buffer
        self._passing = 0  # bytes still to come of a frame whose start the engine has
        self._skipping = 0  # bytes still to come of a frame that is passed over
        self._skips_message = False  # the message being received is passed over
        self._eof = False  # nothing follows what is in the buffer
        self._eof_error: Exception | None = None
        # The message being received: what its limits need.
        self._fragments = 0
        self._message_bytes = 0
        self._compressed = False
        self._is_last = False  # the last frame of it that was checked ends it

    @property
    def _engine(self) -> Connection:
        """wsproto's connection, made for the first frame that the lane does not take."""
        if self._made_engine is None:
            self._made_engine = Connection(
                ConnectionType.CLIENT if self.role is Role.CLIENT else ConnectionType.SERVER,
                [] if self._deflate is None else [self._deflate],
            )
        return self._made_engine

    # --- What the rest of the connection does ---

    @abstractmethod
    def fail(self, close: Close) -> None:
        """Fail the connection for what the peer did (RFC 6455, section 7.1.7)."""

    @abstractmethod
    def _ping_received(self, payload: bytes) -> None: ...

    @abstractmethod
    def _close_received(self, close: Close) -> None: ...

    @abstractmethod
    def _end_of_stream(self) -> None:
        """Nothing follows, and there was no Close."""

    # --- What it is like ---

    @property
    def reading(self) -> bool:
        """Whether more data from the peer would mean anything."""
        return self.theirs is Half.OPEN

    @property
    def receivable(self) -> bool:
        """Whether another message may come to a reader that finds none in the inbox."""
        return self.theirs is Half.OPEN and not self.inbox.discarding

    @property
    def unparsed_bytes(self) -> int:
        """How much is kept for `parse`."""
        kept = len(self._buffer) - self._start
        return kept if self._arriving is None else kept + self._arriving.received

    @property
    def wants_room(self) -> bool:
        """Whether the data kept here already waits for the inbox; then reading has to pause."""
        buffered = self.unparsed_bytes
        return self.inbox.too_far_ahead or (
            buffered > 0
            and self._config.max_message_size is None
            and not self.inbox.discarding
            and buffered + self.inbox.partial_bytes >= self._config.inbox_bytes
        )

    @property
    def lane_frames(self) -> int:
        """How many frames went through the fast lane."""
        return 0 if self._lane is None else self._lane.messages

    @property
    def messages_received(self) -> int:
        """How many messages have arrived whole, whichever way they went."""
        spoilt = 0 if self._lane is None else self._lane.spoilt
        return self.lane_frames - spoilt + self.inbox.joined_messages

    # --- Chunks ---

    def receive_data(self, data: bytes | memoryview) -> None:
        """Keep a copy of a chunk for `parse`; after the end it is dropped."""
        if self.theirs is not Half.OPEN:
            return
        self.has_unparsed = True
        if self._arriving is not None:
            data = self._arriving.add(data)
            if not data:
                return
        if self._start == len(self._buffer):
            # Most often a chunk is whole messages: then `bytes` are taken as they are.
            self._buffer = bytes(data)
            self._start = 0
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(memoryview(self._buffer)[self._start :])
                self._start = 0
            self._buffer += data

    def feed(self, data: bytes | memoryview) -> None:
        """Receive a chunk, and parse as far as the next message.

        What most chunks are, whole messages with nothing kept before them, is not kept first.
        """
        lane, inbox = self._lane, self.inbox
        if (
            lane is None
            or self._buffer
            or self._passing
            or self._fragments
            or inbox.messages
            or not inbox.takes_whole
            or self.theirs is not Half.OPEN
            or not (end := lane.read(data, 0, inbox, MAX_FRAMES_PER_TURN))
        ):
            self.receive_data(data)
            self.parse(one_message=True)
            return
        if end < len(data):
            self._buffer = bytes(data[end:])
            self.has_unparsed = True
        if self._deflate is not None:
            self._inflate(lane)

    def receive_eof(self, error: Exception | None = None) -> None:
        """Take note that nothing will follow: end of stream, or `error` of the network.

        What was received before comes first, also where a full inbox holds it up.
        """
        if self.theirs is Half.OPEN and not self._eof:
            self._eof = True
            self._eof_error = error
            if not self.has_unparsed:
                self._end_of_stream()

    def parse(self, *, one_message: bool = False) -> None:
        """Work through what was received, up to a bound; see the head of this module."""
        unparsed = self.unparsed_bytes
        frames = MAX_FRAMES_PER_TURN
        while frames > 0:
            if self.theirs is not Half.OPEN:
                return
            if self.inbox.full:
                break
            taken = self._parse_some(frames)
            if not taken:
                self.has_unparsed = False
                if self._eof:
                    self._end_of_stream()
                return
            frames -= taken
            if not self._buffer or (one_message and self.inbox.available):
                break
            if unparsed - self.unparsed_bytes >= CHUNK_BYTES:
                break
        self.has_unparsed = self.theirs is Half.OPEN and self.unparsed_bytes > 0
        if self._eof and not self.has_unparsed and self.theirs is Half.OPEN:
            self._end_of_stream()

    def start_streaming(self) -> None:
        """Have the first message handed out in pieces: what is here of it first."""
        self.inbox.start_streaming()
        # Of a frame that is not whole, this much can be read now.
        self.has_unparsed = self.theirs is Half.OPEN and self.unparsed_bytes > 0

    # --- Frames ---

    def _parse_some(self, most: int) -> int:
        """Take what the lane can take, or have the engine take a frame; return how many it was."""
        lane = self._lane
        if self._arriving is not None:
            return self._take_arrived(self._arriving, lane)
        if lane is None or not self._is_lane_open():
            return self._parse_frame()
        start, before = self._start, lane.messages
        end = lane.read(self._buffer, start, self.inbox, most)
        if end == start:
            return self._parse_frame()
        self._head = None
        self._fragments = self._message_bytes = 0
        self._consume(end - start)
        self._inflate(lane)
        return lane.messages - before

    def _take_arrived(self, arriving: ArrivingMessage, lane: FastLane | None) -> int:
        """Move the large message on that has arrived, or leave its frame to the engine."""
        assert lane is not None
        if self.inbox.takes_whole:
            if not arriving.is_complete:
                return 0
            try:
                self.inbox.add_whole([arriving.message()], arriving.size)
            except UnicodeDecodeError:
                pass
            else:
                self._arriving = self._head = None
                self._fragments = self._message_bytes = 0
                lane.messages += 1
                return 1
        self._buffer = arriving.wire() + self._buffer[self._start :]
        self._start = 0
        self._arriving = None
        return self._parse_frame()

    def _inflate(self, lane: FastLane) -> None:
        try:
            lane.inflate(self.inbox)
        except WrongMessageError as error:
            self._fail_on_violation(error.code, str(error))

    def _is_lane_open(self) -> bool:
        """Whether the next frame is the first of a message, and nobody wants that in pieces."""
        if self._passing or not self.inbox.takes_whole:
            return False
        head = self._head
        if head is None:
            return not self._fragments
        # It was counted when its head was checked.
        return self._fragments == 1 and self.unparsed_bytes >= head.size + head.length

    def _consume(self, size: int) -> None:
        self._start += size
        if self._start == len(self._buffer):
            self._buffer = b""
            self._start = 0
        elif isinstance(self._buffer, bytearray) and self._start >= CHUNK_BYTES:
            del self._buffer[: self._start]
            self._start = 0

    def _parse_frame(self) -> bool:
        """Hand the first frame in the buffer to the engine; tell whether there was one."""
        if self._passing:
            return self._pass_on(self.unparsed_bytes)
        if self._skipping:
            return self._skip()
        head = self._head
        if head is None:
            compression = self._deflate is not None
            head = peek(self._buffer, self.role, compression=compression, start=self._start)
            if head is None:
                return False
            if not head.plain:
                # Only its head: the engine needs no more to refuse it.
                self._passing = head.size + head.length
                return self._pass_on(head.size)
            if not self._within_limits(head):
                return True
            self._head = head
        size = head.size + head.length
        if self.inbox.discarding and self._passes_over(head):
            return True
        if self.unparsed_bytes < size:
            as_it_comes = self.inbox.streaming or self.inbox.discarding
            if as_it_comes and not head.is_control and self.unparsed_bytes > head.size:
                self._head = None
                self._passing = size
                return self._pass_on(self.unparsed_bytes)
            if self._lane is not None and self._fragments == 1 and self.inbox.takes_whole:
                self._let_arrive(head)
            return False
        self._head = None
        if head.opcode == CLOSE:
            return self._read_close(head)
        self._passing = size
        return self._pass_on(size)

    def _let_arrive(self, head: Head) -> None:
        """Put the message where it stays, if it is large, and whatever comes of it as well."""
        if not ArrivingMessage.is_worth_it(head, self.unparsed_bytes):
            return
        start = bytes(self._unparsed(head.size))
        arriving = ArrivingMessage(start, length=head.length, is_text=head.opcode == TEXT)
        with memoryview(self._buffer) as buffer:
            arriving.add(buffer[self._start + head.size :])
        self._buffer = b""
        self._start = 0
        self._arriving = arriving

    def _pass_on(self, size: int) -> bool:
        """Hand the engine up to `size` bytes of the frame at the start of the buffer.

        A large frame goes in pieces: its copies are then never all there at once.
        """
        size = min(size, self._passing, CHUNK_BYTES)
        if not size:
            return False
        if size == self._passing:
            self.engine_frames += 1
        # Not kept in a variable: the engine copies it, and a message may be large.
        self._engine.receive_data(bytes(self._unparsed(size)))
        self._consume(size)
        self._passing -= size
        for event in self._engine.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self.inbox.add(_plain(event.data), finished=event.message_finished)
                if event.message_finished:
                    self._fragments = self._message_bytes = 0
            elif isinstance(event, Ping):
                self._ping_received(bytes(event.payload))
            elif isinstance(event, Pong):
                if self.on_pong is not None:
                    self.on_pong(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                # Their Close frames never get here, so this is the engine's word for a violation.
                self._fail_on_violation(int(event.code), event.reason or "")
        return True

    def _unparsed(self, size: int) -> memoryview:
        return memoryview(self._buffer)[self._start : self._start + size]

    def _read_close(self, head: Head) -> bool:
        """Read a whole Close frame; wsproto would refuse code 1014, which IANA has registered."""
        size = head.size + head.length
        payload = unmask_control(bytes(self._unparsed(size)), head)
        try:
            close = _decode_close(payload)
        except UnicodeDecodeError:
            self.fail(Close(CloseCode.INVALID_DATA, "the close reason is not UTF-8"))
            return True
        if close is None:
            self._passing = size
            return self._pass_on(size)
        self._close_received(close)
        return True

    def _within_limits(self, head: Head) -> bool:
        """Check the frame's size and number before its payload is kept (RFC 6455, 10.4)."""
        if head.is_control:
            return True
        config = self._config
        if head.opcode != CONTINUATION:
            self._compressed = head.rsv1
        self._is_last = head.fin
        self._fragments += 1
        if self.inbox.discarding:
            return True
        if config.max_fragments is not None and self._fragments > config.max_fragments:
            self.fail(
                Close(CloseCode.MESSAGE_TOO_BIG, f"more than {config.max_fragments} fragments")
            )
            return False
        self._message_bytes += head.length
        # A compressed message is judged by what it inflates to; on the wire its frames may be a
        # little larger than that, since data that does not compress grows.
        size = head.length if self._compressed else self._message_bytes
        return self._check_size("frame", config.max_frame_size, head.length) and self._check_size(
            "message", config.max_message_size, size
        )

    def _check_size(self, kind: str, limit: int | None, size: int) -> bool:
        if limit is None or size <= (compressed_limit(limit) if self._compressed else limit):
            return True
        self.fail(Close(CloseCode.MESSAGE_TOO_BIG, f"the {kind} is larger than {limit} bytes"))
        return False

    # --- After our Close ---

    def _discard(self) -> None:
        """Drop what was received, and what comes: nobody will take it."""
        if self.inbox.discarding:
            return
        self.inbox.discard()
        if self._deflate is None:
            return
        head = self._head
        waiting = head is not None and not head.is_control
        if self._compressed and self._fragments > waiting:
            # The engine has the beginning of a compressed message and would go on to inflate it.
            # Another, which knows nothing of it, is to judge what else comes.
            self._skipping = self._passing
            self._skips_message = not (self._passing and self._is_last)
            if not self._skips_message:
                self._fragments = self._message_bytes = 0
            self._end_parser()
            self._passing = 0
            self._made_engine = None
            self._deflate.failure = None
        self._deflate.drop_contexts()

    def _passes_over(self, head: Head) -> bool:
        """Pass over the frame at the start of the buffer if it is one of a compressed message.

        Within a message of either kind another must not begin, whatever becomes of them.
        """
        if head.is_control:
            return False
        if head.opcode != CONTINUATION:
            if self._skips_message:
                self._head = None
                self._fail_on_violation(CloseCode.PROTOCOL_ERROR, "a message within another")
                return True
            self._skips_message = head.rsv1 and self._fragments == 1
        if not self._skips_message:
            return False
        self._head = None
        if head.fin:
            self._skips_message = False
            self._fragments = self._message_bytes = 0
        self._skipping = head.size + head.length
        return self._skip()

    def _skip(self) -> bool:
        size = min(self._skipping, self.unparsed_bytes)
        self._skipping -= size
        self._consume(size)
        return size > 0

    def _fail_on_violation(self, code: int, reason: str) -> None:
        if self._deflate is not None and self._deflate.failure is not None:
            reason = self._deflate.failure
        # The engine is done, whatever the head had declared.
        self._passing = 0
        # Its words may quote what the peer sent.
        reason = reason.encode("ascii", "replace").decode()[:MAX_REASON_BYTES]
        self.fail(Close(code, reason))

    # --- The end ---

    def _drop_unread(self) -> None:
        """Nothing after the end is read (RFC 6455, section 7.1.7)."""
        self._buffer = b""
        self._start = 0
        self._head = self._arriving = None
        self.has_unparsed = False

    def _end_parser(self) -> None:
        if self._made_engine is None or self._passing > _MAX_FILLER:
            return  # there is none, or a collection will find it
        # Within a frame it would take anything for payload, so that has to be over first.
        while self._passing:
            size = min(self._passing, CHUNK_BYTES)
            self._passing -= size
            self._feed_and_forget(bytes(size))
        self._feed_and_forget(_INVALID_FRAME)

    def _feed_and_forget(self, data: bytes) -> None:
        self._engine.receive_data(data)
        for _ in self._engine.events():
            pass


def _plain(data: str | bytes | bytearray) -> str | bytes:
    return bytes(data) if isinstance(data, bytearray) else data


def _decode_close(payload: bytes) -> Close | None:
    """Return the Close, or ``None`` for one that the engine has to judge (it will refuse it)."""
    if not payload:
        return _NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if not is_wire_code(code):  # which the one byte of half a code never is
        return None
    return Close(code, payload[2:].decode())

"""One connection after the opening handshake: bytes in, messages out; messages in, bytes out.

wsproto is the engine: it parses and builds frames, joins extensions and frames, and judges every
violation. This module does once, for every face, what wsproto leaves to its callers: limits from
the head alone, answering pings, the closing handshake, joining fragments, codes, and turning its
quiet failure (an event, while its state stays OPEN) into a state of ours.

**State.** Each end has a half, and the pair decides what happens next. There is no other state:

====================  =======================  ============================  ====================
ours \\ theirs         OPEN                     CLOSED (their Close came)     FAILED
====================  =======================  ============================  ====================
OPEN                  anything may be sent     answer with Close,            a violation: send
                                               nothing else                  Close, then end;
                                                                             end of stream: end
CLOSED (Close sent)   send nothing; read       the server closes the         end
                      until their Close        stream, the client waits
                                               for that
FAILED (a write was   abort                    abort                         abort
cut short)
====================  =======================  ============================  ====================

**Reading** is in `reading.py`; what it leads to is here.

**Writing.** `encode` returns the bytes of one data frame. Control frames gather in `replies` and
go out before the next data frame: whoever writes takes them first. Nothing may be awaited between
taking bytes from here and handing them to the network: order of encoding is order on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from .._close import Close, CloseCode, Role
from .deflate import PerMessageDeflate
from .ending import By, Ending
from .inbox import size_of
from .reading import Half, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsproto.events import Event

    from .._config import Config
    from .._errors import ConnectionClosed
    from .negotiation import Negotiated
    from .shared import SharedMessage

__all__ = ["Half", "Protocol"]


class Protocol(Reading):
    """The state of one connection. Not for concurrent use by threads; it never waits."""

    # What most connections never count takes no memory of theirs.
    pings_received: int = 0
    # Messages, and bytes in them, beside those that the lane counts.
    _others_sent: int = 0
    _other_bytes_sent: int = 0

    def __init__(
        self, role: Role, config: Config, deflate: PerMessageDeflate | None = None
    ) -> None:
        super().__init__(role, config, deflate)
        self.ours: Half = Half.OPEN
        self.sendable: bool = True  # messages and pings may be sent: both halves are open
        self.ending: Ending = Ending()
        # Set by the writer while a write does not get on; see `_ping_received`.
        self.write_blocked: bool = False
        self.in_message: bool = False  # a message of ours is begun and not ended
        # Control frames to go out before the next data frame, each with its kind.
        self.replies: list[tuple[type[Event], bytes]] = []

    @classmethod
    def negotiated(cls, role: Role, config: Config, extension: Negotiated | None) -> Protocol:
        """Return that of a connection whose opening handshake has settled this extension."""
        deflate = None
        if extension is not None and config.compression is not None:
            deflate = PerMessageDeflate(extension, config.compression, config.max_message_size)
        return cls(role, config, deflate)

    # --- What it is like ---

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do but to close the stream (the corners of the table)."""
        if self.ours is Half.FAILED:
            return True
        return self.theirs is Half.FAILED or (
            self.theirs is Half.CLOSED and self.ours is Half.CLOSED
        )

    @property
    def extensions(self) -> tuple[str, ...]:
        """The names of the extensions in use."""
        return () if self._deflate is None else (self._deflate.name,)

    @property
    def messages_sent(self) -> int:
        """How many messages were encoded to their end."""
        return self._others_sent + (0 if self._lane is None else self._lane.sent)

    @property
    def bytes_sent(self) -> int:
        """How many bytes were in them, and in fragments, before compression."""
        return self._other_bytes_sent + (0 if self._lane is None else self._lane.sent_bytes)

    def exception(self, *, receiving: bool = False) -> ConnectionClosed:
        """Return a new exception for a call that the end of the connection makes impossible."""
        return self.ending.exception(delivered=receiving and not self.inbox.discarding)

    # --- What is received ---

    def _ping_received(self, payload: bytes) -> None:
        self.pings_received += 1
        if self.ours is not Half.OPEN:
            return
        if self.write_blocked:
            # RFC 6455, section 5.5.3: of several pings, the latest may be all that is answered.
            self.replies = [reply for reply in self.replies if reply[0] is not Pong]
        self._reply(Pong(payload))

    def _reply(self, event: Event) -> None:
        self.replies.append((type(event), self._engine.send(event)))

    def _close_received(self, close: Close) -> None:
        self._end_their_half(Half.CLOSED)
        self.ending.received = close
        if self.ours is Half.OPEN:
            self.ending.by = By.PEER
            # RFC 6455, section 5.5.1: answered with the same code. A Close without a code is
            # answered by one without; an answer of ours never repeats their reason.
            self._send_close(Close(close.code))
        elif self.ending.sent is None:
            # The write failed because they had closed: that is what to report.
            self.ending.by = By.PEER
        self._stop_reading()

    def _end_of_stream(self) -> None:
        self._end_their_half(Half.FAILED)
        self.ending.note_loss(self._eof_error, "the peer ended the stream without a Close")
        self._stop_reading()

    # --- Closing ---

    def close(self, close: Close, *, deliver: bool = False, because: str = "") -> None:
        """Start the closing handshake, unless it has begun. What comes is dropped, or delivered.

        The Close is among the replies afterwards. `because` is added to the cause.
        """
        if self.sendable:
            self.ending.note(By.US, because)
            self._send_close(close)
        if self.ending.by is By.US and not deliver:
            # Also after `send_eof`: nobody will take what is still to come.
            self._discard()

    def fail(self, close: Close) -> None:
        """Fail the connection for what the peer did (RFC 6455, section 7.1.7)."""
        if self.theirs is not Half.OPEN:
            return
        self._end_their_half(Half.FAILED)
        self.ending.note(By.BREAK, f"the peer sent what is refused: {close.reason} ({close.code})")
        if self.ours is Half.OPEN:
            self._send_close(close)
        self._stop_reading()

    def abort(self, cause: str, *, by_us: bool = False, is_cut: bool = False) -> None:
        """End at once, without a closing handshake; `cause` says why, `is_cut` as below."""
        self._stop_writing(is_cut=is_cut)
        if not self.ending.clean:
            self.ending.note(By.US if by_us else By.BREAK, cause)
        if self.theirs is Half.OPEN:
            self._end_their_half(Half.FAILED)
        if by_us:
            self.inbox.discard()
        self._stop_reading()

    def write_failed(self, error: Exception | None, *, is_cut: bool = True) -> None:
        """Take note that nothing can be written any more (invariant 1).

        Reading goes on: their Close may be on its way, and then it is the reason.

        is_cut:
            What was taken from here has not all gone out. A Close goes last, so ours has not.
        """
        self._stop_writing(is_cut=is_cut)
        if self.theirs is not Half.FAILED and not self.ending.clean:
            self.ending.note_loss(error, "the stream was closed")

    def _send_close(self, close: Close) -> None:
        self._reply(_close_event(close))
        self._end_our_half(Half.CLOSED)
        self.ending.sent = close

    def _end_our_half(self, end: Half) -> None:
        self.ours = end
        self.sendable = False

    def _end_their_half(self, end: Half) -> None:
        self.theirs = end
        self.sendable = False

    def _stop_writing(self, *, is_cut: bool) -> None:
        self._end_our_half(Half.FAILED)
        if is_cut or any(kind is CloseConnection for kind, _ in self.replies):
            self.ending.sent = None  # and never will be
        self.replies.clear()

    def _stop_reading(self) -> None:
        """At the end, let go of what is kept, and of what would live until a garbage collection.

        wsproto's parser is a generator that refers to itself until it meets a Close or an error.
        """
        self._drop_unread()
        self.on_pong: Callable[[bytes], None] | None = None
        self._end_parser()
        if self._deflate is not None:
            self._deflate.drop_contexts()

    # --- Writing ---

    def encode(
        self, data: str | bytes, *, finished: bool = True, compress: bool | None = None
    ) -> bytes:
        """Return the frame of a message, or of its next fragment; to be written at once."""
        if self._lane is not None and finished and not self.in_message and self.sendable:
            return self._lane.encode(data, compress)
        if self._deflate is not None:
            self._deflate.compress = compress
        event: TextMessage | BytesMessage
        if isinstance(data, str):
            event = TextMessage(data, message_finished=finished)
        else:
            event = BytesMessage(data, message_finished=finished)
        frame = self._engine.send(event)
        self._others_sent += finished
        self._other_bytes_sent += size_of(data)
        self.in_message = not finished
        return frame

    def encode_shared(self, message: SharedMessage) -> bytes:
        """Return the frame of a message that others get, too; not within a message of ours."""
        self._others_sent += 1
        self._other_bytes_sent += message.size
        return message.frame(self._deflate, masked=self.role is Role.CLIENT)

    def ping(self, payload: bytes) -> None:
        """Put a ping among the replies."""
        self._reply(Ping(payload))

    def take_replies(self) -> bytes:
        """Return the control frames to write now."""
        frames = b"".join([frame for _, frame in self.replies])
        self.replies.clear()
        return frames


def _close_event(close: Close) -> CloseConnection:
    # wsproto knows "no code" by the identity of its own constant.
    no_code = close.code == CloseCode.NO_STATUS_RECEIVED
    return CloseConnection(
        code=CloseReason.NO_STATUS_RCVD if no_code else close.code, reason=close.reason or None
    )

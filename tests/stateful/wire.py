"""What went over one direction of a connection, read by an independent hand.

Everything that an end has sent since the handshake is in the log of its pipe. `Wire` splits it into
frames, inflates what is compressed, and puts messages together; what RFC 6455 does not allow is a
`Violation` there and then.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from streams import CLOSE, CONT, PING, PONG, TEXT, Frame, split_frames

if TYPE_CHECKING:
    from anyws.testing import Pipe

# RFC 7692, section 7.2.2: what a receiver puts behind each message before it inflates.
_TAIL = b"\x00\x00\xff\xff"


class Violation(AssertionError):
    """A promise was broken."""


def check(fact: object, words: str) -> None:
    if not fact:
        raise Violation(words)


def brief(content: bytes) -> str:
    """Say what this is, in few words."""
    return f"{content[:24]!r}... ({len(content)})" if len(content) > 30 else repr(content)


@dataclass(repr=False)
class WireMessage:
    """A message as it went over the wire: a piece of it for each frame, inflated."""

    is_text: bool
    compressed: bool
    pieces: list[bytes] = field(default_factory=list)
    ends_at: int | None = None  # in the log: where its last frame ends, once that is there

    def __repr__(self) -> str:
        end = "" if self.ends_at is None else f", ends at {self.ends_at}"
        return f"<on the wire: {[brief(piece) for piece in self.pieces]}{end}>"

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)


class Wire:
    """One direction, from the end of the handshake on.

    messages:
        In order; the last may not have ended.
    close, close_ends_at:
        The Close, once it is whole, and where in the log it ends.
    pings:
        Where in the log each ping ends.
    rest:
        What follows the last whole frame.
    """

    def __init__(self, pipe: Pipe, *, masked: bool, compression: bool) -> None:
        self.messages: list[WireMessage] = []
        self.close: Frame | None = None
        self.close_ends_at = 0
        self.pings: list[int] = []
        self.rest = b""
        self._pipe = pipe
        self._masked = masked
        self._compression = compression
        self._inflater = zlib.decompressobj(-15)
        self._offset = 0

    @property
    def size(self) -> int:
        """How much was sent."""
        return len(self._pipe.log)

    @property
    def taken(self) -> int:
        """How much of it the receiving end has taken off the pipe."""
        return len(self._pipe.log) - len(self._pipe.data)

    @property
    def in_message(self) -> bool:
        return bool(self.messages) and self.messages[-1].ends_at is None

    def messages_taken(self) -> list[WireMessage]:
        """The messages that the receiving end has taken off the pipe to their end."""
        taken = self.taken
        return [one for one in self.messages if one.ends_at is not None and one.ends_at <= taken]

    def messages_begun(self) -> list[WireMessage]:
        """All messages, the last with what is there of a frame that is not whole."""
        begun = _payload_of_a_beginning(self.rest) if self.rest else None
        if begun is None:
            return self.messages
        *before, last = self.messages if self.rest[0] & 0x0F == CONT else [*self.messages, None]
        if last is None:
            last = WireMessage(self.rest[0] & 0x0F == TEXT, bool(self.rest[0] & 0x40))
        if last.compressed:
            begun = self._inflater.copy().decompress(begun)
        return [*before, replace(last, pieces=[*last.pieces, begun])]

    def read(self) -> None:
        """Work through what was sent since the last time."""
        frames, self.rest = split_frames(bytes(self._pipe.log[self._offset :]))
        for one in frames:
            self._offset += _size(one)
            self._read_frame(one)
        if self.rest:
            check(self.close is None, f"something behind a Close: {self.rest[:20]!r}")
            if self.rest[0] & 0x0F < CLOSE:
                self._check_place(self.rest[0] & 0x0F)

    def _read_frame(self, one: Frame) -> None:
        check(self.close is None, f"a frame behind a Close: {one}")
        check(one.masked is self._masked, f"a frame masked the wrong way: {one}")
        if one.opcode < CLOSE:
            self._check_place(one.opcode)
            self._read_data(one)
            return
        check(one.opcode in {CLOSE, PING, PONG}, f"a frame with a wrong opcode: {one}")
        check(one.fin and not one.rsv1 and len(one.payload) <= 125, f"a wrong control frame: {one}")
        if one.opcode == CLOSE:
            self.close, self.close_ends_at = one, self._offset
        elif one.opcode == PING:
            self.pings.append(self._offset)

    def _check_place(self, opcode: int) -> None:
        check(opcode <= 2, f"a data frame with opcode {opcode}")
        words = "a message within another" if self.in_message else "a continuation of nothing"
        check((opcode == CONT) is self.in_message, words)

    def _read_data(self, one: Frame) -> None:
        if one.opcode == CONT:
            check(not one.rsv1, "a continuation with RSV1 set")
        else:
            check(self._compression or not one.rsv1, "RSV1 without compression")
            self.messages.append(WireMessage(one.opcode == TEXT, one.rsv1))
        message = self.messages[-1]
        payload = one.payload
        if message.compressed:
            try:
                payload = self._inflater.decompress(payload + _TAIL * one.fin)
            except zlib.error as error:
                raise Violation(f"a compressed message that does not inflate: {error}") from None
        message.pieces.append(payload)
        if one.fin:
            message.ends_at = self._offset


def _payload_of_a_beginning(data: bytes) -> bytes | None:
    """Return what is there of the payload of a data frame; ``None`` where its head is not."""
    if len(data) < 2 or data[0] & 0x0F >= CLOSE:
        return None
    start = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
    start += 4 if data[1] & 0x80 else 0
    if len(data) < start:
        return None
    payload = data[start:]
    if data[1] & 0x80:
        key = data[start - 4 : start]
        payload = bytes(byte ^ key[index & 3] for index, byte in enumerate(payload))
    return payload


def _size(one: Frame) -> int:
    size = len(one.payload)
    return size + 4 * one.masked + (2 if size < 126 else 4 if size < 1 << 16 else 10)

"""Received messages that nobody has taken yet: joining fragments, bounds, reading in pieces.

A message is in one of three places. While its fragments arrive it is `_partial`. Complete, it is
in `messages`. A reader that wants it in pieces calls `start_streaming`: from then on what arrives
of the first message goes to `_piece`, and is kept no longer than the reader takes.

Both `_partial` and `_piece` are one growing store, whatever the size of what arrives: a list of
small strings would cost a peer one byte a fragment, and us fifty.
"""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from .._config import MAX_PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Inbox", "size_of"]

_Store: TypeAlias = "str | bytes | io.StringIO | bytearray"


def size_of(data: str | bytes) -> int:
    """Return how many bytes of payload `data` was."""
    return len(data) if data.isascii() or isinstance(data, bytes) else len(data.encode())


def _grown(store: _Store | None, data: str | bytes) -> _Store:
    """Return the store with `data` at its end; the first piece is its own store, uncopied."""
    if not store:
        return data
    if isinstance(data, str):
        if isinstance(store, str):
            first, store = store, io.StringIO(newline="")
            store.write(first)
        assert isinstance(store, io.StringIO)
        store.write(data)
    else:
        if isinstance(store, bytes):
            store = bytearray(store)
        assert isinstance(store, bytearray)
        store += data
    return store


def _content(store: _Store) -> str | bytes:
    if isinstance(store, io.StringIO):
        return store.getvalue()
    return bytes(store) if isinstance(store, bytearray) else store


class Inbox:
    def __init__(self, max_messages: int | None, max_bytes: int) -> None:
        # A deque as soon as there was a message: an empty one is 700 bytes for who may never get any.
        self.messages: Sequence[str | bytes] = ()
        self.waiting_bytes: int = 0  # of messages, and of a piece
        self.partial_bytes: int = 0
        # Since the beginning. (Messages that come whole are counted by the lane.)
        self.received_bytes: int = 0
        self.joined_messages: int = 0
        self.most_messages: int = 0
        self.most_bytes: int = 0
        self.streaming: bool = False
        self.discarding: bool = False  # this end has closed: nothing more is kept
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._partial: _Store | None = None
        self._piece: _Store | None = None
        self._piece_bytes = 0
        self._streamed_any = False  # the reader has, or can have, some of the streamed message
        self._piece_was_last = False  # `_piece` ends its message
        self._in_message = False  # the end of the message being received is still to come
        self._skip_rest = False  # the reader left the message being received

    @property
    def full(self) -> bool:
        """Whether reading has to pause until something is taken."""
        if self.discarding:
            return False
        return (
            self.waiting_bytes >= self._max_bytes
            or self._piece_bytes >= MAX_PIECE_BYTES
            or (self._max_messages is not None and len(self.messages) >= self._max_messages)
        )

    @property
    def too_far_ahead(self) -> bool:
        """Whether reading has to pause unless somebody waits for the message being received.

        Differs from `full` only where the message limit is off: then a message may be larger
        than the inbox.
        """
        return self.full or (not self.discarding and self.partial_bytes >= self._max_bytes)

    @property
    def available(self) -> bool:
        """Whether a reader has something to take, be it the end of the streamed message."""
        return bool(self.messages) or self._piece is not None or self.streamed_to_end

    def has_message(self) -> bool:
        """Whether there is a complete message."""
        return bool(self.messages)

    @property
    def takes_whole(self) -> bool:
        """Whether the next message may come by `add_whole`."""
        return not (self._in_message or self.streaming or self._skip_rest or self.discarding)

    def add_whole(self, messages: list[str | bytes], size: int) -> None:
        """Keep messages that are complete, of so many bytes together."""
        queue = self._queue()
        queue.extend(messages)
        self.received_bytes += size
        self.waiting_bytes = waiting = self.waiting_bytes + size
        if waiting > self.most_bytes:
            self.most_bytes = waiting
        if len(queue) > self.most_messages:
            self.most_messages = len(queue)

    def _queue(self) -> deque[str | bytes]:
        queue = self.messages
        if isinstance(queue, deque):
            return queue
        self.messages = queue = deque()
        return queue

    def add(self, data: str | bytes, *, finished: bool) -> None:
        """Keep what was received of a message; `finished` says that it ends here."""
        if self.discarding:
            return
        size = size_of(data)
        self.received_bytes += size
        self.joined_messages += finished
        self._in_message = not finished
        if self._skip_rest:
            self._skip_rest = not finished
        elif self.streaming and not self._piece_was_last:
            # An empty piece tells the reader nothing, except that of an empty message its type.
            if data or (finished and not self._streamed_any):
                self._add_piece(data, size)
            self._piece_was_last = finished
        else:
            self.partial_bytes += size
            self._partial = _grown(self._partial, data)
            if finished:
                self._queue().append(self._take_partial())
        self.most_messages = max(self.most_messages, len(self.messages))
        self.most_bytes = max(self.most_bytes, self.waiting_bytes)

    def _take_partial(self) -> str | bytes:
        partial, self._partial = self._partial, None
        assert partial is not None
        self.waiting_bytes += self.partial_bytes
        self.partial_bytes = 0
        return _content(partial)

    def _add_piece(self, data: str | bytes, size: int) -> None:
        self._piece = _grown(self._piece, data)
        self._piece_bytes += size
        self.waiting_bytes += size
        self._streamed_any = True

    def take(self) -> str | bytes:
        """Take the first message; there must be one."""
        message = self._queue().popleft()
        self.waiting_bytes -= len(message) if type(message) is bytes else size_of(message)
        return message

    # --- In pieces ---

    def start_streaming(self) -> None:
        """Hand out the first message in pieces: what is here of it, then the rest as it comes."""
        self.streaming = True
        if self.messages:
            message = self.take()
            self._add_piece(message, size_of(message))
            self._piece_was_last = True
        elif self.partial_bytes:
            # Text of whole code points only: the engine decodes across fragments.
            size = self.partial_bytes
            partial = self._take_partial()
            self.waiting_bytes -= size
            self._add_piece(partial, size)
        else:
            self._partial = None  # of an empty beginning nothing is worth a piece

    @property
    def has_piece(self) -> bool:
        return self._piece is not None

    @property
    def piece_is_text(self) -> bool:
        """Whether the piece, which there must be, is one of a text message."""
        return isinstance(self._piece, str | io.StringIO)

    @property
    def streamed_to_end(self) -> bool:
        """Whether all of the streamed message was taken."""
        return self._piece_was_last and self._piece is None

    def take_piece(self) -> str | bytes:
        """Take what is here of the streamed message; there must be something."""
        piece, self._piece = self._piece, None
        assert piece is not None
        self.waiting_bytes -= self._piece_bytes
        self._piece_bytes = 0
        return _content(piece)

    def stop_streaming(self) -> None:
        """Go back to whole messages; what is left of the streamed one is dropped as it comes."""
        if self._piece is not None:
            self.take_piece()
        self._skip_rest = self._in_message and not self._piece_was_last
        self._end_streaming()

    def undo_streaming(self) -> None:
        """Go back to whole messages as if no streaming had been asked for: no piece was taken."""
        if self._piece is not None:
            size = self._piece_bytes
            piece = self.take_piece()
            if self._piece_was_last:
                self._queue().appendleft(piece)
                self.waiting_bytes += size
            else:
                self._partial = piece
                self.partial_bytes = size
        self._end_streaming()

    def _end_streaming(self) -> None:
        self.streaming = self._piece_was_last = self._streamed_any = False

    def discard(self) -> None:
        """Drop what is here and whatever comes."""
        self.discarding = True
        # The end of a streamed message is kept only for who has all of it.
        self._piece_was_last = self.streamed_to_end
        self._partial = self._piece = None
        self.partial_bytes = self._piece_bytes = self.waiting_bytes = 0
        self.messages = ()

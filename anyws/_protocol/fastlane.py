"""The fast lane in front of wsproto: whole messages, in and out, without the engine.

Most of what a connection carries is data frames that are a message each. Those the lane reads and
builds itself (`codec.py`), the compression contexts being the engine's own (`PerMessageDeflate`).
A fragment, a control frame, an incomplete frame, and whatever looks wrong are not for the lane: it
stops in front of them, and the protocol goes on with the engine.

**With the lane switched off, every connection goes the same way.** Where the input ends on the
boundary of a frame, both give the same messages, the same end and the same bytes in answer; before
that, the lane may be later (it looks at a message when it is whole), never different.

The compressed frame is the one that the lane has to judge: once it was inflated, the context has
moved, and no engine can look at it again. So the two things that can be wrong with it, the deflate
data and the UTF-8, are found here as well, and said in the engine's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._close import CloseCode, Role
from .._config import CHUNK_BYTES, MAX_FRAMES_PER_TURN, Config
from .codec import build_frame, read_frames
from .deflate import InflateError
from .frames import BINARY, MAX_HEAD_BYTES, TEXT
from .masking import new_key

if TYPE_CHECKING:
    from .codec import Whole
    from .deflate import PerMessageDeflate
    from .inbox import Inbox

__all__ = ["FastLane", "WrongMessageError"]

_FIN = 0x80
_RSV1 = 0x40
# A larger frame the engine inflates, and decodes, in pieces, and finds the first thing wrong.
_MAX_COMPRESSED = CHUNK_BYTES - MAX_HEAD_BYTES
# Limits, to `read_frames`.
_UNLIMITED = -1
_NOT_ALLOWED = -2


class WrongMessageError(Exception):
    """A compressed message cannot be taken; `code` is for the Close."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class FastLane:
    """messages: how many went in through the lane; sent, sent_bytes: and out, and what was in them."""

    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        self.messages: int = 0
        self.spoilt: int = 0  # of those that went in, the one that could not be inflated
        self.sent: int = 0
        self.sent_bytes: int = 0
        self._is_server = role is Role.SERVER
        self._deflate = deflate
        limits = [
            limit for limit in (config.max_frame_size, config.max_message_size) if limit is not None
        ]
        self._limit = min(limits, default=_UNLIMITED)
        self._compressed_limit = _NOT_ALLOWED
        if deflate is not None:
            self._compressed_limit = min([*map(compressed_limit, limits), _MAX_COMPRESSED])
        self._max_messages = config.inbox_size or MAX_FRAMES_PER_TURN
        self._inbox_bytes = config.inbox_bytes
        self._compressed: list[Whole] = []  # at most one, between `read` and `inflate`

    def read(
        self, data: bytes | bytearray | memoryview, start: int, inbox: Inbox, most: int
    ) -> int:
        """Move whole messages from `start` on to the inbox, as far as it has room.

        At most so many. Returns where what is left begins. A compressed message is one at a time
        and not in the inbox yet: `inflate` is to follow, once its bytes are not kept any more.
        """
        room = min(self._inbox_bytes - inbox.waiting_bytes, CHUNK_BYTES)
        most = min(most, self._max_messages - len(inbox.messages))
        is_compressed = self._deflate is not None and start < len(data) and data[start] & _RSV1
        if is_compressed:
            # Each may inflate to as much as the inbox holds.
            most = min(most, 1)
        messages, end, size = read_frames(
            data,
            start,
            self._is_server,
            self._limit,
            self._compressed_limit if is_compressed else _NOT_ALLOWED,
            most,
            room,
        )
        self.messages += len(messages)
        if is_compressed:
            self._compressed = messages
        elif messages:
            inbox.add_whole(messages, size)  # type: ignore[arg-type] # none is compressed
        return end

    def inflate(self, inbox: Inbox) -> None:
        """Inflate what `read` has found, if it has. Raises WrongMessageError."""
        if not self._compressed:
            return
        frame = self._compressed.pop()
        assert isinstance(frame, tuple)
        assert self._deflate is not None
        opcode, payload = frame
        message: str | bytes
        self.spoilt = 1
        try:
            content = self._deflate.inflate(payload, first=True, final=True)
            message = content.decode() if opcode == TEXT else content
        except InflateError as error:
            raise WrongMessageError(error.code, str(error)) from None
        except UnicodeDecodeError as error:
            raise WrongMessageError(CloseCode.INVALID_DATA, str(error)) from None
        self.spoilt = 0
        inbox.add_whole([message], len(content))

    def encode(self, data: str | bytes, compress: bool | None) -> bytes:
        """Return the frame of a whole message."""
        if isinstance(data, str):
            first, payload = _FIN | TEXT, data.encode()
        else:
            first, payload = _FIN | BINARY, data
        self.sent += 1
        self.sent_bytes += len(payload)
        deflate = self._deflate
        if deflate is not None:
            deflate.compress = compress
            if deflate.wants(len(payload), final=True):
                payload = deflate.deflate(payload, first=True, final=True)
                first |= _RSV1
        return build_frame(first, payload, None if self._is_server else new_key())


def compressed_limit(limit: int) -> int:
    """Return what a compressed frame may have on the wire: data that does not compress grows."""
    return limit + limit // 20 + 1024

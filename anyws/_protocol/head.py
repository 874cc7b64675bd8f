"""One HTTP head, cut off the stream within its bounds, and what h11 makes of it.

h11 measures only heads that are not complete yet, takes bare LF and folded lines, and spends
quadratic time on a line of spaces that ends in a character it refuses. So a head gets to h11
whole, counted and free of those. Every byte is looked at once, however it arrives, and any
chunking of the same bytes gives the same verdict.
"""

from __future__ import annotations

import re
from typing import Final, cast

import h11

from .._config import MAX_HEAD_BYTES, MAX_HEAD_LINES
from .fields import EXCERPT_CHARACTERS, is_token

__all__ = ["HeadError", "HeadReader", "NotHTTP", "read_request", "read_response"]

_FORBIDDEN_RE: Final = re.compile(rb"[\x00\x0b\x0c\r]")


class HeadError(Exception):
    """The peer's head breaks HTTP, or a bound; ``status`` is the answer to a request like it."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


class NotHTTP(HeadError):
    """It is no HTTP from the first bytes on: ``beginning`` has them."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning
        super().__init__("it is not HTTP")

    @property
    def is_tls(self) -> bool:
        # The content types of an alert and of a handshake (RFC 8446, section 5.1).
        return self.beginning[0] in (0x15, 0x16)


class HeadReader:
    """Collects one head.

    prefix:
        What it must begin with. Without one, any character of a token will do.
    """

    def __init__(self, prefix: bytes = b"") -> None:
        self.rest = b""
        self._prefix = prefix
        self._buffer = bytearray()
        self._line = 0
        self._searched = 0
        self._lines = 0

    @property
    def size(self) -> int:
        """How many bytes of a head have arrived."""
        return len(self._buffer)

    def feed(self, data: bytes) -> bytes | None:
        """Take more bytes; return the head, its empty line included, once it is complete.

        Then `rest` has the bytes behind it. Raises `HeadError`.
        """
        room = MAX_HEAD_BYTES - len(self._buffer)
        self._buffer += data[:room]
        self._check_beginning()
        while (newline := self._buffer.find(b"\n", self._searched)) >= 0:
            end = newline + 1
            if self._take_line(end):
                self.rest = bytes(self._buffer[end:]) + data[room:]
                return bytes(self._buffer[:end])
            self._line = self._searched = end
        self._searched = len(self._buffer)
        if len(self._buffer) >= MAX_HEAD_BYTES:
            raise HeadError(f"the head is longer than {MAX_HEAD_BYTES} bytes", 431)
        return None

    def _check_beginning(self) -> None:
        start = bytes(self._buffer[: max(len(self._prefix), 1)])
        if self._prefix:
            fits = self._prefix.startswith(start)
        else:
            fits = not start or is_token(start.decode("latin-1"))
        if not fits:
            raise NotHTTP(bytes(self._buffer[: EXCERPT_CHARACTERS + 1]))

    def _take_line(self, end: int) -> bool:
        line = self._buffer[self._line : end]
        if not line.endswith(b"\r\n"):
            raise HeadError("a line of the head does not end with CR LF")
        del line[-2:]
        if not line:
            return True
        if _FORBIDDEN_RE.search(line):
            raise HeadError("the head contains a control character")
        if line[0] in b" \t":
            raise HeadError("a line of the head begins with whitespace (RFC 9112, section 5.2)")
        # The first one is not a header line.
        if self._lines >= MAX_HEAD_LINES + 1:
            raise HeadError(f"the head has more than {MAX_HEAD_LINES} header lines", 431)
        self._lines += 1
        return False


def read_request(connection: h11.Connection, head: bytes) -> h11.Request:
    """Return what h11 reads in the head of a request, or raise `HeadError`."""
    return cast(h11.Request, _read(connection, head))


def read_response(
    connection: h11.Connection, head: bytes
) -> h11.InformationalResponse | h11.Response:
    """Return what h11 reads in the head of a response, or raise `HeadError`."""
    return cast("h11.InformationalResponse | h11.Response", _read(connection, head))


def _read(connection: h11.Connection, head: bytes) -> object:
    connection.receive_data(head)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        # Some messages end with the line itself, which may hold a secret.
        raise HeadError(str(error).partition(": bytearray(")[0]) from None

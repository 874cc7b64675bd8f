"""The socket below one of AnyIO's streams on Trio, used directly.

Two things are to be had only here: a write that tells how much of it was taken, so that the rest
can follow whatever was cancelled, and reading without a system call that is known to be in vain.
Imported on Trio only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from anyio import ClosedResourceError, EndOfStream

if TYPE_CHECKING:
    import socket

__all__ = ["DirectSocket"]

# Reads in a row that do not wait, and so do not let other tasks run.
_MAX_READS_PER_TURN = 8


class DirectSocket:
    """Closing is left to the stream, and wakes whoever waits here."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._may_have_more = True  # there was no room for all of it, or nobody has looked yet
        self._reads_in_turn = 0

    async def receive(self, max_bytes: int) -> bytes:
        """Like that of an AnyIO stream; errors of the socket are raised as they are."""
        if not self._may_have_more:
            await self._wait_readable()
        elif self._reads_in_turn < _MAX_READS_PER_TURN:
            self._reads_in_turn += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            # A peer that is faster than we are must not keep other tasks from running.
            self._reads_in_turn = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await self._wait_readable()
            else:
                break
        self._may_have_more = len(data) == max_bytes
        if not data:
            raise EndOfStream
        return data

    async def _wait_readable(self) -> None:
        self._reads_in_turn = 0
        self._check_open()
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except trio.ClosedResourceError as error:
            raise ClosedResourceError from error

    def send_now(self, data: bytes | memoryview) -> int:
        """Write what the system takes at once, and return how much that was."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        """Wait until it takes more."""
        self._check_open()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError as error:
            raise ClosedResourceError from error

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise ClosedResourceError

    def close(self) -> None:
        """Close it from where nothing can be awaited."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

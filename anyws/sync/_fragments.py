"""Messages sent and received in fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import ClosedResourceError

from .._close import CloseCode
from .._protocol.outgoing import as_message, check_fragment

if TYPE_CHECKING:
    from types import TracebackType

    from ._websocket import WebSocket

__all__ = ["FragmentReceiver", "FragmentSender"]


class FragmentSender:
    """A message that is sent in fragments; see `WebSocket.open_message`."""

    def __init__(self, ws: WebSocket, compress: bool | None) -> None:
        self._ws = ws
        self._compress = compress
        self._type: type[str] | type[bytes] | None = None  # of the fragments sent
        self._entered = False

    def __enter__(self) -> FragmentSender:
        if self._entered:
            raise RuntimeError("an open_message() stands for one message: call it again")
        self._entered = True
        ws = self._ws
        try:
            with ws._transport.lock:
                ws._wait_for_turn()
                if not ws._protocol.sendable:
                    raise ws._protocol.exception()
                ws._fragmented = self
        except BaseException:
            with ws._transport.lock:
                if ws._fragmented is self:
                    ws._fragmented = None
                    ws._transport.changed()
            raise
        return self

    def send(self, fragment: str | bytes) -> None:
        """Send one fragment: `str` where the message is text, bytes where it is binary.

        :raises TypeError: it is of another type than the first (the caller's fault); nothing was
            sent
        :raises ConnectionClosed: the connection is over
        """
        data = as_message(fragment)
        ws = self._ws
        if ws._fragmented is not self:
            raise ClosedResourceError("the message has ended, or was not begun")
        check_fragment(data, self._type)
        with ws._transport.lock:
            try:
                ws._write(data, finished=False, compress=self._compress, message=self)
            finally:
                if ws._protocol.in_message:
                    self._type = type(data)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ws = self._ws
        try:
            if exc is None and self._type is not None:
                with ws._transport.lock:
                    ws._write(self._type(), finished=True, compress=None, message=self)
        finally:
            # Whatever it was that kept the last frame from being sent.
            if ws._protocol.in_message and ws.is_open:
                ws._begin_close(CloseCode.INTERNAL_ERROR, "a message was left unfinished")
            with ws._transport.lock:
                ws._fragmented = None
                ws._transport.changed()


class FragmentReceiver:
    """A message that is received in pieces; see `WebSocket.receive_fragments`."""

    is_text: bool
    """Whether it is a text message: then its pieces are `str`, else `bytes`."""

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._entered = False

    def __enter__(self) -> FragmentReceiver:
        if self._entered:
            raise RuntimeError("a receive_fragments() stands for one message: call it again")
        ws = self._ws
        inbox, transport = ws._inbox, ws._transport
        has_begun = False
        try:
            with transport.lock:
                ws._begin_receiving()
                has_begun = True
                ws._protocol.start_streaming()
                self._wait()
                # A message has at least one piece, be it an empty one.
                self.is_text = inbox.piece_is_text
        except BaseException:
            if has_begun:
                with transport.lock:
                    transport.is_received = False
                    inbox.undo_streaming()
                    transport.taken()
            raise
        self._entered = True
        return self

    def _wait(self) -> None:
        ws = self._ws
        inbox, protocol = ws._inbox, ws._protocol
        ws._wait(lambda: inbox.available or not protocol.receivable, None, "nothing came")
        if not inbox.available:
            raise protocol.exception(receiving=True)

    def __iter__(self) -> FragmentReceiver:
        return self

    def __next__(self) -> str | bytes:
        """Return the next piece; the iteration ends where the message does.

        :raises ConnectionClosed: the connection ended within the message
        """
        ws = self._ws
        inbox = ws._inbox
        with ws._transport.lock:
            if not (self._entered and inbox.streaming):
                raise ClosedResourceError("the message is received within `with` only")
            if not inbox.streamed_to_end:
                self._wait()
            if inbox.streamed_to_end:
                raise StopIteration
            piece = inbox.take_piece()
            ws._transport.taken()
            return piece

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ws = self._ws
        with ws._transport.lock:
            ws._transport.is_received = False
            ws._inbox.stop_streaming()
            ws._transport.taken()

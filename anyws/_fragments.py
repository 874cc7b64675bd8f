"""Messages sent and received in fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import BusyResourceError, ClosedResourceError, Event
from anyio.lowlevel import checkpoint_if_cancelled

from ._close import CloseCode
from ._protocol.outgoing import as_message, check_fragment

if TYPE_CHECKING:
    from types import TracebackType

    from ._protocol.shared import SharedMessage
    from ._websocket import WebSocket

__all__ = ["FragmentReceiver", "FragmentSender"]


class FragmentSender:
    """A message that is sent in fragments; see `WebSocket.open_message`."""

    def __init__(self, ws: WebSocket, compress: bool | None) -> None:
        self.ended: Event = Event()
        self._ws = ws
        self._ending = ws._transport.on_ending(self.ended.set)
        self._compress = compress
        self._type: type[str] | type[bytes] | None = None  # of the fragments sent
        # What `broadcast` sends meanwhile goes out behind this message.
        self._held: list[SharedMessage] = []
        self.held_bytes: int = 0

    def hold(self, message: SharedMessage) -> None:
        """Keep a message of `broadcast` until this one has ended."""
        self._held.append(message)
        self.held_bytes += message.size

    async def __aenter__(self) -> FragmentSender:
        ws = self._ws
        await checkpoint_if_cancelled()
        if self.ended.is_set() or ws._fragmented is self:
            raise RuntimeError("an open_message() stands for one message: call it again")
        await ws._wait_for_turn()
        ws._fragmented = self
        # Who waits for this message to end must not outwait the connection.
        self._ending.__enter__()
        return self

    async def send(self, fragment: str | bytes) -> None:
        """Send one fragment: `str` where the message is text, bytes where it is binary.

        :raises TypeError: it is of another type than the first (the caller's fault); nothing was
            sent
        :raises ConnectionClosed: the connection is over

        One task at a time. Cancelled before the fragment went out, it may be sent again.
        """
        data = as_message(fragment)
        await checkpoint_if_cancelled()
        ws = self._ws
        if ws._fragmented is not self:
            raise ClosedResourceError("the message has ended, or was not begun")
        check_fragment(data, self._type)
        if not ws.is_open:
            raise ws._protocol.exception()
        try:
            waiting = ws._write(data, finished=False, compress=self._compress)
            if waiting is not None:
                await waiting
        finally:
            if ws._protocol.in_message:
                self._type = type(data)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ws = self._ws
        try:
            if exc is None and self._type is not None:
                await checkpoint_if_cancelled()
                if not ws.is_open:
                    raise ws._protocol.exception()
                waiting = ws._write(self._type(), finished=True, compress=None)
                if waiting is not None:
                    await waiting
        finally:
            # Whatever it was that kept the last frame from being sent.
            if ws._protocol.in_message and ws.is_open:
                ws._begin_close(CloseCode.INTERNAL_ERROR, "a message was left unfinished")
            if ws.is_open:
                # Before those who wait for their turn, as it would have been without this message.
                for message in self._held:
                    ws._transport.push(ws._protocol.encode_shared(message))
            self._held.clear()
            ws._fragmented = None
            self._ending.__exit__(None, None, None)
            self.ended.set()


class FragmentReceiver:
    """A message that is received in pieces; see `WebSocket.receive_fragments`."""

    is_text: bool
    """Whether it is a text message: then its pieces are `str`, else `bytes`."""

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._entered = False

    async def __aenter__(self) -> FragmentReceiver:
        ws = self._ws
        if ws._receiving:
            raise BusyResourceError("receiving from")
        if self._entered:
            raise RuntimeError("a receive_fragments() stands for one message: call it again")
        inbox = ws._protocol.inbox
        ws._receiving = True
        ws._protocol.start_streaming()
        try:
            await ws._turn()
            while not inbox.available:
                await ws._more()
        except BaseException:
            inbox.undo_streaming()
            ws._receiving = False
            raise
        self._entered = True
        # A message has at least one piece, be it an empty one.
        self.is_text = inbox.piece_is_text
        return self

    def __aiter__(self) -> FragmentReceiver:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next piece; the iteration ends where the message does.

        :raises ConnectionClosed: the connection ended within the message

        Cancelled, no piece is lost.
        """
        ws = self._ws
        inbox = ws._protocol.inbox
        if not (self._entered and inbox.streaming):
            raise ClosedResourceError("the message is received within `async with` only")
        if inbox.streamed_to_end:
            raise StopAsyncIteration
        await ws._turn()
        while not inbox.available:
            await ws._more()
        if inbox.streamed_to_end:
            raise StopAsyncIteration
        piece = inbox.take_piece()
        ws._transport.taken()
        return piece

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ws = self._ws
        ws._protocol.inbox.stop_streaming()
        ws._receiving = False
        ws._transport.taken()

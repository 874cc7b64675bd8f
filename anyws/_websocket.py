"""One connection, as a program has it. The same class on both ends.

**Who refers to whom.** A program holds the `WebSocket`; that holds the transport and the protocol.
What the library keeps for itself, its tasks and timers, holds the transport and never the
`WebSocket`: so one that nobody holds any more can say so (`__del__`).

**Who waits for what.** One task receives at a time; a flag refuses the second. Any number send:
the transport keeps their messages in line. A message sent in fragments takes the line for itself
until it ends (`_fragmented`), and the others wait for that. Reading and writing share no lock.
"""

from __future__ import annotations

import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, overload

from anyio import (
    BusyResourceError,
    CancelScope,
    current_time,
)
from anyio.abc import ObjectStream
from anyio.lowlevel import checkpoint

from ._close import CloseCode, check_close
from ._config import MAX_RECEIVES_PER_TURN, MAX_SENDS_PER_TURN
from ._errors import ClosedByPeer, ConnectionClosed
from ._face import Face
from ._fragments import FragmentReceiver, FragmentSender
from ._handshake import WebSocketAttribute
from ._protocol.outgoing import as_binary, as_json, as_message, as_text, parse_json
from ._transports.checkpoint import find_checkpoint_if_cancelled

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Mapping,
    )
    from contextlib import AbstractAsyncContextManager

    from ._close import Closure
    from ._config import Config
    from ._handshake import Handshake
    from ._keepalive import Keepalive
    from ._transports.base import Transport

__all__ = ["WebSocket"]


class WebSocket(Face, ObjectStream[str | bytes]):
    """An open WebSocket connection (RFC 6455), in either role.

    Made by `open_websocket`, `connect_websocket`, `wrap_client_stream`, `wrap_server_stream` and,
    for each handler, by a server. A text message is a `str`, a binary one is `bytes`.

    **Concurrency.** One task receives at a time. Any number may send, ping and close, also while
    another receives: frames of one message never mix with another's.

    **Cancellation.** Nothing is lost and nothing torn: a cancelled `receive` leaves the message
    for the next; a cancelled `send` has sent the whole message or nothing of it.

    **Errors.** Once the connection is closed or closing, calls raise a `ConnectionClosed`, whose
    class tells who ended it and whose ``closure`` tells how.
    """

    def __init__(
        self,
        transport: Transport,
        keepalive: Keepalive,
        handshake: Handshake,
        config: Config,
    ) -> None:
        super().__init__(transport.protocol, keepalive, handshake, config)
        self._transport = transport
        self._checkpoint_if_cancelled = find_checkpoint_if_cancelled()
        self._receiving = False
        self._receives_in_turn = 0
        self._sends_in_turn = 0
        self._fragmented: FragmentSender | None = None
        self._is_skipped = False  # by `broadcast`, until the peer has caught up

    # --- What it is like ---

    def _is_closed(self) -> bool:
        return self._transport.closed.is_set()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the stream, and those of `WebSocketAttribute`."""
        return {
            **self._transport.extra_attributes,
            WebSocketAttribute.request: lambda: self.request,
            WebSocketAttribute.response: lambda: self.response,
            WebSocketAttribute.subprotocol: lambda: self.subprotocol,
        }

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)
        if transport is None or transport.closed.is_set() or self._protocol.finished:
            return
        warnings.warn(
            f"{self!r} was dropped without being closed", ResourceWarning, source=self, stacklevel=2
        )
        try:
            transport.abort("the program dropped the connection without closing it", by_us=True)
        except RuntimeError:
            pass  # the event loop is gone, and its sockets with it

    # --- Receiving ---

    async def receive(self) -> str | bytes:
        """Return the next message: a `str` for a text message, `bytes` for a binary one.

        Messages that arrived before the peer closed are returned first.

        :raises ClosedByPeer: the peer closed with 1000, 1001 or no code
        :raises ClosedWithError: the peer closed with another code
        :raises ClosedByUs: this end had closed
        :raises ConnectionBroken: the connection was lost, or the peer sent what is refused
        :raises anyio.BusyResourceError: another task is receiving (the caller's fault); that one
            is not disturbed

        Cancelled, no message is lost: the next call returns it. (RFC 6455, section 6.2.)
        """
        if self._receiving:
            raise BusyResourceError("receiving from")
        self._receiving = True
        inbox = self._protocol.inbox
        try:
            await self._turn()
            while not inbox.messages:
                await self._more()
            # Nothing is awaited between the last chance to be cancelled and taking the message.
            message = inbox.take()
        finally:
            self._receiving = False
        self._transport.taken()
        return message

    # What these two return is awaited at once: a coroutine less for each message.

    def _turn(self) -> Awaitable[None]:
        """Check for cancellation, and yield now and then: what a receive begins with."""
        self._receives_in_turn += 1
        if self._receives_in_turn < MAX_RECEIVES_PER_TURN:
            # Also before a wait: on asyncio, one may be over before the cancellation is there.
            return self._checkpoint_if_cancelled()
        # Messages that are here already must not keep other tasks from running.
        self._receives_in_turn = 0
        return checkpoint()

    def _more(self) -> Awaitable[None]:
        """Wait for more than the inbox has, or raise what says that there will be none."""
        protocol = self._protocol
        if protocol.has_unparsed or not protocol.receivable:
            return self._parse_on()
        self._receives_in_turn = 0
        return self._transport.read_more()

    async def _parse_on(self) -> None:
        protocol = self._protocol
        if not protocol.receivable:
            await self._raise_closed(receiving=True)
        self._transport.parse(one_message=True)
        if not protocol.inbox.available:
            await checkpoint()

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message; the iteration ends where `receive` raises `ClosedByPeer`.

        Another end of the connection raises what `receive` raises.
        """
        try:
            return await self.receive()
        except ClosedByPeer:
            raise StopAsyncIteration from None

    async def receive_text(self) -> str:
        """Return the next message, which has to be a text message.

        A binary one is consumed, closes the connection with 1003, and raises `ClosedByUs`. Where
        the connection is closing or closed already, as when the peer's Close behind that message
        was noticed before it was taken, nothing is sent, and what is raised is what `send` raises:
        `ClosedByPeer` or `ClosedWithError` for the peer's Close, `ConnectionBroken` without one,
        `ClosedByUs` after `send_eof`. Otherwise like `receive`.
        """
        message = await self.receive()
        if not isinstance(message, str):
            self._refuse("a text message was expected, and a binary one came")
        return message

    async def receive_bytes(self) -> bytes:
        """Return the next message, which has to be a binary message.

        A text message is consumed, closes the connection with 1003, and raises `ClosedByUs`;
        where the connection is closing or closed already, the same holds as for `receive_text`.
        Otherwise like `receive`.
        """
        message = await self.receive()
        if not isinstance(message, bytes):
            self._refuse("a binary message was expected, and a text message came")
        return message

    def _refuse(self, why: str) -> NoReturn:
        self._begin_close(CloseCode.UNSUPPORTED_DATA, why)
        raise self._protocol.exception()

    async def receive_json(self) -> Any:
        """Return what the next message, text or binary, is in JSON.

        :raises ValueError: it is not JSON (the peer's fault); it is consumed, and the connection
            stays open

        Otherwise like `receive`.
        """
        return parse_json(await self.receive())

    def receive_fragments(self) -> FragmentReceiver:
        """Receive the next message in pieces, without ever holding all of it.

        ::

            async with ws.receive_fragments() as fragments:
                async for fragment in fragments:
                    ...

        Entering waits for the message to begin. Pieces are what the network delivers, not the
        frames that the peer sent; text is cut between code points. What is left of the message
        when the block is left is dropped as it arrives: the connection stays usable, and the next
        `receive` returns the next message. Reading pauses while pieces wait. The limits on
        received messages hold here too: raise ``max_message_size`` for larger ones.

        Until the block is left this counts as receiving. Where the connection ends within the
        message, the iteration raises like `receive`, also after an ordinary Close: half a message
        never looks like a whole one.
        """
        return FragmentReceiver(self)

    # --- Sending ---

    async def send(self, item: str | bytes, *, compress: bool | None = None) -> None:
        """Send a message: `str` as text, `bytes`, `bytearray` or `memoryview` as binary.

        Returns when the message was handed to the network, which takes its time while the peer
        does not read. Several in a row, or in answer to messages that wait to be received, may go
        out in one write, as soon as other tasks have run.

        :param item: the message; anything but `bytes` is copied before the first wait
        :param compress: ``True`` and ``False`` decide; ``None`` leaves it to
            `Deflate.threshold`. Without compression in the connection it means nothing
        :raises TypeError: the message is of another type (the caller's fault)
        :raises ValueError: the text has a lone surrogate (the caller's fault)
        :raises ConnectionClosed: the connection is over, see `receive`; the message may not have
            arrived

        Neither of the caller's faults sends anything: the connection stays as it was. Cancelled
        before its first byte is out, nothing was sent; after that the message is sent whole all
        the same, or the connection breaks. (RFC 6455, section 6.1.)
        """
        data = item if isinstance(item, bytes) else as_message(item)
        await self._checkpoint_if_cancelled()
        if self._fragmented is not None or not self._protocol.sendable:
            await self._wait_for_turn()
        if (waiting := self._write(data, finished=True, compress=compress)) is not None:
            await waiting

    async def send_text(
        self, data: str | bytes, *, errors: str = "strict", compress: bool | None = None
    ) -> None:
        """Send a text message; `bytes` are taken for UTF-8.

        :param errors: what becomes of bytes that are not UTF-8: ``"strict"`` raises
            `ValueError`, ``"replace"`` sends U+FFFD in their place

        Otherwise like `send`.
        """
        await self.send(as_text(data, errors), compress=compress)

    async def send_bytes(self, data: bytes | str, *, compress: bool | None = None) -> None:
        """Send a binary message; a `str` is sent as its UTF-8.

        Otherwise like `send`.
        """
        await self.send(as_binary(data), compress=compress)

    async def send_json(
        self, data: Any, *, binary: bool = False, compress: bool | None = None
    ) -> None:
        """Send `data` as JSON, in a text message or, with `binary`, in a binary one.

        :raises TypeError: something in it has no form in JSON (the caller's fault)
        :raises ValueError: a number that JSON does not have, as NaN, or a cycle (the caller's)

        Otherwise like `send`.
        """
        text = as_json(data)
        await self.send(as_binary(text) if binary else text, compress=compress)

    def _write(
        self, data: str | bytes, *, finished: bool, compress: bool | None
    ) -> Awaitable[None] | None:
        """Send a message or a fragment of one; return what is to be awaited for it, at once."""
        try:
            waiting = self._transport.write(data, finished=finished, compress=compress)
        except ConnectionClosed:
            return self._raise_closed()
        self._sends_in_turn += 1
        if waiting is None and self._sends_in_turn < MAX_SENDS_PER_TURN:
            return None
        return self._end_write(waiting)

    async def _end_write(self, waiting: Awaitable[None] | None) -> None:
        if waiting is not None:
            try:
                await waiting
            except ConnectionClosed:
                # As in `_raise_closed`.
                await self._checkpoint_if_cancelled()
                raise
        if self._sends_in_turn >= MAX_SENDS_PER_TURN:
            # A network that takes everything must not keep other tasks from running.
            self._sends_in_turn = 0
            with CancelScope(shield=True):
                await checkpoint()

    async def _wait_for_turn(self) -> None:
        """Return when no message in fragments is under way; raise when nothing can be sent."""
        while self._protocol.sendable:
            if self._fragmented is None:
                return
            await self._fragmented.ended.wait()
        await self._raise_closed()

    async def _raise_closed(self, *, receiving: bool = False) -> NoReturn:
        # The connection's owner may have been cancelled together with the caller, and been faster.
        await self._checkpoint_if_cancelled()
        raise self._protocol.exception(receiving=receiving)

    def open_message(self, *, compress: bool | None = None) -> FragmentSender:
        """Send one message in fragments, as they come.

        ::

            async with ws.open_message() as message:
                await message.send("half a mess")
                await message.send("age")

        The first fragment decides between text and binary, and the others have to agree. The
        block's end ends the message; where no fragment was sent, there is none. Where the block
        ends by an exception or cancellation after the first fragment, the connection is closed
        with 1011: half a message must not look like a whole one.

        Other tasks that send wait until the message has ended; pings and Close do not.
        (RFC 6455, section 5.4.)
        """
        return FragmentSender(self, compress)

    @overload
    async def send_fragments(
        self, fragments: Iterable[str] | AsyncIterable[str], *, compress: bool | None = None
    ) -> None: ...
    @overload
    async def send_fragments(
        self, fragments: Iterable[bytes] | AsyncIterable[bytes], *, compress: bool | None = None
    ) -> None: ...
    async def send_fragments(
        self,
        fragments: Iterable[str] | Iterable[bytes] | AsyncIterable[str] | AsyncIterable[bytes],
        *,
        compress: bool | None = None,
    ) -> None:
        """Send one message, a fragment for each item of an iterable or an async iterable.

        Nothing is sent where it is empty. An exception from the iterable is raised here, and ends
        the connection as told at `open_message`.
        """
        if isinstance(fragments, (str, bytes, bytearray, memoryview)):
            raise TypeError("send_fragments takes an iterable of fragments; for one message: send")
        async with self.open_message(compress=compress) as message:
            if hasattr(fragments, "__aiter__"):
                async for fragment in fragments:
                    await message.send(fragment)
            else:
                for fragment in fragments:
                    await message.send(fragment)

    async def ping(self) -> float:
        """Send a ping and wait for its pong; return how many seconds that took.

        :raises ConnectionClosed: the connection ended before the pong came

        Cancelled, a late pong is ignored. (RFC 6455, section 5.5.2.)
        """
        await self._checkpoint_if_cancelled()
        if not self._protocol.sendable:
            raise self._protocol.exception()
        ping = self._keepalive.ping(current_time())
        self._transport.write_replies()
        with self._transport.want_reader():
            try:
                await ping.answered.wait()
            finally:
                self._keepalive.forget(ping)
        if ping.latency is None:
            await self._raise_closed()
        return ping.latency

    # --- Closing ---

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> Closure:
        """Close the connection, wait until that is done, and return how it ended.

        Sends Close unless the closing handshake has begun, and drops what still arrives. Returns
        when the stream is closed, after ``Config.close_timeout`` at the latest; on a connection
        that is closed, at once. Any number of tasks may call it.

        :param code: 1000 to 1003, 1007 to 1014 (1010 in a client only) or 3000 to 4999
        :param reason: at most 123 bytes of UTF-8
        :raises ValueError: the code or the reason cannot be sent (the caller's fault); nothing
            was sent

        Cancelled, the stream is closed all the same, at once: in a scope that is cancelled
        already, after one attempt at sending Close. (RFC 6455, section 7.)
        """
        self._begin_close(code, reason)
        try:
            await self._transport.closed.wait()
        except BaseException:
            self._transport.give_up("the closing handshake was cancelled")
            raise
        return self._protocol.ending.closure()

    def _begin_close(self, code: int, reason: str) -> None:
        close = check_close(code, reason, self.role)
        self._protocol.close(close)
        self._transport.close_within(self._config.close_timeout)

    async def aclose(self) -> None:
        """Close with 1000, like `close`."""
        await self.close()

    async def send_eof(self) -> None:
        """Send Close 1000, and go on receiving what the peer still sends.

        `receive` returns it until the peer's Close, or until ``Config.close_timeout`` from now.
        Does nothing where the closing handshake has begun.
        """
        await checkpoint()
        if self._protocol.sendable:
            self._protocol.close(check_close(CloseCode.NORMAL, "", self.role), deliver=True)
            self._transport.close_within(self._config.close_timeout)

    def abort(self) -> None:
        """Cut the connection without a closing handshake; what has not been received is lost.

        Returns at once; `wait_closed` waits for the stream to be closed.
        """
        if not self._transport.closed.is_set():
            self._transport.abort("this end cut the connection", by_us=True)

    async def wait_closed(self) -> Closure:
        """Wait until the connection has ended and the stream is closed; return how it ended.

        Closes nothing itself, and may be cancelled without consequence.
        """
        with self._transport.want_reader():
            await self._transport.closed.wait()
        return self._protocol.ending.closure()

    def cancel_when_closed(self) -> AbstractAsyncContextManager[CancelScope]:
        """Return a context manager whose body is cancelled when the connection ends.

        For work that is of no use once the peer has left::

            async with ws.cancel_when_closed() as scope:
                await compute_for_a_while()
            if scope.cancelled_caught: ...

        A body that has not been reached is cancelled at its first wait. The cancellation ends
        with the block.
        """
        return self._cancel_when_closed()

    @asynccontextmanager
    async def _cancel_when_closed(self) -> AsyncIterator[CancelScope]:
        transport = self._transport
        with CancelScope() as scope, transport.want_reader(), transport.on_ending(scope.cancel):
            if not self._protocol.sendable:
                scope.cancel()
            yield scope

"""One connection, as a program without an event loop has it. The same class on both ends."""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, overload

from anyio import BusyResourceError

from .._close import CloseCode, check_close
from .._errors import ClosedByPeer
from .._face import Face
from .._observed import note_end
from .._protocol.outgoing import as_binary, as_json, as_message, as_text, parse_json
from ._fragments import FragmentReceiver, FragmentSender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._close import Close, Closure
    from .._config import Config
    from .._handshake import Handshake
    from .._keepalive import Keepalive
    from .._transports.blocking import BlockingTransport

__all__ = ["WebSocket"]


class WebSocket(Face):
    """An open WebSocket connection (RFC 6455), in either role, for calls that wait.

    **Threads.** One thread receives at a time, and any number may send, ping and close meanwhile:
    frames of one message never mix with another's.

    **Timeouts.** A call whose ``timeout``, in seconds, passes raises `TimeoutError`, and nothing
    is lost: the next call goes on from there. Without one it waits until the connection ends.

    **Interrupts.** Ctrl-C ends any call that waits. One that comes within a write breaks the
    connection, since half a frame is out: the next call says so. Within `receive` it costs at most
    the message being returned; only in the instant in which something that has arrived is taken
    apart, it breaks the connection too.

    **Pings** are answered, and keepalive works, while a thread is within a call that waits; in
    between, what the peer sends waits in the system's buffer.

    **Errors.** Once the connection is closed or closing, calls raise an `anyws.ConnectionClosed`.
    """

    def __init__(
        self,
        transport: BlockingTransport,
        keepalive: Keepalive,
        handshake: Handshake,
        config: Config,
    ) -> None:
        super().__init__(transport.protocol, keepalive, handshake, config)
        self._transport = transport
        self._inbox = transport.protocol.inbox
        self._fragmented: FragmentSender | None = None

    def _is_closed(self) -> bool:
        return self._transport.closed

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)
        if transport is None or transport.closed:
            return
        if not self._protocol.finished:
            warnings.warn(
                f"{self!r} was dropped without being closed",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        transport.abort("the program dropped the connection without closing it", by_us=True)

    # --- Receiving ---

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message: a `str` for a text message, `bytes` for a binary one.

        Messages that arrived before the peer closed are returned first.

        :param timeout: seconds; 0 looks whether there is one
        :raises TimeoutError: none came in time; nothing is lost
        :raises ClosedByPeer: the peer closed with 1000, 1001 or no code
        :raises ClosedWithError: the peer closed with another code
        :raises ClosedByUs: this end had closed
        :raises ConnectionBroken: the connection was lost, or the peer sent what is refused
        :raises anyio.BusyResourceError: another thread is receiving (the caller's fault)
        """
        inbox, transport = self._inbox, self._transport
        with transport.lock:
            self._begin_receiving()
            try:
                if not inbox.messages:
                    self._wait(self._has_message, timeout, "no message came")
                    if not inbox.messages:
                        raise self._protocol.exception(receiving=True)
                return inbox.take()
            finally:
                transport.is_received = False
                transport.taken()

    def _has_message(self) -> bool:
        return bool(self._inbox.messages) or not self._protocol.receivable

    def _begin_receiving(self) -> None:
        if self._transport.is_received:
            raise BusyResourceError("receiving from")
        self._transport.is_received = True

    def _wait(self, ready: Callable[[], object], timeout: float | None, what: str) -> None:
        """Wait until it is so, or raise `TimeoutError`; the lock is held."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        if not self._transport.serve_until(ready, deadline):
            raise TimeoutError(f"{what} within {timeout:g} s")

    def __iter__(self) -> Iterator[str | bytes]:
        """Yield the messages; the iteration ends where `receive` raises `ClosedByPeer`."""
        try:
            while True:
                yield self.receive()
        except ClosedByPeer:
            return

    def receive_text(self, timeout: float | None = None) -> str:
        """Return the next message, which has to be a text message.

        A binary one closes the connection with 1003, and raises `ClosedByUs`. Otherwise like
        `receive`.
        """
        message = self.receive(timeout)
        if not isinstance(message, str):
            self._refuse("a text message was expected, and a binary one came")
        return message

    def receive_bytes(self, timeout: float | None = None) -> bytes:
        """Return the next message, which has to be a binary message.

        A text message closes the connection with 1003, and raises `ClosedByUs`. Otherwise like
        `receive`.
        """
        message = self.receive(timeout)
        if not isinstance(message, bytes):
            self._refuse("a binary message was expected, and a text message came")
        return message

    def _refuse(self, why: str) -> NoReturn:
        self._begin_close(CloseCode.UNSUPPORTED_DATA, why)
        raise self._protocol.exception()

    def receive_json(self, timeout: float | None = None) -> Any:
        """Return what the next message, text or binary, is in JSON.

        :raises ValueError: it is not JSON (the peer's fault); it is consumed, and the connection
            stays open

        Otherwise like `receive`.
        """
        return parse_json(self.receive(timeout))

    def receive_fragments(self) -> FragmentReceiver:
        """Receive the next message in pieces, without ever holding all of it.

        ::

            with ws.receive_fragments() as fragments:
                for fragment in fragments:
                    ...

        As in `anyws.WebSocket.receive_fragments`: pieces are what the network delivers, and what
        is left of the message when the block is left is dropped as it arrives.
        """
        return FragmentReceiver(self)

    # --- Sending ---

    def send(self, item: str | bytes, *, compress: bool | None = None) -> None:
        """Send a message: `str` as text, `bytes`, `bytearray` or `memoryview` as binary.

        Returns when the message was handed to the system, which takes its time while the peer
        does not read: ``Config.write_timeout`` bounds that. What the peer sends meanwhile is read.

        :param compress: ``True`` and ``False`` decide; ``None`` leaves it to
            `Deflate.threshold`. Without compression in the connection it means nothing
        :raises TypeError: the message is of another type (the caller's fault)
        :raises ValueError: the text has a lone surrogate (the caller's fault)
        :raises ConnectionClosed: the connection is over, see `receive`; the message may not have
            arrived

        Neither of the caller's faults sends anything: the connection stays as it was.
        """
        self._send(as_message(item), compress)

    def send_text(
        self, data: str | bytes, *, errors: str = "strict", compress: bool | None = None
    ) -> None:
        """Send a text message; `bytes` are taken for UTF-8.

        :param errors: what becomes of bytes that are not UTF-8: ``"strict"`` raises
            `ValueError`, ``"replace"`` sends U+FFFD in their place

        Otherwise like `send`.
        """
        self._send(as_text(data, errors), compress)

    def send_bytes(self, data: bytes | str, *, compress: bool | None = None) -> None:
        """Send a binary message; a `str` is sent as its UTF-8.

        Otherwise like `send`.
        """
        self._send(as_binary(data), compress)

    def send_json(self, data: Any, *, binary: bool = False, compress: bool | None = None) -> None:
        """Send `data` as JSON, in a text message or, with `binary`, in a binary one.

        :raises TypeError: something in it has no form in JSON (the caller's fault)
        :raises ValueError: a number that JSON does not have, as NaN, or a cycle (the caller's)

        Otherwise like `send`.
        """
        text = as_json(data)
        self._send(as_binary(text) if binary else as_text(text), compress)

    def _send(self, data: str | bytes, compress: bool | None) -> None:
        with self._transport.lock:
            self._write(data, finished=True, compress=compress)

    def _write(
        self,
        data: str | bytes,
        *,
        finished: bool,
        compress: bool | None,
        message: FragmentSender | None = None,
    ) -> None:
        """Write a message, or a fragment of that one, when it has its turn; the lock is held."""
        transport = self._transport
        if transport.is_writing or self._fragmented is not message:
            self._wait_for_turn(message)
        transport.write(data, finished=finished, compress=compress)

    def _wait_for_turn(self, message: FragmentSender | None = None) -> None:
        """Return when nothing is written, and no other message in fragments is under way.

        Or when nothing can be sent any more. The lock is held.
        """
        transport, protocol = self._transport, self._protocol
        while protocol.sendable and (transport.is_writing or self._fragmented is not message):
            transport.wait_for_turn()

    def open_message(self, *, compress: bool | None = None) -> FragmentSender:
        """Send one message in fragments, as they come.

        ::

            with ws.open_message() as message:
                message.send("half a mess")
                message.send("age")

        As in `anyws.WebSocket.open_message`: other threads that send wait until it has ended, and
        a block that ends by an exception closes the connection with 1011.
        """
        return FragmentSender(self, compress)

    @overload
    def send_fragments(self, fragments: Iterable[str], *, compress: bool | None = None) -> None: ...
    @overload
    def send_fragments(
        self, fragments: Iterable[bytes], *, compress: bool | None = None
    ) -> None: ...
    def send_fragments(
        self, fragments: Iterable[str] | Iterable[bytes], *, compress: bool | None = None
    ) -> None:
        """Send one message, a fragment for each item of an iterable.

        Nothing is sent where it is empty. An exception from the iterable is raised here, and ends
        the connection as told at `open_message`.
        """
        if isinstance(fragments, (str, bytes, bytearray, memoryview)):
            raise TypeError("send_fragments takes an iterable of fragments; for one message: send")
        with self.open_message(compress=compress) as message:
            for fragment in fragments:
                message.send(fragment)

    # --- Pings ---

    def ping(self, timeout: float | None = None) -> float:
        """Send a ping, wait for its pong, and return how many seconds that took.

        :raises TimeoutError: it was not answered in time; a late pong is ignored
        :raises ConnectionClosed: the connection is over, or ended meanwhile
        """
        protocol, keepalive, transport = self._protocol, self._keepalive, self._transport
        with transport.lock:
            if not protocol.sendable:
                raise protocol.exception()
            ping = keepalive.ping(time.monotonic())
            try:
                transport.changed()
                self._wait(
                    lambda: ping.answered.is_set() or not protocol.sendable, timeout, "no pong came"
                )
            finally:
                keepalive.forget(ping)
        if ping.latency is None:
            raise protocol.exception()
        return ping.latency

    # --- Closing ---

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> Closure:
        """Close the connection, wait until that is done, and return how it ended.

        Sends Close unless the closing handshake has begun, and drops what still arrives. Returns
        when the stream is closed, after ``Config.close_timeout`` at the latest; on a connection
        that is closed, at once. ``closure.clean`` tells whether both ends sent a Close.

        :param code: 1000 to 1003, 1007 to 1014 (1010 in a client only) or 3000 to 4999
        :param reason: at most 123 bytes of UTF-8
        :raises ValueError: the code or the reason cannot be sent (the caller's fault); nothing
            was sent

        Any number of threads may call it. Interrupted, the stream is closed all the same.
        (RFC 6455, section 7.)
        """
        return self._close(check_close(code, reason, self.role), self._config.close_timeout)

    def _begin_close(self, code: int, reason: str) -> None:
        close = check_close(code, reason, self.role)
        with self._transport.lock:
            self._transport.close(close)

    def _leave(self, close: Close, exc: BaseException) -> None:
        """Close as a block's end by an exception asks for, and with its grace."""
        seconds = self._config.close_timeout
        # Who is only told that the connection has ended is in no hurry.
        if not self._is_own_end(exc):
            grace = self._config.cancel_grace
            seconds = grace if seconds is None else min(grace, seconds)
        self._close(close, seconds)

    def _is_own_end(self, exc: BaseException) -> bool:
        """Whether an exception, or every one in a group, says that this connection has ended."""
        if isinstance(exc, BaseExceptionGroup):
            return all(self._is_own_end(one) for one in exc.exceptions)
        return self._protocol.ending.is_told_by(exc)

    def _close(self, close: Close, seconds: float | None) -> Closure:
        transport = self._transport
        try:
            with transport.lock:
                transport.close(close)
            transport.end_within(seconds)
        except BaseException:
            self.abort()
            raise
        return self._protocol.ending.closure()

    def _note_end(self) -> None:
        """Tell that the owner of the connection is done with it."""
        seconds = time.monotonic() - self._keepalive.opened_at
        note_end(self._protocol, self._handshake, seconds)

    def abort(self) -> None:
        """Cut the connection without a closing handshake; what has not been received is lost."""
        if not self._transport.closed:
            self._transport.abort("this end cut the connection", by_us=True)

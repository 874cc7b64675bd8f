"""What a program does with one end of a connection: each a task that may stay where it waits.

An operation knows what it was, how it ended, and what of it may arrive. It holds no reference to
the `WebSocket` once it has ended.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from stateful.wire import brief

from anyws import Close, ConnectionClosed

if TYPE_CHECKING:
    from stateful.world import End

    from anyws import Closure, WebSocket


class Outcome(enum.Enum):
    PENDING = "pending"
    RETURNED = "returned"
    RAISED = "raised"
    CANCELLED = "cancelled"


class InjectedError(Exception):
    """What a program raises."""


@dataclass(repr=False)
class Piece:
    """A fragment handed to `send`, or the whole of a message that is not in fragments."""

    data: str | bytes
    returned: bool = False
    never: bool = False  # it must not arrive
    is_answer: bool = False  # messages waited to be received when `send` returned

    def __repr__(self) -> str:
        return brief(self.content) + " returned" * self.returned + " never" * self.never

    @property
    def content(self) -> bytes:
        return self.data.encode() if isinstance(self.data, str) else self.data


@dataclass
class Message:
    """A message handed to `send`, or begun with `open_message`."""

    number: int
    batch: int  # of the actions that were done together
    is_text: bool
    compress: bool | None
    in_fragments: bool = False
    in_line: bool = True  # it did not have to wait for a message in fragments
    pieces: list[Piece] = field(default_factory=list)
    ended: bool = False  # the program was told that all of it was sent

    @property
    def size(self) -> int:
        return sum(len(piece.content) for piece in self.pieces)


@dataclass(repr=False)
class Received:
    """A message that the program was given, or some pieces of it."""

    is_text: bool
    pieces: list[str | bytes]
    complete: bool = True

    def __repr__(self) -> str:
        return f"<received: {brief(self.content)}{'' if self.complete else ' and not the end'}>"

    @property
    def content(self) -> bytes:
        return b"".join(
            piece.encode() if isinstance(piece, str) else piece for piece in self.pieces
        )


class Operation:
    """One call of a program's.

    at_rest:
        It was cancelled while nothing else happened: then it has to end by the cancellation.
    beforehand:
        Its scope was cancelled before it began.
    """

    name = "operation"
    #: cancelled, it leaves the connection as it is
    harmless = False
    receiving = False
    waits_for_the_end = False
    #: an exception that it may raise, besides those of a connection that is over
    may_raise: tuple[type[Exception], ...] = ()

    def __init__(self, end: End) -> None:
        self.end = end
        self.outcome = Outcome.PENDING
        self.value: Any = None
        self.error: type[BaseException] | None = None
        self.closure: Closure | None = None  # of the ConnectionClosed that it raised
        self.at_rest = False
        self.beforehand = False
        self.was_over = False  # the connection, when it began
        self.met_another = False  # somebody else was receiving
        self.statuses: object = None  # of both ends, when it was cancelled
        self.started_at = 0.0
        self.started_step = 0
        self._scope: anyio.CancelScope  # made in the loop

    def __repr__(self) -> str:
        error = f" {self.error.__name__}" if self.error else ""
        return f"<{self.end.name} {self.name}: {self.outcome.value}{error}>"

    @property
    def pending(self) -> bool:
        return self.outcome is Outcome.PENDING

    @property
    def cancelled(self) -> bool:
        """Whether anybody has asked for that."""
        return self._scope.cancel_called

    @property
    def waits_for_us(self) -> bool:
        """Whether it is the program that does not go on."""
        return False

    def prepare(self, *, beforehand: bool = False) -> None:
        """Be ready to run; in the loop."""
        self._scope = anyio.CancelScope()
        self.beforehand = beforehand
        if beforehand:
            self._scope.cancel()

    def cancel(self, *, at_rest: bool = False) -> None:
        if self.pending:
            self.at_rest = at_rest
            self._scope.cancel()

    async def run(self, ws: WebSocket) -> None:
        try:
            with self._scope:
                self.value = await self.call(ws)
                self.outcome = Outcome.RETURNED
            if self.pending:
                self.outcome = Outcome.CANCELLED
        except ConnectionClosed as error:
            self._fail(error)
            self.closure = error.closure
        except self.may_raise as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        # Not the exception: its traceback holds the connection.
        self.error = type(error)
        self.outcome = Outcome.RAISED

    async def call(self, ws: WebSocket) -> Any:
        raise NotImplementedError


class Send(Operation):
    name = "send"
    harmless = True

    def __init__(self, end: End, message: Message) -> None:
        super().__init__(end)
        self.message = message
        self.behind: int | None = None  # the size of the log when it began behind another

    async def call(self, ws: WebSocket) -> None:
        (piece,) = self.message.pieces
        await ws.send(piece.data, compress=self.message.compress)
        piece.is_answer = self.end.has_waiting()
        piece.returned = self.message.ended = True


FINISH, ABANDON = object(), object()


class SendInFragments(Operation):
    """`open_message`, a fragment at a time as the program is told."""

    name = "open_message"
    may_raise = (InjectedError,)

    def __init__(self, end: End, message: Message) -> None:
        super().__init__(end)
        self.message = message
        self.entered = False
        self.leaving = False
        self._commands: deque[Any] = deque()
        self._told: anyio.Event | None = None
        self._step: anyio.CancelScope | None = None

    @property
    def waits_for_us(self) -> bool:
        return self._told is not None

    @property
    def sends(self) -> bool:
        """Whether it waits for a fragment to be sent, or the end of the message."""
        return self.entered and not self.waits_for_us

    def tell(self, command: Any) -> None:
        self._commands.append(command)
        if self._told is not None:
            self._told.set()

    def cancel_step(self) -> None:
        """Cancel the sending of the fragment, and go on with the message."""
        if self._step is not None:
            self._step.cancel()

    async def _next(self) -> Any:
        while not self._commands:
            self._told = anyio.Event()
            try:
                await self._told.wait()
            finally:
                self._told = None
        return self._commands.popleft()

    async def call(self, ws: WebSocket) -> None:
        async with ws.open_message(compress=self.message.compress) as sender:
            self.entered = True
            while (command := await self._next()) is not FINISH:
                if command is ABANDON:
                    raise InjectedError
                with anyio.CancelScope() as self._step:
                    if command.never:
                        self._step.cancel()
                    await sender.send(command.data)
                    command.is_answer = self.end.has_waiting()
                    command.returned = True
                self._step = None
            self.leaving = True
        self.message.ended = True


class Receive(Operation):
    """So many messages, or all: by `receive`, `receive_text`, `receive_bytes` or `async for`."""

    harmless = True
    receiving = True
    may_raise = (anyio.BusyResourceError,)

    def __init__(self, end: End, how: str = "async for", count: int | None = None) -> None:
        super().__init__(end)
        self.name = how
        self.count = count
        self.received = 0

    async def call(self, ws: WebSocket) -> None:
        while self.received != self.count:
            try:
                message = await (
                    anext(ws) if self.name == "async for" else getattr(ws, self.name)()
                )
            except StopAsyncIteration:
                return
            except ConnectionClosed:
                self.end.note_refusal(self.name)
                raise
            self.received += 1
            self.end.received.append(Received(isinstance(message, str), [message]))


class ReceiveInPieces(Operation):
    """`receive_fragments`: so many pieces of a message, or all."""

    name = "receive_fragments"
    receiving = True
    may_raise = (anyio.BusyResourceError,)

    def __init__(self, end: End, limit: int | None) -> None:
        super().__init__(end)
        self.limit = limit
        self.entered = False
        self._step: anyio.CancelScope | None = None

    def cancel_step(self) -> None:
        """Cancel the waiting for a piece, and wait again."""
        if self._step is not None:
            self._step.cancel()

    async def call(self, ws: WebSocket) -> None:
        async with ws.receive_fragments() as fragments:
            self.entered = True
            received = Received(fragments.is_text, [], complete=False)
            self.end.received.append(received)
            while self.limit is None or len(received.pieces) < self.limit:
                with anyio.CancelScope() as self._step:
                    try:
                        received.pieces.append(await anext(fragments))
                    except StopAsyncIteration:
                        received.complete = True
                        return


class Ping(Operation):
    name = "ping"
    harmless = True

    async def call(self, ws: WebSocket) -> float:
        return await ws.ping()


class WaitClosed(Operation):
    name = "wait_closed"
    harmless = True
    waits_for_the_end = True

    async def call(self, ws: WebSocket) -> Closure:
        return await ws.wait_closed()


class WorkUntilClosed(Operation):
    name = "cancel_when_closed"
    harmless = True
    waits_for_the_end = True

    async def call(self, ws: WebSocket) -> bool:
        async with ws.cancel_when_closed() as scope:
            await anyio.sleep_forever()
        return scope.cancelled_caught


class CloseIt(Operation):
    name = "close"

    def __init__(self, end: End, close: Close) -> None:
        super().__init__(end)
        self.close = close

    async def call(self, ws: WebSocket) -> Closure:
        return await ws.close(self.close.code, self.close.reason)


class SendEOF(Operation):
    name = "send_eof"

    async def call(self, ws: WebSocket) -> None:
        await ws.send_eof()


class Own(Operation):
    """The block that owns the connection: `wrap_client_stream` and the like, or a task group."""

    name = "the block"
    may_raise = (InjectedError,)

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.leaving: str | None = None
        self.raised = InjectedError("the body's own")
        self.wrong: BaseException | None = None  # what left the block in its place
        self._released = anyio.Event()

    @property
    def waits_for_us(self) -> bool:
        return self.leaving is None

    def leave(self, how: str) -> None:
        self.leaving = how
        if how == "cancellation":
            self._scope.cancel()
        else:
            self._released.set()

    async def own(self) -> None:
        """Open the connection, and keep it until told to leave."""
        self.prepare()
        try:
            with self._scope:
                if self.end.in_group:
                    await self._own_in_group()
                else:
                    await self._own_in_block()
                self.outcome = Outcome.RETURNED
            if self.pending:
                self.outcome = Outcome.CANCELLED
        except Exception as error:  # noqa: BLE001 - judged by the invariants
            self._judge(error)

    async def _own_in_block(self) -> None:
        async with self.end.opening as ws:
            self.end.opened(ws)
            del ws
            await self._body()

    async def _own_in_group(self) -> None:
        made: list[WebSocket] = []
        async with anyio.create_task_group() as group:
            await group.start(self.end.opening.run, made.append)
            self.end.opened(made.pop())
            await self._body()
            if self.end.ws is not None:
                await self.end.ws.close()

    async def _body(self) -> None:
        await self._released.wait()
        if self.leaving == "exception":
            raise self.raised

    def _judge(self, error: Exception) -> None:
        if self.end.in_group and isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            # The group is the program's own, and wraps what its body raises.
            error = error.exceptions[0]
        self.error = type(error)
        self.outcome = Outcome.RAISED
        if error is not self.raised or error.__cause__ or error.__context__:
            self.wrong = error
        error.with_traceback(None)

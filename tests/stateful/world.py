"""Two connected ends, what is done to them, and what is known of them.

`World` has a client and a server over a pair of streams in memory, in one event loop. `perform` does
things to them, all at once where there are several, and waits until everything has come to rest;
then the invariants look.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING, Any

from stateful.invariants import ATTEMPT, observe
from stateful.loops import LOOPS, Conductor
from stateful.operations import (
    FINISH,
    CloseIt,
    Message,
    Operation,
    Own,
    Piece,
    Receive,
    Received,
    ReceiveInPieces,
    Send,
    SendInFragments,
)
from stateful.wire import Wire, check
from streams import URL, pair

import anyws
from anyws import Config, Status, WebSocket
from anyws._client import _ClientOpening, _Given
from anyws._target import Arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyws import Closure
    from anyws.testing import MemoryStream


# What was done in this process, and what came of it.
tally: Counter[str] = Counter()


@dataclass(frozen=True)
class Setting:
    """How the two ends are made."""

    backend: str
    client: Config
    server: Config
    inline: tuple[bool, bool] = (False, False)  # which end's stream looks like a socket
    in_group: bool = False  # the client belongs to a task group, and its program may drop it
    capacity: int = 65536
    chunk_size: int | None = None


@dataclass
class Seen:
    """What was seen of an end so far, each time that everything was at rest."""

    status: Status = Status.OPEN
    over_at: float = math.inf  # when it was first seen not to be open
    closure: Closure | None = None  # once it is closed
    has_unread: bool = False  # when it was closed, something waited behind a full inbox
    room_at: float = 0.0  # when there was room in the outgoing pipe
    sent: int = 0  # bytes on the outgoing pipe
    sent_at: float = 0.0  # when there were more than before
    taken: int = 0  # bytes taken off the incoming pipe
    taken_at: float = 0.0
    unread_since: float = math.inf  # there is something to be read
    was_stalled: bool = False  # the write in progress has got nowhere for `write_timeout`
    was_silent: bool = False  # nothing came for as long as keepalive waits
    wire_messages: int = 0  # looked at and complete
    wire_batch: int = 0  # of the latest that was in line
    received: int = 0  # looked at and complete


class End:
    """One end: the connection, and the model of it.

    messages:
        Handed to `send` or `open_message`, by number.
    received:
        What the program was given.
    requests:
        The Closes that the program has asked for, by whatever it did; a reason of ``None`` is any.
    """

    def __init__(self, name: str, config: Config, stream: MemoryStream) -> None:
        self.name = name
        self.config = config
        self.stream = stream
        self.peer: End
        self.opening: Any
        self.in_group = False
        self.ws: WebSocket | None = None
        self.transport: Any
        self.owner = Own(self)
        self.compresses = False
        self.outgoing: Wire
        self.operations: list[Operation] = []
        self.messages: dict[int, Message] = {}
        self.on_wire: dict[int, Any] = {}
        self.received: list[Received] = []
        self.requests: list[tuple[int, str | None]] = []
        self.discards = False  # this end has closed, and drops what comes
        self.aborted = False
        self.must_close_by = math.inf
        self.may_cut_from = math.inf
        self.seen = Seen()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.ws}>"

    def opened(self, ws: WebSocket) -> None:
        self.ws = ws
        self.transport = ws._transport

    @property
    def incoming(self) -> Wire:
        return self.peer.outgoing

    @property
    def status(self) -> Status:
        if self.ws is not None:
            return self.ws.status
        return Status.CLOSED if self.transport.closed.is_set() else Status.CLOSING

    @property
    def pending(self) -> list[Operation]:
        return [one for one in self.operations if one.pending]

    @property
    def fragmented(self) -> list[SendInFragments]:
        """The messages in fragments that are under way, or wait to be."""
        return [one for one in self.pending if isinstance(one, SendInFragments)]

    def unread(self) -> tuple[int, int]:
        """How many messages are on their way to the program, or wait for it, and their bytes."""
        messages = self.incoming.messages[len(self.received) :]
        return len(messages), sum(len(one.content) for one in messages)

    def has_waiting(self) -> bool:
        """Whether there are messages for the program, here or on their way."""
        self.incoming.read()
        return self.unread()[0] > 0

    def has_room(self) -> bool:
        """Whether nothing keeps this end from reading."""
        count, size = self.unread()
        limit, most = self.config.inbox_size, self.config.inbox_bytes
        in_pieces = any(isinstance(one, ReceiveInPieces) for one in self.pending)
        return not in_pieces and (limit is None or count < limit) and size < most

    def note_refusal(self, how: str) -> None:
        """Take note that `receive_text` or `receive_bytes` has raised.

        If it was for a message of the other type, that one is taken.
        """
        self.incoming.read()
        taken = self.incoming.messages_taken()
        if len(taken) > len(self.received) and not self.discards:
            message = taken[len(self.received)]
            if how == ("receive_bytes" if message.is_text else "receive_text"):
                self.received.append(Received(message.is_text, [message.content]))
                self.discards = True

    def ask(self, code: int, reason: str | None = "", *, discards: bool = True) -> None:
        """The program does something that may send this Close."""
        self.requests.append((code, reason))
        self.discards |= discards


class World:
    """Two ends, and what is between them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.loop = LOOPS[setting.backend]()
        near, far = pair(inline=False)
        near, far = _as_wanted(near, far, setting)
        self.client = End("client", setting.client, near)
        self.server = End("server", setting.server, far)
        self.client.peer, self.server.peer = self.server, self.client
        self.client.in_group = setting.in_group
        self.ends = [self.client, self.server]
        compression = None not in {setting.client.compression, setting.server.compression}
        for end in self.ends:
            end.compresses = compression
            end.outgoing = Wire(
                end.stream.outgoing, masked=end is self.client, compression=compression
            )
        self.faults: set[str] = set()  # what may have cost the connection bytes
        self.complaints: list[str] = []  # of the library: what it logged and warned of
        self.expects_warning = False
        self.batch = 0
        self.alone = False  # only one thing is being done
        self.quiet_since = 0.0
        self.leaps = False
        self._numbers = 0
        self._armed: list[tuple[int, Operation]] = []
        self._log = _Log(self.complaints)
        logging.getLogger().addHandler(self._log)
        self.loop.on_turn = self._count_down
        self.conductor = Conductor(self.loop)

    # --- Opening and closing ---

    def open(self) -> None:
        """Open the connection; only then is anything between the ends as it is to be."""
        setting = self.setting
        client, server = self.client, self.server
        client.opening = _ClientOpening(
            _Given(client.stream, URL), Arguments((), None, None), setting.client
        )
        server.opening = anyws.wrap_server_stream(server.stream, config=setting.server)
        self._do(lambda: [self.spawn(end.owner.own, end) for end in self.ends])
        for end in self.ends:
            check(end.ws is not None, f"the {end.name}'s end did not open: {end.owner}")
            pipe = end.stream.outgoing
            check(not pipe.data, "something was sent before anything was asked for")
            pipe.log.clear()
            pipe.capacity = setting.capacity
            pipe.chunk_size = setting.chunk_size
        self.settle()

    def spawn(self, function: Callable[..., Any], end: End, *args: Any) -> None:
        name = getattr(function, "__qualname__", repr(function))
        self.conductor.tasks.start_soon(function, *args, name=f"{end.name} {name}")

    def finish(self) -> None:
        """Let everything flow, receive what there is, and leave; then nothing may be left."""
        self._armed.clear()
        self.perform(self._let_flow)
        self.perform(self._end_messages)
        # Who waits for what is still on its way has to be through first.
        self.advance(1.0)
        while any(self._may_receive(end) for end in self.ends):
            self.perform(*[partial(self._receive_all, end) for end in self.ends])
            self.advance(1.0)
        self.advance(1.0)
        were_open = all(end.status is Status.OPEN for end in self.ends)
        for end in self.ends if were_open else []:
            stuck = [one for one in end.pending if not (one.receiving or one.waits_for_the_end)]
            check(not stuck, f"everything flows, and still there are {stuck}")
            check(self.faults or end.unread() == (0, 0), f"sent, and not received: {end}")
        self.perform(*[self._leaving(end) for end in self.ends if end.owner.waits_for_us])
        self.advance(40.0)
        for end in self.ends:
            check(end.status is Status.CLOSED, f"the {end.name}'s end does not close")
            check(not end.pending, f"still there: {end.pending}")
            check(not end.owner.pending, f"still there: {end.owner}")
            check(end.stream.closed, f"the {end.name}'s stream is open")
            if were_open and not self.faults and end.ws is not None:
                closure = end.ws.closure
                assert closure is not None
                check(closure.clean and closure.code == 1000, f"not a clean end: {closure}")
        check(not self.loop.task_names(), f"tasks are left: {self.loop.task_names()}")
        check(self.loop.next_deadline() == math.inf, "a timer is left")
        for end in self.ends:
            tally["messages received"] += len(end.received)
            tally["clean ends"] += end.seen.closure is not None and end.seen.closure.clean
            tally["ends"] += 1
            end.ws = end.opening = None
        self._do(None)
        check(self.loop.finished, "the task group does not end")

    def _let_flow(self) -> None:
        for end in self.ends:
            pipe = end.stream.outgoing
            pipe.capacity, pipe.chunk_size, pipe.latency = 1 << 24, None, 0
            pipe.resume()

    def _end_messages(self) -> None:
        for end in self.ends:
            for one in end.fragmented:
                one.tell(FINISH)

    def _may_receive(self, end: End) -> bool:
        nobody = not any(one.receiving for one in end.pending)
        return end.status is Status.OPEN and end.ws is not None and nobody

    def _receive_all(self, end: End) -> None:
        if self._may_receive(end):
            self.start(Receive(end))

    def _leaving(self, end: End) -> Callable[[], None]:
        return lambda: self.leave(end, "return")

    def dispose(self) -> None:
        """Let go of everything, whatever state it is in."""
        logging.getLogger().removeHandler(self._log)
        self.loop.close()

    # --- Doing ---

    def perform(self, *actions: Callable[[], object]) -> None:
        """Do these things, nothing happening in between; then look at what has become of it."""
        self.batch += 1
        self.alone = len(actions) == 1 and not self._armed
        self.quiet_since = self.loop.now
        self._do(lambda: [action() for action in actions])
        self.settle()

    def advance(self, seconds: float, *, leap: bool = False) -> None:
        self.alone = False
        self.leaps = leap
        with self._listening():
            for _ in self.loop.advance(seconds, leap=leap):
                self.settle()
        self.leaps = False
        if leap:
            self.quiet_since = self.loop.now

    def settle(self) -> None:
        observe(self)
        for end in self.ends:
            for one in end.operations:
                if not one.pending:
                    tally[f"{one.name} {one.outcome.value}"] += 1
            end.operations = end.pending
        self.expects_warning = False

    def _do(self, action: Callable[[], object] | None) -> None:
        with self._listening():
            if action is None:
                self.conductor.end()
            else:
                self.conductor.do(action)

    def statuses(self) -> list[Status]:
        return [end.status for end in self.ends]

    def _listening(self) -> Any:
        return _Listening(self.complaints)

    def _count_down(self) -> None:
        if self._armed:
            due = [one for turns, one in self._armed if turns <= 0]
            self._armed = [(turns - 1, one) for turns, one in self._armed if turns > 0]
            for one in due:
                self._note_cancel(one)
                one.cancel()

    # --- Actions: to be called in the loop ---

    def start(self, operation: Operation, cancel: str | int | None = None) -> None:
        """Start an operation; cancel it beforehand, or after so many turns."""
        end = operation.end
        if end.ws is None:
            return
        operation.started_at = self.loop.now
        operation.started_step = self.batch
        operation.was_over = not end.ws.is_open
        operation.prepare(beforehand=cancel == "beforehand")
        self._note_start(operation)
        end.operations.append(operation)
        self.spawn(operation.run, end, end.ws)
        if isinstance(cancel, int):
            self._armed.append((cancel, operation))

    def _note_start(self, operation: Operation) -> None:
        end = operation.end
        if operation.receiving:
            others = [one for one in end.pending if one.receiving]
            operation.met_another = bool(others)
            for other in others:
                # Which of two that begin together comes first is for the scheduler to say.
                other.met_another |= other.started_step == self.batch
        if isinstance(operation, (Send, SendInFragments)):
            message = operation.message
            message.in_line = not end.fragmented
            end.messages[message.number] = message
            if operation.beforehand:
                for piece in message.pieces:
                    piece.never = True
        if isinstance(operation, Send):
            waiting = [one for one in end.pending if isinstance(one, Send) and one.message.in_line]
            waiting = [one for one in waiting if one.started_step < self.batch]
            if waiting and not end.fragmented and end.ws and end.ws.is_open:
                operation.behind = end.outgoing.size
        elif isinstance(operation, CloseIt):
            end.ask(operation.close.code, operation.close.reason)
            if operation.beforehand:
                self._cut_at_once(end)
        elif isinstance(operation, Receive) and operation.name in {"receive_text", "receive_bytes"}:
            # Only where the message is of the other type, which takes it.
            end.requests.append((1003, None))
        elif operation.name == "send_eof" and not operation.beforehand:
            end.ask(1000, "eof", discards=False)

    def message(self, end: End, *, is_text: bool, compress: bool | None) -> Message:
        self._numbers += 1
        return Message(self._numbers, self.batch, is_text, compress)

    def piece(self, end: End, message: Message, size: int, *, dense: bool) -> Piece:
        """Make the next piece of a message, which says what it is."""
        mark = f"<{end.name[0]}{message.number}.{len(message.pieces)}>"
        random = Random(message.number)
        # In part what the message before it says: what refers to one that was never sent shows.
        phrases = _phrase(message.number - 1) + _phrase(message.number)
        piece: Piece
        if message.is_text:
            letters = random.choices("aé漢😀", k=size // 2) if dense else cycle(phrases + "é")
            piece = Piece(mark + "".join(islice(letters, size // 2)))
        else:
            size = max(size - len(mark), 0)
            filler = (
                random.randbytes(size) if dense else bytes(islice(cycle(phrases.encode()), size))
            )
            piece = Piece(mark.encode() + filler)
        message.pieces.append(piece)
        return piece

    def cancel(self, operation: Operation, after: int | None = None) -> None:
        """Cancel an operation that is waiting: now, or after so many turns of whatever comes."""
        if after is not None:
            self._armed.append((after, operation))
        elif operation.pending:
            end = operation.end
            if isinstance(operation, Send) and operation.behind == end.outgoing.size:
                # Not a byte went out since it stood behind another: nobody has picked it up.
                operation.message.pieces[0].never |= self.alone
            self._note_cancel(operation)
            operation.statuses = self.statuses()
            operation.cancel(at_rest=self.alone)

    def _note_cancel(self, operation: Operation) -> None:
        if operation.pending and isinstance(operation, (CloseIt, Own)):
            self._cut_at_once(operation.end)

    def _cut_at_once(self, end: End) -> None:
        """There is no more than one attempt from now on."""
        end.must_close_by = min(end.must_close_by, self.loop.now + ATTEMPT)
        end.may_cut_from = min(end.may_cut_from, self.loop.now)

    def leave(self, end: End, how: str) -> None:
        """Leave the block: by "return", "exception" or "cancellation"."""
        crashed = how == "exception" and end.name == "server"
        end.ask(1000 if how == "return" else 1011 if crashed else 1001)
        if how != "return":
            grace = end.config.cancel_grace
            end.must_close_by = min(end.must_close_by, self.loop.now + max(grace, ATTEMPT))
            end.may_cut_from = min(end.may_cut_from, self.loop.now + grace)
        end.owner.leave(how)

    def abort(self, end: End) -> None:
        if end.ws is not None:
            self._note_abort(end)
            end.ws.abort()

    def _note_abort(self, end: End) -> None:
        end.aborted = end.discards = True
        end.must_close_by = min(end.must_close_by, self.loop.now)
        end.may_cut_from = min(end.may_cut_from, self.loop.now)

    def drop(self, end: End) -> None:
        """Let go of the last reference to a connection."""
        assert end.ws is not None
        self.expects_warning = end.ws.status is not Status.CLOSED
        if end.ws.is_open:
            self._note_abort(end)
        end.aborted = end.discards = True
        end.may_cut_from = min(end.may_cut_from, self.loop.now)
        end.ws = None

    def break_stream(self, stream: MemoryStream, how: str, after: int) -> None:
        """Lose the connection, after so many bytes that are sent, or some calls."""
        self.faults.add(how)
        if how in {"end", "reset"}:
            stream.outgoing.end_after(after, reset=how == "reset")
        else:
            getattr(stream, how)(OSError("injected"), call=1 + after // 100)


def _phrase(number: int) -> str:
    return "".join(Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=12))


def _as_wanted(near: MemoryStream, far: MemoryStream, setting: Setting) -> Any:
    """Have the streams look like sockets, or not."""
    sockets = pair(inline=True)
    kinds = [
        type(sockets[0]) if inline else type(one)
        for one, inline in zip((near, far), setting.inline, strict=True)
    ]
    return [kind(one.incoming, one.outgoing) for kind, one in zip(kinds, (near, far), strict=True)]


class _Log(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            words += f": {record.exc_info[1]!r}"
        self._complaints.append(words)


class _Listening(warnings.catch_warnings):
    """Within the block, warnings are complaints."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__()
        self._complaints = complaints

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._note

    def _note(self, message: Warning | str, category: type[Warning], *args: Any) -> None:
        self._complaints.append(f"{category.__name__}: {message}")

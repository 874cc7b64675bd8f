"""The rules: what can happen to two connected ends, each thing drawn by Hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from stateful.operations import (
    ABANDON,
    FINISH,
    CloseIt,
    Ping,
    Receive,
    ReceiveInPieces,
    Send,
    SendEOF,
    SendInFragments,
    WaitClosed,
    WorkUntilClosed,
)
from stateful.world import Setting, World, tally

from anyws import Close, Config, Deflate, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful.operations import Operation
    from stateful.world import End

names = st.sampled_from(["client", "server"])
#: when to cancel what is begun: never, beforehand, or after so many turns of the scheduler
turns = st.integers(0, 30)
cancels = st.one_of(st.none(), st.none(), st.just("beforehand"), turns)
which = st.integers(0, 7)
compress = st.sampled_from([None, True, False])
#: without one: `send_eof`
closes = st.sampled_from(
    [None, Close(1000), Close(1001, "I go"), Close(1013), Close(4000, "so long")]
)
one_deflate = st.builds(
    Deflate,
    window_bits=st.sampled_from([9, 12, 15]),
    threshold=st.sampled_from([0, 64]),
    context_takeover=st.sampled_from([True, True, False]),
    peer_context_takeover=st.sampled_from([True, True, False]),
)
deflates = st.one_of(st.none(), one_deflate, one_deflate, one_deflate)
configs = st.fixed_dictionaries(
    {
        "inbox_size": st.sampled_from([16, 1, 2]),
        "close_timeout": st.sampled_from([10.0, 2.0]),
        "cancel_grace": st.sampled_from([1.0, 0.0]),
        "write_timeout": st.sampled_from([None, 5.0]),
        "ping_interval": st.sampled_from([None, 4.0]),
        "ping_timeout": st.sampled_from([3.0, None]),
        "compression": deflates,
    }
)


class TwoEnds(RuleBasedStateMachine):
    backend: str
    world: World

    def __init__(self) -> None:
        super().__init__()
        self._held: list[Callable[[], object]] = []
        self._to_hold = 0
        self._peace = 0  # so many more steps in which nothing ends the connection
        self._afterlife = 0  # steps since it was over
        self._large = False
        self._failed = False
        tally["examples"] += 1

    # --- The stage ---

    @initialize(data=st.data(), large=st.booleans(), peace=st.sampled_from([0, 6, 15, 30]))
    def begin(self, data: Any, large: bool, peace: int) -> None:
        self._large, self._peace = large, peace
        self._open(
            Setting(
                self.backend,
                self._config(data.draw(configs, label="client")),
                self._config(data.draw(configs, label="server")),
                inline=data.draw(st.tuples(st.booleans(), st.booleans()), label="inline"),
                in_group=data.draw(st.booleans(), label="in a group"),
                capacity=data.draw(self._capacities, label="capacity"),
                chunk_size=data.draw(self._chunk_sizes, label="chunk size"),
            )
        )

    def _config(self, options: dict[str, Any]) -> Config:
        return Config(max_message_size=250_000 if self._large else 1500, **options)

    def _open(self, setting: Setting) -> None:
        self.world = World(setting)
        with self._watching():
            self.world.open()

    def _watching(self) -> _Watching:
        return _Watching(self)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self._failed:
                self._to_hold = 0
                self._do()
                with self._watching():
                    self.world.finish()
        finally:
            self.world.dispose()

    # --- How things are done ---

    def _do(self, *actions: Callable[[], object]) -> None:
        """Do it now, or later together with what comes next."""
        tally["steps"] += 1
        self._peace -= 1
        self._afterlife += self._over
        self._held += actions
        self._to_hold -= 1
        if self._to_hold < 0 and self._held:
            held, self._held = self._held, []
            with self._watching():
                self.world.perform(*held)

    def _end(self, name: str) -> End:
        return getattr(self.world, name)

    def _prepare(self, operation: Operation, cancel: str | int | None) -> None:
        self._held.append(lambda: self.world.start(operation, cancel))

    def _start(self, operation: Operation, cancel: str | int | None) -> None:
        self._prepare(operation, cancel)
        self._do()

    @property
    def _sizes(self) -> Any:
        return st.sampled_from([100, 20_000, 70_000, 150_000] if self._large else [3, 20, 130, 600])

    @property
    def _capacities(self) -> Any:
        return st.sampled_from([1 << 20, 70_000, 5000] if self._large else [65536, 700, 60, 5])

    @property
    def _chunk_sizes(self) -> Any:
        return st.sampled_from([None, 3000] if self._large else [None, 300, 40, 3])

    # --- What the programs do ---

    @precondition(lambda self: self._goes_on)
    @rule(
        name=names,
        data=st.data(),
        count=st.integers(1, 3),
        is_text=st.booleans(),
        compress=compress,
        dense=st.booleans(),
        cancel=cancels,
        takes=st.sampled_from([None, 1, 3, "pieces"]),
        give_up=st.none() | turns,
    )
    def send(self, name, data, count, is_text, compress, dense, cancel, takes, give_up) -> None:
        """Send some messages, each in a task of its own; one of them may be cancelled.

        takes: how many the peer's program asks for, or one in pieces, where it does not ask already
        give_up: after how many turns it is cancelled, while they come
        """
        end = self._end(name)
        for place in range(count):
            message = self.world.message(end, is_text=is_text, compress=compress)
            self.world.piece(end, message, data.draw(self._sizes), dense=dense)
            self._prepare(Send(end, message), cancel if place == count // 2 else None)
        if takes is not None and not any(one.receiving for one in end.peer.pending):
            peer = end.peer
            in_pieces = takes == "pieces"
            taker = ReceiveInPieces(peer, None) if in_pieces else Receive(peer, "receive", takes)
            self._prepare(taker, give_up)
        self._do()

    @precondition(lambda self: self._goes_on)
    @rule(name=names, count=st.integers(2, 4), which=which, compress=compress, resume=st.booleans())
    def withdraw(self, name, count, which, compress, resume) -> None:
        """Send messages into a pipe that is full, one behind the other; cancel one of them."""
        end = self._end(name)
        pipe = end.stream.outgoing
        self._to_hold = 0
        self._do(pipe.stall)
        room = pipe.capacity - len(pipe.data)
        largest = 150_000 if self._large else 600
        sends = []
        for _ in range(count):
            message = self.world.message(end, is_text=False, compress=compress)
            self.world.piece(end, message, min(room + 100, largest), dense=not sends)
            room = 0
            sends.append(Send(end, message))
            self._start(sends[-1], None)
        waiting = [one for one in end.pending if one in sends]
        if waiting:
            self._do(lambda: self.world.cancel(self._pick(waiting, which)))
        if resume:
            self._do(pipe.resume)

    @precondition(lambda self: self._goes_on)
    @rule(name=names, is_text=st.booleans(), compress=compress, cancel=cancels)
    def open_message(self, name, is_text, compress, cancel) -> None:
        end = self._end(name)
        message = self.world.message(end, is_text=is_text, compress=compress)
        message.in_fragments = True
        self._start(SendInFragments(end, message), cancel if self._war else None)

    @precondition(lambda self: self._fragmented)
    @rule(which=which, data=st.data(), dense=st.booleans(), never=st.sampled_from([False, True]))
    def send_fragment(self, which, data, dense, never) -> None:
        one = self._pick(self._fragmented, which)
        size = data.draw(self._sizes)
        if one.message.size + size <= one.end.peer.config.inbox_bytes:
            piece = self.world.piece(one.end, one.message, size, dense=dense)
            piece.never = never
            self._do(lambda: one.tell(piece))

    @precondition(lambda self: self._fragmented)
    @rule(which=which, abandon=st.sampled_from([False, False, True]), cancel=st.none() | turns)
    def finish_message(self, which, abandon, cancel) -> None:
        one = self._pick(self._fragmented, which)
        how = ABANDON if abandon and self._war else FINISH

        def finish() -> None:
            one.tell(how)
            if cancel is not None and self._war:
                self.world.cancel(one, cancel)

        self._do(finish)

    @precondition(lambda self: self._goes_on)
    @rule(
        name=names,
        how=st.sampled_from(["receive", "async for", "receive_text", "receive_bytes"]),
        count=st.sampled_from([None, 1, 2]),
        cancel=cancels,
    )
    def receive(self, name, how, count, cancel) -> None:
        if how in {"receive_text", "receive_bytes"} and not self._war:
            how = "receive"
        self._start(Receive(self._end(name), how, count), cancel)

    @precondition(lambda self: self._goes_on)
    @rule(name=names, limit=st.one_of(st.none(), st.integers(0, 3)), cancel=cancels)
    def receive_in_pieces(self, name, limit, cancel) -> None:
        self._start(ReceiveInPieces(self._end(name), limit), cancel)

    @precondition(lambda self: self._goes_on)
    @rule(name=names, kind=st.sampled_from([Ping, WaitClosed, WorkUntilClosed]), cancel=cancels)
    def wait(self, name, kind, cancel) -> None:
        self._start(kind(self._end(name)), cancel)

    @precondition(lambda self: self._pending)
    @rule(which=which, after=st.one_of(st.none(), st.none(), turns))
    def cancel(self, which, after) -> None:
        one = self._pick(self._pending, which)
        if self._war or not isinstance(one, SendInFragments):
            self._do(lambda: self.world.cancel(one, after))

    @precondition(lambda self: self._steps)
    @rule(which=which)
    def cancel_step(self, which) -> None:
        one = self._pick(self._steps, which)
        self._do(one.cancel_step)

    @rule(count=st.integers(1, 3))
    def together(self, count) -> None:
        """What comes next is done all at once."""
        self._to_hold = count

    # --- How connections end ---

    @precondition(lambda self: self._war and self._goes_on)
    @rule(name=names, close=closes, cancel=cancels)
    def close(self, name, close, cancel) -> None:
        end = self._end(name)
        self._start(SendEOF(end) if close is None else CloseIt(end, close), cancel)

    @precondition(lambda self: self._war and self._goes_on)
    @rule(
        name=names,
        how=st.sampled_from(["return", "exception", "cancellation", "abort", "drop"]),
    )
    def leave(self, name, how) -> None:
        end = self._end(name)
        if how == "abort":
            self._do(lambda: self.world.abort(end))
        elif how != "drop":
            self._do(lambda: end.owner.waits_for_us and self.world.leave(end, how))
        elif end.in_group and end.ws is not None and not end.pending and not self._held:
            tally["dropped"] += 1
            self._do(lambda: self.world.drop(end))

    @precondition(lambda self: self._war and self._goes_on)
    @rule(
        name=names,
        how=st.sampled_from(["end", "reset", "fail_send", "fail_receive", "hang"]),
        after=st.integers(0, 300),
    )
    def break_stream(self, name, how, after) -> None:
        """Lose the connection: at once, or after so many bytes or some calls."""
        tally["broken"] += 1
        stream = self._end(name).stream
        if how == "hang":
            stream.hangs_on_close = True
        else:
            self._do(lambda: self.world.break_stream(stream, how, after))

    @precondition(lambda self: self._over)
    @rule(peace=st.sampled_from([0, 6, 15]))
    def again(self, peace) -> None:
        """Both ends are closed: see to it that nothing is left, and begin anew."""
        tally["again"] += 1
        self._to_hold = 0
        self._do()
        setting = self.world.setting
        with self._watching():
            self.world.finish()
        self.world.dispose()
        self._peace, self._afterlife = peace, 0
        self._open(setting)

    # --- What lies between them ---

    @precondition(lambda self: not self._over)
    @rule(name=names, how=st.sampled_from(["resume", "stall"]))
    def stall(self, name, how) -> None:
        self._do(getattr(self._end(name).stream.outgoing, how))

    @precondition(lambda self: not self._over)
    @rule(how=st.sampled_from(["resume", "stall"]))
    def split(self, how) -> None:
        self._do(*[getattr(end.stream.outgoing, how) for end in self.world.ends])

    @precondition(lambda self: not self._over)
    @rule(name=names, what=st.sampled_from(["capacity", "chunk_size", "latency"]), data=st.data())
    def change(self, name, what, data) -> None:
        pipe = self._end(name).stream.outgoing
        values = {
            "capacity": self._capacities,
            "chunk_size": self._chunk_sizes,
            "latency": st.sampled_from([0, 0.3]),
        }
        value = data.draw(values[what])

        def do() -> None:
            setattr(pipe, what, value)
            pipe.notify()

        self._do(do)

    @precondition(lambda self: not self._over)
    @rule(seconds=st.sampled_from([0.06, 0.2, 1.0, 3.0, 12.0]), leap=st.booleans())
    def advance(self, seconds, leap) -> None:
        self._to_hold = 0
        self._do()
        with self._watching():
            self.world.advance(seconds, leap=leap)

    # --- What there is to choose from ---

    @property
    def _war(self) -> bool:
        return self._peace <= 0

    @property
    def _goes_on(self) -> bool:
        """Whether there is something to be done: where all is over, not for long."""
        return not self._over or self._afterlife < 3

    @property
    def _over(self) -> bool:
        return all(end.status is Status.CLOSED for end in self.world.ends)

    @property
    def _pending(self) -> list[Operation]:
        found = []
        for end in self.world.ends:
            found += end.pending
            if end.owner.leaving in {"return", "exception"} and end.owner.pending:
                found.append(end.owner)
        return found

    @property
    def _fragmented(self) -> list[SendInFragments]:
        return [one for one in self._pending if isinstance(one, SendInFragments)]

    @property
    def _steps(self) -> list[Any]:
        return [one for one in self._pending if getattr(one, "_step", None) is not None]

    @staticmethod
    def _pick(candidates: list[Any], which: int) -> Any:
        return candidates[which % len(candidates)]


class _Watching:
    """What fails within leaves the machine as it is."""

    def __init__(self, machine: TwoEnds) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *args: object) -> None:
        if kind is not None:
            self._machine._failed = True


class OnAsyncio(TwoEnds):
    backend = "asyncio"


class OnTrio(TwoEnds):
    backend = "trio"


MACHINES: dict[str, type[TwoEnds]] = {"asyncio": OnAsyncio, "trio": OnTrio}

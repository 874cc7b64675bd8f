"""The lane gives what the engine gives, whatever comes, in whatever chunks, and is sent meanwhile.

Two protocols of one role get the same steps; one has the lane, the other has it off. What an end
shows after each step is its trace, and the traces have to be equal. The strategies know what a
peer may get wrong; nothing here knows what the right answer is.

An end that reads one message at a time may have more in its inbox with the lane than without, and
less unparsed. So the inbox itself is looked at only after everything was parsed that has room.
"""

from __future__ import annotations

import zlib
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from ends import ACCEPTED_CODES, MIB, REFUSED_CODES, parse_all, protocol, replies
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    close_frame,
    deflated,
    frame,
    read_frames,
)
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from wire import payloads
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage
from wsproto.extensions import Extension
from wsproto.extensions import PerMessageDeflate as TheirDeflate

from anyws._close import Close, Role
from anyws._config import Config, Deflate
from anyws._protocol import payload
from anyws._protocol.deflate import PerMessageDeflate
from anyws._protocol.fastlane import FastLane
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyws._protocol.inbox import Inbox

Step = tuple[str, Any]


@pytest.fixture(autouse=True, scope="module")
def small_is_large() -> Iterator[None]:
    """Messages are put where they stay as they come from a size on that is tried here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "_LARGE", 20)
        yield


class Case(NamedTuple):
    role: Role
    compression: bool
    limits: dict[str, int | None]
    steps: list[Step]

    def __repr__(self) -> str:
        # Hypothesis calls a long one an error.
        steps = ", ".join(f"{name} {brief(argument)}" for name, argument in self.steps)
        return f"<{self.role}, {self.compression}, {self.limits}: {steps}>"


def brief(argument: object) -> str:
    if isinstance(argument, bytes | str) and len(argument) > 60:
        return f"{argument[:30]!r}...{len(argument)}"
    return repr(argument)


# --- One end, and what it shows ---


class End:
    def __init__(self, p: Protocol) -> None:
        self.p = p
        self.begun: str | bytes | None = None  # what was taken of a streamed message
        self.pongs: list[bytes] = []
        p.on_pong = self.pongs.append

    def do(self, step: Step) -> object:
        """Take the step; return all that can be seen of it."""
        name, argument = step
        result = getattr(self, name)(argument)
        p = self.p
        shown = [result, replies(p), list(self.pongs), p.ending.closure(), p.ours, p.theirs]
        shown += [p.sendable, p.receivable, p.finished, type(p.exception(receiving=True))]
        if name in {"parse", "take"}:
            inbox = p.inbox
            shown += [list(inbox.messages), inbox.waiting_bytes, inbox.partial_bytes, inbox.full]
            shown += [inbox.has_piece, p.has_unparsed, p.unparsed_bytes, p.wants_room]
        return shown

    def arrive(self, chunk: bytes) -> None:
        self.p.receive_data(chunk)

    def feed(self, chunk: bytes) -> list[Any]:
        """As a transport does: one buffer for whatever comes, and on to the next message."""
        taken = self.receive(300)
        buffer = bytearray(chunk)
        self.p.feed(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        return taken

    def parse(self, _: None) -> None:
        parse_all(self.p)

    def take(self, most: int) -> list[str | bytes]:
        parse_all(self.p)
        inbox = self.p.inbox
        return [] if inbox.streaming else [inbox.take() for _ in range(most) if inbox.messages]

    def receive(self, count: int) -> list[Any]:
        """One message at a time, as far as they are there."""
        p = self.p
        got: list[Any] = []
        for _ in range(count):
            if p.inbox.streaming:
                got.append(self.read(None))
                continue
            while not p.inbox.available and p.has_unparsed:
                p.parse(one_message=True)
            if p.inbox.messages:
                got.append(p.inbox.take())
        return got

    def stream(self, _: None) -> object:
        if not self.p.inbox.streaming:
            self.p.inbox.start_streaming()
        return self.read(None)

    def read(self, _: None) -> tuple[str | bytes | None, bool]:
        """Read on in the streamed message; return what there is of it, and whether it ended."""
        p, inbox = self.p, self.p.inbox
        if not inbox.streaming:
            return None, False
        while inbox.has_piece or (p.has_unparsed and not inbox.streamed_to_end):
            if inbox.has_piece:
                piece = inbox.take_piece()
                self.begun = piece if self.begun is None else self.begun + piece  # type: ignore[operator]
            else:
                p.parse(one_message=True)
        begun, ended = self.begun, inbox.streamed_to_end
        if ended:
            self.stop(None)
        return begun, ended

    def stop(self, _: None) -> None:
        if self.p.inbox.streaming:
            self.p.inbox.stop_streaming()
            self.begun = None

    def undo(self, _: None) -> None:
        if self.p.inbox.streaming and self.begun is None:
            self.p.inbox.undo_streaming()

    def send(self, what: tuple[str | bytes, bool, bool | None]) -> object:
        if not self.p.sendable:
            return None
        data, finished, compress = what
        try:
            sent = self.p.encode(data, finished=finished, compress=compress)
        except (TypeError, UnicodeEncodeError) as error:
            return type(error)
        return unmasked(sent)

    def ping(self, payload: bytes) -> None:
        if self.p.sendable:
            self.p.ping(payload)

    def close(self, deliver: bool) -> None:
        self.p.close(Close(1000), deliver=deliver)

    def fail_write(self, _: None) -> None:
        self.p.write_failed(None)

    def end_stream(self, _: None) -> None:
        self.parse(None)
        self.p.receive_eof()
        self.parse(None)


def unmasked(data: bytes) -> list[tuple[int, bytes, bool, int, bool]]:
    """The frames, and that they are masked instead of the key."""
    return [(f.opcode, f.payload, f.fin, f.rsv, bool(f.mask)) for f in read_frames(data)]


Lane = type[FastLane] | None


def end_of(case: Case, lane: Lane) -> End:
    p = protocol(case.role, compression=case.compression, **case.limits)
    p._lane = None if lane is None else lane(case.role, p._config, p._deflate)
    return End(p)


def differs(case: Case, lane: type[FastLane]) -> bool:
    with_lane, without = end_of(case, lane), end_of(case, None)
    return any(with_lane.do(step) != without.do(step) for step in case.steps)


# --- What may come ---


LIMITS = st.fixed_dictionaries(
    {
        "max_message_size": st.sampled_from([20, 126, 1000, 65535, MIB, MIB, MIB, None]),
        "max_frame_size": st.sampled_from([None, None, None, None, None, 40, 5000]),
        "max_fragments": st.sampled_from([1, 3, 4096]),
        "inbox_size": st.sampled_from([1, 2, 5, 16, None]),
    }
)
BAD_UTF8 = st.sampled_from([b"\xff", b"ok \xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98"])
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


def stored(data: bytes) -> bytes:
    """A little larger than the data."""
    return deflated(data, level=0)


def padded(data: bytes) -> bytes:
    """Much larger, unless the data is."""
    return EMPTY_BLOCK * 500 + deflated(data)


class Peer:
    """Makes what comes; has the compressing context of the whole connection."""

    def __init__(self, draw: st.DrawFn, role: Role, compression: bool) -> None:
        self.draw = draw
        self.compression = compression
        self.mask: bytes | bool = False
        if role is Role.SERVER:
            self.mask = draw(st.binary(min_size=4, max_size=4))
        self.compressor = zlib.compressobj(6, zlib.DEFLATED, -15)

    def frame(self, opcode: int, payload: bytes, **fields: Any) -> bytes:
        return frame(opcode, payload, **({"mask": self.mask} | fields))

    def deflated(self, data: bytes) -> bytes:
        output = self.compressor.compress(data)
        return (output + self.compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def text_or_binary(self) -> tuple[int, bytes]:
        if self.draw(st.booleans()):
            return BINARY, self.draw(payloads)
        return TEXT, self.draw(st.text(max_size=60) | st.sampled_from(TEXTS)).encode()

    def whole(self) -> bytes:
        return self.frame(*self.text_or_binary())

    def several(self) -> bytes:
        return b"".join(self.whole() for _ in range(self.draw(st.integers(2, 6))))

    def control(self) -> bytes:
        opcode = self.draw(st.sampled_from([PING, PONG]))
        return self.frame(opcode, self.draw(st.binary(max_size=125)))

    def compressed(self) -> bytes:
        if not self.compression:
            return self.whole()
        opcode, payload = self.text_or_binary()
        # A sender may flush more often than it has to, and end the stream at any place.
        form = self.draw(st.sampled_from([self.deflated, stored, padded]))
        return self.frame(opcode, form(payload), rsv=RSV1)

    def fragments(self) -> bytes:
        compressed = self.compression and self.draw(st.booleans())
        return self.cut(*self.text_or_binary(), compressed)

    def repeated(self) -> bytes:
        """The same several times, whole and cut: compressed, it refers to what was before."""
        message = self.text_or_binary()
        times = self.draw(st.integers(2, 4))
        return b"".join(self.cut(*message, self.compression) for _ in range(times))

    def cut(self, opcode: int, payload: bytes, compressed: bool) -> bytes:
        """In one frame or several, with control frames between them."""
        rsv = 0
        if compressed:
            payload, rsv = self.deflated(payload), RSV1
        places = self.draw(st.lists(st.integers(0, len(payload)), max_size=3).map(sorted))
        data = b""
        for start, end in zip([0, *places], [*places, len(payload)], strict=True):
            last = end == len(payload)
            data += self.frame(opcode, payload[start:end], fin=last, rsv=rsv)
            opcode, rsv = CONTINUATION, 0
            if last:
                break
            if self.draw(st.booleans()):
                data += self.control()
        return data

    def bad_text(self) -> bytes:
        return self.frame(TEXT, self.draw(st.binary(max_size=3)) + self.draw(BAD_UTF8))

    def bad_compressed(self) -> bytes:
        """A compressed frame that is wrong, or large only on the wire."""
        opcode = self.draw(st.sampled_from([TEXT, BINARY]))
        good = self.deflated(b"some text, some text")
        payload = self.draw(
            st.one_of(
                st.binary(max_size=20),
                st.integers(0, len(good) - 1).map(lambda end: good[:end]),
                st.sampled_from([11, 41, 1001, 65536, MIB + 1]).map(lambda n: deflated(b"a" * n)),
                BAD_UTF8.map(deflated),
                # In more than one piece to the engine.
                BAD_UTF8.map(lambda bad: stored(b"a" * 66_000 + bad)),
                BAD_UTF8.map(lambda bad: stored(bad + b"a" * 66_000)),
                st.sampled_from([10, 300, 14_000]).map(lambda n: EMPTY_BLOCK * n + b"\x00"),
                st.sampled_from([1, 64, 70]).map(lambda n: b"\x03\x00" * n),
            )
        )
        return self.frame(opcode, payload, rsv=RSV1)

    def wrong_head(self) -> bytes:
        draw = self.draw
        opcode, payload = self.text_or_binary()
        changes: list[dict[str, Any]] = [
            {"rsv": draw(st.integers(1, 7))},
            {"mask": not self.mask},
            {"form": 127} if len(payload) < 65536 else {"rsv": 1},
            {"form": 126} if len(payload) < 126 else {"rsv": 2},
        ]
        if draw(st.booleans()):
            opcode = draw(st.sampled_from([CONTINUATION, 3, 7, CLOSE, PING, PONG, 11, 15]))
            changes += [{"fin": False}, {}]
        return self.frame(opcode, payload, **draw(st.sampled_from(changes)))

    def close(self) -> bytes:
        code = self.draw(st.sampled_from([None, *ACCEPTED_CODES, *REFUSED_CODES]))
        reason = self.draw(st.text(max_size=20).map(str.encode) | BAD_UTF8)
        return close_frame(code, reason, self.mask) + self.draw(st.binary(max_size=20))

    def garbage(self) -> bytes:
        return self.draw(st.binary(max_size=60))


TEXTS = ["é" * 63, "€" * 42, "a" * 125, "a" * 126, "😀" * 9, "a" * 65535, "a" * 65536]
GOOD = [Peer.whole, Peer.several, Peer.control, Peer.fragments]
GOOD += [Peer.compressed, Peer.compressed, Peer.repeated, Peer.repeated]
BAD = [Peer.bad_text, Peer.bad_compressed, Peer.wrong_head, Peer.close, Peer.close, Peer.garbage]

SENDS = st.tuples(
    st.sampled_from(["", "text", "é" * 70, b"", b"bytes" * 30, "\ud800"]),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([None, True, False]),
)
BETWEEN: st.SearchStrategy[Step] = st.one_of(
    st.just(("parse", None)),
    st.tuples(st.just("take"), st.integers(0, 20)),
    st.tuples(st.just("receive"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["stream", "read", "stop", "undo"]), st.none()),
    st.tuples(st.just("send"), SENDS),
    st.tuples(st.just("ping"), st.binary(max_size=5)),
)
# Of these most are nothing.
NEARLY_NEVER: list[list[Step]] = [
    *[[]] * 30,
    [("close", True)],
    [("close", False)],
    [("fail_write", None)],
]
AT_LAST: list[Step] = [("receive", 30), ("take", 300), ("end_stream", None), ("take", 300)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    role, compression = draw(st.sampled_from(Role)), draw(st.booleans())
    peer = Peer(draw, role, compression)
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 7))):
        kinds = draw(st.sampled_from([GOOD, GOOD, GOOD, GOOD, BAD]))
        data = draw(st.sampled_from(kinds))(peer)
        places = sorted(draw(st.just([]) | st.lists(st.integers(0, len(data)), max_size=4)))
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            arrive = draw(st.sampled_from(["arrive", "feed"]))
            steps += [(arrive, data[start:end])] + [("parse", None)] * draw(st.integers(0, 1))
        steps += draw(st.lists(BETWEEN, max_size=3))
        steps += draw(st.sampled_from(NEARLY_NEVER))
    return Case(role, compression, draw(LIMITS), steps + AT_LAST)


@settings(max_examples=300)
@given(cases())
def test_the_lane_and_the_engine_give_the_same(case: Case) -> None:
    with_lane, without = end_of(case, FastLane), end_of(case, None)
    for step in case.steps:
        assert with_lane.do(step) == without.do(step)
    assert without.p.lane_frames == 0


# --- A wrong lane is found ---


class TakesBadText(FastLane):
    def read(self, data: bytes | bytearray, start: int, inbox: Inbox, most: int) -> int:
        end = super().read(data, start, inbox, most)
        if end == start and data[start : start + 1] == bytes([0x80 | TEXT]):
            altered = bytearray(data)
            altered[start] = 0x80 | BINARY
            end = super().read(altered, start, inbox, 1)
            if end > start:
                message = inbox.messages.pop()
                assert isinstance(message, bytes)
                inbox.messages.append(message.decode(errors="replace"))
        return end


class LosesAMessage(FastLane):
    def read(self, data: bytes | bytearray, start: int, inbox: Inbox, most: int) -> int:
        before = self.messages
        end = super().read(data, start, inbox, most)
        if self.messages - before > 1 and inbox.messages:
            inbox.take()
        return end


class SkipsAControlFrame(FastLane):
    def read(self, data: bytes | bytearray, start: int, inbox: Inbox, most: int) -> int:
        end = super().read(data, start, inbox, most)
        if data[end : end + 1] == bytes([0x80 | PONG]) and len(data) > end + 1:
            size = 2 + (data[end + 1] & 0x7F) + 4 * self._is_server
            end += size if len(data) >= end + size else 0
        return end


class KnowsNoLimit(FastLane):
    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        super().__init__(role, config, deflate)
        self._limit = -1


class KnowsNoCompressedLimit(FastLane):
    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        super().__init__(role, config, deflate)
        self._compressed_limit = -1 if deflate is not None else -2


class FillsTheInbox(FastLane):
    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        super().__init__(role, config, deflate)
        self._max_messages += 1


class HasAnotherContext(FastLane):
    def __init__(self, role: Role, config: Config, deflate: PerMessageDeflate | None) -> None:
        if deflate is not None:
            deflate = PerMessageDeflate(deflate._negotiated, deflate._config, deflate._limit)
        super().__init__(role, config, deflate)


class Forgets(FastLane):
    """Does not leave the compressing context where the engine goes on."""

    def encode(self, data: str | bytes, compress: bool | None) -> bytes:
        return super().encode(data, False)


WRONG = [
    TakesBadText,
    LosesAMessage,
    SkipsAControlFrame,
    KnowsNoLimit,
    KnowsNoCompressedLimit,
    FillsTheInbox,
    HasAnotherContext,
    Forgets,
]


@pytest.mark.parametrize("lane", WRONG)
def test_a_lane_that_does_something_else_is_found(lane: type[FastLane]) -> None:
    first_found(cases(), lambda case: differs(case, lane))


def test_a_right_lane_is_not_found() -> None:
    with pytest.raises(NoSuchExample):
        first_found(cases(), lambda case: differs(case, FastLane), 100)


def first_found(strategy: Any, condition: Callable[[Any], bool], most: int = 10_000) -> Any:
    once = settings(max_examples=most, phases=[Phase.generate], database=None)
    return find(strategy, condition, settings=once, random=Random(0))


# --- What goes out ---


class Sending(NamedTuple):
    role: Role
    deflate: Deflate | None
    frames: list[tuple[str | bytes, bool, bool | None]]

    def __repr__(self) -> str:
        frames = ", ".join(f"{brief(data)} {rest}" for data, *rest in self.frames)
        return f"<{self.role}, {self.deflate}: {frames}>"


@st.composite
def sendings(draw: st.DrawFn) -> Sending:
    compression = Deflate(
        threshold=draw(st.sampled_from([0, 64])), context_takeover=draw(st.booleans())
    )
    frames: list[tuple[str | bytes, bool, bool | None]] = []
    for _ in range(draw(st.integers(1, 6))):
        pieces: list[str] | list[bytes] = draw(
            st.one_of(
                st.lists(st.text(max_size=80) | st.sampled_from(TEXTS), min_size=1, max_size=3),
                st.lists(payloads, min_size=1, max_size=3),
            )
        )
        compress = draw(st.sampled_from([None, None, True, False]))
        frames += [(piece, False, compress) for piece in pieces[:-1]]
        frames.append((pieces[-1], True, compress))
    return Sending(draw(st.sampled_from(Role)), draw(st.none() | st.just(compression)), frames)


def sender(sending: Sending, lane: Lane) -> Protocol:
    deflate = None
    if sending.deflate is not None:
        agreed = Negotiated(15, sending.deflate.context_takeover, 15, True)
        deflate = PerMessageDeflate(agreed, sending.deflate, None)
    config = Config()
    p = Protocol(sending.role, config, deflate)
    p._lane = None if lane is None else lane(sending.role, config, deflate)
    return p


def sent_by(p: Protocol, sending: Sending) -> list[bytes]:
    return [
        bytes(p.encode(data, finished=finished, compress=compress))
        for data, finished, compress in sending.frames
    ]


def received_by_wsproto(sending: Sending, sent: list[bytes]) -> list[str | bytes]:
    """What wsproto makes of it, with its own compression."""
    kind = ConnectionType.SERVER if sending.role is Role.CLIENT else ConnectionType.CLIENT
    extensions: list[Extension] = []
    if sending.deflate is not None:
        extension = TheirDeflate()
        alone = f"; {sending.role.value}_no_context_takeover"
        extension.finalize(
            f"{TheirDeflate.name}{'' if sending.deflate.context_takeover else alone}"
        )
        extensions.append(extension)
    peer = Connection(kind, extensions)
    got: list[str | bytes] = []
    begun: str | bytes | None = None
    for data in sent:
        peer.receive_data(data)
        for event in peer.events():
            assert isinstance(event, TextMessage | BytesMessage)
            piece = event.data if isinstance(event, TextMessage) else bytes(event.data)
            begun = piece if begun is None else begun + piece  # type: ignore[operator]
            if event.message_finished:
                got.append(begun)
                begun = None
    assert begun is None
    return got


def whole_messages(sending: Sending) -> list[str | bytes]:
    messages: list[str | bytes] = []
    begun: str | bytes | None = None
    for data, finished, _ in sending.frames:
        begun = data if begun is None else begun + data  # type: ignore[operator]
        if finished:
            messages.append(begun)
            begun = None
    return messages


def sends_otherwise(sending: Sending, lane: type[FastLane]) -> bool:
    both = [sent_by(sender(sending, kind), sending) for kind in (lane, None)]
    return [unmasked(sent) for sent in both[0]] != [unmasked(sent) for sent in both[1]]


@given(sendings())
def test_the_lane_builds_what_the_engine_builds(sending: Sending) -> None:
    p = sender(sending, FastLane)
    sent = sent_by(p, sending)
    engines = sent_by(sender(sending, None), sending)
    assert [unmasked(data) for data in sent] == [unmasked(data) for data in engines]
    assert received_by_wsproto(sending, sent) == whole_messages(sending)


@pytest.mark.parametrize("lane", [HasAnotherContext, Forgets])
def test_a_lane_that_builds_something_else_is_found(lane: type[FastLane]) -> None:
    first_found(sendings(), lambda sending: sends_otherwise(sending, lane))

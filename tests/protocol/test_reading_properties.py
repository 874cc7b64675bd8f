"""Any conversation, any bytes, any chunks, any order of what two ends may do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ends import messages, pieces_of, protocol, replies
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    RSV1,
    TEXT,
    close_frame,
    deflated,
    frame,
)
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import Close, Role, is_wire_code
from anyws._errors import ClosedByPeer
from anyws._protocol.protocol import Half, Protocol


class Reader:
    """Feeds an end, takes everything that comes, whole or in pieces, and writes its replies."""

    def __init__(self, p: Protocol, *, streaming: bool) -> None:
        self.p = p
        self.streaming = streaming
        self.messages: list[str | bytes] = []
        self.replies: list[tuple[int, bytes]] = []
        self.begun: str | bytes | None = None
        if streaming:
            p.inbox.start_streaming()

    def feed(self, data: bytes) -> None:
        self.p.receive_data(data)
        while True:
            self.p.parse(one_message=self.streaming)
            took = self.take()
            self.replies += replies(self.p)
            if not took and not self.p.has_unparsed:
                break

    def take(self) -> bool:
        inbox = self.p.inbox
        took = inbox.available
        if not self.streaming:
            self.messages += messages(self.p)
            return took
        for piece in pieces_of(self.p):
            self.begun = piece if self.begun is None else self.begun + piece  # type: ignore[operator]
        if inbox.streamed_to_end:
            assert self.begun is not None
            self.messages.append(self.begun)
            self.begun = None
            inbox.stop_streaming()
            inbox.start_streaming()
        return took


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Role, bool, bytes, list[Any], list[Any], Close | None]:
    """What a peer may legally send; the messages, the replies and the Close that follow from it."""
    role = draw(st.sampled_from(Role))
    compression = draw(st.booleans())
    mask = draw(st.binary(min_size=4, max_size=4)) if role is Role.SERVER else False
    wire = b""
    expected: list[str | bytes] = []
    answers: list[tuple[int, bytes]] = []

    def control() -> bytes:
        data = b""
        for opcode in draw(st.lists(st.sampled_from([PING, PONG]), max_size=2)):
            payload = draw(st.binary(max_size=125))
            data += frame(opcode, payload, mask=mask)
            if opcode == PING:
                answers.append((PONG, payload))
        return data

    for message in draw(st.lists(st.text() | st.binary(max_size=200), max_size=5)):
        wire += control()
        payload = message.encode() if isinstance(message, str) else message
        rsv = 0
        if compression and draw(st.booleans()):
            payload, rsv = deflated(payload), RSV1
        parts = cut(payload, draw(st.lists(st.integers(0, 300), max_size=4)))
        for number, part in enumerate(parts):
            opcode = CONTINUATION if number else TEXT if isinstance(message, str) else BINARY
            fin = number == len(parts) - 1
            wire += frame(opcode, part, fin, 0 if number else rsv, mask)
            wire += control()
        expected.append(message)
    close = None
    if draw(st.booleans()):
        reason = draw(st.text(max_size=30))
        close = draw(st.sampled_from([Close(1005), Close(1000, reason), Close(4999, reason)]))
        code = None if close.code == 1005 else close.code
        wire += close_frame(code, close.reason.encode(), mask)
        answers.append((CLOSE, b"" if code is None else code.to_bytes(2, "big")))
        # Whatever follows is not looked at.
        wire += draw(st.binary(max_size=20))
    return role, compression, wire, expected, answers, close


@given(conversations(), st.lists(st.integers(0), max_size=30), st.booleans(), st.booleans())
def test_a_legal_conversation_is_the_same_in_any_chunks(
    conversation: tuple[Role, bool, bytes, list[Any], list[Any], Close | None],
    cuts: list[int],
    byte_by_byte: bool,
    streaming: bool,
) -> None:
    """R-53, R-57, R-58, R-61, R-64, R-68, R-79, R-86, R-101, V34, W20, W21."""
    role, compression, wire, expected, answers, close = conversation
    reader = Reader(protocol(role, compression=compression), streaming=streaming)
    for chunk in cut(wire, list(range(len(wire))) if byte_by_byte else cuts):
        reader.feed(chunk)
    assert reader.messages == expected
    assert reader.replies == answers
    p = reader.p
    assert p.ending.received == close
    assert p.sendable is (close is None)
    if close is not None:
        assert p.ending.clean
        assert p.ending.closure().first == "theirs"
        assert isinstance(p.exception(), ClosedByPeer) is (close.code != 4999)
    p.receive_eof()
    assert p.finished


LIMITS = {"max_message_size": 100, "max_fragments": 5, "inbox_size": 3}

hostile_frames = st.builds(
    frame,
    st.integers(0, 15) | st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING]),
    st.binary(max_size=30) | st.text(max_size=10).map(str.encode) | st.just(deflated(b"a" * 90)),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, RSV1, RSV1, 1, 2, 7]),
    mask=st.sampled_from([MASK, MASK, MASK, False]),
    length=st.none() | st.none() | st.none() | st.integers(0, 300),
)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(hostile_frames, max_size=12).map(b"".join),
        st.lists(hostile_frames | st.binary(max_size=5), max_size=12).map(b"".join),
    ),
    st.sampled_from(Role),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0), max_size=30),
)
def test_random_bytes_give_messages_or_a_failure_and_cost_little(
    data: bytes, role: Role, compression: bool, close_first: bool, cuts: list[int]
) -> None:
    """R-83, R-107, V31, V32."""
    ends = []
    for chunks in ([data], cut(data, cuts), cut(data, list(range(len(data))))):
        p = protocol(role, compression=compression, **LIMITS)
        if close_first:
            p.close(Close(1000), deliver=True)
        reader = Reader(p, streaming=False)
        for chunk in chunks:
            reader.feed(chunk)
            kept = len(p._buffer) + p.inbox.partial_bytes + p.inbox.waiting_bytes
            # A message that is not complete, a frame that is not, and its head.
            assert kept <= 100 + (100 + 5 + 1024) + 14
            if not p.reading:
                assert not p._buffer
        for opcode, payload in reader.replies[:-1]:
            assert opcode == PONG or (close_first and opcode == CLOSE)
            assert len(payload) <= 125
        assert (p.ending.sent is None) is p.sendable
        assert (
            p.ending.sent is None or p.ending.sent.code == 1005 or is_wire_code(p.ending.sent.code)
        )
        assert p.ending.closure().cause.isprintable()
        ends.append((reader.messages, reader.replies, p.ending.closure(), p.ours, p.theirs))
    assert ends[0] == ends[1] == ends[2]


# --- Two ends ---


ACTIONS = st.sampled_from(
    ["send", "send", "fragment", "ping", "close", "send_eof", "move", "move", "move", "take"]
)


class End:
    def __init__(self, role: Role, compression: bool) -> None:
        self.p = protocol(role, compression=compression, inbox_size=3)
        self.out = b""
        self.sent: list[str | bytes] = []
        self.got: list[str | bytes] = []
        self.begun: str | None = None
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.p.on_pong = self.pongs.append

    def act(self, action: str, number: int) -> None:
        p = self.p
        if action == "take":
            self.got += messages(p)
        elif not p.sendable:
            return
        elif action == "send" and self.begun is None:
            message = f"message {number}" * (number % 7)
            self.sent.append(message if number % 2 else message.encode())
            self.out += p.encode(self.sent[-1])
        elif action == "fragment":
            finished = number % 3 == 0
            self.begun = (self.begun or "") + f"é{number}"
            self.out += p.encode(f"é{number}", finished=finished)
            if finished:
                self.sent.append(self.begun)
                self.begun = None
        elif action == "ping":
            self.pings.append(b"%d" % len(self.pings))
            p.ping(self.pings[-1])
        elif action == "close":
            p.close(Close(4000 + number % 1000, "done"))
        elif action == "send_eof":
            p.close(Close(1000), deliver=True)

    def move_to(self, other: End, size: int) -> bool:
        self.out += self.p.take_replies()
        chunk, self.out = self.out[:size], self.out[size:]
        if chunk:
            other.p.receive_data(chunk)
        other.p.parse()
        return bool(chunk or other.p.has_unparsed or other.p.replies)


@given(
    st.lists(st.tuples(ACTIONS, st.booleans(), st.integers(0, 10_000)), max_size=60),
    st.booleans(),
)
def test_two_ends_agree_on_how_it_ended_and_on_what_was_said(
    actions: list[tuple[str, bool, int]], compression: bool
) -> None:
    """R-58, R-72, R-73, R-79, R-80, R-81, R-88, V34."""
    ends = [End(Role.CLIENT, compression), End(Role.SERVER, compression)]
    for action, which, number in actions:
        end, other = ends[which], ends[not which]
        if action == "move":
            end.move_to(other, number % 200 + 1)
        else:
            end.act(action, number)
    moving = True
    while moving:
        moving = ends[0].move_to(ends[1], 10_000) | ends[1].move_to(ends[0], 10_000)
        for end in ends:
            end.act("take", 0)
    a, b = (end.p for end in ends)
    for end, other in (ends, ends[::-1]):
        p = end.p
        # Nobody broke anything, whatever crossed on its way.
        assert Half.FAILED not in {p.ours, p.theirs}
        assert p.ending.received == other.p.ending.sent
        assert end.got == other.sent[: len(end.got)]
        if not p.inbox.discarding:
            assert end.got == other.sent
        assert end.pongs == end.pings[: len(end.pongs)]
        if p.sendable:
            assert end.pongs == end.pings
    assert a.finished is b.finished is a.ending.clean is b.ending.clean is not a.sendable
    if a.ending.clean:
        assert {a.ending.closure().first, b.ending.closure().first} <= {"ours", "theirs"}
        assert (a.ending.closure().first, b.ending.closure().first) != ("theirs", "theirs")

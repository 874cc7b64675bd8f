"""Large messages, put where they stay as they come: in Python, in C, and by the protocol."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ends import MIB, ROLES, messages, pieces_of, protocol, to, traced_peak, verdict
from frames import BINARY, CONTINUATION, MASK, RSV1, TEXT, head, xor
from hypothesis import given
from hypothesis import strategies as st
from twins import TWINS, functions
from wire import payloads

from anyws._close import Close
from anyws._protocol import payload as module
from anyws._protocol.fastlane import FastLane
from anyws._protocol.frames import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyws._close import Role
    from anyws._protocol.protocol import Protocol

LARGE = 64 * 1024
SNOW = "\N{SNOWMAN}"


@pytest.fixture(params=TWINS)
def new(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return functions(request.param).Payload


# --- A payload ---


@pytest.mark.parametrize("key", [None, MASK, bytearray(MASK), memoryview(MASK)])
@pytest.mark.parametrize("size", [0, 1, 7, 300])
@pytest.mark.parametrize("step", [1, 3, 8, 1000])
def test_a_payload_is_the_same_in_whatever_pieces(
    new: Callable[..., Any], key: bytes | None, size: int, step: int
) -> None:
    content = bytes(range(256)) * 2
    content = content[:size]
    wire = content if key is None else xor(content, MASK)
    payload = new(size, key)
    for at in range(0, size, step):
        piece = wire[at : at + step]
        assert payload.add(memoryview(piece) if at % 2 else bytearray(piece)) == len(piece)
        assert payload.received == min(at + step, size)
        assert payload.wire() == wire[: payload.received]
    assert payload.size == size
    assert payload.add(b"of the next frame") == 0
    message = payload.take(False)
    assert message == content
    assert type(message) is bytes


def test_what_is_behind_the_payload_is_left(new: Callable[..., Any]) -> None:
    payload = new(5, None)
    assert payload.add(b"") == 0
    assert payload.add(b"abc") == 3
    assert payload.add(b"defgh") == 2
    assert payload.take(False) == b"abcde"


def test_a_text_is_decoded(new: Callable[..., Any]) -> None:
    text = f"snow: {SNOW}".encode()
    payload = new(len(text), MASK)
    payload.add(xor(text, MASK))
    message = payload.take(True)
    assert message == f"snow: {SNOW}"
    assert type(message) is str


def test_what_is_not_utf_8_stays(new: Callable[..., Any]) -> None:
    payload = new(3, MASK)
    wire = xor(b"a\xffb", MASK)
    payload.add(wire)
    with pytest.raises(UnicodeDecodeError):
        payload.take(True)
    assert payload.wire() == wire
    assert payload.take(False) == b"a\xffb"


def test_a_payload_is_taken_once_and_whole(new: Callable[..., Any]) -> None:
    payload = new(2, None)
    payload.add(b"a")
    for as_text in (False, True):
        with pytest.raises(ValueError, match="not complete"):
            payload.take(as_text)
    payload.add(b"b")
    payload.take(True)
    for call in (payload.wire, lambda: payload.take(False), lambda: payload.add(b"c")):
        with pytest.raises(ValueError, match="was taken"):
            call()


def test_what_is_no_payload_is_refused(new: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="negative"):
        new(-1, None)
    with pytest.raises(ValueError, match="four bytes"):
        new(5, b"key")
    with pytest.raises(TypeError):
        new("5", None)
    with pytest.raises(TypeError):
        new(5)
    with pytest.raises(TypeError):
        new(size=5, key=None)
    with pytest.raises(TypeError):
        new(5, None).add("text")


@given(payload=payloads, key=st.none() | st.binary(min_size=4, max_size=4), data=st.data())
def test_python_and_c_do_the_same(payload: bytes, key: bytes | None, data: st.DataObject) -> None:
    twins = [functions(twin).Payload(len(payload), key) for twin in TWINS]
    rest = payload + b"behind it"
    while rest:
        piece = rest[: data.draw(st.integers(1, len(rest)))]
        taken = {twin.add(piece) for twin in twins}
        assert len(taken) == 1
        assert len({twin.wire() for twin in twins}) == 1
        rest = rest[len(piece) :]
    as_text = data.draw(st.booleans())
    ends = []
    for twin in twins:
        try:
            ends.append(twin.take(as_text))
        except UnicodeDecodeError:
            ends.append(twin.wire())
    assert ends[0] == ends[1]
    assert type(ends[0]) is type(ends[1])


def test_c_keeps_no_memory_and_bears_it_where_there_is_none() -> None:
    new = functions("c").Payload
    data = bytearray(MASK * 750)  # of zeros

    def go_through() -> None:
        payload = new(len(data), bytearray(MASK))
        payload.add(memoryview(data)[:2999])
        payload.wire()
        with pytest.raises(ValueError, match="not complete"):
            payload.take(False)
        payload.add(data[2999:])
        payload.take(True)

    def run(times: int) -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(times):
            go_through()
        gc.collect()
        return sys.getallocatedblocks() - before

    run(20)
    # A block that is forgotten is forgotten 500 times.
    assert run(500) < 250
    testcapi = pytest.importorskip("_testcapi", reason="this Python was built without _testcapi")
    reached = 0
    for allocations in range(12):
        testcapi.set_nomemory(allocations)
        try:
            payload = new(len(data), MASK)
            payload.add(data)
            payload.wire()
            payload.take(True)
        except MemoryError:
            reached += 1
        finally:
            testcapi.remove_mem_hooks()
    assert reached > 2
    data.append(0)  # which a buffer that was not released would forbid


# --- In the protocol ---


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


def with_lane(role: Role, **options: Any) -> Protocol:
    """A protocol that has the lane whatever the environment says."""
    p = protocol(role, **options)
    p._lane = FastLane(role, p._config, p._deflate)
    return p


def feed(p: Protocol, data: bytes, size: int = LARGE) -> None:
    """As a transport does, in pieces: one buffer for all that comes."""
    buffer = bytearray(size)
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        buffer[: len(piece)] = piece
        with memoryview(buffer) as view:
            p.feed(view[: len(piece)])
        buffer[:] = b"?" * size


@pytest.mark.parametrize("opcode", [BINARY, TEXT])
@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 5000])
def test_a_large_message_goes_past_the_engine(role: Role, opcode: int, size: int) -> None:
    p = with_lane(role)
    content = f"{SNOW} and more of it ".encode() * 20_000
    data = to(p, opcode, content) + to(p, TEXT, b"the next")
    for number in (1, 2):
        feed(p, data, size)
        p.parse()
        first = content.decode() if opcode == TEXT else content
        assert messages(p) == [first, "the next"]
        assert p.unparsed_bytes == 0
        assert not p.has_unparsed
        assert (p.engine_frames, p.lane_frames) == (0, 2 * number)


def test_what_has_arrived_of_it_is_counted_as_kept(role: Role) -> None:
    p = with_lane(role)
    data = to(p, BINARY, bytes(500_000))
    feed(p, data[:200_000])
    assert p.unparsed_bytes == 200_000
    assert not p.has_unparsed
    assert messages(p) == []
    feed(p, data[200_000:])
    assert messages(p) == [bytes(500_000)]


def test_without_a_limit_it_waits_for_room_as_any_other(role: Role) -> None:
    p = with_lane(role, max_message_size=None)
    data = to(p, BINARY, bytes(2 * MIB))
    feed(p, data[: MIB - 1])
    assert not p.wants_room
    feed(p, data[MIB - 1 : MIB])
    assert p.wants_room
    feed(p, data[MIB:])
    assert messages(p) == [bytes(2 * MIB)]


def test_a_reader_of_pieces_gets_what_has_arrived_of_it(role: Role) -> None:
    p = with_lane(role)
    data = to(p, BINARY, bytes(range(250)) * 2000)
    feed(p, data[:300_000])
    p.inbox.start_streaming()
    p.parse()
    got = b"".join(pieces_of(p))  # type: ignore[arg-type]
    assert 0 < len(got) <= 300_000
    while not p.inbox.streamed_to_end:
        if p.has_unparsed:
            p.parse()
        else:
            feed(p, data[300_000:])
        got += b"".join(pieces_of(p))  # type: ignore[arg-type]
    assert got == bytes(range(250)) * 2000
    p.inbox.stop_streaming()
    feed(p, to(p, TEXT, b"the next"))
    assert messages(p) == ["the next"]


@pytest.mark.parametrize("cut", [LARGE, 499_999])
def test_bad_text_is_the_engines_to_refuse(role: Role, cut: int) -> None:
    p = with_lane(role)
    data = to(p, TEXT, b"a" * 400_000 + b"\xff" + b"a" * 99_999)
    feed(p, data[:cut])
    assert p.sendable
    feed(p, data[cut:] + to(p, TEXT, b"never read"))
    while p.has_unparsed:
        p.parse()
    assert verdict(p) == 1007
    assert messages(p) == []


def test_an_end_in_the_middle_of_it_is_an_end(role: Role) -> None:
    p = with_lane(role)
    feed(p, to(p, BINARY, bytes(500_000))[:300_000])
    p.receive_eof()
    assert p.finished
    assert p.unparsed_bytes == 0
    assert messages(p) == []


def test_after_a_close_of_ours_it_is_dropped(role: Role) -> None:
    p = with_lane(role)
    data = to(p, BINARY, bytes(500_000))
    feed(p, data[:300_000])
    p.close(Close(1000))
    feed(p, data[300_000:])
    while p.has_unparsed:
        p.parse()
    assert messages(p) == []
    assert p.unparsed_bytes == 0
    assert p.reading


def test_fragments_and_compressed_messages_are_the_engines(role: Role) -> None:
    p = with_lane(role, compression=True)
    part = bytes(100_000)
    feed(p, to(p, BINARY, part, fin=False) + to(p, CONTINUATION, part))
    while p.has_unparsed:
        p.parse()
    assert messages(p) == [part + part]
    assert (p.engine_frames, p.lane_frames) == (2, 0)
    wrong = head(BINARY, 200_000, rsv=RSV1, mask=role.value == "server")
    feed(p, wrong + b"\xff" * 200_000)
    while p.has_unparsed:
        p.parse()
    assert verdict(p) is not None


def test_a_message_that_is_too_large_is_refused_by_its_head(role: Role) -> None:
    p = with_lane(role, max_message_size=200_000)
    feed(p, to(p, BINARY, bytes(200_001))[: LARGE // 2])
    assert verdict(p) == 1009


def test_no_memory_is_taken_for_what_a_peer_only_announces(role: Role) -> None:
    p = with_lane(role, max_message_size=None)
    start = head(BINARY, 1 << 30, mask=role.value == "server") + bytes(1000)
    assert traced_peak(p, [start]) < 100_000


def test_which_frames_are_worth_it() -> None:
    def is_worth_it(here: int = LARGE, **fields: Any) -> bool:
        given = {"opcode": BINARY, "length": LARGE, "fin": True, "rsv1": False} | fields
        return module.ArrivingMessage.is_worth_it(Head(10, plain=True, **given), here)

    assert is_worth_it()
    assert is_worth_it(opcode=TEXT)
    assert is_worth_it(length=32 * LARGE)
    assert is_worth_it(here=LARGE // 32)
    assert not is_worth_it(length=32 * LARGE + 1)
    assert not is_worth_it(length=LARGE - 1)
    assert not is_worth_it(opcode=CONTINUATION)
    assert not is_worth_it(fin=False)
    assert not is_worth_it(rsv1=True)

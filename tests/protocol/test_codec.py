"""Frames of whole messages, read and built, in Python and in C; wsproto reads the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    frame,
    head,
)
from hypothesis import given
from hypothesis import strategies as st
from twins import TWINS, functions
from wire import wires
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, TextMessage

if TYPE_CHECKING:
    from twins import Functions

NO_LIMIT = -1
NOT_COMPRESSED = -2
PLENTY = 1 << 62
# Around every change of the length's form, and of the way C reads text.
LENGTHS = [0, 1, 7, 8, 9, 125, 126, 127, 511, 512, 513, 4096, 4097, 65535, 65536, 70001]


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Functions:
    return functions(request.param)


def read(twin: Functions, data: bytes | bytearray, start: int = 0, **rules: Any) -> Any:
    given = {
        "masked": True,
        "limit": NO_LIMIT,
        "compressed_limit": NOT_COMPRESSED,
        "max_messages": PLENTY,
        "max_bytes": PLENTY,
    } | rules
    return twin.read_frames(data, start, *given.values())


def nothing(start: int = 0) -> tuple[list[object], int, int]:
    return [], start, 0


# --- Reading ---


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_whole_message_is_read(twin: Functions, length: int, masked: bool) -> None:
    payload = (b"abcdefg\x00" * (length // 8 + 1))[:length]
    binary = frame(BINARY, payload, mask=masked)
    text = frame(TEXT, payload, mask=masked)
    for form in (bytes, bytearray):
        assert read(twin, form(binary), masked=masked) == ([payload], len(binary), length)
        assert read(twin, form(text), masked=masked) == ([payload.decode()], len(text), length)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("place", ["begin", "end"])
def test_text_beyond_ascii_is_decoded(
    twin: Functions, length: int, masked: bool, place: str
) -> None:
    text = "\N{SNOWMAN}" + "a" * length if place == "begin" else "a" * length + "\U0001f600"
    data = frame(TEXT, text.encode(), mask=masked)
    assert read(twin, data, masked=masked) == ([text], len(data), len(text.encode()))


@pytest.mark.parametrize("length", [0, 100, 600, 5000])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
)
def test_text_that_is_not_utf_8_is_left(
    twin: Functions, length: int, bad: bytes, masked: bool
) -> None:
    """RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF, nothing cut off."""
    good = frame(TEXT, b"good", mask=masked)
    for payload in (bad + b"a" * length, b"a" * length + bad):
        data = good + frame(TEXT, payload, mask=masked) + good
        assert read(twin, data, masked=masked) == (["good"], len(good), 4)
    assert read(twin, frame(BINARY, bad, mask=masked), masked=masked)[0] == [bad]


def test_frames_are_read_one_after_another_from_the_start(twin: Functions) -> None:
    frames = [frame(TEXT, b"one", mask=True), frame(BINARY, b"", mask=True)]
    frames += [frame(BINARY, b"three", mask=True)]
    data = b"".join(frames)
    assert read(twin, data) == (["one", b"", b"three"], len(data), 8)
    assert read(twin, b"???" + data, 3) == (["one", b"", b"three"], len(data) + 3, 8)
    assert read(twin, data, len(frames[0])) == ([b"", b"three"], len(data), 5)


def test_each_frame_has_its_own_key(twin: Functions) -> None:
    keys = [b"\x01\x02\x03\x04", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00"]
    data = b"".join(frame(BINARY, b"payload", mask=key) for key in keys)
    assert read(twin, data)[0] == [b"payload"] * 3


def test_the_types_are_str_and_bytes_for_every_kind_of_data(twin: Functions) -> None:
    for masked in (False, True):
        wire = frame(TEXT, b"t", mask=masked) + frame(BINARY, b"b", mask=masked)
        wire += frame(BINARY, b"c", rsv=RSV1, mask=masked)
        for form in (bytes, bytearray):
            messages, _, _ = read(twin, form(wire), masked=masked, compressed_limit=NO_LIMIT)
            assert [type(message) for message in messages] == [str, bytes, tuple]
            assert type(messages[2][1]) is bytes


@pytest.mark.parametrize("masked", [False, True])
def test_a_frame_that_is_cut_off_anywhere_is_left(twin: Functions, masked: bool) -> None:
    good = frame(BINARY, b"good", mask=masked)
    for length in (0, 5, 126, 300, 65536):
        data = frame(BINARY, bytes(length), mask=masked)
        for cut in {*range(min(len(data), 30)), len(data) - 2, len(data) - 1} - {-1, -2}:
            assert read(twin, good + data[:cut], masked=masked) == ([b"good"], len(good), 4), cut


# The lengths with binary data: bad text would be left for another reason.
OTHERS = {
    "a continuation": frame(CONTINUATION, b"x", mask=True),
    "a first fragment": frame(TEXT, b"x", fin=False, mask=True),
    "a ping": frame(PING, b"x", mask=True),
    "a pong": frame(PONG, mask=True),
    "a close": frame(CLOSE, mask=True),
    "RSV1 without compression": frame(TEXT, b"x", rsv=RSV1, mask=True),
    "RSV2": frame(TEXT, b"x", rsv=RSV2, mask=True),
    "RSV3": frame(BINARY, b"x", rsv=RSV3, mask=True),
    "no mask": frame(BINARY, b"x" * 20),
    "a length of 125 in two bytes": head(BINARY, 125, mask=True, form=126) + bytes(125),
    "a length of 0 in eight bytes": head(BINARY, 0, mask=True, form=127),
    "a length of 65535 in eight bytes": head(BINARY, 65535, mask=True, form=127) + bytes(65535),
    "a length of 2**63": head(BINARY, 1 << 63, mask=True) + bytes(100),
    "a length of 2**64 - 1": head(BINARY, (1 << 64) - 1, mask=True) + bytes(100),
    "a length of 2**63 - 1": head(BINARY, (1 << 63) - 1, mask=True) + bytes(100),
    **{f"opcode {n}": frame(n, b"x", mask=True) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_reading_stops_at(twin: Functions, other: bytes) -> None:
    good = frame(BINARY, b"good", mask=True)
    assert read(twin, good + other + good) == ([b"good"], len(good), 4)
    assert read(twin, other + good) == nothing()


def test_a_frame_that_is_masked_stops_a_reader_of_frames_that_are_not(twin: Functions) -> None:
    for length in (0, 125, 126, 65536):
        data = frame(BINARY, bytes(length), mask=True)
        assert read(twin, data, masked=False) == nothing()


@pytest.mark.parametrize("rsv", [RSV1, RSV1 | RSV2, RSV1 | RSV3])
@pytest.mark.parametrize("opcode", range(16))
def test_compressed_payloads_come_as_they_are_and_with_their_opcode(
    twin: Functions, rsv: int, opcode: int
) -> None:
    data = frame(opcode, b"\xff\xfe", rsv=rsv, mask=True)
    found = read(twin, data, compressed_limit=NO_LIMIT)
    if opcode in (TEXT, BINARY) and rsv == RSV1:
        assert found == ([(opcode, b"\xff\xfe")], len(data), 2)
    else:
        assert found == nothing()


def test_each_kind_of_frame_has_its_limit(twin: Functions) -> None:
    plain = frame(BINARY, bytes(10), mask=True)
    compressed = frame(BINARY, bytes(10), rsv=RSV1, mask=True)
    assert read(twin, plain, limit=10)[0] == [bytes(10)]
    assert read(twin, plain, limit=9, compressed_limit=100) == nothing()
    assert read(twin, compressed, limit=0, compressed_limit=10)[0] == [(BINARY, bytes(10))]
    assert read(twin, compressed, limit=100, compressed_limit=9) == nothing()
    assert read(twin, frame(TEXT, mask=True), limit=0)[0] == [""]
    assert read(twin, frame(TEXT, b"x", mask=True), limit=0) == nothing()


def test_reading_stops_after_so_many_messages(twin: Functions) -> None:
    one = frame(BINARY, b"x", mask=True)
    for count in range(6):
        expected = [b"x"] * min(count, 4), len(one) * min(count, 4), min(count, 4)
        assert read(twin, one * 4, max_messages=count) == expected
    assert read(twin, one, max_messages=-1) == nothing()


def test_reading_stops_once_so_many_bytes_are_taken(twin: Functions) -> None:
    data = frame(BINARY, bytes(10), mask=True) * 4
    taken = {0: 0, 1: 1, 10: 1, 11: 2, 20: 2, 21: 3, 1000: 4}
    for bound, count in taken.items():
        found = read(twin, data, max_bytes=bound)
        assert found == ([bytes(10)] * count, 16 * count, 10 * count)


def test_numbers_may_be_of_any_size(twin: Functions) -> None:
    data = frame(BINARY, b"x", mask=True)
    huge = {"limit": 1 << 80, "compressed_limit": 1 << 80, "max_messages": 1 << 80}
    assert read(twin, data, **huge, max_bytes=1 << 80)[0] == [b"x"]
    assert read(twin, data, max_bytes=-(1 << 80)) == nothing()


def test_a_start_at_or_behind_the_end_finds_nothing(twin: Functions) -> None:
    data = frame(BINARY, b"x", mask=True)
    for start in (len(data) - 1, len(data), len(data) + 1, len(data) + 1000, (1 << 63) - 1):
        assert read(twin, data, start) == nothing(start)
    for empty in (b"", bytearray()):
        assert read(twin, empty) == nothing()


def test_a_start_before_the_beginning_is_refused(twin: Functions) -> None:
    for start in (-1, -2, -100):
        with pytest.raises(ValueError, match="negative"):
            read(twin, frame(BINARY, b"x", mask=True), start)


def test_what_was_read_from_can_be_resized_again(twin: Functions) -> None:
    for payload in (b"good", b"\xff"):
        data = bytearray(frame(TEXT, payload, mask=True))
        read(twin, data)
        del data[:2]
        data += b"more"


@pytest.mark.parametrize("arguments", [(), (b"",), (b"", "0", True, 1, 1, 1, 1), (1, 0, True)])
def test_read_frames_refuses_other_arguments(
    twin: Functions, arguments: tuple[object, ...]
) -> None:
    with pytest.raises(TypeError):
        twin.read_frames(*arguments)


# --- What wsproto makes of the same ---


def engine_events(data: bytes, masked: bool) -> list[Event]:
    engine = Connection(ConnectionType.SERVER if masked else ConnectionType.CLIENT)
    engine.receive_data(data)
    return list(engine.events())


@pytest.mark.parametrize("name", TWINS)
@given(data=wires(), masked=st.booleans())
def test_what_is_taken_is_what_wsproto_reads_and_what_is_left_it_does_not_take(
    name: str, data: bytes, masked: bool
) -> None:
    messages, end, taken = read(functions(name), data, masked=masked)
    events = engine_events(data[:end], masked)
    assert [event.data for event in events] == messages
    assert all(event.frame_finished and event.message_finished for event in events)
    assert taken == sum(len(m.encode() if isinstance(m, str) else m) for m in messages)
    following = engine_events(data[end:], masked)[:1]
    assert not [
        event
        for event in following
        if isinstance(event, (TextMessage, BytesMessage))
        and event.frame_finished
        and event.message_finished
    ]


# --- Building ---


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("key", [None, MASK])
def test_a_frame_is_built_with_the_shortest_length(
    twin: Functions, length: int, key: bytes | None
) -> None:
    """RFC 6455, section 5.2."""
    payload = (b"0123456789" * (length // 10 + 1))[:length]
    for first, opcode, rsv in ((0x81, TEXT, 0), (0xC2, BINARY, RSV1)):
        built = twin.build_frame(first, payload, key)
        assert type(built) is bytes
        assert built == frame(opcode, payload, rsv=rsv, mask=key or False)


def test_every_first_byte_is_taken_as_it_is(twin: Functions) -> None:
    for first in range(256):
        assert twin.build_frame(first, b"x", None) == bytes([first, 1]) + b"x"
    for first in (-1, 256, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            twin.build_frame(first, b"x", None)


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_a_frame_is_built_with_no_other_key_than_of_four_bytes(twin: Functions, key: bytes) -> None:
    with pytest.raises(ValueError, match="four bytes"):
        twin.build_frame(0x82, b"payload", key)


@pytest.mark.parametrize(
    "arguments", [(), (0x82, b""), (0x82, "text", None), (0x82, b"", 1), ("2", b"", None)]
)
def test_build_frame_refuses_other_arguments(twin: Functions, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        twin.build_frame(*arguments)

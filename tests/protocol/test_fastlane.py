"""The lane by itself: what it takes, where it stops, and what it builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ends import KIB, MIB, ROLES, deflate, feed, messages, protocol, replies, to, verdict
from frames import (
    BINARY,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    RSV1,
    RSV2,
    TEXT,
    deflated,
    frame,
    read_frames,
)

from anyws._close import Role
from anyws._config import MAX_FRAMES_PER_TURN, Config, Deflate
from anyws._protocol.deflate import PerMessageDeflate
from anyws._protocol.fastlane import FastLane, WrongMessageError, compressed_limit
from anyws._protocol.inbox import Inbox
from anyws._protocol.negotiation import Negotiated

if TYPE_CHECKING:
    from anyws._protocol.protocol import Protocol

ANY = 100  # messages


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


def lane_and_inbox(
    role: Role, *, compression: bool = False, **limits: Any
) -> tuple[FastLane, Inbox]:
    config = Config(**limits)
    lane = FastLane(role, config, deflate(config.max_message_size) if compression else None)
    return lane, Inbox(config.inbox_size, config.inbox_bytes)


def came(role: Role, opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
    return frame(opcode, payload, mask=role is Role.SERVER, **fields)


def taken(inbox: Inbox) -> list[str | bytes]:
    return [inbox.take() for _ in range(len(inbox.messages))]


def with_and_without(role: Role, **options: Any) -> tuple[Protocol, Protocol]:
    """Two protocols: one with the lane, one with it off."""
    both = protocol(role, **options), protocol(role, **options)
    both[0]._lane = FastLane(role, both[0]._config, both[0]._deflate)
    both[1]._lane = None
    return both


# --- What it takes ---


def test_whole_messages_go_to_the_inbox_and_what_follows_is_left(role: Role) -> None:
    lane, inbox = lane_and_inbox(role)
    before = came(role, PING, b"not looked at")
    whole = came(role, TEXT, "é".encode()) + came(role, BINARY, b"b" * 126) + came(role, TEXT)
    rest = came(role, PONG) + came(role, TEXT, b"behind")
    for kind in (bytes, bytearray):
        end = lane.read(kind(before + whole + rest), len(before), inbox, ANY)
        assert end == len(before + whole)
        assert inbox.waiting_bytes == 2 + 126
        assert taken(inbox) == ["é", b"b" * 126, ""]
        assert inbox.waiting_bytes == 0
    assert lane.messages == 6


@pytest.mark.parametrize(
    "fields",
    [
        {"opcode": PING},
        {"opcode": CONTINUATION},
        {"opcode": TEXT, "fin": False},
        {"opcode": 3},
        {"opcode": TEXT, "rsv": RSV2},
        {"opcode": TEXT, "rsv": RSV1},
        {"opcode": TEXT, "form": 126},
        {"opcode": TEXT, "form": 127},
        {"opcode": TEXT, "payload": b"\xc3"},
        {"opcode": BINARY, "payload": b"x" * 21},
        {"opcode": BINARY, "length": 2},
    ],
    ids=str,
)
def test_it_stops_in_front_of_what_is_not_a_whole_message_in_order(
    role: Role, fields: dict[str, Any]
) -> None:
    lane, inbox = lane_and_inbox(role, max_message_size=20)
    data = came(role, **({"payload": b"x"} | fields))
    good = came(role, TEXT, b"good")
    for ahead in (b"", good):
        assert lane.read(ahead + data, 0, inbox, ANY) == len(ahead)
        lane.inflate(inbox)
    assert taken(inbox) == ["good"]
    assert lane.messages == 1


def test_it_leaves_wrong_masking_to_the_engine(role: Role) -> None:
    lane, inbox = lane_and_inbox(role)
    assert lane.read(frame(TEXT, b"x", mask=role is Role.CLIENT), 0, inbox, ANY) == 0
    assert lane.read(b"", 0, inbox, ANY) == 0
    assert not inbox.available


# --- Room ---


def test_it_takes_as_many_messages_as_the_inbox_has_room_for(role: Role) -> None:
    one = came(role, TEXT, b"x")
    lane, inbox = lane_and_inbox(role, inbox_size=3)
    assert lane.read(one * 5, 0, inbox, ANY) == 3 * len(one)
    assert lane.read(one * 5, 0, inbox, ANY) == 0
    inbox.take()
    assert lane.read(one * 5, len(one), inbox, ANY) == 2 * len(one)
    assert len(inbox.messages) == 3


def test_it_takes_as_many_messages_as_it_is_told(role: Role) -> None:
    one = came(role, TEXT, b"x")
    lane, inbox = lane_and_inbox(role)
    assert lane.read(one * 5, 0, inbox, 2) == 2 * len(one)
    assert len(inbox.messages) == 2


def test_without_a_bound_on_messages_a_turn_is_the_bound(role: Role) -> None:
    one = came(role, TEXT, b"x")
    lane, inbox = lane_and_inbox(role, inbox_size=None)
    data = one * (MAX_FRAMES_PER_TURN + 5)
    assert lane.read(data, 0, inbox, len(data)) == MAX_FRAMES_PER_TURN * len(one)
    assert lane.read(data, 0, inbox, len(data)) == 0


def test_it_stops_where_the_inbox_is_full_in_bytes(role: Role) -> None:
    one = came(role, BINARY, b"x" * 10)
    lane, inbox = lane_and_inbox(role, max_message_size=25)
    # The one that fills it still goes in, as with the engine.
    assert lane.read(one * 5, 0, inbox, ANY) == 3 * len(one)
    assert inbox.full
    assert lane.read(one * 5, 0, inbox, ANY) == 0
    inbox.take()
    assert lane.read(one * 5, 0, inbox, ANY) == len(one)
    assert inbox.waiting_bytes == 30


def test_one_read_takes_little_more_than_a_chunk(role: Role) -> None:
    one = came(role, BINARY, b"x" * 20 * KIB)
    lane, inbox = lane_and_inbox(role)
    assert lane.read(one * 5, 0, inbox, ANY) == 4 * len(one)


def test_a_frame_is_limited_by_the_smaller_of_both_limits(role: Role) -> None:
    for limits, largest in (
        ({"max_message_size": 10, "max_frame_size": None}, 10),
        ({"max_message_size": 10, "max_frame_size": 5}, 5),
        ({"max_message_size": None, "max_frame_size": 5}, 5),
        ({"max_message_size": 5, "max_frame_size": 10}, 5),
    ):
        for size in (largest, largest + 1):
            lane, inbox = lane_and_inbox(role, **limits)
            assert bool(lane.read(came(role, BINARY, b"x" * size), 0, inbox, ANY)) is (
                size == largest
            )
    lane, inbox = lane_and_inbox(role, max_message_size=None)
    data = came(role, BINARY, bytes(2 * MIB))
    assert lane.read(data, 0, inbox, ANY) == len(data)


# --- Compressed messages ---


def test_a_compressed_message_is_alone_and_comes_by_inflate(role: Role) -> None:
    lane, inbox = lane_and_inbox(role, compression=True)
    for opcode, message in ((TEXT, "é" * 50), (BINARY, b"x" * 50), (TEXT, ""), (BINARY, b"")):
        payload = deflated(message.encode() if isinstance(message, str) else message)
        one = came(role, opcode, payload, rsv=RSV1)
        for follows in (b"", one, came(role, TEXT, b"plain")):
            assert lane.read(one + follows, 0, inbox, ANY) == len(one)
            assert not inbox.available
            lane.inflate(inbox)
            assert inbox.waiting_bytes == 100 * (message == "é" * 50) + 50 * (message == b"x" * 50)
            assert taken(inbox) == [message]
    assert lane.messages == 12


def test_a_plain_message_in_front_keeps_a_compressed_one_waiting(role: Role) -> None:
    lane, inbox = lane_and_inbox(role, compression=True)
    plain = came(role, TEXT, b"plain")
    data = plain * 2 + came(role, TEXT, deflated(b"compressed"), rsv=RSV1)
    assert lane.read(data, 0, inbox, ANY) == 2 * len(plain)
    lane.inflate(inbox)
    assert taken(inbox) == ["plain", "plain"]
    assert lane.read(data, 2 * len(plain), inbox, ANY) == len(data)
    lane.inflate(inbox)
    assert taken(inbox) == ["compressed"]


def test_inflating_happens_once(role: Role) -> None:
    lane, inbox = lane_and_inbox(role, compression=True)
    lane.inflate(inbox)
    lane.read(came(role, TEXT, deflated(b"once"), rsv=RSV1), 0, inbox, ANY)
    lane.inflate(inbox)
    lane.inflate(inbox)
    assert taken(inbox) == ["once"]


def test_a_compressed_message_finds_room_or_stays(role: Role) -> None:
    one = came(role, TEXT, deflated(b"x" * 20), rsv=RSV1)
    for limits in ({"inbox_size": 1}, {"max_message_size": 20}):
        lane, inbox = lane_and_inbox(role, compression=True, **limits)
        assert lane.read(one, 0, inbox, ANY) == len(one)
        lane.inflate(inbox)
        assert inbox.full
        assert lane.read(one, 0, inbox, ANY) == 0
        lane.inflate(inbox)
        assert taken(inbox) == ["x" * 20]


@pytest.mark.parametrize(
    ("payload", "code", "words"),
    [
        (b"\xff\xff\xff", 1007, "bad compressed data: "),
        (deflated(b"some text")[:-3], 1007, "the compressed data is cut short"),
        (deflated(b"x" * 1001), 1009, "the message inflates to more than 1000 bytes"),
        (b"\x03\x00" * 70, 1009, "the message restarts its deflate stream over 64 times"),
        (deflated(b"x\xff"), 1007, "'utf-8' codec can't decode byte 0xff in position 1"),
        (deflated(b"x\xe2\x82"), 1007, "'utf-8' codec can't decode bytes in position 1-2"),
    ],
)
def test_what_is_wrong_inside_is_told_with_its_code(
    role: Role, payload: bytes, code: int, words: str
) -> None:
    lane, inbox = lane_and_inbox(role, compression=True, max_message_size=1000)
    data = came(role, TEXT, payload, rsv=RSV1)
    assert lane.read(data, 0, inbox, ANY) == len(data)
    with pytest.raises(WrongMessageError) as caught:
        lane.inflate(inbox)
    assert caught.value.code == code
    assert str(caught.value).startswith(words)
    assert caught.value.__cause__ is None
    assert not inbox.available
    assert inbox.waiting_bytes == 0


def test_binary_that_is_no_text_is_taken(role: Role) -> None:
    lane, inbox = lane_and_inbox(role, compression=True)
    lane.read(came(role, BINARY, deflated(b"\xff"), rsv=RSV1), 0, inbox, ANY)
    lane.inflate(inbox)
    assert taken(inbox) == [b"\xff"]


def test_a_compressed_frame_may_be_a_little_larger_than_the_limit(role: Role) -> None:
    """The limit of the inflated size is `PerMessageDeflate`'s."""
    assert compressed_limit(0) == 1024
    assert compressed_limit(MIB) == MIB + MIB // 20 + KIB
    empty_block = b"\x00\x00\x00\xff\xff"
    for limits, limit in (
        ({"max_message_size": 1000}, 1000),
        ({"max_message_size": 1000, "max_frame_size": 100}, 100),
        ({"max_message_size": None, "max_frame_size": 100}, 100),
    ):
        largest = limit + limit // 20 + 1024
        for size in (largest, largest + 1):
            payload = deflated(b"x" * ((size - 1) % 5 + 5), level=0)
            payload = empty_block * ((size - len(payload)) // 5) + payload
            assert len(payload) == size
            lane, inbox = lane_and_inbox(role, compression=True, **limits)
            assert bool(lane.read(came(role, BINARY, payload, rsv=RSV1), 0, inbox, ANY)) is (
                size == largest
            )


def test_without_limits_a_compressed_message_may_have_any_size(role: Role) -> None:
    lane, inbox = lane_and_inbox(role, compression=True, max_message_size=None)
    lane.read(came(role, BINARY, deflated(bytes(3 * MIB)), rsv=RSV1), 0, inbox, ANY)
    lane.inflate(inbox)
    assert taken(inbox) == [bytes(3 * MIB)]


# --- Beside the engine ---


def test_a_whole_message_goes_through_the_lane_and_the_rest_through_the_engine(
    role: Role,
) -> None:
    p, without = with_and_without(role, compression=True)
    data = (
        to(p, TEXT, b"a")
        + to(p, PING, b"p")
        + to(p, TEXT, deflated(b"b"), rsv=RSV1)
        + to(p, TEXT, b"c", fin=False)
        + to(p, CONTINUATION, b"d")
        + to(p, BINARY, b"e")
    )
    for end in (p, without):
        feed(end, data)
        assert messages(end) == ["a", "b", "cd", b"e"]
        assert replies(end) == [(PONG, b"p")]
    assert (p.lane_frames, p.engine_frames) == (3, 3)
    assert (without.lane_frames, without.engine_frames) == (0, 6)


def test_both_ways_in_share_one_context(role: Role) -> None:
    p, without = with_and_without(role, compression=True)
    peer = deflate()
    for final in (True, False, True, True):
        payload = peer.deflate(b"a message like the others", first=True, final=True)
        data = to(p, TEXT, payload[:3], rsv=RSV1, fin=False) + to(p, CONTINUATION, payload[3:])
        for end in (p, without):
            feed(end, to(p, TEXT, payload, rsv=RSV1) if final else data)
            assert messages(end) == ["a message like the others"]
    assert p.lane_frames == 3


LARGE = b"a" * 66_000


@pytest.mark.parametrize(
    ("payload", "limit"),
    [
        (deflated(b"\xff" + LARGE, level=0), 65_900),
        (deflated(b"\xff" + LARGE, level=0)[:-30], MIB),
        (deflated(b"\xff" + LARGE, level=0) + b"\x00\x00\xff\xff" + b"\xff", MIB),
        (deflated(LARGE + b"\xff", level=0), MIB),
        (deflated(LARGE + b"\xe2\x82", level=0), MIB),
    ],
    ids=[
        "bad text, then too large",
        "bad text, then cut short",
        "bad text, then bad data",
        "bad text late",
        "text cut short",
    ],
)
def test_of_a_large_compressed_frame_the_first_thing_wrong_is_told(
    role: Role, payload: bytes, limit: int
) -> None:
    """To the engine it goes in pieces of 64 KiB, each inflated and decoded before the next."""
    ends = with_and_without(role, compression=True, max_message_size=limit)
    for end in ends:
        feed(end, to(end, TEXT, payload, rsv=RSV1))
    assert verdict(ends[0]) == verdict(ends[1]) == 1007
    assert ends[0].ending.closure() == ends[1].ending.closure()


# --- What it builds ---


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_message_is_one_frame(role: Role, size: int) -> None:
    lane, _ = lane_and_inbox(role)
    for data in ("a" * size, b"\xff" * size):
        (sent,) = read_frames(lane.encode(data, None))
        payload = data.encode() if isinstance(data, str) else data
        opcode = TEXT if isinstance(data, str) else BINARY
        assert sent._replace(mask=b"") == (opcode, payload, True, 0, b"")
        assert len(sent.mask) == (4 if role is Role.CLIENT else 0)


def test_each_frame_of_a_client_has_its_own_masking_key() -> None:
    lane, _ = lane_and_inbox(Role.CLIENT)
    keys = {read_frames(lane.encode("x", None))[0].mask for _ in range(100)}
    # By chance two of a hundred are the same once in a million runs.
    assert len(keys) > 98
    assert MASK not in keys


@pytest.mark.parametrize(
    ("compress", "size", "compressed"),
    [
        (None, 63, False),
        (None, 64, True),
        (True, 1, True),
        (True, 0, True),
        (False, 1000, False),
    ],
)
def test_what_is_compressed(role: Role, compress: bool | None, size: int, compressed: bool) -> None:
    for bits in (15, None):
        context = PerMessageDeflate(Negotiated(bits, True, 15, True), Deflate(threshold=64), MIB)
        lane = FastLane(role, Config(), context)
        (sent,) = read_frames(lane.encode("x" * size, compress))
        if compressed and bits is not None:
            assert (sent.opcode, sent.rsv) == (TEXT, RSV1)
            assert deflate().inflate(sent.payload, first=True, final=True) == b"x" * size
        else:
            assert (sent.opcode, sent.rsv, sent.payload) == (TEXT, 0, b"x" * size)


def test_the_threshold_counts_bytes(role: Role) -> None:
    lane = FastLane(
        role, Config(), PerMessageDeflate(Negotiated(15, True, 15, True), Deflate(), MIB)
    )
    for text, compressed in (("é" * 31, False), ("é" * 32, True)):
        (sent,) = read_frames(lane.encode(text, None))
        assert sent.rsv == (RSV1 if compressed else 0)


def test_text_that_cannot_be_encoded_leaves_everything_as_it_was(role: Role) -> None:
    p, without = with_and_without(role, compression=True)
    for end in (p, without):
        with pytest.raises(UnicodeEncodeError):
            end.encode("\ud800")
        assert not end.in_message
        (sent,) = read_frames(bytes(end.encode(b"next")))
        assert sent.opcode == BINARY
        assert deflate().inflate(sent.payload, first=True, final=True) == b"next"

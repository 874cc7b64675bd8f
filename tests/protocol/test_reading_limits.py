"""What the peer may cost us: bytes, fragments, turns."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from ends import (
    KIB,
    MIB,
    ROLES,
    close_from_peer,
    end_stream,
    feed,
    masked,
    messages,
    parse_all,
    pieces_of,
    protocol,
    replies,
    to,
    traced_peak,
    verdict,
)
from frames import BINARY, CONTINUATION, PING, PONG, RSV1, TEXT, close_frame, deflated, head

from anyws._close import Close, Role
from anyws._config import MAX_FRAMES_PER_TURN
from anyws._protocol.protocol import Half

if TYPE_CHECKING:
    from anyws._protocol.protocol import Protocol


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


# --- Limits ---


def test_an_unfragmented_message_is_limited_by_its_head(role: Role) -> None:
    """R-105, V2."""
    for size, expected in ((9, None), (10, None), (11, 1009)):
        p = protocol(role, max_message_size=10)
        data = to(p, BINARY, b"x" * size)
        feed(p, data[: len(data) - size])
        assert verdict(p) == expected
        feed(p, data[len(data) - size :])
        assert [len(message) for message in messages(p)] == ([] if expected else [size])


def test_the_size_of_text_counts_in_bytes(role: Role) -> None:
    """R-105."""
    p = protocol(role, max_message_size=4)
    feed(p, to(p, TEXT, "éé".encode()))
    assert messages(p) == ["éé"]
    feed(p, to(p, TEXT, "€é".encode()))
    assert verdict(p) == 1009


@pytest.mark.parametrize("ping", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_fragmented_message_is_limited_as_a_whole(
    role: Role, ping: bool, streaming: bool
) -> None:
    """R-105, V4."""
    p = protocol(role, max_message_size=MIB)
    if streaming:
        p.inbox.start_streaming()
    for number in range(64):
        feed(p, to(p, CONTINUATION if number else BINARY, b"x" * 16 * KIB, fin=False))
        if ping:
            feed(p, to(p, PING, b"p"))
        assert sum(len(piece) for piece in pieces_of(p)) == (16 * KIB if streaming else 0)
    assert p.sendable
    # Full to the byte: an empty end is welcome, one byte more is not.
    feed(p, head(CONTINUATION, 1, mask=role is Role.SERVER))
    assert verdict(p) == 1009


def test_a_fragmented_message_of_exactly_the_limit_is_taken(role: Role) -> None:
    """R-105, V4."""
    for last in (b"", b"x"):
        p = protocol(role, max_message_size=10)
        for _ in range(3):
            # The count begins anew with each message.
            feed(p, to(p, BINARY, b"xx", fin=False), to(p, CONTINUATION, b"x" * 5, fin=False))
            feed(p, to(p, CONTINUATION, b"x" * (3 - len(last)), fin=False))
            feed(p, to(p, CONTINUATION, last))
            assert messages(p) == [b"x" * 10]
            feed(p, to(p, BINARY, b"y" * 10))
            assert messages(p) == [b"y" * 10]


def test_fragments_are_counted_the_empty_ones_too(role: Role) -> None:
    """V3, W26."""
    for payload in (b"", b"x"):
        p = protocol(role, max_fragments=5)
        for _ in range(2):
            feed(p, to(p, BINARY, payload, fin=False))
            feed(p, *[to(p, CONTINUATION, payload, fin=False)] * 3, to(p, CONTINUATION, payload))
            assert messages(p) == [payload * 5]
        feed(p, to(p, BINARY, payload, fin=False))
        feed(p, *[to(p, CONTINUATION, payload, fin=False)] * 4)
        assert p.sendable
        feed(p, to(p, CONTINUATION, payload))
        assert verdict(p) == 1009


def test_no_number_of_fragments_is_too_many_where_that_limit_is_off(role: Role) -> None:
    """W26."""
    p = protocol(role, max_fragments=None)
    p.receive_data(to(p, BINARY, b"", fin=False))
    p.receive_data(to(p, CONTINUATION, b"", fin=False) * 5000 + to(p, CONTINUATION, b"end"))
    parse_all(p)
    assert messages(p) == [b"end"]


def test_200_000_empty_fragments_end_at_the_4096th(role: Role) -> None:
    """V3, V15, W26."""
    p = protocol(role)
    p.receive_data(to(p, TEXT, b"", fin=False) + to(p, CONTINUATION, b"", fin=False) * 200_000)
    turns = 0
    while p.has_unparsed:
        p.parse()
        turns += 1
    assert verdict(p) == 1009
    assert turns == 4096 // MAX_FRAMES_PER_TURN + 1
    assert p.ending.closure().cause.endswith("more than 4096 fragments (1009)")


def test_a_frame_limit_below_the_message_limit_leaves_the_message_limit_in_force(
    role: Role,
) -> None:
    """R-105, V4."""
    p = protocol(role, max_message_size=25, max_frame_size=10)
    feed(p, to(p, BINARY, b"x" * 10, fin=False), to(p, CONTINUATION, b"x" * 10, fin=False))
    assert p.sendable
    feed(p, head(CONTINUATION, 6, mask=role is Role.SERVER))
    assert verdict(p) == 1009
    p = protocol(role, max_message_size=25, max_frame_size=10)
    feed(p, to(p, BINARY, b"x" * 10, fin=False), to(p, CONTINUATION, b"x" * 10, fin=False))
    feed(p, to(p, CONTINUATION, b"x" * 5))
    assert messages(p) == [b"x" * 25]


@pytest.mark.parametrize("message_limit", [None, 10, 100])
def test_a_frame_limit_holds_for_each_frame(role: Role, message_limit: int | None) -> None:
    """R-105, V2."""
    p = protocol(role, max_message_size=message_limit, max_frame_size=10)
    feed(p, to(p, BINARY, b"x" * 10))
    assert messages(p) == [b"x" * 10]
    feed(p, head(BINARY, 11, mask=role is Role.SERVER))
    assert verdict(p) == 1009


def test_a_frame_limit_above_the_message_limit_changes_nothing(role: Role) -> None:
    """R-105."""
    p = protocol(role, max_message_size=10, max_frame_size=1000)
    feed(p, head(BINARY, 11, mask=role is Role.SERVER))
    assert verdict(p) == 1009


def test_control_frames_pass_whatever_the_limits(role: Role) -> None:
    """R-105, R-56."""
    p = protocol(role, max_message_size=1, max_frame_size=1, max_fragments=1)
    feed(p, to(p, PING, b"p" * 125))
    assert replies(p) == [(PONG, b"p" * 125)]
    feed(p, to(p, TEXT, b"x"))
    assert messages(p) == ["x"]


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_compressed_message_is_limited_by_what_it_inflates_to(role: Role, fragments: int) -> None:
    """R-105, V1, D-22."""
    limit = 10_000
    for size, expected in ((limit - 1, None), (limit, None), (limit + 1, 1009)):
        p = protocol(role, compression=True, max_message_size=limit)
        payload = deflated(b"\0" * size)
        step = -(-len(payload) // fragments)
        for _ in range(2):
            # Each message has the whole limit to itself.
            for start in range(0, len(payload), step):
                opcode = CONTINUATION if start else BINARY
                fin = start + step >= len(payload)
                part = payload[start : start + step]
                feed(p, to(p, opcode, part, fin=fin, rsv=0 if start else RSV1))
            if expected is None:
                assert messages(p) == [b"\0" * size]
        assert verdict(p) == expected
        assert messages(p) == []


def test_data_that_does_not_compress_may_take_a_little_more_on_the_wire(role: Role) -> None:
    """R-105, V2."""
    limit = 100_000
    allowed = limit + limit // 20 + 1024
    for fin in (True, False):
        p = protocol(role, compression=True, max_message_size=limit)
        mask = role is Role.SERVER
        feed(p, head(BINARY, allowed, fin=fin, rsv=RSV1, mask=mask))
        assert p.sendable
        p = protocol(role, compression=True, max_message_size=limit)
        feed(p, head(BINARY, allowed + 1, fin=fin, rsv=RSV1, mask=mask))
        assert verdict(p) == 1009
    # Fragments of such a message have the same leave, and those of the next one none.
    p = protocol(role, compression=True, max_message_size=limit)
    stored = deflated(b"\0" * limit, level=0)
    assert limit < len(stored) <= allowed
    feed(p, to(p, BINARY, b"", fin=False, rsv=RSV1), to(p, CONTINUATION, stored))
    assert messages(p) == [b"\0" * limit]
    feed(p, to(p, BINARY, b"", fin=False))
    feed(p, head(CONTINUATION, limit + 1, mask=mask))
    assert verdict(p) == 1009


def test_a_compressed_message_may_have_any_size_on_the_wire_in_frames_that_do_not(
    role: Role,
) -> None:
    """R-105, D-16."""
    p = protocol(role, compression=True, max_message_size=10)
    # Blocks of nothing, and a few bytes.
    nothing = b"\x00\x00\x00\xff\xff" * 200
    feed(p, to(p, BINARY, nothing, fin=False, rsv=RSV1), to(p, CONTINUATION, nothing, fin=False))
    feed(p, to(p, CONTINUATION, deflated(b"x" * 10)))
    assert messages(p) == [b"x" * 10]


# --- Memory ---


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_bomb_costs_little_more_than_the_limit(role: Role, fragmented: bool) -> None:
    """R-105, V1, W3."""
    p = protocol(role, compression=True, max_message_size=MIB)
    bomb = deflated(b"\0" * (64 * MIB))
    assert len(bomb) < MIB
    if fragmented:
        chunks = [to(p, BINARY, b"", fin=False, rsv=RSV1), to(p, CONTINUATION, bomb, fin=False)]
    else:
        chunks = [to(p, BINARY, bomb, rsv=RSV1)]
    assert traced_peak(p, chunks) < 4 * MIB
    assert verdict(p) == 1009


@pytest.mark.parametrize("opcode", [3, PING, TEXT])
@pytest.mark.parametrize("length", [MIB, 4 * MIB - 100, 2**32])
def test_a_wrong_head_costs_nothing_whatever_length_it_declares(
    role: Role, opcode: int, length: int
) -> None:
    """V2, W18."""
    for streaming in (False, True):
        p = protocol(role, max_message_size=8 * MIB)
        if streaming:
            p.inbox.start_streaming()
        wrong = head(opcode, length, rsv=RSV1, mask=masked(p))
        assert traced_peak(p, [wrong]) < 64 * KIB
        assert verdict(p) == 1002


def test_an_end_within_a_frame_costs_little(role: Role) -> None:
    """V2, W18."""
    for closing in (False, True):
        p = protocol(role, max_message_size=4 * MIB)
        if closing:
            p.close(Close(1000))
        else:
            p.inbox.start_streaming()
        feed(p, head(BINARY, 4 * MIB - 100, mask=masked(p)), b"x")
        tracemalloc.start()
        end_stream(p)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert p.finished
        assert peak < MIB
        assert kept < 64 * KIB


def test_what_follows_a_failure_is_not_kept(role: Role) -> None:
    """R-83, V5, W18."""
    p = protocol(role)
    feed(p, to(p, 3, b"", length=100))
    assert verdict(p) == 1002
    chunk = b"x" * 64 * KIB
    assert traced_peak(p, [chunk] * 160) < 64 * KIB
    assert not p.has_unparsed
    feed(p, close_frame(1000, mask=role is Role.SERVER), to(p, PING, b"p"), to(p, TEXT, b"t"))
    assert p.ending.received is None
    assert not p.replies
    assert messages(p) == []


def test_a_frame_in_single_bytes_costs_less_than_four_times_its_size(role: Role) -> None:
    """V3, V11, W27."""
    size = 64 * KIB
    for opcode in (BINARY, TEXT):
        p = protocol(role)
        data = to(p, opcode, b"x" * size)
        peak = traced_peak(p, [data[i : i + 1] for i in range(len(data))])
        assert len(messages(p)[0]) == size
        # The list of the chunks was there before.
        assert peak < 4 * size


@pytest.mark.parametrize("compression", [False, True])
def test_a_message_as_large_as_the_limit_costs_less_than_four_times_that(
    role: Role, compression: bool
) -> None:
    """V1, V3."""
    for opcode in (BINARY, TEXT):
        p = protocol(role, compression=compression, max_message_size=MIB)
        data = b"x" * MIB
        if compression:
            data = to(p, opcode, deflated(data, level=0), rsv=RSV1)
        else:
            data = to(p, opcode, data)
        peak = traced_peak(p, [data[i : i + 64 * KIB] for i in range(0, len(data), 64 * KIB)])
        assert len(messages(p)[0]) == MIB
        assert peak < 4 * MIB


def test_a_frame_that_is_not_wanted_is_not_kept(role: Role) -> None:
    """R-73, V2."""
    p = protocol(role)
    p.close(Close(1000))
    chunks = [head(BINARY, 2**40, mask=role is Role.SERVER)] + [b"x" * 64 * KIB] * 64
    assert traced_peak(p, chunks) < MIB
    assert p.theirs is Half.OPEN


def test_a_flood_of_pongs_is_ignored(role: Role) -> None:
    """R-67, V7."""
    p = protocol(role)
    assert traced_peak(p, [to(p, PONG, b"x" * 125) * 100] * 50) < 256 * KIB
    parse_all(p)
    assert p.sendable
    assert not p.replies
    assert not p.inbox.available


# --- Taking turns ---


def test_parsing_pauses_after_a_bounded_number_of_frames(role: Role) -> None:
    """V15."""
    p = protocol(role, inbox_size=None)
    p.receive_data(to(p, TEXT, b"x") * (2 * MAX_FRAMES_PER_TURN + 1))
    assert p.has_unparsed
    for count in (MAX_FRAMES_PER_TURN, MAX_FRAMES_PER_TURN, 1):
        assert p.has_unparsed
        p.parse()
        assert len(messages(p)) == count
    assert not p.has_unparsed
    p.parse()
    assert not p.has_unparsed


def engine_only(role: Role, **options: Any) -> Protocol:
    """Return a protocol with the fast lane off, which takes a whole message in one turn."""
    p = protocol(role, **options)
    p._lane = None
    return p


def test_parsing_pauses_after_a_bounded_number_of_bytes(role: Role) -> None:
    """V15."""
    p = protocol(role, inbox_size=None, max_message_size=MIB)
    p.receive_data(to(p, BINARY, b"x" * 20 * KIB) * 10)
    turns = []
    while p.has_unparsed:
        p.parse()
        turns.append(len(messages(p)))
    assert turns == [4, 4, 2]
    # A frame may be larger than that: the engine then goes through it in several turns.
    p = engine_only(role, inbox_size=None, max_message_size=MIB)
    p.receive_data(to(p, BINARY, b"x" * MIB) + to(p, TEXT, b"next"))
    turns = []
    while p.has_unparsed:
        p.parse()
        turns.append(len(messages(p)))
    assert len(turns) in {17, 18}
    assert sum(turns) == 2


def test_a_large_frame_may_change_hands_between_two_turns(role: Role) -> None:
    """V15."""
    text = "€" * 100_000
    for action in ("stream", "undo", "close"):
        p = engine_only(role)
        p.receive_data(to(p, TEXT, text.encode()) + to(p, PING, b"p") + to(p, TEXT, b"next"))
        for _ in range(2):
            p.parse()
        assert p.has_unparsed
        assert not p.inbox.available
        if action == "close":
            p.close(Close(1000))
            parse_all(p)
            assert not p.inbox.available
            close_from_peer(p)
            assert p.ending.clean
            continue
        p.inbox.start_streaming()
        assert p.inbox.has_piece
        if action == "undo":
            p.parse()
            p.inbox.undo_streaming()
            parse_all(p)
            assert messages(p) == [text, "next"]
        else:
            pieces = pieces_of(p)
            while p.has_unparsed:
                p.parse()
                pieces += pieces_of(p)
            assert "".join(map(str, pieces)) == text
            assert p.inbox.streamed_to_end
            assert messages(p) == ["next"]
        assert replies(p) == [(PONG, b"p")]


def test_parsing_pauses_where_the_inbox_is_full(role: Role) -> None:
    """R-65, V5."""
    p = protocol(role, inbox_size=2)
    feed(p, to(p, TEXT, b"x") * 3 + to(p, PING, b"behind") + to(p, TEXT, b"y") * 2)
    assert len(p.inbox.messages) == 2
    assert p.wants_room
    assert p.has_unparsed
    assert not p.replies
    p.inbox.take()
    assert not p.wants_room
    p.parse()
    assert not p.replies
    assert messages(p) == ["x", "x"]
    p.parse()
    assert replies(p) == [(PONG, b"behind")]
    assert messages(p) == ["y", "y"]


def test_an_inbox_full_of_bytes_pauses_parsing_too(role: Role) -> None:
    """V5."""
    p = protocol(role, inbox_size=None, max_message_size=10)
    feed(p, to(p, BINARY, b"x" * 4) * 5)
    assert [len(message) for message in messages(p)] == [4, 4, 4]
    p.parse()
    assert [len(message) for message in messages(p)] == [4, 4]


def test_messages_nobody_takes_are_bounded(role: Role) -> None:
    """V5."""
    p = protocol(role, max_message_size=100 * KIB, inbox_size=None)
    message = to(p, BINARY, b"x" * 10 * KIB)
    kept = 0
    for _ in range(1000):
        if p.wants_room:
            break
        feed(p, message)
        kept += 1
    assert kept == 10
    # The same for a message that is not complete, where the limit for messages is off.
    p = protocol(role, max_message_size=None)
    feed(p, to(p, BINARY, b"x" * MIB, fin=False))
    assert p.wants_room
    assert not p.inbox.full


def test_a_message_as_large_as_the_limit_does_not_stop_reading_before_its_end(role: Role) -> None:
    """V5."""
    p = protocol(role, max_message_size=100)
    data = to(p, BINARY, b"x" * 100)
    feed(p, data[:-1])
    assert not p.wants_room
    feed(p, data[-1:])
    assert p.wants_room


def test_the_begun_message_and_its_next_frame_are_bounded_together(role: Role) -> None:
    """V5, W25."""
    p = protocol(role, max_message_size=None)
    feed(p, to(p, BINARY, b"x" * (MIB // 2), fin=False))
    feed(p, head(CONTINUATION, MIB, mask=masked(p)), b"x" * (MIB // 2 - 100))
    assert not p.wants_room
    feed(p, b"x" * 100)
    assert p.wants_room
    assert not p.inbox.full


def test_messages_nobody_takes_are_bounded_after_send_eof_too(role: Role) -> None:
    """V5, W25."""
    p = protocol(role, max_message_size=None)
    p.close(Close(1000), deliver=True)
    feed(p, head(BINARY, 2**40, mask=masked(p)), b"x" * MIB)
    assert p.wants_room
    p.close(Close(1000))
    parse_all(p)
    assert not p.wants_room


def test_one_message_may_be_parsed_at_a_time(role: Role) -> None:
    p = protocol(role)
    p.receive_data(to(p, PING, b"p") + to(p, TEXT, b"a") + to(p, TEXT, b"b") + to(p, 3))
    p.parse(one_message=True)
    # The lane takes messages that are there together.
    assert messages(p) in (["a"], ["a", "b"])
    assert replies(p) == [(PONG, b"p")]
    assert p.has_unparsed
    # The violation is met only behind the messages in front of it.
    assert p.sendable
    if p.lane_frames == 0:
        p.parse(one_message=True)
        assert p.sendable
        assert messages(p) == ["b"]
    p.parse(one_message=True)
    assert verdict(p) == 1002


def test_one_piece_of_a_streamed_message_may_be_parsed_at_a_time(role: Role) -> None:
    p = protocol(role)
    p.inbox.start_streaming()
    p.receive_data(to(p, TEXT, b"a", fin=False) + to(p, CONTINUATION, b"b") + to(p, 3))
    for piece in ("a", "b"):
        p.parse(one_message=True)
        assert p.sendable
        assert pieces_of(p) == [piece]
    assert p.inbox.streamed_to_end

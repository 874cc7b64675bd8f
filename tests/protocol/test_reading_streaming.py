"""Messages that are handed out while they arrive."""

from __future__ import annotations

import pytest
from ends import ROLES, feed, messages, parse_all, pieces_of, protocol, replies, to, verdict
from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, TEXT, close_frame, deflated, head

from anyws._close import Close, Role
from anyws._config import CHUNK_BYTES, MAX_PIECE_BYTES, MIB


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


def test_a_streamed_frame_is_handed_out_as_it_comes(role: Role) -> None:
    """R-53, R-58."""
    p = protocol(role)
    p.inbox.start_streaming()
    payload = bytes(range(200))
    data = to(p, BINARY, payload)
    taken = b""
    for start in range(0, len(data), 7):
        feed(p, data[start : start + 7])
        assert not p._buffer or start < 14
        for piece in pieces_of(p):
            taken += piece  # type: ignore[operator]
    assert taken == payload
    assert p.inbox.streamed_to_end


def test_streamed_text_is_cut_between_code_points(role: Role) -> None:
    """R-68."""
    text = "aé€😀" * 5
    data = text.encode()
    p = protocol(role)
    p.inbox.start_streaming()
    half = len(data) // 2 + 1
    wire = to(p, TEXT, data[:half], fin=False) + to(p, CONTINUATION, data[half:])
    pieces: list[str | bytes] = []
    for number in range(len(wire)):
        feed(p, wire[number : number + 1])
        pieces += pieces_of(p)
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert "".join(map(str, pieces)) == text
    assert p.inbox.streamed_to_end


def test_a_streamed_message_that_turns_bad_has_no_end(role: Role) -> None:
    """R-69, D-21."""
    for payload, expected in ((b"ok\xff", 1007), (b"ok\xe2\x82", 1007)):
        p = protocol(role)
        p.inbox.start_streaming()
        data = to(p, TEXT, payload)
        feed(p, data[: len(data) - 1])
        feed(p, data[len(data) - 1 :])
        assert verdict(p) == expected
        assert pieces_of(p) == ["ok"]
        assert not p.inbox.streamed_to_end
        assert not p.inbox.available


def test_what_is_here_of_a_large_frame_is_handed_out_though_nothing_more_comes(role: Role) -> None:
    """It is where a whole message would stay, until somebody wants it in pieces."""
    payload = bytes(300_000)
    data = to(protocol(role), BINARY, payload)
    p = protocol(role)
    feed(p, data[:100_000])
    assert not p.has_unparsed
    p.start_streaming()
    assert p.has_unparsed
    parse_all(p)
    here = b"".join(map(bytes, pieces_of(p)))
    assert len(payload) // 4 < len(here) < 100_000
    feed(p, data[100_000:])
    parse_all(p)
    assert here + b"".join(map(bytes, pieces_of(p))) == payload
    assert p.inbox.streamed_to_end


@pytest.mark.parametrize("limit", [8 * MIB, None])
def test_pieces_that_nobody_takes_hold_back_reading_whatever_the_message_limit(
    role: Role, limit: int | None
) -> None:
    """V5: the message may be far larger than what is kept of it."""
    p = protocol(role, max_message_size=limit)
    p.start_streaming()
    data = to(p, BINARY, bytes(4 * MIB))
    most = MAX_PIECE_BYTES + CHUNK_BYTES
    start = taken = 0
    while start < len(data):
        feed(p, data[start : start + CHUNK_BYTES])
        start += CHUNK_BYTES
        parse_all(p)
        if p.wants_room:
            kept = p.inbox.waiting_bytes
            assert MAX_PIECE_BYTES <= kept <= most
            taken += len(p.inbox.take_piece())
            assert not p.wants_room
    assert taken > 3 * MIB
    taken += sum(map(len, pieces_of(p)))
    assert taken == 4 * MIB


def test_a_control_frame_is_never_handed_on_in_part(role: Role) -> None:
    """R-57."""
    p = protocol(role)
    p.inbox.start_streaming()
    feed(p, to(p, BINARY, b"a", fin=False))
    data = to(p, PING, b"ping") + close_frame(1000, b"why", mask=role is Role.SERVER)
    for number in range(len(data)):
        feed(p, data[number : number + 1])
    assert replies(p) == [(PONG, b"ping"), (CLOSE, b"\x03\xe8")]
    assert p.ending.received == Close(1000, "why")


@pytest.mark.parametrize("compression", [False, True])
def test_a_message_left_within_a_frame_does_not_cost_the_next(
    role: Role, compression: bool
) -> None:
    """R-58."""
    payload = bytes(range(100))
    p = protocol(role, compression=compression)
    wire, end = payload, b"rest"
    if compression:
        # A whole block, and an empty one for the end.
        wire, end = deflated(payload) + b"\x00\x00\xff\xff", b"\0"
    data = to(p, BINARY, wire, fin=False, rsv=RSV1 * compression)
    rest = to(p, CONTINUATION, end)
    for cut in range(len(data) + 1):
        p.inbox.start_streaming()
        feed(p, data[:cut])
        p.inbox.stop_streaming()
        feed(p, data[cut:])
        feed(p, to(p, PING, b"p"), rest)
        # Left before it began, it is the next one itself.
        begun = cut > len(data) - len(wire)
        assert messages(p) == ([] if begun else [payload + (b"" if compression else end)])
        feed(p, to(p, TEXT, b"next"))
        assert messages(p) == ["next"]
    assert len(replies(p)) == len(data) + 1


def test_undone_streaming_gives_the_whole_message_at_any_point(role: Role) -> None:
    """R-58, R-74."""
    p = protocol(role)
    text = "aé€😀"
    data = to(p, TEXT, text.encode(), fin=False) + to(p, CONTINUATION, b"", fin=False)
    data += to(p, CONTINUATION, text.encode())
    for start in range(len(data) + 1):
        for undo in range(start, len(data) + 1):
            feed(p, data[:start])
            p.inbox.start_streaming()
            feed(p, data[start:undo])
            p.inbox.undo_streaming()
            feed(p, data[undo:])
            assert messages(p) == [text * 2]


def test_a_streamed_message_is_limited_like_any_other(role: Role) -> None:
    """R-105, V4."""
    p = protocol(role, max_message_size=10, max_fragments=2)
    p.inbox.start_streaming()
    feed(p, head(BINARY, 11, mask=role is Role.SERVER))
    assert verdict(p) == 1009
    p = protocol(role, max_message_size=10, max_fragments=2)
    p.inbox.start_streaming()
    feed(p, to(p, BINARY, b"a", fin=False) + to(p, CONTINUATION, b"b", fin=False))
    feed(p, to(p, CONTINUATION, b"c"))
    assert verdict(p) == 1009

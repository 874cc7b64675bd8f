"""Frames in, messages out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ends import (
    MIB,
    ROLES,
    feed,
    messages,
    parse_all,
    pieces_of,
    protocol,
    replies,
    to,
    verdict,
)
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    deflated,
    frame,
    head,
)
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import Role
from anyws._protocol.protocol import Half

SIZES = [0, 1, 125, 126, 127, 65535, 65536]
CONTROL = [CLOSE, PING, PONG]


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


# --- Whole messages ---


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_length_of_length_arrive(role: Role, size: int) -> None:
    """R-50, R-52, R-63, R-75."""
    p = protocol(role)
    binary = (b"\xff\xfe\x00" * size)[:size]
    feed(p, to(p, BINARY, binary), to(p, TEXT, b"x" * size))
    assert messages(p) == [binary, "x" * size]
    assert p.sendable
    assert not p.replies


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 125, 126])
def test_a_frame_is_the_same_in_any_chunks(role: Role, size: int) -> None:
    """R-53, W27."""
    payload = bytes(range(size))
    for step in (1, 2, 3, 5):
        p = protocol(role)
        data = to(p, BINARY, payload)
        for start in range(0, len(data), step):
            assert not p.inbox.available
            feed(p, data[start : start + step])
        assert messages(p) == [payload]


@given(st.binary(max_size=50), st.binary(min_size=4, max_size=4), st.integers(1, 7))
def test_any_key_is_taken_off_whatever_the_chunks(payload: bytes, key: bytes, step: int) -> None:
    """R-53, R-75."""
    for streaming in (False, True):
        p = protocol(Role.SERVER)
        if streaming:
            p.inbox.start_streaming()
        data = frame(BINARY, payload, mask=key)
        for start in range(0, len(data), step):
            feed(p, data[start : start + step])
        if streaming:
            assert p.inbox.streamed_to_end is False
            assert b"".join(pieces_of(p)) == payload  # type: ignore[arg-type]
        else:
            assert messages(p) == [payload]


def test_binary_is_bytes_and_not_validated(role: Role) -> None:
    """R-70, R-74."""
    p = protocol(role)
    feed(p, to(p, BINARY, b"\xff\xc0", fin=False), to(p, CONTINUATION, b"\xed\xa0\x80"))
    feed(p, to(p, BINARY, b"\xff"))
    received = messages(p)
    assert received == [b"\xff\xc0\xed\xa0\x80", b"\xff"]
    assert [type(message) for message in received] == [bytes, bytes]


def test_an_end_that_has_just_begun_has_nothing_to_say(role: Role) -> None:
    p = protocol(role)
    assert (p.ours, p.theirs) == (Half.OPEN, Half.OPEN)
    assert p.sendable
    assert p.reading
    assert p.receivable
    assert not p.finished
    assert not p.replies
    assert not p.has_unparsed
    assert p.take_replies() == b""
    assert p.extensions == ()
    assert protocol(role, compression=True).extensions == ("permessage-deflate",)
    assert p.ending.closure().cause == "the connection is open"
    assert p.ending.closure().first is None


# --- Heads that are refused ---


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [0, 5, 125])
def test_the_wrong_side_of_masking_is_refused(role: Role, opcode: int, length: int) -> None:
    """R-45, R-47, V22."""
    for data in (
        frame(opcode, b"\0" * length, mask=role is Role.CLIENT),
        # The head alone is enough.
        head(opcode, length, mask=role is Role.CLIENT),
    ):
        p = protocol(role)
        feed(p, data)
        assert verdict(p) == 1002
        assert messages(p) == []


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("rsv", range(8))
def test_reserved_bits_and_opcodes_are_refused(role: Role, opcode: int, rsv: int) -> None:
    """R-48, R-49, V32, V33."""
    p = protocol(role)
    feed(p, to(p, opcode, b"", rsv=rsv))
    if rsv or opcode not in {TEXT, BINARY, CLOSE, PING, PONG}:
        assert verdict(p) == 1002
        assert not p.inbox.available
    else:
        assert p.theirs is not Half.FAILED


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("rsv", range(1, 8))
def test_with_compression_only_rsv1_of_a_first_data_frame_is_taken(
    role: Role, opcode: int, rsv: int
) -> None:
    """R-48, D-12."""
    p = protocol(role, compression=True)
    payload = deflated(b"") if opcode in {TEXT, BINARY} else b""
    feed(p, to(p, opcode, payload, rsv=rsv))
    if rsv == RSV1 and opcode in {TEXT, BINARY}:
        assert messages(p) == ["" if opcode == TEXT else b""]
    else:
        assert verdict(p) == 1002


def test_rsv1_on_a_continuation_is_refused_in_a_compressed_message_too(role: Role) -> None:
    """D-12."""
    for first in (0, RSV1):
        p = protocol(role, compression=True)
        feed(p, to(p, TEXT, deflated(b"a") if first else b"a", fin=False, rsv=first))
        feed(p, to(p, CONTINUATION, b"", rsv=RSV1))
        assert verdict(p) == 1002


@pytest.mark.parametrize("opcode", CONTROL)
def test_control_frames_are_refused_in_fragments_or_beyond_125_bytes(
    role: Role, opcode: int
) -> None:
    """R-55, R-56."""
    for length, fin in ((0, False), (125, False), (126, True), (65535, True), (65536, True)):
        p = protocol(role)
        # A head that takes more bytes than there are is not waited for.
        feed(p, head(opcode, length, fin=fin, mask=role is Role.SERVER))
        assert verdict(p) == 1002


@pytest.mark.parametrize(
    ("form", "length"),
    [(126, 0), (126, 125), (127, 0), (127, 126), (127, 65535), (127, 2**63), (127, 2**64 - 1)],
)
def test_lengths_in_more_bytes_than_needed_or_with_a_sign_are_refused(
    role: Role, form: int, length: int
) -> None:
    """R-50, R-51, V31."""
    for opcode in (TEXT, BINARY, CONTINUATION):
        p = protocol(role, max_message_size=None)
        feed(p, head(opcode, length, form=form, mask=role is Role.SERVER))
        assert verdict(p) == 1002


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1])
def test_a_length_beyond_the_limit_is_refused_before_any_payload(role: Role, length: int) -> None:
    """R-105, V2, V31, W25."""
    for compression in (False, True):
        p = protocol(role, compression=compression)
        data = head(BINARY, length, rsv=RSV1 * compression, mask=role is Role.SERVER)
        feed(p, data[:-1])
        assert p.sendable
        feed(p, data[-1:])
        assert verdict(p) == 1009
        assert p.ending.closure().cause == (
            "the peer sent what is refused: the message is larger than 1048576 bytes (1009)"
        )


@pytest.mark.parametrize("length", [2**31, 2**63 - 1])
def test_without_limits_any_length_is_taken_as_it_comes(role: Role, length: int) -> None:
    """V31."""
    p = protocol(role, max_message_size=None)
    data = head(BINARY, length, mask=role is Role.SERVER)
    feed(p, data, b"x" * MIB)
    # Nobody streams, and as much is kept as one inbox holds: now reading has to pause.
    assert p.sendable
    assert p.wants_room
    p.start_streaming()
    taken = 0
    while p.has_unparsed:
        parse_all(p)
        taken += len(p.inbox.take_piece())
    assert taken == MIB
    assert not p._buffer


# --- Fragments ---


def test_fragments_make_one_message_of_the_first_ones_type(role: Role) -> None:
    """R-58, R-61, R-74."""
    p = protocol(role)
    for opcode, expected in ((TEXT, "abc"), (BINARY, b"abc")):
        feed(p, to(p, opcode, b"a", fin=False))
        feed(p, to(p, CONTINUATION, b"b", fin=False))
        assert not p.inbox.available
        feed(p, to(p, CONTINUATION, b"c"))
        feed(p, to(p, TEXT, b"d"))
        assert messages(p) == [expected, "d"]


def test_empty_fragments_are_legal_anywhere(role: Role) -> None:
    """R-61, R-63."""
    for fragments in ([b"", b"a", b""], [b"a", b"", b"b"], [b"", b""], [b"", b"", b"x"]):
        for opcode in (TEXT, BINARY):
            p = protocol(role)
            for number, fragment in enumerate(fragments):
                last = number == len(fragments) - 1
                feed(p, to(p, CONTINUATION if number else opcode, fragment, fin=last))
            whole = b"".join(fragments)
            assert messages(p) == [whole.decode() if opcode == TEXT else whole]


@pytest.mark.parametrize("fin", [False, True])
def test_a_continuation_of_nothing_is_refused(role: Role, fin: bool) -> None:
    """R-60."""
    for before in (b"", b"message"):
        p = protocol(role)
        if before:
            feed(p, to(p, TEXT, before[:2], fin=False), to(p, CONTINUATION, before[2:]))
        feed(p, to(p, CONTINUATION, b"x", fin=fin))
        assert verdict(p) == 1002
        assert messages(p) == ([before.decode()] if before else [])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_new_message_within_a_message_is_refused(role: Role, opcode: int, payload: bytes) -> None:
    """R-58, R-59."""
    for compression in (False, True):
        p = protocol(role, compression=compression)
        feed(p, to(p, TEXT, b"a", fin=False), to(p, opcode, payload))
        assert verdict(p) == 1002
        assert messages(p) == []


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_between_fragments_do_not_wait_and_change_nothing(
    role: Role, opcode: int, compression: bool
) -> None:
    """R-57, R-65, V34, W1."""
    data = b"compressed or not, it arrives"
    payload = deflated(data) if compression else data
    cuts = [0, 0, 3, len(payload) // 2, len(payload), len(payload)]
    p = protocol(role, compression=compression)
    pongs: list[bytes] = []
    p.on_pong = pongs.append
    feed(p, to(p, opcode, b"0"))
    for number, (start, end) in enumerate(pairwise(cuts), 1):
        first, last = number == 1, number == len(cuts) - 1
        kind = TEXT if first else CONTINUATION
        rsv = RSV1 if first and compression else 0
        feed(p, to(p, kind, payload[start:end], fin=last, rsv=rsv))
        feed(p, to(p, opcode, b"%d" % number))
        assert p.inbox.available is last
        seen = [body for kind, body in replies(p) if kind == PONG] if opcode == PING else pongs
        assert seen[-1:] == [b"%d" % number]
    assert messages(p) == [data.decode()]


def test_a_compressed_message_is_inflated(role: Role) -> None:
    """D-13, D-16."""
    p = protocol(role, compression=True)
    for data in (b"", b"a", b"a" * 5000):
        feed(p, to(p, TEXT, deflated(data), rsv=RSV1), to(p, BINARY, data))
        assert messages(p) == [data.decode(), data]


def test_bad_compressed_data_fails_with_what_was_wrong(role: Role) -> None:
    """D-21, R-107."""
    p = protocol(role, compression=True)
    feed(p, to(p, TEXT, b"\xff\xff\xff", rsv=RSV1))
    assert verdict(p) == 1007
    assert p.ending.sent is not None
    assert p.ending.sent.reason.startswith("bad compressed data")


# --- Text ---


BAD_UTF8 = [
    *(b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\x80"),
    *(b"\xf4\x90\x80\x80", b"\xf0\x80\x80\xaf", b"\xf5\x80\x80\x80", b"\xce\xba\xff"),
]


@pytest.mark.parametrize("bad", BAD_UTF8, ids=bytes.hex)
def test_bad_utf8_fails_with_1007_wherever_it_is_cut(role: Role, bad: bytes) -> None:
    """R-68, R-69, R-102, R-107."""
    for cut in range(len(bad) + 1):
        p = protocol(role)
        feed(p, to(p, TEXT, b"ok" + bad[:cut], fin=False), to(p, CONTINUATION, bad[cut:] + b"ok"))
        assert verdict(p) == 1007
        assert messages(p) == []


@pytest.mark.parametrize("text", ["é", "€", "😀", "\U0010ffff", "\ufeff\x00\ufffe"])
def test_a_code_point_may_be_cut_by_fragments_and_not_by_the_end(role: Role, text: str) -> None:
    """R-68, R-69."""
    data = text.encode()
    for cut in range(len(data) + 1):
        p = protocol(role)
        feed(p, to(p, TEXT, data[:cut], fin=False), to(p, CONTINUATION, data[cut:]))
        assert messages(p) == [text]
    for end in (b"", b"a"):
        p = protocol(role)
        feed(p, to(p, TEXT, end + data[:-1]))
        assert verdict(p) == 1007


def test_bad_utf8_fails_at_its_first_byte_and_not_at_the_messages_end(role: Role) -> None:
    """R-69, V14."""
    p = protocol(role)
    for count, byte in enumerate(b"\xf0\x90\x80" * 1000, 1):
        feed(p, to(p, CONTINUATION if count > 1 else TEXT, bytes([byte]), fin=False))
        if p.theirs is Half.FAILED:
            break
    assert count == 4
    assert verdict(p) == 1007


def test_newlines_are_what_they_were(role: Role) -> None:
    p = protocol(role)
    feed(p, to(p, TEXT, b"a\r", fin=False), to(p, CONTINUATION, b"\n\rb\n"))
    assert messages(p) == ["a\r\n\rb\n"]


# --- Pongs ---


def test_pongs_are_told_to_who_waits_for_them(role: Role) -> None:
    """R-66, R-67."""
    p = protocol(role)
    feed(p, to(p, PONG, b"nobody asked"))
    pongs: list[bytes] = []
    p.on_pong = pongs.append
    feed(p, to(p, PONG, b"a"), to(p, PONG, b""), to(p, PONG, b"a"))
    assert pongs == [b"a", b"", b"a"]
    assert [type(pong) for pong in pongs] == [bytes] * 3
    assert p.sendable
    assert not p.replies

"""Messages in, frames out; and what answers what was received."""

from __future__ import annotations

import pytest
from ends import (
    KIB,
    ROLES,
    feed,
    messages,
    other,
    protocol,
    replies,
    to,
    traced_peak,
)
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    read_frames,
)
from hypothesis import given
from hypothesis import strategies as st
from wsproto.utilities import LocalProtocolError

from anyws._close import Close, Role
from anyws._config import Config
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Protocol

SIZES = [0, 1, 125, 126, 127, 65535, 65536]
CONTROL = [CLOSE, PING, PONG]


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


# --- Pings and pongs ---


@pytest.mark.parametrize("payload", [b"", b"p", b"\xff\x00" * 62, b"x" * 125])
def test_a_ping_is_answered_with_the_same_data(role: Role, payload: bytes) -> None:
    """R-44, R-46, R-64."""
    p = protocol(role)
    feed(p, to(p, PING, payload))
    assert p.replies
    assert replies(p) == [(PONG, payload)]
    assert not p.replies


def test_each_ping_is_answered_in_turn(role: Role) -> None:
    """R-65, R-66."""
    p = protocol(role)
    feed(p, *[to(p, PING, b"%d" % number) for number in range(20)])
    assert replies(p) == [(PONG, b"%d" % number) for number in range(20)]


def test_only_the_latest_ping_is_answered_behind_a_blocked_write(role: Role) -> None:
    """R-66, V7."""
    p = protocol(role)
    feed(p, to(p, PING, b"before"))
    p.ping(b"ours")
    p.write_blocked = True
    for number in range(100):
        feed(p, to(p, PING, b"%d" % number))
    assert replies(p) == [(PING, b"ours"), (PONG, b"99")]
    p.write_blocked = False
    feed(p, to(p, PING, b"a"), to(p, PING, b"b"))
    assert replies(p) == [(PONG, b"a"), (PONG, b"b")]


def test_a_flood_of_pings_behind_a_blocked_write_is_not_kept(role: Role) -> None:
    """V7."""
    p = protocol(role)
    p.write_blocked = True
    assert traced_peak(p, [to(p, PING, b"x" * 125) * 100] * 50) < 256 * KIB


def test_a_ping_of_ours_has_at_most_125_bytes(role: Role) -> None:
    """R-44, R-55, R-56, W24."""
    p = protocol(role)
    for payload in (b"", b"p", b"x" * 125):
        p.ping(payload)
        assert replies(p) == [(PING, payload)]
    with pytest.raises(ValueError, match="too long"):
        p.ping(b"x" * 126)
    assert not p.replies
    assert p.sendable
    p.ping(b"still")
    assert replies(p) == [(PING, b"still")]


# --- Sending ---


@pytest.mark.parametrize("size", SIZES)
def test_a_message_is_one_frame_of_the_shortest_form(role: Role, size: int) -> None:
    """R-44, R-46, R-51, R-52."""
    p = protocol(role)
    for data, opcode, payload in (
        (b"\xff" * size, BINARY, b"\xff" * size),
        ("x" * size, TEXT, b"x" * size),
    ):
        [sent] = read_frames(bytes(p.encode(data)))
        assert (sent.opcode, sent.payload, sent.fin, sent.rsv) == (opcode, payload, True, 0)
        assert len(sent.mask) == (4 if role is Role.CLIENT else 0)
        assert not p.in_message


def test_a_message_in_fragments_has_its_opcode_first_and_its_end_last(role: Role) -> None:
    """R-58, R-62, R-74."""
    p = protocol(role)
    for kind, opcode in ((str, TEXT), (bytes, BINARY)):
        wire = b""
        for text, finished in (("a", False), ("", False), ("b", True)):
            wire += p.encode(text if kind is str else text.encode(), finished=finished)
            assert p.in_message is not finished
            # A ping may go between, and is whole.
            p.ping(b"p")
            wire += p.take_replies()
        sent = [(f.opcode, f.payload, f.fin) for f in read_frames(wire) if f.opcode != PING]
        assert sent == [
            (opcode, b"a", False),
            (CONTINUATION, b"", False),
            (CONTINUATION, b"b", True),
        ]


def test_every_frame_of_a_client_has_a_key_of_its_own() -> None:
    """R-44, R-54, V21."""
    p = protocol(Role.CLIENT)
    wire = b""
    for _ in range(1000):
        wire += p.encode(b"") + p.encode("same", finished=True)
        p.ping(b"")
        wire += p.take_replies()
    keys = [f.mask for f in read_frames(wire)]
    # By chance two of 3000 are equal once in a thousand runs, and four hardly ever.
    assert len(set(keys)) > len(keys) - 3
    assert {len(key) for key in keys} == {4}


def test_text_that_cannot_be_sent_leaves_the_connection_as_it_was(role: Role) -> None:
    """W24."""
    p = protocol(role)
    for finished in (True, False):
        with pytest.raises(UnicodeEncodeError):
            p.encode("\ud800", finished=finished)
        assert not p.in_message
    [sent] = read_frames(bytes(p.encode(b"next")))
    assert sent.opcode == BINARY
    p.encode("begun", finished=False)
    with pytest.raises(TypeError):
        p.encode(b"of another type")
    assert p.in_message
    assert read_frames(bytes(p.encode("end")))[0].opcode == CONTINUATION


@pytest.mark.parametrize("compress", [None, True, False])
def test_a_message_is_compressed_where_that_was_agreed_and_wanted(
    role: Role, compress: bool | None
) -> None:
    p = protocol(role, compression=True)
    peer = protocol(other(role), compression=True)
    for data in ("a" * 1000, b"b" * 1000):
        wire = bytes(p.encode(data, compress=compress))
        assert (read_frames(wire)[0].rsv == RSV1) is (compress is not False)
        feed(peer, wire)
        assert messages(peer) == [data]
    [plain] = read_frames(bytes(protocol(role).encode(b"b" * 1000, compress=True)))
    assert plain.rsv == 0


@given(st.lists(st.text() | st.binary(), max_size=5), st.sampled_from(Role), st.booleans())
def test_what_one_end_encodes_the_other_decodes(
    data: list[str | bytes], role: Role, compression: bool
) -> None:
    p = protocol(role, compression=compression)
    peer = protocol(other(role), compression=compression)
    for message in data:
        feed(peer, bytes(p.encode(message)))
    assert messages(peer) == data


def test_nothing_is_encoded_after_our_close(role: Role) -> None:
    """R-71, R-73."""
    p = protocol(role)
    p.close(Close(1000))
    assert not p.sendable
    for send in (lambda: p.encode("x"), lambda: p.ping(b"")):
        with pytest.raises(LocalProtocolError):
            send()
    assert replies(p) == [(CLOSE, b"\x03\xe8")]


# --- What was agreed ---


def test_an_extension_is_used_where_both_ends_agreed_and_this_one_has_it_on(role: Role) -> None:
    agreed = Negotiated(15, True, 15, True)
    assert Protocol.negotiated(role, Config(), agreed).extensions == ("permessage-deflate",)
    assert Protocol.negotiated(role, Config(), None).extensions == ()
    assert Protocol.negotiated(role, Config(compression=None), agreed).extensions == ()


def test_fragments_are_compressed_as_they_are_asked_to_be(role: Role) -> None:
    p, far = protocol(role, compression=True), protocol(other(role), compression=True)
    for compress in (True, False):
        frames = [p.encode("some ", finished=False, compress=compress)]
        frames.append(p.encode("text", compress=compress))
        assert bool(frames[0][0] & 0x40) is compress
        feed(far, *frames)
        assert messages(far) == ["some text"]


def test_at_the_end_the_contexts_of_compression_are_let_go(role: Role) -> None:
    p = protocol(role, compression=True)
    assert p._deflate is not None
    frame_of_ours = p.encode("some text, some text", compress=True)
    far = protocol(other(role), compression=True)
    feed(far, frame_of_ours)
    assert messages(far) == ["some text, some text"]
    assert p._deflate._compressor is not None
    p.abort("enough")
    assert p.finished
    assert p._deflate._compressor is None

"""Their Close frames, and the end of the stream."""

from __future__ import annotations

import pytest
from ends import (
    ACCEPTED_CODES,
    REFUSED_CODES,
    ROLES,
    close_from_peer,
    feed,
    masked,
    messages,
    protocol,
    replies,
    to,
)
from frames import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    TEXT,
    close_frame,
    deflated,
)

from anyws._close import Close, Role
from anyws._protocol.protocol import Half, Protocol

OPEN, CLOSED, FAILED = Half.OPEN, Half.CLOSED, Half.FAILED


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


@pytest.fixture
def p(role: Role) -> Protocol:
    return protocol(role)


def state(p: Protocol) -> tuple[Half, Half]:
    return p.ours, p.theirs


# --- Their Close frames ---


@pytest.mark.parametrize("code", ACCEPTED_CODES)
def test_a_code_of_the_registry_is_taken_and_echoed(p: Protocol, code: int) -> None:
    """R-79, R-90, R-91, R-92, V35, W22."""
    close_from_peer(p, code, "gründe".encode())
    assert p.ending.received == Close(code, "gründe")
    # Never their reason.
    assert replies(p) == [(CLOSE, code.to_bytes(2, "big"))]
    assert p.ending.sent == Close(code)
    assert p.ending.clean


@pytest.mark.parametrize("code", REFUSED_CODES)
@pytest.mark.parametrize("reason", [b"", b"why", b"\xff"])
def test_any_other_code_is_a_violation(p: Protocol, code: int, reason: bytes) -> None:
    """R-93, R-94, R-95, R-96, R-97, V35."""
    close_from_peer(p, code, reason)
    assert p.theirs is FAILED
    assert p.ending.received is None
    assert p.ending.sent is not None
    assert p.ending.sent.code == 1002
    assert replies(p)[0][1][:2] == b"\x03\xea"


def test_every_code_there_is_is_taken_or_refused() -> None:
    """R-90, R-91, R-92, R-93, R-94, R-95, R-96, R-97."""
    for code in range(65536):
        if 1020 < code < 2990 or 3010 < code < 4990 or 5010 < code < 65530:
            continue
        p = protocol(Role.CLIENT)
        close_from_peer(p, code)
        good = code in ACCEPTED_CODES or 3000 <= code <= 4999
        assert (p.ending.received == Close(code)) is good
        assert p.ending.clean is good


def test_a_close_without_a_code_is_1005_and_answered_in_kind(p: Protocol) -> None:
    """R-76, R-86."""
    close_from_peer(p, None)
    assert p.ending.received == p.ending.sent == Close(1005)
    assert replies(p) == [(CLOSE, b"")]
    assert p.ending.closure().code == 1005
    assert p.ending.clean


def test_half_a_code_is_a_violation(p: Protocol) -> None:
    """R-76."""
    feed(p, to(p, CLOSE, b"\x03"))
    assert p.theirs is FAILED
    assert p.ending.sent is not None
    assert p.ending.sent.code == 1002


@pytest.mark.parametrize("code", ACCEPTED_CODES)
@pytest.mark.parametrize("reason", [b"\xff", b"ok\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"])
def test_a_reason_that_is_not_utf8_fails_with_1007(p: Protocol, code: int, reason: bytes) -> None:
    """R-77, R-102, W22."""
    close_from_peer(p, code, reason)
    assert p.theirs is FAILED
    assert p.ending.received is None
    assert p.ending.sent is not None
    assert p.ending.sent.code == 1007


@pytest.mark.parametrize("reason", [b"x" * 123, "é".encode() * 61, b"\0\x1b[31m\r\n"])
def test_any_reason_that_fits_is_taken(p: Protocol, reason: bytes) -> None:
    """R-77, R-78, W28."""
    close_from_peer(p, 1000, reason)
    assert p.ending.received == Close(1000, reason.decode())
    assert p.ending.closure().cause.isprintable()
    assert p.exception().args == (p.ending.closure().cause,)


def test_a_close_in_pieces_is_a_close(p: Protocol) -> None:
    data = close_frame(1000, b"reason", masked(p))
    for number in range(len(data)):
        assert p.sendable
        feed(p, data[number : number + 1])
    assert p.ending.received == Close(1000, "reason")


@pytest.mark.parametrize("compression", [False, True])
def test_a_close_within_a_message_is_a_close_and_the_message_is_dropped(
    role: Role, compression: bool
) -> None:
    """R-100."""
    p = protocol(role, compression=compression)
    feed(p, to(p, TEXT, deflated(b"a") if compression else b"a", fin=False, rsv=RSV1 * compression))
    close_from_peer(p, 1000)
    assert p.ending.clean
    assert replies(p) == [(CLOSE, b"\x03\xe8")]
    feed(p, to(p, CONTINUATION, b""))
    assert messages(p) == []
    assert not p.inbox.available


def test_a_ping_and_a_close_in_one_chunk_are_both_answered_in_that_order(p: Protocol) -> None:
    """R-64, R-79, W21."""
    p.ping(b"ours")
    feed(p, to(p, PING, b"a") + to(p, PING, b"b") + close_frame(1000, mask=masked(p)))
    answers = replies(p)
    assert answers[-1] == (CLOSE, b"\x03\xe8")
    assert [payload for opcode, payload in answers if opcode == PONG] == [b"a", b"b"]


def test_a_ping_behind_a_close_is_not_answered(p: Protocol) -> None:
    """R-64, R-101, W21."""
    feed(p, close_frame(1000, mask=masked(p)) + to(p, PING, b"a"))
    feed(p, to(p, PING, b"b"))
    assert replies(p) == [(CLOSE, b"\x03\xe8")]


def test_messages_in_front_of_their_close_can_still_be_taken(p: Protocol) -> None:
    """R-101."""
    feed(p, to(p, TEXT, b"a") + to(p, TEXT, b"b") + close_frame(1000, mask=masked(p)))
    assert not p.sendable
    assert messages(p) == ["a", "b"]
    # Nor does a close of ours, too late, drop them.
    p = protocol(p.role)
    feed(p, to(p, TEXT, b"a") + close_frame(1000, mask=masked(p)))
    p.close(Close(1000))
    assert messages(p) == ["a"]


def test_a_full_inbox_keeps_their_close_waiting_behind_the_messages(role: Role) -> None:
    """R-101, V5."""
    p = protocol(role, inbox_size=1)
    feed(p, to(p, TEXT, b"a") + to(p, TEXT, b"b") + close_frame(1000, mask=masked(p)))
    p.receive_eof()
    for message in ("a", "b"):
        assert p.sendable
        assert p.has_unparsed
        assert messages(p) == [message]
        p.parse()
    # What was received before the end of the stream comes before it.
    assert p.ending.received == Close(1000)
    assert p.ending.clean


def test_the_end_of_the_stream_comes_behind_what_was_received(p: Protocol) -> None:
    """R-85."""
    p.receive_data(to(p, TEXT, b"a") + to(p, TEXT, b"cut off")[:-1])
    p.receive_eof(OSError("reset"))
    p.receive_eof()
    assert p.theirs is OPEN
    p.parse(one_message=True)
    assert messages(p) == ["a"]
    p.parse()
    assert p.theirs is FAILED
    assert str(p.ending.error) == "reset"
    assert not p.has_unparsed

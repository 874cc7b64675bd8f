"""The closing handshake: the table of halves, and our Close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ends import (
    ROLES,
    close_from_peer,
    end_stream,
    feed,
    masked,
    messages,
    protocol,
    replies,
    to,
    violate,
)
from frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    read_frames,
)
from wsproto.utilities import LocalProtocolError

from anyws._close import Close, Closure, Role
from anyws._errors import ClosedByPeer, ClosedByUs, ClosedWithError, ConnectionBroken
from anyws._protocol.protocol import Half, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN, CLOSED, FAILED = Half.OPEN, Half.CLOSED, Half.FAILED


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


@pytest.fixture
def p(role: Role) -> Protocol:
    return protocol(role)


def state(p: Protocol) -> tuple[Half, Half]:
    return p.ours, p.theirs


# --- The table: ours \ theirs ---


def test_open_and_open_anything_may_be_sent(p: Protocol) -> None:
    """R-71."""
    assert state(p) == (OPEN, OPEN)
    assert p.sendable
    assert p.reading
    assert not p.finished
    p.ping(b"p")
    feed(p, to(p, PING, b"q"), to(p, TEXT, b"t"))
    assert replies(p) == [(PING, b"p"), (PONG, b"q")]
    assert read_frames(bytes(p.encode("x")))[0].payload == b"x"


def test_open_and_their_close_is_answered_with_close_and_nothing_else(p: Protocol) -> None:
    """R-79, R-80, R-101."""
    feed(p, close_frame(1001, b"away", masked(p)) + to(p, PING, b"late") + to(p, TEXT, b"late"))
    # The cell lasts no longer than it takes to answer.
    assert state(p) == (CLOSED, CLOSED)
    assert replies(p) == [(CLOSE, b"\x03\xe9")]
    assert p.finished
    assert not p.sendable
    assert not p.reading
    assert messages(p) == []


def test_open_and_a_violation_is_answered_with_close_and_ends(p: Protocol) -> None:
    """R-83, R-84, R-107, W19."""
    violate(p)
    assert state(p) == (CLOSED, FAILED)
    assert p.finished
    assert p.ending.received is None
    [(opcode, payload)] = replies(p)
    assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")


def test_open_and_the_end_of_the_stream_is_the_end_without_a_word(p: Protocol) -> None:
    """R-85, R-87."""
    end_stream(p)
    assert state(p) == (OPEN, FAILED)
    assert p.finished
    assert not p.sendable
    assert not p.replies


def test_closed_and_open_sends_nothing_and_reads_until_their_close(p: Protocol) -> None:
    """R-73, W21."""
    p.close(Close(1000, "bye"))
    assert state(p) == (CLOSED, OPEN)
    assert not p.finished
    assert not p.sendable
    assert p.reading
    assert not p.receivable
    feed(p, to(p, PING, b"p"), to(p, TEXT, b"dropped"), to(p, BINARY, b"x" * 70_000))
    assert replies(p) == [(CLOSE, b"\x03\xe8bye")]
    assert not p.inbox.available
    assert not p.wants_room


def test_closed_and_closed_is_over(p: Protocol) -> None:
    """R-80, R-82, W20."""
    p.close(Close(1000))
    close_from_peer(p)
    assert state(p) == (CLOSED, CLOSED)
    assert p.finished
    assert p.ending.clean
    # One Close from each end, and bytes behind theirs mean nothing.
    assert replies(p) == [(CLOSE, b"\x03\xe8")]
    feed(p, b"zz", close_frame(4000, mask=masked(p)))
    end_stream(p)
    assert state(p) == (CLOSED, CLOSED)
    assert p.ending.received == Close(1000)
    assert not p.has_unparsed


@pytest.mark.parametrize("end", [violate, end_stream])
def test_closed_and_failed_is_over(p: Protocol, end: Callable[[Protocol], None]) -> None:
    """R-83, R-85."""
    p.close(Close(1000))
    end(p)
    assert state(p) == (CLOSED, FAILED)
    assert p.finished
    assert not p.ending.clean
    # The Close of ours is not followed by another.
    assert replies(p) == [(CLOSE, b"\x03\xe8")]


def test_failed_and_open_may_still_learn_why(p: Protocol) -> None:
    p.write_failed(BrokenPipeError("gone"))
    assert state(p) == (FAILED, OPEN)
    assert p.finished
    assert not p.sendable
    assert p.reading
    feed(p, to(p, PING, b"p"), to(p, TEXT, b"still here"))
    assert not p.replies
    assert messages(p) == ["still here"]


def test_failed_and_closed_is_over_without_an_answer(p: Protocol) -> None:
    """R-79."""
    p.write_failed(BrokenPipeError("gone"))
    close_from_peer(p, 1008)
    assert state(p) == (FAILED, CLOSED)
    assert p.finished
    assert not p.replies
    assert not p.ending.clean
    # The same cell the other way round: our answer was cut short.
    p = protocol(p.role)
    close_from_peer(p, 1000)
    p.write_failed(BrokenPipeError("gone"))
    assert state(p) == (FAILED, CLOSED)
    assert p.finished


@pytest.mark.parametrize("end", [violate, end_stream])
def test_failed_and_failed_is_over(p: Protocol, end: Callable[[Protocol], None]) -> None:
    p.write_failed(BrokenPipeError("gone"))
    end(p)
    assert state(p) == (FAILED, FAILED)
    assert p.finished
    assert not p.replies
    assert isinstance(p.exception(), ConnectionBroken)


@pytest.mark.parametrize("by_us", [None, False, True])
def test_after_a_write_that_was_cut_short_or_an_abort_no_frame_follows(
    p: Protocol, by_us: bool | None
) -> None:
    feed(p, to(p, PING, b"p"))
    p.ping(b"q")
    if by_us is None:
        p.write_failed(BrokenPipeError("gone"))
    else:
        p.abort("why", by_us=by_us)
    assert not p.replies
    assert p.take_replies() == b""
    p.close(Close(1000))
    assert not p.replies
    assert p.ending.sent is None
    # Nor does a Close that was not taken yet.
    p = protocol(p.role)
    p.close(Close(1000))
    p.write_failed(BrokenPipeError("gone"))
    assert not p.replies


@pytest.mark.parametrize("by_us", [None, False, True])
def test_a_close_that_never_went_out_leaves_a_reason_all_the_same(
    p: Protocol, by_us: bool | None
) -> None:
    """Both closed at once, and ours was cut off."""
    p.close(Close(1000))
    close_from_peer(p, 4000)
    if by_us is None:
        p.write_failed(BrokenPipeError("gone"))
        expected = "the connection was lost: BrokenPipeError: gone"
    else:
        p.abort("why", by_us=by_us)
        expected = "why"
    assert p.ending.closure() == Closure(None, Close(4000), "ours", False, expected)


# --- Our close ---


@pytest.mark.parametrize("role", [Role.CLIENT])
def test_a_client_masks_its_close(p: Protocol) -> None:
    """R-44."""
    p.close(Close(1000, "why"))
    [sent] = read_frames(p.take_replies())
    assert (sent.opcode, sent.payload, len(sent.mask)) == (CLOSE, b"\x03\xe8why", 4)


def test_closing_again_changes_nothing(p: Protocol) -> None:
    """R-88."""
    p.close(Close(4000, "first"), because="of this")
    p.close(Close(4001, "second"), because="of that")
    assert replies(p) == [(CLOSE, b"\x0f\xa0first")]
    assert p.ending.closure().cause == (
        "this end closed the connection with 4000 (application) 'first'; of this"
    )
    close_from_peer(p)
    p.close(Close(4002))
    assert p.ending.sent == Close(4000, "first")
    assert not p.replies


def test_closes_that_cross_are_one_each(p: Protocol) -> None:
    """R-81."""
    p.close(Close(4000))
    close_from_peer(p, 4001, b"mine")
    assert replies(p) == [(CLOSE, b"\x0f\xa0")]
    assert p.ending.closure() == Closure(
        Close(4000),
        Close(4001, "mine"),
        "ours",
        True,
        "this end closed the connection with 4000 (application)",
    )
    assert p.ending.closure().code == 4001


def test_our_close_drops_what_is_here_and_what_comes(p: Protocol) -> None:
    """R-73."""
    feed(p, to(p, TEXT, b"here"), to(p, TEXT, b"begun", fin=False))
    p.close(Close(1000))
    feed(p, to(p, CONTINUATION, b"end"), to(p, BINARY, b"x" * 2**20 + b"too large"))
    feed(p, to(p, BINARY, b"x" * 100)[:50])
    assert p.reading
    assert not p.inbox.available
    assert p.inbox.partial_bytes == p.inbox.waiting_bytes == 0
    feed(p, to(p, BINARY, b"x" * 100)[50:])
    close_from_peer(p)
    assert p.ending.clean


def test_our_close_makes_room_for_theirs_behind_a_full_inbox(role: Role) -> None:
    p = protocol(role, inbox_size=1)
    feed(p, to(p, TEXT, b"a") + to(p, TEXT, b"b") + close_frame(1000, mask=masked(p)))
    assert p.wants_room
    p.close(Close(1000))
    assert not p.wants_room
    assert p.has_unparsed
    p.parse()
    assert p.ending.clean


def test_violations_still_end_it_after_our_close(p: Protocol) -> None:
    """R-83."""
    p.close(Close(1000))
    feed(p, to(p, TEXT, b"\xff"))
    assert state(p) == (CLOSED, FAILED)
    assert replies(p) == [(CLOSE, b"\x03\xe8")]
    closure = p.ending.closure()
    assert closure.first == "ours"
    assert not closure.clean
    assert isinstance(p.exception(receiving=True), ClosedByUs)


def test_after_send_eof_messages_are_delivered_until_their_close(p: Protocol) -> None:
    """R-73."""
    feed(p, to(p, TEXT, b"a"))
    p.close(Close(1000), deliver=True)
    assert p.receivable
    assert not p.sendable
    with pytest.raises(LocalProtocolError):
        p.encode("x")
    feed(p, to(p, TEXT, b"b"), to(p, PING, b"p"), to(p, BINARY, b"c"))
    assert replies(p) == [(CLOSE, b"\x03\xe8")]
    close_from_peer(p, 1000)
    assert messages(p) == ["a", "b", b"c"]
    assert not p.receivable
    assert isinstance(p.exception(receiving=True), ClosedByPeer)
    assert isinstance(p.exception(), ClosedByUs)


def test_after_send_eof_an_error_of_theirs_reaches_the_receiver(p: Protocol) -> None:
    p.close(Close(1000), deliver=True)
    close_from_peer(p, 4000, b"no")
    assert isinstance(p.exception(receiving=True), ClosedWithError)
    assert isinstance(p.exception(), ClosedByUs)


def test_after_send_eof_limits_hold(role: Role) -> None:
    """R-105."""
    p = protocol(role, max_message_size=10)
    p.close(Close(1000), deliver=True)
    feed(p, to(p, BINARY, b"x" * 11))
    assert state(p) == (CLOSED, FAILED)


def test_a_close_after_send_eof_drops_what_was_to_be_delivered(p: Protocol) -> None:
    p.close(Close(1000), deliver=True)
    feed(p, to(p, TEXT, b"a"))
    p.close(Close(4000))
    assert p.ending.sent == Close(1000)
    assert not p.receivable
    feed(p, to(p, TEXT, b"b"))
    assert messages(p) == []
    close_from_peer(p)
    assert isinstance(p.exception(receiving=True), ClosedByUs)


def test_our_close_within_a_streamed_frame_lets_the_rest_of_it_pass(p: Protocol) -> None:
    data = to(p, BINARY, b"x" * 100)
    p.inbox.start_streaming()
    feed(p, data[:50])
    assert p.inbox.available
    p.close(Close(1000))
    assert not p.inbox.available
    assert not p.inbox.streamed_to_end
    feed(p, data[50:] + close_frame(1000, mask=masked(p)))
    assert p.ending.clean

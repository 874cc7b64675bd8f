"""Who ended a connection, and which exception tells."""

from __future__ import annotations

import pytest

from anyws._close import Close, Closure
from anyws._errors import (
    ClosedByPeer,
    ClosedByUs,
    ClosedWithError,
    ConnectionBroken,
    ConnectionClosed,
)
from anyws._protocol.ending import By, Ending

NORMAL = Close(1000)


def ending(
    by: By, sent: Close | None = None, received: Close | None = None, detail: str = ""
) -> Ending:
    end = Ending()
    end.note(by, detail)
    end.sent, end.received = sent, received
    return end


def test_of_an_open_connection_there_is_nothing_to_tell() -> None:
    end = Ending()
    assert end.closure() == Closure(None, None, None, False, "the connection is open")
    assert not end.clean
    assert end.error is None


@pytest.mark.parametrize(
    ("sent", "received", "clean"),
    [
        (None, None, False),
        (NORMAL, None, False),
        (None, NORMAL, False),
        (NORMAL, NORMAL, True),
        (Close(1005), Close(1005), True),
    ],
)
def test_an_end_is_clean_where_both_sent_a_close(
    sent: Close | None, received: Close | None, clean: bool
) -> None:
    """R-80."""
    for by in By:
        end = ending(by, sent, received)
        assert end.clean is clean
        assert end.closure().clean is clean
        assert (end.closure().sent, end.closure().received) == (sent, received)


@pytest.mark.parametrize(
    ("by", "sent", "first"),
    [
        (By.PEER, None, "theirs"),
        (By.PEER, NORMAL, "theirs"),
        (By.US, None, "ours"),
        (By.US, NORMAL, "ours"),
        (By.BREAK, None, None),
        (By.BREAK, Close(1002), "ours"),
        (By.NOBODY, None, None),
    ],
)
def test_first_is_who_ended_it(by: By, sent: Close | None, first: str | None) -> None:
    assert ending(by, sent).closure().first == first


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (
            ending(By.PEER, NORMAL, Close(4000, "a\nb"), "a torn write"),
            "the peer closed the connection with 4000 (application) 'a\\nb'",
        ),
        (ending(By.US, NORMAL), "this end closed the connection with 1000 (normal)"),
        (
            ending(By.US, NORMAL, None, "too late"),
            "this end closed the connection with 1000 (normal); too late",
        ),
        (ending(By.US, None, None, "aborted"), "aborted"),
        (ending(By.BREAK, None, None, "no pong"), "no pong"),
        (ending(By.BREAK, Close(1002), None, "a violation"), "a violation"),
    ],
)
def test_the_cause_says_what_happened(end: Ending, cause: str) -> None:
    assert end.closure().cause == cause
    assert str(end.exception()) == cause


def test_the_first_to_end_a_connection_stays_the_one_who_did() -> None:
    first, second = OSError("first"), OSError("second")
    end = Ending()
    end.note(By.US, "", None)
    end.note(By.BREAK, "what happened", first)
    end.note(By.PEER, "what else happened", second)
    assert end.by is By.US
    assert end.error is first
    assert end.closure().cause == "what happened"


def test_a_loss_is_told_by_its_error_or_in_other_words() -> None:
    """R-85."""
    chained = RuntimeError("something")
    chained.__cause__ = ConnectionResetError("reset by peer")
    for error, detail in (
        (None, "in other words"),
        (OSError("unplugged"), "OSError: unplugged"),
        (TimeoutError(), "TimeoutError"),
        (chained, "ConnectionResetError: reset by peer"),
    ):
        end = Ending()
        end.note_loss(error, "in other words")
        assert end.by is By.BREAK
        assert end.error is error
        assert end.closure().cause == f"the connection was lost: {detail}"
        assert end.exception().__cause__ is error


# Who ended it, their Close, and the exception: for a receiver after `send_eof`, for others.
EXCEPTIONS: list[tuple[By, int | None, type[ConnectionClosed], type[ConnectionClosed]]] = [
    (By.PEER, 1000, ClosedByPeer, ClosedByPeer),
    (By.PEER, 1001, ClosedByPeer, ClosedByPeer),
    (By.PEER, 1005, ClosedByPeer, ClosedByPeer),
    (By.PEER, 1002, ClosedWithError, ClosedWithError),
    (By.PEER, 1011, ClosedWithError, ClosedWithError),
    (By.PEER, 3000, ClosedWithError, ClosedWithError),
    (By.US, None, ClosedByUs, ClosedByUs),
    (By.US, 1000, ClosedByPeer, ClosedByUs),
    (By.US, 1005, ClosedByPeer, ClosedByUs),
    (By.US, 4000, ClosedWithError, ClosedByUs),
    (By.BREAK, None, ConnectionBroken, ConnectionBroken),
]


@pytest.mark.parametrize(("by", "code", "delivered", "other"), EXCEPTIONS)
def test_the_exception_follows_from_who_ended_it(
    by: By,
    code: int | None,
    delivered: type[ConnectionClosed],
    other: type[ConnectionClosed],
) -> None:
    """R-86."""
    end = ending(by, NORMAL, None if code is None else Close(code))
    assert type(end.exception(delivered=True)) is delivered
    assert type(end.exception()) is other
    assert end.exception().closure == end.closure()


def test_every_exception_is_a_new_one_of_its_own_connection() -> None:
    end, other = ending(By.PEER), ending(By.PEER)
    first, second = end.exception(), end.exception()
    assert first is not second
    assert end.is_told_by(first)
    assert end.is_told_by(second)
    assert not other.is_told_by(first)
    for foreign in (ValueError("x"), ConnectionClosed(end.closure())):
        assert not end.is_told_by(foreign)


def test_a_group_is_told_of_where_each_one_in_it_is() -> None:
    end, other = ending(By.PEER, NORMAL, NORMAL), ending(By.PEER, NORMAL, NORMAL)
    own = [end.exception(delivered=True), end.exception(delivered=True)]
    assert end.is_told_by(ExceptionGroup("", own))
    assert end.is_told_by(ExceptionGroup("", [own[0], ExceptionGroup("", own[1:])]))
    for foreign in (ValueError("x"), other.exception(delivered=True)):
        assert not end.is_told_by(ExceptionGroup("", [*own, foreign]))
        assert not end.is_told_by(BaseExceptionGroup("", [own[0], ExceptionGroup("", [foreign])]))

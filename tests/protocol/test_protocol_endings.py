"""Who reports what at the end, and what is let go then."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest
from ends import (
    ACCEPTED_CODES,
    REFUSED_CODES,
    ROLES,
    close_from_peer,
    end_stream,
    feed,
    masked,
    messages,
    protocol,
    to,
    violate,
)
from frames import BINARY, CLOSE, PING, PONG, RSV1, TEXT, close_frame, deflated
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import Close, Closure, Role
from anyws._errors import (
    ClosedByPeer,
    ClosedByUs,
    ClosedWithError,
    ConnectionBroken,
    ConnectionClosed,
)
from anyws._protocol.protocol import Half, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPEN, CLOSED, FAILED = Half.OPEN, Half.CLOSED, Half.FAILED


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


@pytest.fixture
def p(role: Role) -> Protocol:
    return protocol(role)


def state(p: Protocol) -> tuple[Half, Half]:
    return p.ours, p.theirs


# --- Who reports what ---


REFUSED_CAUSE = "the peer sent what is refused: Invalid opcode 0x3 (1002)"
NO_CLOSE = "the peer ended the stream without a Close"


def peer_closes(code: int | None, reason: bytes = b"") -> Callable[[Protocol], None]:
    return lambda p: close_from_peer(p, code, reason)


def we_close(p: Protocol) -> None:
    p.close(Close(1000))


def we_send_eof(p: Protocol) -> None:
    p.close(Close(1000), deliver=True)


def write_fails(p: Protocol) -> None:
    p.write_failed(BrokenPipeError("torn"))


def write_fails_quietly(p: Protocol) -> None:
    p.write_failed(ConnectionResetError())


def all_is_lost(p: Protocol) -> None:
    p.write_failed(BrokenPipeError("torn"), is_cut=False)


def network_fails(p: Protocol) -> None:
    end_stream(p, OSError("unplugged"))


def written(p: Protocol) -> None:
    p.take_replies()


def we_give_up(p: Protocol) -> None:
    p.abort("no pong came")


def we_give_up_writing(p: Protocol) -> None:
    p.abort("it took too long", is_cut=True)


def we_abort(p: Protocol) -> None:
    p.abort("the program aborted it", by_us=True)


C1000 = Close(1000)
REFUSED_CLOSE = Close(1002, "Invalid opcode 0x3")
OURS = "this end closed the connection with 1000 (normal)"

ENDS: list[tuple[str, list[Callable[[Protocol], None]], type[ConnectionClosed], Closure]] = [
    (
        "their close",
        [peer_closes(1000, b"bye")],
        ClosedByPeer,
        Closure(
            C1000,
            Close(1000, "bye"),
            "theirs",
            True,
            "the peer closed the connection with 1000 (normal) 'bye'",
        ),
    ),
    (
        "their going away",
        [peer_closes(1001)],
        ClosedByPeer,
        Closure(
            Close(1001),
            Close(1001),
            "theirs",
            True,
            "the peer closed the connection with 1001 (going away)",
        ),
    ),
    (
        "their close without a code",
        [peer_closes(None)],
        ClosedByPeer,
        Closure(
            Close(1005),
            Close(1005),
            "theirs",
            True,
            "the peer closed the connection with 1005 (no status received)",
        ),
    ),
    (
        "their close with an error",
        [peer_closes(4000, b"no")],
        ClosedWithError,
        Closure(
            Close(4000),
            Close(4000, "no"),
            "theirs",
            True,
            "the peer closed the connection with 4000 (application) 'no'",
        ),
    ),
    (
        "their close, and the answer is torn",
        [peer_closes(1011), write_fails],
        ClosedWithError,
        Closure(
            None,
            Close(1011),
            "theirs",
            False,
            "the peer closed the connection with 1011 (internal error)",
        ),
    ),
    (
        "their close, and it is cut before the answer",
        [peer_closes(1000), we_abort],
        ClosedByPeer,
        Closure(None, C1000, "theirs", False, "the peer closed the connection with 1000 (normal)"),
    ),
    (
        "their close, and it is cut after the answer",
        [peer_closes(1000), written, we_close, end_stream, all_is_lost, we_abort, we_give_up],
        ClosedByPeer,
        Closure(C1000, C1000, "theirs", True, "the peer closed the connection with 1000 (normal)"),
    ),
    (
        "their close, and the answer is torn as it goes out",
        [peer_closes(1000), written, write_fails, all_is_lost],
        ClosedByPeer,
        Closure(None, C1000, "theirs", False, "the peer closed the connection with 1000 (normal)"),
    ),
    (
        "their close, and the answer is cut as it goes out",
        [peer_closes(1000), written, we_give_up_writing, end_stream],
        ClosedByPeer,
        Closure(None, C1000, "theirs", False, "the peer closed the connection with 1000 (normal)"),
    ),
    (
        "our close and their answer",
        [we_close, peer_closes(1000)],
        ClosedByUs,
        Closure(C1000, C1000, "ours", True, OURS),
    ),
    (
        "our close and their answer, then all is cut",
        [we_close, written, peer_closes(1000), we_give_up, all_is_lost, end_stream],
        ClosedByUs,
        Closure(C1000, C1000, "ours", True, OURS),
    ),
    (
        "our close and the end of the stream",
        [we_close, end_stream],
        ClosedByUs,
        Closure(C1000, None, "ours", False, f"{OURS}; the connection was lost: {NO_CLOSE}"),
    ),
    (
        "our close and no answer in time",
        [we_close, written, we_give_up],
        ClosedByUs,
        Closure(C1000, None, "ours", False, f"{OURS}; no pong came"),
    ),
    (
        "our close and a violation",
        [we_close, violate],
        ClosedByUs,
        Closure(C1000, None, "ours", False, f"{OURS}; {REFUSED_CAUSE}"),
    ),
    (
        "our close is torn before it is out",
        [we_close, write_fails],
        ClosedByUs,
        Closure(None, None, "ours", False, "the connection was lost: BrokenPipeError: torn"),
    ),
    (
        "our close is torn before it is out because they had closed",
        [we_close, write_fails, peer_closes(1008)],
        ClosedWithError,
        Closure(
            None,
            Close(1008),
            "theirs",
            False,
            "the peer closed the connection with 1008 (policy violation)",
        ),
    ),
    (
        "our close is torn as it goes out",
        [we_close, written, write_fails],
        ClosedByUs,
        Closure(None, None, "ours", False, "the connection was lost: BrokenPipeError: torn"),
    ),
    (
        "our close is cut as it goes out, and they close too",
        [we_close, written, peer_closes(1000), we_give_up_writing],
        ClosedByUs,
        Closure(None, C1000, "ours", False, "it took too long"),
    ),
    (
        "our close, and nothing can be written any more",
        [we_close, written, all_is_lost],
        ClosedByUs,
        Closure(
            C1000, None, "ours", False, f"{OURS}; the connection was lost: BrokenPipeError: torn"
        ),
    ),
    (
        "our end of sending and the end of the stream",
        [we_send_eof, end_stream],
        ClosedByUs,
        Closure(C1000, None, "ours", False, f"{OURS}; the connection was lost: {NO_CLOSE}"),
    ),
    (
        "a violation",
        [violate],
        ConnectionBroken,
        Closure(REFUSED_CLOSE, None, "ours", False, REFUSED_CAUSE),
    ),
    (
        "a violation, then all is cut",
        [violate, written, we_close, all_is_lost, end_stream, we_give_up],
        ConnectionBroken,
        Closure(REFUSED_CLOSE, None, "ours", False, REFUSED_CAUSE),
    ),
    (
        "a violation, and it is cut before the answer",
        [violate, write_fails],
        ConnectionBroken,
        Closure(None, None, None, False, REFUSED_CAUSE),
    ),
    (
        "the end of the stream",
        [end_stream],
        ConnectionBroken,
        Closure(None, None, None, False, f"the connection was lost: {NO_CLOSE}"),
    ),
    (
        "the network",
        [network_fails, end_stream, we_close],
        ConnectionBroken,
        Closure(None, None, None, False, "the connection was lost: OSError: unplugged"),
    ),
    (
        "a torn write",
        [write_fails, we_close],
        ConnectionBroken,
        Closure(None, None, None, False, "the connection was lost: BrokenPipeError: torn"),
    ),
    (
        "a torn write without words",
        [write_fails_quietly],
        ConnectionBroken,
        Closure(None, None, None, False, "the connection was lost: ConnectionResetError"),
    ),
    (
        "a torn write and a violation",
        [write_fails, violate],
        ConnectionBroken,
        Closure(None, None, None, False, "the connection was lost: BrokenPipeError: torn"),
    ),
    (
        "a torn write because they had closed",
        [write_fails, peer_closes(1008, b"policy")],
        ClosedWithError,
        Closure(
            None,
            Close(1008, "policy"),
            "theirs",
            False,
            "the peer closed the connection with 1008 (policy violation) 'policy'",
        ),
    ),
    (
        "a torn write because they were done",
        [write_fails, peer_closes(1000)],
        ClosedByPeer,
        Closure(None, C1000, "theirs", False, "the peer closed the connection with 1000 (normal)"),
    ),
    (
        "a timeout",
        [we_give_up],
        ConnectionBroken,
        Closure(None, None, None, False, "no pong came"),
    ),
    (
        "an abort of ours",
        [we_abort, end_stream, we_close],
        ClosedByUs,
        Closure(None, None, "ours", False, "the program aborted it"),
    ),
]


@pytest.mark.parametrize(
    ("steps", "kind", "closure"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS]
)
def test_each_end_reports_who_ended_it_and_how(
    p: Protocol,
    steps: list[Callable[[Protocol], None]],
    kind: type[ConnectionClosed],
    closure: Closure,
) -> None:
    """R-80, R-84, R-85, R-86, R-87, R-88."""
    for step in steps:
        step(p)
        assert not p.sendable
    assert p.finished
    assert p.ending.closure() == closure
    assert p.ending.clean is closure.clean
    for receiving in (False, True):
        exceptions = [p.exception(receiving=receiving) for _ in range(2)]
        assert exceptions[0] is not exceptions[1]
        for exception in exceptions:
            assert type(exception) is kind
            assert exception.closure == closure
            assert str(exception) == closure.cause
            assert p.ending.is_told_by(exception)
            assert exception.__cause__ is p.ending.error


@pytest.mark.parametrize("step", [network_fails, write_fails])
def test_the_error_of_the_network_is_the_cause_of_the_exception(
    p: Protocol, step: Callable[[Protocol], None]
) -> None:
    step(p)
    assert isinstance(p.ending.error, OSError)
    assert p.exception().__cause__ is p.ending.error
    first = p.ending.error
    network_fails(p)
    assert p.ending.error is first


def test_an_error_is_told_by_what_it_was_raised_from(p: Protocol) -> None:
    error = RuntimeError("the stream broke")
    error.__cause__ = ConnectionResetError("Connection reset by peer")
    end_stream(p, error)
    assert p.ending.closure().cause == (
        "the connection was lost: ConnectionResetError: Connection reset by peer"
    )
    assert p.ending.error is error


@given(st.binary(max_size=123), st.sampled_from(ACCEPTED_CODES + REFUSED_CODES))
def test_no_cause_has_control_characters_of_the_peer(reason: bytes, code: int) -> None:
    """R-78, V24, W28."""
    for role in Role:
        for compression in (False, True):
            for opcode, payload, rsv in (
                (CLOSE, code.to_bytes(2, "big") + reason, 0),
                (TEXT, reason, 0),
                (BINARY, reason, RSV1),
            ):
                p = protocol(role, compression=compression)
                feed(p, to(p, opcode, payload, rsv=rsv))
                assert p.ending.closure().cause.isprintable()
                assert str(p.exception()).isprintable()
                if p.theirs is FAILED:
                    assert p.ending.sent is not None
                    assert p.ending.sent.reason.isascii()
                    assert len(p.ending.sent.reason) <= 123


def test_an_exception_tells_which_connection_it_is_of(role: Role) -> None:
    ends = [protocol(role) for _ in range(2)]
    for end in ends:
        violate(end)
    assert [end.ending.is_told_by(ends[0].exception()) for end in ends] == [True, False]


def test_a_failure_that_comes_after_the_end_is_no_news(p: Protocol) -> None:
    """R-83."""
    close_from_peer(p, 1000)
    before = p.ending.closure()
    p.fail(Close(1011, "late"))
    end_stream(p, OSError("late"))
    violate(p)
    assert p.ending.closure() == before
    assert state(p) == (CLOSED, CLOSED)


def test_an_abort_keeps_the_messages_unless_it_is_ours(p: Protocol) -> None:
    for by_us in (False, True):
        p = protocol(p.role)
        feed(p, to(p, TEXT, b"a"))
        p.abort("why", by_us=by_us)
        assert state(p) == (FAILED, FAILED)
        assert messages(p) == ([] if by_us else ["a"])
        assert not p.has_unparsed


def test_bytes_after_an_abort_mean_nothing(p: Protocol) -> None:
    """R-83."""
    p.receive_data(to(p, TEXT, b"unparsed"))
    p.abort("why")
    feed(p, to(p, TEXT, b"a"), close_frame(1000, mask=masked(p)))
    assert messages(p) == []
    assert p.ending.received is None


# --- What is let go ---


def exchange(p: Protocol) -> None:
    """Use both contexts, where there are any."""
    p.encode("x" * 100)
    compressed = p._deflate is not None
    payload = deflated(b"y" * 100) if compressed else b"y" * 100
    feed(p, to(p, TEXT, payload, rsv=RSV1 * compressed))


def too_large(p: Protocol) -> None:
    feed(p, to(p, BINARY, b"", length=2**40))


def bad_text(p: Protocol) -> None:
    feed(p, to(p, TEXT, b"\xff"))


def bad_close(p: Protocol) -> None:
    close_from_peer(p, 999)


def half_a_fragmented_message(p: Protocol) -> None:
    feed(p, to(p, TEXT, b"", fin=False))


def half_a_frame(p: Protocol) -> None:
    feed(p, to(p, BINARY, b"x" * 100)[:50])


def half_a_streamed_frame(p: Protocol) -> None:
    p.inbox.start_streaming()
    half_a_frame(p)


def half_a_streamed_text(p: Protocol) -> None:
    p.inbox.start_streaming()
    feed(p, to(p, TEXT, "€€€€".encode())[:-2])


def close_and_half_a_frame(p: Protocol) -> None:
    we_close(p)
    half_a_frame(p)


def nothing(p: Protocol) -> None:
    pass


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize(
    "before",
    [
        nothing,
        half_a_fragmented_message,
        half_a_frame,
        half_a_streamed_frame,
        half_a_streamed_text,
        close_and_half_a_frame,
        we_close,
        write_fails,
    ],
)
@pytest.mark.parametrize(
    "end", [peer_closes(1000), violate, too_large, bad_text, bad_close, end_stream, we_abort]
)
def test_the_parser_is_let_go_whatever_the_end_even_within_a_frame(
    role: Role,
    compression: bool,
    before: Callable[[Protocol], None],
    end: Callable[[Protocol], None],
) -> None:
    """V9."""
    p = protocol(role, compression=compression)
    exchange(p)
    feed(p, to(p, PING, b"for the engine"))
    before(p)
    end(p)
    if not p.finished:
        # What was meant as a frame was the rest of one.
        we_give_up(p)
    if p._deflate is not None:
        assert p._deflate._compressor is None
        assert p._deflate._decompressor is None
    # wsproto's parser refers to itself, until it has ended.
    parts: list[object] = [p]
    if p._made_engine is not None:
        parts += [p._made_engine, p._made_engine._proto]
    if p._deflate is not None:
        parts.append(p._deflate)
    references = [weakref.ref(part) for part in parts]
    del p, parts
    assert [reference() for reference in references] == [None] * len(references)


def test_who_waits_for_pongs_is_let_go_at_the_end(p: Protocol) -> None:
    """V9."""
    pongs: list[bytes] = []
    p.on_pong = pongs.append
    feed(p, to(p, PONG, b"a"))
    we_close(p)
    feed(p, to(p, PONG, b"b"))
    assert p.on_pong is not None
    close_from_peer(p)
    assert p.on_pong is None
    assert pongs == [b"a", b"b"]


def test_an_end_that_comes_from_a_pong_is_an_end(p: Protocol) -> None:
    def on_pong(payload: bytes) -> None:
        p.abort(f"after {payload!r}")

    p.on_pong = on_pong
    feed(p, to(p, PONG, b"a") + to(p, TEXT, b"b"))
    assert p.finished
    assert messages(p) == []
    assert p.ending.closure().cause == "after b'a'"

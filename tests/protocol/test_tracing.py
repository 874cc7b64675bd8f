"""What a traced connection tells, and that it goes as any other does; and what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ends import ROLES, close_from_peer, deflate, feed, messages, protocol, replies, to, verdict
from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import Close, Role
from anyws._config import Config
from anyws._protocol.protocol import Protocol
from anyws._protocol.shared import SharedMessage
from anyws._protocol.tracing import HeadScanner, TracedProtocol, make_protocol

if TYPE_CHECKING:
    from anyws import TraceEvent


def traced(
    role: Role, *, compression: bool = False, **limits: Any
) -> tuple[TracedProtocol, list[TraceEvent]]:
    events: list[TraceEvent] = []
    config = Config(trace=events.append, **limits)
    p = TracedProtocol(role, config, deflate(config.max_message_size) if compression else None)
    ticks = iter(range(10_000))
    p.clock = lambda: float(next(ticks))
    return p, events


def told(events: list[TraceEvent]) -> list[tuple[str, int | None, int]]:
    return [(event.kind, event.opcode, event.length) for event in events]


@pytest.mark.parametrize("role", ROLES)
def test_a_connection_that_nobody_traces_is_made_of_no_other_class(role):
    """Nothing is asked for a message: the choice was made when the connection was."""
    assert type(make_protocol(role, Config(), None, float)) is Protocol
    assert type(make_protocol(role, Config(trace=print), None, float)) is TracedProtocol


@pytest.mark.parametrize("role", ROLES)
def test_each_frame_is_told_in_its_order_with_its_size_and_its_time(role):
    p, events = traced(role)
    feed(p, to(p, TEXT, b"hello") + to(p, PING, b"?"))
    p.encode("answer")
    p.take_replies()
    p.encode(b"x" * 200, finished=False)
    p.encode(b"", finished=True)
    p.encode(b"y" * 70_000)
    p.close(Close(1000, "bye"))
    p.take_replies()
    close_from_peer(p)
    assert told(events) == [
        ("received", TEXT, 5),
        ("received", PING, 1),
        ("sent", TEXT, 6),
        ("sent", PONG, 1),
        ("sent", BINARY, 200),
        ("sent", CONTINUATION, 0),
        ("sent", BINARY, 70_000),
        ("sent", CLOSE, 5),
        ("received", CLOSE, 2),
    ]
    assert [event.time for event in events] == [float(n) for n in range(9)]
    assert [event.final for event in events] == [True] * 4 + [False] + [True] * 4
    assert {event.role for event in events} == {role}
    assert len({event.connection for event in events}) == 1


@pytest.mark.parametrize("role", ROLES)
def test_a_frame_is_told_when_its_head_has_arrived_however_it_is_cut(role):
    p, events = traced(role)
    wire = to(p, TEXT, b"x" * 300)
    for index in range(len(wire)):
        feed(p, wire[index : index + 1])
        head = 4 + (4 if role is Role.SERVER else 0)
        assert told(events) == ([("received", TEXT, 300)] if index + 1 >= head else [])
    assert messages(p) == ["x" * 300]


def test_a_compressed_message_is_told_with_what_it_is_on_the_wire():
    p, events = traced(Role.SERVER, compression=True)
    p.encode("x" * 1000)
    [event] = events
    assert event.compressed
    assert event.length < 100


@pytest.mark.parametrize("role", ROLES)
def test_the_frame_that_breaks_the_connection_is_the_last_that_is_told(role):
    p, events = traced(role, max_message_size=100)
    feed(p, to(p, TEXT, b"x") + to(p, TEXT, b"x" * 101)[:14])
    feed(p, to(p, TEXT, b"never seen"))
    assert told(events) == [("received", TEXT, 1), ("received", TEXT, 101)]
    assert verdict(p) == 1009
    assert told(events)[2:] == [("sent", CLOSE, p.ending.sent is not None and events[-1].length)]
    # Behind a frame that cannot be, and behind a Close, nothing is told of what looks like frames.
    for last in (to(p, 3), to(p, CLOSE, b"\x03\xe8")):
        p, events = traced(role)
        feed(p, to(p, PING) + last + to(p, PING) * 2)
        assert [event.kind for event in events] == ["received"] * 2


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("compression", [False, True])
def test_what_many_connections_share_is_told_of_each_of_them(role, compression):
    message = SharedMessage("x" * 1000, None)
    for _ in range(2):
        p, events = traced(role, compression=compression)
        frame = p.encode_shared(message)
        head = (2 if compression else 4) + (4 if role is Role.CLIENT else 0)
        [event] = events
        assert (event.kind, event.opcode, event.final) == ("sent", TEXT, True)
        assert (event.length, event.compressed) == (len(frame) - head, compression)


def test_a_pong_that_never_goes_out_is_not_told():
    p, events = traced(Role.SERVER)
    p.write_blocked = True
    feed(p, *(to(p, PING, payload) for payload in (b"a", b"bb")))
    p.take_replies()
    assert told(events)[2:] == [("sent", PONG, 2)]


@pytest.mark.parametrize("role", ROLES)
def test_a_trace_that_fails_is_reported_and_not_called_again(role, caplog):
    calls: list[TraceEvent] = []

    def trace(event: TraceEvent) -> None:
        calls.append(event)
        raise OSError("the disk is full")

    p = make_protocol(role, Config(trace=trace), None, lambda: 0.0)
    feed(p, to(p, TEXT, b"a"), to(p, TEXT, b"b"))
    p.encode("c")
    assert messages(p) == ["a", "b"]
    assert len(calls) == 1
    assert [record.name for record in caplog.records] == ["anyws.protocol"]


def test_an_interrupt_in_a_trace_is_not_swallowed():
    def trace(event: TraceEvent) -> None:
        raise KeyboardInterrupt

    p = make_protocol(Role.CLIENT, Config(trace=trace), None, lambda: 0.0)
    with pytest.raises(KeyboardInterrupt):
        p.encode("x")


CHUNKS = st.lists(st.integers(1, 40), min_size=1)
PARTS = st.lists(
    st.sampled_from(["text", "large", "compressed", "ping", "pong", "fragments", "bad", "close"]),
    max_size=8,
)


def wire_of(p: Protocol, parts: list[str]) -> bytes:
    frames = {
        "text": to(p, TEXT, b"hello"),
        "large": to(p, BINARY, b"x" * 200),
        "compressed": to(p, TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4),
        "ping": to(p, PING, b"?"),
        "pong": to(p, PONG, b"!"),
        "fragments": to(p, TEXT, b"a", fin=False) + to(p, PING) + to(p, CONTINUATION, b"b"),
        "bad": to(p, TEXT, b"\xff"),
        "close": to(p, CLOSE, b"\x03\xe8"),
    }
    return b"".join([frames[part] for part in parts])


@given(st.sampled_from(ROLES), st.booleans(), PARTS, CHUNKS)
def test_traced_or_not_a_connection_goes_the_same_way(role, compression, parts, sizes):
    plain, (seen, _) = (
        protocol(role, compression=compression),
        traced(role, compression=compression),
    )
    wire = wire_of(plain, parts)
    outcomes = []
    for p in (plain, seen):
        position, taken, turn = 0, [], 0
        while position < len(wire):
            size = sizes[turn % len(sizes)]
            p.feed(wire[position : position + size])
            position, turn = position + size, turn + 1
            while p.has_unparsed and not p.inbox.full:
                p.parse()
            taken += messages(p)
        counted = (p.messages_received, p.inbox.received_bytes, p.pings_received)
        outcomes.append((taken, p.theirs, p.ending.received, verdict(p), counted))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == outcomes[0][4][0]


@given(st.sampled_from(ROLES), PARTS, CHUNKS)
def test_heads_are_found_whatever_the_chunks(role, parts, sizes):
    p = protocol(role, compression=True)
    wire = wire_of(p, [part for part in parts if part != "bad"])
    whole = HeadScanner(role, compression=True).feed(wire)
    scanner = HeadScanner(role, compression=True)
    found, position, turn = [], 0, 0
    while position < len(wire):
        size = sizes[turn % len(sizes)]
        found += scanner.feed(memoryview(wire)[position : position + size])
        position, turn = position + size, turn + 1
    assert found == whole


# --- Counting ---


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("compression", [False, True])
def test_messages_and_what_is_in_them_are_counted_each_way(role, compression):
    p = protocol(role, compression=compression)
    feed(p, to(p, TEXT, "né".encode()), to(p, BINARY, b"12345"), to(p, PING))
    feed(p, to(p, TEXT, b"ab", fin=False), to(p, PING), to(p, CONTINUATION, b"c"))
    assert (p.messages_received, p.inbox.received_bytes, p.pings_received) == (3, 11, 2)
    p.encode("né")
    p.encode(b"12345")
    p.encode("ab", finished=False)
    assert (p.messages_sent, p.bytes_sent) == (2, 10)
    p.encode("c")
    assert (p.messages_sent, p.bytes_sent) == (3, 11)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("compression", [False, True])
def test_what_many_connections_share_counts_for_each_of_them(role, compression):
    message = SharedMessage("né" * 100, None)
    ends = [protocol(role, compression=compression) for _ in range(2)]
    for p in ends:
        p.encode("own")
        p.encode_shared(message)
    assert [(p.messages_sent, p.bytes_sent) for p in ends] == [(2, 303)] * 2


def test_a_compressed_message_counts_by_what_is_in_it():
    p = protocol(Role.SERVER, compression=True)
    feed(p, to(p, TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
    assert messages(p) == ["Hello"]
    assert (p.messages_received, p.inbox.received_bytes) == (1, 5)
    p.encode("x" * 1000)
    assert (p.messages_sent, p.bytes_sent) == (1, 1000)


def test_one_that_cannot_be_inflated_is_no_message():
    p = protocol(Role.SERVER, compression=True)
    feed(p, to(p, TEXT, b"hello"), to(p, TEXT, b"\xff\xff\xff", rsv=4))
    assert verdict(p) == 1007
    assert p.messages_received == 1


def test_what_is_dropped_after_our_close_is_not_counted():
    p = protocol(Role.CLIENT)
    feed(p, to(p, TEXT, b"a"))
    p.close(Close(1000))
    feed(p, to(p, TEXT, b"b"))
    assert (p.messages_received, p.inbox.received_bytes) == (1, 1)


def test_the_most_that_ever_waited_is_known_and_stays_known():
    p = protocol(Role.SERVER)
    feed(p, to(p, TEXT, b"abc") * 3, to(p, TEXT, b"d", fin=False), to(p, CONTINUATION, b"e"))
    assert (p.inbox.most_messages, p.inbox.most_bytes) == (4, 11)
    messages(p)
    feed(p, to(p, TEXT, b"abc"))
    assert (p.inbox.most_messages, p.inbox.most_bytes) == (4, 11)


def test_pieces_count_once():
    p = protocol(Role.SERVER)
    p.inbox.start_streaming()
    feed(p, to(p, TEXT, b"ab", fin=False))
    assert p.inbox.take_piece() == "ab"
    feed(p, to(p, CONTINUATION, b"c"))
    p.inbox.stop_streaming()
    assert (p.messages_received, p.inbox.received_bytes) == (1, 3)
    assert replies(p) == []

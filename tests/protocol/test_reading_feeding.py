"""A chunk at a time, as transports hand it over: read where it lies, as far as the next message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ends import ROLES, close_from_peer, messages, pieces_of, protocol, replies, to, verdict
from frames import BINARY, CONTINUATION, PING, PONG, RSV1, TEXT, deflated

from anyws._protocol.fastlane import FastLane
from anyws._protocol.protocol import Half

if TYPE_CHECKING:
    from anyws._close import Role
    from anyws._protocol.protocol import Protocol


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


def with_lane(role: Role, **limits: int) -> Protocol:
    """A protocol that has the lane whatever the environment says."""
    p = protocol(role, **limits)
    p._lane = FastLane(role, p._config, None)
    return p


def feed(p: Protocol, *chunks: bytes) -> None:
    """Hand chunks over in one buffer, which the next one overwrites."""
    buffer = bytearray(max(map(len, chunks)))
    for chunk in chunks:
        buffer[: len(chunk)] = chunk
        with memoryview(buffer) as view:
            p.feed(view[: len(chunk)])
        buffer[:] = b"?" * len(buffer)


def test_whole_messages_are_taken_and_nothing_is_kept(role: Role) -> None:
    p = with_lane(role)
    feed(p, to(p, TEXT, b"one") + to(p, BINARY, b"two") + to(p, TEXT, b"three"))
    assert p.unparsed_bytes == 0
    assert not p.has_unparsed
    assert messages(p) == ["one", b"two", "three"]
    assert p.engine_frames == 0


def test_what_follows_the_messages_is_kept_and_parsed_later(role: Role) -> None:
    p = protocol(role)
    last = to(p, TEXT, b"cut in two")
    feed(p, to(p, TEXT, b"whole") + last[:5])
    assert p.has_unparsed
    assert messages(p) == ["whole"]
    feed(p, last[5:])
    assert messages(p) == ["cut in two"]
    assert p.unparsed_bytes == 0


def test_a_frame_that_comes_in_any_pieces_is_one_message(role: Role) -> None:
    p = protocol(role)
    data = to(p, BINARY, bytes(300))
    feed(p, *(data[at : at + 1] for at in range(len(data))))
    assert messages(p) == [bytes(300)]


def test_a_ping_before_a_message_is_answered_and_one_behind_it_when_that_was_taken(
    role: Role,
) -> None:
    p = protocol(role)
    feed(p, to(p, PING, b"first") + to(p, TEXT, b"message") + to(p, PING, b"second"))
    assert replies(p) == [(PONG, b"first")]
    assert messages(p) == ["message"]
    assert p.has_unparsed
    p.parse(one_message=True)
    assert replies(p) == [(PONG, b"second")]


def test_nothing_overtakes_messages_that_wait(role: Role) -> None:
    p = protocol(role)
    feed(p, to(p, TEXT, b"one"), to(p, TEXT, b"two"), to(p, TEXT, b"three"))
    p.parse()
    assert messages(p) == ["one", "two", "three"]


def test_a_violation_behind_a_message_is_met_in_its_place(role: Role) -> None:
    p = protocol(role)
    feed(p, to(p, TEXT, b"in order") + to(p, 3))
    assert p.sendable
    assert messages(p) == ["in order"]
    p.parse(one_message=True)
    assert verdict(p) == 1002


def test_compressed_messages_are_inflated_one_at_a_time(role: Role) -> None:
    p = protocol(role, compression=True)
    texts = [b"some text", b"some other text"]
    frames = [to(p, TEXT, deflated(text), rsv=RSV1) for text in texts]
    feed(p, frames[0] + to(p, TEXT, b"plain"))
    assert messages(p) == ["some text"]
    p.parse()
    assert messages(p) == ["plain"]
    feed(p, frames[1])
    assert messages(p) == ["some other text"]


def test_compressed_data_that_is_wrong_fails_the_connection(role: Role) -> None:
    p = protocol(role, compression=True)
    feed(p, to(p, BINARY, b"\xff\xff\xff", rsv=RSV1) + to(p, TEXT, b"never read"))
    assert verdict(p) is not None
    assert messages(p) == []
    assert p.unparsed_bytes == 0


def test_within_a_fragmented_message_the_engine_goes_on(role: Role) -> None:
    p = with_lane(role)
    feed(p, to(p, TEXT, b"be", fin=False), to(p, CONTINUATION, b"gun") + to(p, TEXT, b"next"))
    p.parse()
    assert messages(p) == ["begun", "next"]
    assert p.engine_frames == 2


def test_a_reader_of_pieces_gets_them(role: Role) -> None:
    p = protocol(role)
    p.inbox.start_streaming()
    feed(p, to(p, TEXT, b"a piece"))
    assert pieces_of(p) == ["a piece"]
    assert p.inbox.streamed_to_end


def test_the_room_in_the_inbox_is_kept_to(role: Role) -> None:
    p = with_lane(role, inbox_size=2)
    feed(p, to(p, TEXT, b"x") * 5)
    assert len(p.inbox.messages) == 2
    assert p.has_unparsed
    assert messages(p) == ["x"] * 2
    p.parse()
    assert messages(p) == ["x"] * 2


def test_what_comes_after_the_end_is_dropped(role: Role) -> None:
    p = protocol(role)
    close_from_peer(p)
    feed(p, to(p, TEXT, b"too late"))
    assert p.theirs is Half.CLOSED
    assert messages(p) == []
    assert p.unparsed_bytes == 0


def test_without_the_lane_it_is_the_same(role: Role) -> None:
    p = protocol(role)
    p._lane = None
    feed(p, to(p, TEXT, b"one") + to(p, PING, b"p") + to(p, TEXT, b"two"))
    assert messages(p) == ["one"]
    p.parse()
    assert replies(p) == [(PONG, b"p")]
    assert messages(p) == ["two"]


def test_a_large_message_is_put_where_it_stays(role: Role) -> None:
    p = with_lane(role)
    content = "\N{SNOWMAN} and more of it ".encode() * 20_000
    data = to(p, TEXT, content) + to(p, BINARY, b"the next")
    feed(p, *(data[at : at + 65536] for at in range(0, len(data), 65536)))
    p.parse()
    assert messages(p) == [content.decode(), b"the next"]
    assert p.engine_frames == 0


def test_a_large_text_that_is_none_is_left_to_the_engine(role: Role) -> None:
    p = with_lane(role)
    data = to(p, TEXT, b"a" * 200_000 + b"\xff" + b"a" * 100_000)
    feed(p, data[:70_000], data[70_000:])
    while p.has_unparsed:
        p.parse()
    assert verdict(p) == 1007
    assert messages(p) == []

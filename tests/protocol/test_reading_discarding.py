"""What is compressed, after our Close: passed over, and not inflated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ends import ROLES, close_from_peer, feed, masked, protocol, to
from frames import BINARY, CONTINUATION, PING, RSV1, TEXT, deflated, head

from anyws._close import Close, Role
from anyws._protocol.protocol import Half, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=ROLES, ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param


def state(p: Protocol) -> tuple[Half, Half]:
    return p.ours, p.theirs


BOMB = deflated(bytes(5000))


def in_pieces(p: Protocol, data: bytes) -> None:
    for byte in data:
        feed(p, bytes([byte]))


def at_once(p: Protocol, data: bytes) -> None:
    feed(p, data)


@pytest.mark.parametrize("arrive", [at_once, in_pieces])
@pytest.mark.parametrize("payload", [BOMB, b"\xff\xff\xff"], ids=["too large", "no deflate data"])
@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_what_a_message_inflates_to_means_nothing_once_our_close_is_out(
    role: Role, cut: int, payload: bytes, arrive: Callable[[Protocol, bytes], None]
) -> None:
    """R-73. Wherever in the message our Close falls, as long as nothing was wrong before."""
    p = protocol(role, compression=True, max_message_size=1000)
    p.inbox.start_streaming()
    good = deflated("ü".encode() * 8, level=0)
    data = to(p, TEXT, good[:8], fin=False, rsv=RSV1) + to(p, PING) + to(p, CONTINUATION, good[8:])
    feed(p, data[:cut])
    p.close(Close(1000))
    arrive(p, data[cut:])
    # Too large in one frame, and again in two with a ping and a message of the other kind between.
    arrive(p, to(p, BINARY, payload, rsv=RSV1))
    arrive(p, to(p, TEXT, payload[:2], rsv=RSV1, fin=False) + to(p, PING))
    arrive(p, to(p, CONTINUATION, payload[2:]) + to(p, TEXT, b"plain"))
    assert p.reading
    assert p.unparsed_bytes == 0
    assert not p.inbox.available
    close_from_peer(p)
    assert p.ending.clean
    assert p.ending.closure().cause == "this end closed the connection with 1000 (normal)"


@pytest.mark.parametrize("streams", [False, True])
def test_closing_again_while_a_message_is_passed_over_changes_nothing(
    role: Role, streams: bool
) -> None:
    """So do a server that closes and then its handler that ends."""
    payload = deflated(bytes(range(200)), level=0)
    some = protocol(role)
    data = to(some, BINARY, payload[:150], rsv=RSV1, fin=False) + to(some, PING)
    data += to(some, CONTINUATION, payload[150:])
    for first in range(0, len(data), 3):
        for second in range(first, len(data), 11):
            p = protocol(role, compression=True)
            if streams:
                p.start_streaming()
            feed(p, data[:first])
            p.close(Close(1000))
            feed(p, data[first:second])
            p.close(Close(1001))
            feed(p, data[second:])
            close_from_peer(p)
            assert p.ending.clean


@pytest.mark.parametrize("fin", [True, False])
def test_our_close_within_a_large_compressed_frame_lets_the_rest_of_it_pass(
    role: Role, fin: bool
) -> None:
    p = protocol(role, compression=True, max_message_size=200_000)
    data = to(p, BINARY, deflated(bytes(150_000), level=0), rsv=RSV1, fin=fin)
    p.receive_data(data)
    p.parse()
    assert p.has_unparsed, "a chunk of it at a time"
    p.close(Close(1000))
    if not fin:
        data = to(p, CONTINUATION, BOMB)
        p.receive_data(data[:4])
        p.receive_data(data[4:])
    close_from_peer(p)
    assert p.ending.clean


def test_compressed_messages_are_passed_over_without_being_kept(role: Role) -> None:
    """R-105: however large one says that it is."""
    p = protocol(role, compression=True, max_message_size=1000)
    p.close(Close(1000))
    feed(p, head(BINARY, 2**40, rsv=RSV1, mask=masked(p)))
    for _ in range(100):
        feed(p, bytes(2**16))
        assert p.unparsed_bytes == 0
    assert p.reading


@pytest.mark.parametrize("rsv", [0, RSV1])
@pytest.mark.parametrize("begun", ["before", "after"])
def test_a_message_within_a_compressed_one_is_a_violation_after_our_close_too(
    role: Role, begun: str, rsv: int
) -> None:
    """R-83."""
    p = protocol(role, compression=True)
    if begun == "after":
        p.close(Close(1000))
    feed(p, to(p, BINARY, BOMB[:3], rsv=RSV1, fin=False))
    p.close(Close(1000))
    feed(p, to(p, BINARY, b"x", rsv=rsv))
    assert state(p) == (Half.CLOSED, Half.FAILED)


def test_a_compressed_message_within_another_is_a_violation_after_our_close_too(
    role: Role,
) -> None:
    """R-83."""
    p = protocol(role, compression=True)
    p.close(Close(1000))
    feed(p, to(p, BINARY, b"x", fin=False), to(p, BINARY, BOMB, rsv=RSV1))
    assert state(p) == (Half.CLOSED, Half.FAILED)

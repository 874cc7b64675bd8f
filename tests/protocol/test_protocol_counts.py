"""What an end of a connection counts of what it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ends import ROLES, feed, messages, other, protocol
from hypothesis import given
from hypothesis import strategies as st

from anyws._config import Config
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Protocol
from anyws._protocol.shared import SharedMessage

if TYPE_CHECKING:
    from anyws._close import Role

CONTENT = st.text(max_size=200) | st.binary(max_size=200)


def size_of(data: str | bytes) -> int:
    return len(data.encode() if isinstance(data, str) else data)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@given(script=st.lists(st.tuples(st.sampled_from(["whole", "shared", "pieces"]), CONTENT)))
def test_messages_and_their_bytes_are_counted_whichever_way_they_are_sent(
    role: Role, compressed: bool, script: list[tuple[str, str | bytes]]
) -> None:
    negotiated = Negotiated(15, True, 15, True) if compressed else None
    config = Config(inbox_size=None)
    sender, receiver = (Protocol.negotiated(one, config, negotiated) for one in (role, other(role)))
    for way, data in script:
        if way == "shared":
            feed(receiver, sender.encode_shared(SharedMessage(data, None)))
        elif way == "whole":
            feed(receiver, sender.encode(data))
        else:
            middle = len(data) // 2
            feed(receiver, sender.encode(data[:middle], finished=False))
            feed(receiver, sender.encode(data[middle:]))
    sent = [data for _, data in script]
    assert (sender.messages_sent, sender.bytes_sent) == (len(sent), sum(map(size_of, sent)))
    assert (receiver.messages_received, receiver.inbox.received_bytes) == (
        sender.messages_sent,
        sender.bytes_sent,
    )
    assert messages(receiver) == sent


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)
def test_a_message_counts_when_it_is_at_its_end_and_its_bytes_at_once(role: Role) -> None:
    sender = protocol(role)
    assert (sender.messages_sent, sender.bytes_sent) == (0, 0)
    sender.encode(b"12345", finished=False)
    assert (sender.messages_sent, sender.bytes_sent) == (0, 5)
    sender.encode(b"678")
    assert (sender.messages_sent, sender.bytes_sent) == (1, 8)

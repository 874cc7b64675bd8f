"""One message for many connections (anyws/_protocol/shared.py): what each peer makes of its frame."""

from __future__ import annotations

from typing import Any

import pytest
from frames import BINARY, TEXT, read_frames
from hypothesis import given
from hypothesis import strategies as st

from anyws import Config, Deflate, Role
from anyws._protocol.deflate import PerMessageDeflate, deflate_alone
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Protocol
from anyws._protocol.shared import SharedMessage

TEXTS = ["", "hello", "a" * 63, "a" * 64, "äöü" * 400, "lorem ipsum dolor " * 60]
JSON = (
    '{"channel": "weather", "readings": [{"place": "Oslo", "temperature": 21.5, "unit": "C"},'
    ' {"place": "Bergen", "temperature": 14.5, "unit": "C"}]}'
)


def ends(
    *, bits: int = 12, takeover: bool = True, deflate: Deflate | None = None, client: bool = False
) -> tuple[Protocol, Protocol]:
    """Return who sends and who receives, with compression negotiated between them."""
    here = Negotiated(bits, takeover, 15, True)
    there = Negotiated(15, True, bits, takeover)
    config = Config(compression=deflate or Deflate(), inbox_size=None)
    roles = (Role.CLIENT, Role.SERVER) if client else (Role.SERVER, Role.CLIENT)
    sender, receiver = (
        Protocol.negotiated(role, config, one)
        for role, one in zip(roles, (here, there), strict=True)
    )
    return sender, receiver


def plain(*, client: bool = False) -> tuple[Protocol, Protocol]:
    config = Config(inbox_size=None)
    roles = (Role.CLIENT, Role.SERVER) if client else (Role.SERVER, Role.CLIENT)
    return Protocol(roles[0], config), Protocol(roles[1], config)


def received(receiver: Protocol, data: bytes) -> list[Any]:
    receiver.receive_data(data)
    while receiver.has_unparsed:
        receiver.parse()
    messages = list(receiver.inbox.messages)
    while receiver.inbox.messages:
        receiver.inbox.take()
    assert receiver.sendable, receiver.ending.closure()
    return messages


KINDS = [
    pytest.param(plain, {}, id="plain"),
    pytest.param(ends, {}, id="compressed"),
    pytest.param(ends, {"takeover": False}, id="without takeover"),
    pytest.param(ends, {"bits": 9}, id="smallest window"),
    pytest.param(ends, {"bits": 15}, id="largest window"),
]


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize(("make", "options"), KINDS)
@pytest.mark.parametrize("compress", [None, True, False])
def test_every_kind_of_peer_receives_it(make, options, client, compress):
    sender, receiver = make(client=client, **options)
    for message in [*TEXTS, *(text.encode() for text in TEXTS)]:
        frame = sender.encode_shared(SharedMessage(message, compress))
        assert received(receiver, frame) == [message]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([JSON, JSON * 3, JSON[::-1] * 4, "äöü" * 50, "x", ""])
            | st.text(max_size=200),
            st.booleans(),
            st.sampled_from([None, True, False]),
        ),
        max_size=12,
    ),
    st.booleans(),
    st.sampled_from([9, 12, 15]),
    st.booleans(),
)
def test_messages_of_its_own_and_shared_ones_may_come_in_any_order(script, takeover, bits, client):
    """The history that both ends keep stays the same, whoever else was sent the message."""
    sender, receiver = ends(takeover=takeover, bits=bits, client=client)
    for message, is_shared, compress in script:
        if is_shared:
            frame = sender.encode_shared(SharedMessage(message, compress))
        else:
            frame = sender.encode(message, compress=compress)
        assert received(receiver, frame) == [message]


def test_all_servers_of_one_kind_are_given_the_same_bytes():
    message = SharedMessage(JSON * 10, None)
    kinds = [plain, ends, lambda: ends(takeover=False), lambda: ends(bits=15)]
    frames = [[make()[0].encode_shared(message) for _ in range(3)] for make in kinds]
    for same in frames:
        assert same[0] is same[1] is same[2]
    # Whether a connection keeps its history means nothing to a message that has none.
    assert frames[1][0] is frames[2][0]
    assert len({id(same[0]) for same in frames}) == 3
    assert len(frames[1][0]) < len(frames[0][0])


def test_a_client_s_frame_has_a_key_of_its_own():
    message = SharedMessage("hello", None)
    frames = [plain(client=True)[0].encode_shared(message) for _ in range(2)]
    assert frames[0] != frames[1]
    assert [read_frames(frame)[0].payload for frame in frames] == [b"hello", b"hello"]


def test_what_does_not_get_smaller_is_sent_as_it_is_and_costs_no_history():
    noise = bytes(range(256))
    sender, receiver = ends()
    first = sender.encode(JSON)
    shared = sender.encode_shared(SharedMessage(noise, True))
    assert len(shared) == 4 + len(noise)
    again = sender.encode(JSON)
    assert len(again) < len(first) / 3
    assert received(receiver, first + shared + again) == [JSON, noise, JSON]


def test_compressed_it_costs_the_history_and_as_it_is_nothing():
    for compress, keeps in [(None, False), (False, True)]:
        sender, _ = ends()
        first = sender.encode(JSON)
        sender.encode_shared(SharedMessage(JSON, compress))
        assert (len(sender.encode(JSON)) < len(first) / 3) is keeps


def test_each_connection_s_threshold_counts():
    message = SharedMessage(JSON, None)
    low, _ = ends(deflate=Deflate(threshold=1))
    high, _ = ends(deflate=Deflate(threshold=1000))
    assert low.encode_shared(message)[0] & 0x40
    assert not high.encode_shared(message)[0] & 0x40


def test_each_connection_s_settings_count():
    message = SharedMessage("lorem ipsum dolor sit amet " * 400, None)
    best, _ = ends(deflate=Deflate(level=9, mem_level=9), bits=15)
    none, _ = ends(deflate=Deflate(level=0))
    assert len(best.encode_shared(message)) < 200
    # Level 0 does not compress: it is sent as it is.
    assert not none.encode_shared(message)[0] & 0x40


def test_the_kind_of_a_message_is_that_of_its_frame():
    for make in (plain, ends):
        sender, _ = make()
        [text] = read_frames(sender.encode_shared(SharedMessage(JSON, None)))
        [binary] = read_frames(sender.encode_shared(SharedMessage(JSON.encode(), None)))
        assert (text.opcode & 15, binary.opcode & 15) == (TEXT, BINARY)


@pytest.mark.parametrize("data", [b"", b"a", JSON.encode() * 100])
def test_alone_it_is_what_a_new_context_makes_of_it(data):
    negotiated = Negotiated(12, True, 15, True)
    fresh = PerMessageDeflate(negotiated, Deflate(), None)
    assert deflate_alone(data, fresh.settings) == fresh.deflate(data, first=True, final=True)

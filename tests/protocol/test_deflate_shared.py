"""Compressed once for many connections: what one connection's compression has to do with it."""

from __future__ import annotations

import pytest

from anyws._config import Deflate
from anyws._protocol.deflate import PerMessageDeflate, deflate_alone
from anyws._protocol.negotiation import Negotiated

MIB = 1024 * 1024
DATA = b'{"place": "Oslo", "temperature": 21.5, "unit": "C"}' * 8


def extension(
    bits: int = 15, takeover: bool = True, deflate: Deflate | None = None
) -> PerMessageDeflate:
    return PerMessageDeflate(
        Negotiated(bits, takeover, bits, takeover), deflate or Deflate(threshold=0), MIB
    )


def whole(ext: PerMessageDeflate, data: bytes) -> bytes:
    return ext.deflate(data, first=True, final=True)


def inflated(ext: PerMessageDeflate, data: bytes) -> bytes:
    return ext.inflate(data, first=True, final=True)


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, 300, 70_000])
def test_what_is_compressed_alone_is_inflated_by_every_peer_whatever_that_has_received(
    bits, level, size
):
    sender = extension(bits, deflate=Deflate(threshold=0, level=level))
    data = (DATA * (size // len(DATA) + 1))[:size]
    alone = deflate_alone(data, sender.settings)
    for history in ([], [b"before"], [DATA, DATA * 200]):
        receiver = extension(bits)
        for message in history:
            assert inflated(receiver, whole(extension(bits), message)) == message
        assert inflated(receiver, alone) == data


def test_settings_are_those_that_decide_the_bytes():
    one = extension(12, deflate=Deflate(level=3, mem_level=5))
    assert one.settings == (3, 12, 5)
    # Whether a history is kept decides nothing where there is none.
    assert extension(12, takeover=False).settings == extension(12).settings
    assert extension(12).settings != extension(13).settings


@pytest.mark.parametrize(
    ("size", "compress", "would"),
    [(99, None, False), (100, None, True), (1, True, True), (10_000, False, False)],
)
def test_the_threshold_and_the_caller_decide_as_they_do_for_a_message_of_its_own(
    size, compress, would
):
    sender = extension(deflate=Deflate(threshold=100))
    assert sender.would_compress(size, compress) is would
    sender.compress = compress
    assert sender.wants(size, final=True) is would


def test_after_a_shared_message_nothing_refers_to_what_was_before():
    sender, receiver = extension(), extension()
    assert inflated(receiver, whole(sender, DATA)) == DATA
    assert inflated(receiver, deflate_alone(b"shared" * 50, sender.settings)) == b"shared" * 50
    sender.forget_sent()
    again = whole(sender, DATA)
    assert inflated(receiver, again) == DATA
    # As one that has received none of it can tell, too.
    assert inflated(extension(), again) == DATA

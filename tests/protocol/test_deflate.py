"""Compressed messages, one by one and through two ends of wsproto."""

from __future__ import annotations

import gc
import random
import tracemalloc
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, RsvBits

from anyws._close import CloseCode
from anyws._config import MAX_INFLATE_RESTARTS, Deflate
from anyws._protocol.deflate import InflateError, PerMessageDeflate
from anyws._protocol.negotiation import Negotiated

MIB = 1024 * 1024
TAIL = b"\x00\x00\xff\xff"
HELLO = bytes.fromhex("f248cdc9c90700")
FINAL_HELLO = bytes.fromhex("f348cdc9c90700")
EMPTY_FINAL_BLOCK = b"\x03\x00"
TEXT = 0x41
BINARY = 0x42
FIN = 0x80

SYMMETRIC = Negotiated(15, True, 15, True)


def extension(
    negotiated: Negotiated = SYMMETRIC,
    deflate: Deflate | None = None,
    max_message_size: int | None = MIB,
) -> PerMessageDeflate:
    return PerMessageDeflate(negotiated, deflate or Deflate(threshold=0), max_message_size)


def compress(data: bytes, *, level: int = 6, wbits: int = 15) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -wbits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def final_stream(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def inflate(ext: PerMessageDeflate, data: bytes) -> bytes:
    return ext.inflate(data, first=True, final=True)


def deflate(ext: PerMessageDeflate, data: bytes) -> bytes:
    return ext.deflate(data, first=True, final=True)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# --- Frames by hand, to an end that has the extension ---


def frame(head: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([head]) + length + payload


def receiver(ext: PerMessageDeflate) -> Connection:
    return Connection(ConnectionType.CLIENT, [ext])


@dataclass
class Received:
    messages: list[str | bytes]
    pings: list[bytes]
    close: int | None = None


def receive(connection: Connection, data: bytes, chunk: int | None = None) -> Received:
    received = Received([], [])
    texts: list[str] = []
    blobs: list[bytes] = []
    step = chunk or len(data)
    for start in range(0, len(data), step):
        connection.receive_data(data[start : start + step])
        for event in connection.events():
            if isinstance(event, TextMessage):
                texts.append(event.data)
                if event.message_finished:
                    received.messages.append("".join(texts))
                    texts = []
            elif isinstance(event, BytesMessage):
                blobs.append(bytes(event.data))
                if event.message_finished:
                    received.messages.append(b"".join(blobs))
                    blobs = []
            elif isinstance(event, Ping):
                received.pings.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                received.close = event.code
                return received
    return received


CHUNKS = [None, 1, 2, 3, 7]


# --- Examples of RFC 7692, section 7.2.3 ---


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    ("wire", "messages"),
    [
        ("c107f248cdc9c90700", ["Hello"]),
        ("4103f248cd8004c9c90700", ["Hello"]),
        ("c107f248cdc9c90700" * 2, ["Hello"] * 2),
        ("c107f248cdc9c90700c105f200110000", ["Hello"] * 2),
        ("c10b000500faff48656c6c6f00", ["Hello"]),
        ("c108f348cdc9c9070000", ["Hello"]),
        ("c10df248050000" + "00ffffcac9c90700", ["Hello"]),
        ("c10100", [""]),
        ("c20100", [b""]),
    ],
)
def test_the_examples_of_the_rfc_are_decoded(
    wire: str, messages: list[str | bytes], chunk: int | None
) -> None:
    """D-14, D-15, D-16, D-18, D-19."""
    ext = extension()
    assert receive(receiver(ext), bytes.fromhex(wire), chunk) == Received(messages, [])
    assert ext.failure is None


def test_hello_is_encoded_as_in_the_rfc() -> None:
    """D-14."""
    ext = extension()
    assert deflate(ext, b"Hello") == HELLO
    assert deflate(ext, b"Hello") == bytes.fromhex("f200110000")


@pytest.mark.parametrize("level", range(10))
def test_an_empty_message_is_a_single_zero_byte(level: int) -> None:
    """D-14."""
    ext = extension(deflate=Deflate(level=level, threshold=0))
    assert [deflate(ext, b"") for _ in range(3)] == [b"\x00"] * 3
    assert inflate(ext, deflate(ext, b"then one with text")) == b"then one with text"


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("size", [0, 1, 63, 1000, 100_000])
def test_every_kind_of_block_is_decoded(level: int, size: int) -> None:
    """D-18."""
    data = noise(size) + b"ab" * size
    assert inflate(extension(), compress(data, level=level)) == data
    ext = extension(deflate=Deflate(level=level))
    assert inflate(ext, deflate(ext, data)) == data


@pytest.mark.parametrize("strategy", [zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE])
def test_several_blocks_in_a_message_are_decoded(strategy: int) -> None:
    """D-18."""
    data = b"Hello, hello, hello " * 20
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15, 8, strategy)
    payload = b"".join(
        compressor.compress(data) + compressor.flush(flush)
        for flush in (zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH, zlib.Z_BLOCK, zlib.Z_SYNC_FLUSH)
    )
    assert inflate(extension(), payload[:-4]) == data * 4


# --- RSV1 and the state between frames ---


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (0xC0, "a continuation frame has RSV1 set"),
        (0x40, "a continuation frame has RSV1 set"),
        (0xC9, "a control frame has RSV1 set"),
        (0xCA, "a control frame has RSV1 set"),
        (0xC8, "a control frame has RSV1 set"),
    ],
)
@pytest.mark.parametrize("before", [b"", frame(TEXT, HELLO[:3]), frame(0x01, b"Hel")])
def test_rsv1_is_for_the_first_frame_of_a_data_message(
    head: int, words: str, before: bytes
) -> None:
    """D-12."""
    ext = extension()
    received = receive(receiver(ext), before + frame(head))
    assert received == Received([], [], CloseReason.PROTOCOL_ERROR)
    assert ext.failure == words


@pytest.mark.parametrize("head", [0x91, 0xA1, 0xD1, 0x90, 0x99])
def test_the_other_reserved_bits_are_not_ours(head: int) -> None:
    """D-12."""
    ext = extension()
    assert receive(receiver(ext), frame(head)).close == CloseReason.PROTOCOL_ERROR
    assert ext.failure is None


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("control", [0x89, 0x8A])
def test_control_frames_between_compressed_fragments_disturb_nothing(
    control: int, chunk: int | None
) -> None:
    """D-17, W1, V34."""
    ping = frame(control, b"p")
    data = b"".join(
        [
            ping,
            frame(TEXT, HELLO[:3]),
            ping,
            ping,
            frame(0x00, HELLO[3:5]),
            frame(control),
            frame(FIN, HELLO[5:]),
            ping,
            frame(FIN | TEXT, HELLO),
        ]
    )
    received = receive(receiver(extension()), data, chunk)
    assert received.messages == ["Hello", "Hello"]
    assert received.close is None
    assert received.pings == ([b"p", b"p", b"p", b"", b"p"] if control == 0x89 else [])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_control_frames_between_plain_fragments_disturb_nothing(chunk: int | None) -> None:
    """D-13, D-17, V34."""
    data = frame(0x01, b"Hel") + frame(0x89) + frame(FIN, b"lo") + frame(FIN | TEXT, HELLO)
    assert receive(receiver(extension()), data, chunk) == Received(["Hello", "Hello"], [b""])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_plain_messages_leave_the_context_alone(chunk: int | None) -> None:
    """D-13."""
    sender = extension()
    words = b"the history that the third message refers to"
    one, two = deflate(sender, words), deflate(sender, words)
    assert len(two) < len(one) // 2
    plain = noise(600)
    data = (
        frame(FIN | BINARY, one)
        + frame(0x82, plain)
        + frame(0x02, plain)
        + frame(FIN, plain)
        + frame(FIN | BINARY, two)
    )
    received = receive(receiver(extension()), data, chunk)
    assert received == Received([words, plain, plain * 2, words], [])


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("cuts", [(0, 0), (0, 7), (7, 7), (3, 3), (1, 6)])
def test_fragments_end_anywhere_and_may_be_empty(cuts: tuple[int, int], chunk: int | None) -> None:
    """D-15, D-16."""
    one, two = cuts
    data = frame(TEXT, HELLO[:one]) + frame(0x00, HELLO[one:two]) + frame(FIN, HELLO[two:])
    assert receive(receiver(extension()), data * 2, chunk) == Received(["Hello"] * 2, [])


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, HELLO) + frame(FIN | TEXT, b"\xff" * 9),
        frame(TEXT, HELLO) + frame(FIN | TEXT),
        frame(0x01, b"Hello") + frame(FIN | TEXT, b"\xff" * 9),
        frame(FIN, HELLO),
        frame(FIN | TEXT, HELLO) + frame(0x00, b"\xff"),
    ],
)
def test_violations_of_the_order_of_frames_keep_their_verdict(data: bytes) -> None:
    """D-21."""
    ext = extension()
    assert receive(receiver(ext), data).close == CloseReason.PROTOCOL_ERROR
    assert ext.failure is None


# --- Final blocks ---


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "payload",
    [
        FINAL_HELLO + b"\x00",
        # Ended with its stream: nothing is left for the tail to complete.
        FINAL_HELLO,
        # The empty block that the tail completes is the final one.
        bytes.fromhex("f248cdc9c90704"),
        compress(b"Hello", level=0)[:-1] + b"\x01",
        EMPTY_FINAL_BLOCK + HELLO,
        EMPTY_FINAL_BLOCK * 3 + FINAL_HELLO + EMPTY_FINAL_BLOCK,
        final_stream(b"Hel") + final_stream(b"") + final_stream(b"lo"),
        final_stream(b"Hel") + compress(b"lo"),
        compress(b"Hel") + TAIL + final_stream(b"lo") + b"\x00",
        EMPTY_FINAL_BLOCK * MAX_INFLATE_RESTARTS + HELLO,
    ],
)
@pytest.mark.parametrize("takeover", [False, True])
def test_messages_with_final_blocks_are_decoded_and_so_is_what_follows(
    payload: bytes, chunk: int | None, takeover: bool
) -> None:
    """D-19, W2."""
    connection = receiver(extension(Negotiated(15, True, 15, takeover)))
    restarts = EMPTY_FINAL_BLOCK * MAX_INFLATE_RESTARTS + HELLO
    later = b"".join(frame(FIN | TEXT, data) for data in (restarts, HELLO, b"\x00", payload))
    assert receive(connection, frame(FIN | TEXT, payload) + later * 2, chunk) == Received(
        ["Hello", *["Hello", "Hello", "", "Hello"] * 2], []
    )


def test_a_final_block_between_fragments_is_one_restart() -> None:
    """D-16, D-19."""
    data = (
        frame(TEXT, final_stream(b"Hel"))
        + frame(0x00)
        + frame(0x89)
        + frame(0x00, compress(b"lo"))
        + frame(FIN)
    )
    assert receive(receiver(extension()), data * 2) == Received(["Hello"] * 2, [b""] * 2)


def test_history_grows_again_after_a_final_block() -> None:
    """D-19."""
    ext, sender = extension(), extension()
    words = b"what the message after the next one refers to"
    assert inflate(ext, final_stream(words)) == words
    for _ in range(3):
        assert inflate(ext, deflate(sender, words)) == words


def test_a_reference_across_a_final_block_is_refused() -> None:
    """D-19, D-20."""
    words = b"what the next message refers to"
    ext = extension()
    assert inflate(ext, final_stream(words)) == words
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=words)
    payload = compressor.compress(words) + compressor.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(InflateError, match="too far back") as caught:
        inflate(ext, payload[:-4])
    assert caught.value.code is CloseCode.INVALID_DATA


@pytest.mark.parametrize("chunk", [None, 2, 3, 65536])
def test_restarts_are_limited(chunk: int | None) -> None:
    """D-22, V13."""
    ext = extension()
    data = frame(FIN | BINARY, EMPTY_FINAL_BLOCK * (MAX_INFLATE_RESTARTS + 2))
    assert receive(receiver(ext), data, chunk).close == CloseReason.MESSAGE_TOO_BIG
    assert ext.failure == "the message restarts its deflate stream over 64 times"


def test_restarts_are_limited_without_a_limit_on_the_size() -> None:
    """D-22, V13."""
    ext = extension(max_message_size=None)
    with pytest.raises(InflateError, match="over 64 times") as caught:
        inflate(ext, EMPTY_FINAL_BLOCK * 200_000)
    assert caught.value.code is CloseCode.MESSAGE_TOO_BIG


def test_restarts_are_counted_across_fragments_and_anew_for_each_message() -> None:
    """D-22, V13."""
    ext = extension()
    for _ in range(2):
        ext.inflate(EMPTY_FINAL_BLOCK, first=True, final=False)
        for _ in range(MAX_INFLATE_RESTARTS):
            ext.inflate(EMPTY_FINAL_BLOCK, first=False, final=False)
        assert ext.inflate(b"", first=False, final=True) == b""
    ext.inflate(EMPTY_FINAL_BLOCK * (MAX_INFLATE_RESTARTS + 1), first=True, final=False)
    with pytest.raises(InflateError, match="over 64 times"):
        ext.inflate(b"\x00", first=False, final=True)


# --- Limits ---


@pytest.mark.parametrize("chunk", [None, 1, 1000])
@pytest.mark.parametrize("limit", [1, 5, 1000, 32768, 70_000])
@pytest.mark.parametrize("fill", [b"\x00", b"\xa5\x5a\x00"])
def test_a_message_of_exactly_the_limit_is_accepted_and_one_byte_more_refused(
    limit: int, fill: bytes, chunk: int | None
) -> None:
    """D-22, V1, W3."""
    ext = extension(max_message_size=limit)
    connection = receiver(ext)
    fits = (fill * limit)[:limit]
    for _ in range(2):
        data = frame(FIN | BINARY, b"\x00") + frame(FIN | BINARY, compress(fits))
        assert receive(connection, data, chunk) == Received([b"", fits], [])
    received = receive(connection, frame(FIN | BINARY, compress(fits + b"x")), chunk)
    assert received == Received([], [], CloseReason.MESSAGE_TOO_BIG)
    assert ext.failure == f"the message inflates to more than {limit} bytes"


def test_the_limit_is_for_the_message_not_for_its_fragments() -> None:
    """D-22, V1."""
    ext = extension(max_message_size=100)
    parts = [compress(b"x" * 50) + TAIL, compress(b"y" * 50) + TAIL, compress(b"z")]
    data = frame(BINARY, parts[0]) + frame(0x89) + frame(0x00, parts[1])
    fits = receive(receiver(ext), data + frame(FIN, b"\x00"))
    assert fits.messages == [b"x" * 50 + b"y" * 50]
    ext = extension(max_message_size=100)
    assert receive(receiver(ext), data + frame(FIN, parts[2])).close == CloseReason.MESSAGE_TOO_BIG


def test_the_limit_holds_across_restarts() -> None:
    """D-22, V1, V13."""
    with pytest.raises(InflateError, match="more than 100 bytes"):
        inflate(extension(max_message_size=100), final_stream(b"x" * 34) * 3)
    assert len(inflate(extension(max_message_size=102), final_stream(b"x" * 34) * 3)) == 102


@pytest.mark.parametrize("limit", [None, 2**63, 2**80])
def test_the_limit_can_be_out_of_reach(limit: int | None) -> None:
    """D-22."""
    ext = extension(max_message_size=limit)
    assert inflate(ext, compress(bytes(3 * MIB))) == bytes(3 * MIB)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(MIB)
    payload = b"".join(compressor.compress(zeros) for _ in range(256))
    return payload + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


def test_a_bomb_takes_no_more_memory_than_a_message(bomb: bytes) -> None:
    """D-22, V1, W3."""
    ext = extension()
    tracemalloc.start()
    try:
        with pytest.raises(InflateError, match="more than 1048576 bytes") as caught:
            inflate(ext, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is CloseCode.MESSAGE_TOO_BIG
    assert peak < 4 * MIB


@pytest.mark.parametrize("chunk", [None, 65536])
def test_a_bomb_in_a_frame_takes_no_more_memory_than_a_message(
    bomb: bytes, chunk: int | None
) -> None:
    """D-22, V1, W3."""
    ext = extension()
    connection, data = receiver(ext), frame(FIN | BINARY, bomb)
    tracemalloc.start()
    try:
        received = receive(connection, data, chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == Received([], [], CloseReason.MESSAGE_TOO_BIG)
    assert peak < 4 * MIB


# --- Bad data ---


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "payload",
    [
        b"\xff" * 9,
        b"\x07\x00",
        # A stored block whose lengths do not match.
        b"\x00\x05\x00\x00\x00Hello\x00",
        # A reference to before the beginning.
        b"\x02\x01\x00",
        # Not deflate data at all: zlib's header, and gzip's.
        zlib.compress(b"Hello"),
        b"\x1f\x8b\x08\x00" + bytes(6) + HELLO,
        FINAL_HELLO + b"\xff" * 9,
    ],
)
def test_what_is_not_deflate_data_is_refused(payload: bytes, chunk: int | None) -> None:
    """D-20, D-21."""
    ext = extension()
    received = receive(receiver(ext), frame(FIN | BINARY, payload), chunk)
    assert received == Received([], [], CloseReason.INVALID_FRAME_PAYLOAD_DATA)
    assert ext.failure is not None
    assert ext.failure.startswith("bad compressed data: ")
    assert len(ext.failure) < 123


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        HELLO[:-1],
        HELLO[:-2],
        HELLO[:1],
        # Without its last bytes, a stored block would take the tail for its data.
        b"\x00\x05\x00\xfa\xffHel",
        b"\x00\x09\x00\xf6\xffHello",
        compress(noise(100), level=0)[:-2],
        # Its tail was not removed.
        HELLO + TAIL,
    ],
)
def test_a_message_that_is_cut_short_is_not_delivered(payload: bytes, chunk: int | None) -> None:
    """D-15, D-21."""
    ext = extension()
    received = receive(receiver(ext), frame(FIN | BINARY, payload), chunk)
    assert received == Received([], [], CloseReason.INVALID_FRAME_PAYLOAD_DATA)
    assert ext.failure == "the compressed data is cut short"


def test_bad_text_in_a_compressed_message_is_the_verdict_of_wsproto() -> None:
    """D-21."""
    ext = extension()
    received = receive(receiver(ext), frame(FIN | TEXT, compress(b"\xff")))
    assert received.close == CloseReason.INVALID_FRAME_PAYLOAD_DATA
    assert ext.failure is None


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_give_a_message_or_a_failure(payload: bytes, takeover: bool) -> None:
    """D-21, D-22, V1."""
    whole = extension(Negotiated(15, True, 15, takeover), max_message_size=5000)
    pieces = extension(Negotiated(15, True, 15, takeover), max_message_size=5000)
    connections = receiver(whole), receiver(pieces)
    data = frame(FIN | BINARY, payload) + frame(FIN | BINARY, HELLO)
    results = receive(connections[0], data), receive(connections[1], data, 1)
    assert results[0] == results[1]
    assert whole.failure == pieces.failure
    assert results[0].close in (None, 1007, 1009)
    assert all(len(message) <= 5000 for message in results[0].messages)


# --- Windows and histories ---


def test_a_reference_beyond_the_agreed_window_is_refused() -> None:
    """D-20."""
    data = noise(2000)
    sender, ext = extension(), extension(Negotiated(15, True, 9, True))
    assert inflate(ext, deflate(sender, data)) == data
    with pytest.raises(InflateError, match="too far back") as caught:
        inflate(ext, deflate(sender, data))
    assert caught.value.code is CloseCode.INVALID_DATA


@pytest.mark.parametrize("bits", range(9, 16))
def test_our_references_stay_within_the_agreed_window(bits: int) -> None:
    """D-8, D-20."""
    sender = extension(Negotiated(bits, True, 15, True))
    ext = extension(Negotiated(15, True, bits, True))
    for seed in [1, 2, 1, 1, 2]:
        for size in (100, 2000, 40_000):
            data = noise(size, seed)
            assert inflate(ext, deflate(sender, data)) == data


def test_a_window_of_8_is_decoded() -> None:
    """D-4, W7."""
    ext = extension(Negotiated(None, True, 8, True))
    # zlib's references keep 262 bytes short of its window: with 9 they are within 8.
    compressor = zlib.compressobj(6, zlib.DEFLATED, -9)
    for size in (200, 200, 240, 240, 1000):
        payload = compressor.compress(noise(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert inflate(ext, payload[:-4]) == noise(size)
    with pytest.raises(InflateError, match="too far back"):
        inflate(ext, compress(noise(1000) * 2)[-20:])


@pytest.mark.parametrize("compressed", [None, True, False])
def test_with_a_window_of_8_nothing_is_compressed(compressed: bool | None) -> None:
    """D-24, W7."""
    ext = extension(Negotiated(None, True, 8, True))
    ext.compress = compressed
    assert not ext.wants(10_000, final=True)
    connection = Connection(ConnectionType.SERVER, [ext])
    assert connection.send(BytesMessage(b"a" * 100)) == frame(0x82, b"a" * 100)
    assert connection.send(BytesMessage(b"a", message_finished=False)) == frame(0x02, b"a")
    assert connection.send(BytesMessage(b"a")) == frame(0x80, b"a")


def test_without_takeover_each_of_our_messages_stands_alone() -> None:
    """D-11."""
    ext = extension(Negotiated(15, False, 15, True))
    assert [deflate(ext, b"Hello") for _ in range(2)] == [HELLO] * 2
    for _ in range(2):
        fragments = [
            ext.deflate(b"Hello", first=True, final=False),
            ext.deflate(b"Hello", first=False, final=True),
        ]
        # Within a message there is a history.
        assert b"".join(fragments) == HELLO + TAIL + bytes.fromhex("f200110000")


def test_without_takeover_each_of_their_messages_stands_alone() -> None:
    """D-11, D-20."""
    ext = extension(Negotiated(15, True, 15, False))
    assert inflate(ext, HELLO) == b"Hello"
    with pytest.raises(InflateError, match="too far back"):
        inflate(ext, bytes.fromhex("f200110000"))


def in_use() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_contexts_take_memory_from_their_first_use_until_they_are_dropped() -> None:
    """D-11."""
    data = noise(40_000)
    payload = compress(data)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ext = extension()
        assert in_use() - before < 4096
        deflate(ext, b"Hello")
        compressing = in_use()
        assert compressing - before > 32 * 1024
        inflate(ext, payload)
        assert in_use() - compressing > 32 * 1024
        ext.drop_contexts()
        assert in_use() - before < 4096

        ext = extension(Negotiated(15, False, 15, False))
        deflate(ext, b"Hello")
        inflate(ext, payload)
        assert in_use() - before < 4096
    finally:
        tracemalloc.stop()


# --- What is compressed ---


@pytest.mark.parametrize(
    ("size", "final", "compressed", "wanted"),
    [
        (63, True, None, False),
        (64, True, None, True),
        (0, False, None, True),
        (0, True, True, True),
        (10_000, True, False, False),
        (10_000, False, False, False),
    ],
)
def test_short_messages_are_sent_as_they_are_unless_the_program_says(
    size: int, final: bool, compressed: bool | None, wanted: bool
) -> None:
    """D-13, V29."""
    ext = extension(deflate=Deflate())
    ext.compress = compressed
    assert ext.wants(size, final=final) is wanted
    connection = Connection(ConnectionType.SERVER, [ext])
    wire = connection.send(BytesMessage(bytes(size), message_finished=final))
    assert bool(wire[0] & 0x40) is wanted


def test_the_fragments_of_a_message_follow_its_first() -> None:
    """D-12, D-16."""
    ext = extension(deflate=Deflate())
    sender, ours = Connection(ConnectionType.SERVER, [ext]), extension()
    connection = receiver(ours)
    for compressed in (None, False, True):
        ext.compress = compressed
        wire = bytearray()
        heads = []
        for position, part in enumerate(["a" * 100, "", "b"]):
            # Set for the next message, it is not for the rest of this one.
            ext.compress = compressed if position == 0 else not compressed
            sent = sender.send(TextMessage(part, message_finished=position == 2))
            heads.append(sent[0])
            wire += sent
            wire += sender.send(Ping(b"p"))
        assert heads == [0x01 if compressed is False else 0x41, 0x00, 0x80]
        assert receive(connection, bytes(wire)).messages == ["a" * 100 + "b"]


def test_leaving_a_message_uncompressed_leaves_the_context_alone() -> None:
    """D-13, V29."""
    ext = extension()
    connection = Connection(ConnectionType.SERVER, [ext])
    secret = b"a secret that is not to be in the history"
    sent = []
    for data, compressed in [(b"Hello", True), (secret, False), (b"Hello", True), (secret, True)]:
        ext.compress = compressed
        sent.append(bytes(connection.send(BytesMessage(data))))
    assert sent[0] == frame(FIN | BINARY, HELLO)
    assert sent[1] == frame(0x82, secret)
    assert sent[2] == frame(FIN | BINARY, bytes.fromhex("f200110000"))
    # It shares nothing with what was sent uncompressed.
    assert len(sent[3]) > len(secret) * 0.8


@pytest.mark.parametrize("level", [0, 6, 9])
def test_each_fragment_can_be_decoded_when_it_arrives(level: int) -> None:
    """D-15, D-16."""
    ext, peer = extension(deflate=Deflate(level=level)), extension()
    parts = [b"one", b"", b"two" * 500, b"", b"three", b""]
    for _ in range(2):
        for position, part in enumerate(parts):
            first, final = position == 0, position == len(parts) - 1
            payload = ext.deflate(part, first=first, final=final)
            assert peer.inflate(payload, first=first, final=final) == part
        assert not payload.endswith(TAIL)


def test_what_gets_larger_is_sent_compressed_all_the_same() -> None:
    """D-18."""
    ext, peer = extension(), extension()
    data = noise(1000)
    payload = deflate(ext, data)
    assert len(data) < len(payload) < len(data) * 1.05
    assert inflate(peer, payload) == data


def test_the_interface_leaves_control_frames_and_other_bits_as_they_are() -> None:
    """D-12."""
    ext = extension()
    proto = FrameProtocol(client=True, extensions=[ext])
    assert proto.extensions == [ext]
    assert ext.name == "permessage-deflate"
    assert ext.offer() is False
    none = RsvBits(False, False, False)
    for opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
        assert ext.frame_outbound(proto, opcode, none, b"x", True) == (none, b"x")
        assert ext.frame_inbound_header(proto, opcode, none, 1) == none
        assert ext.frame_inbound_payload_data(proto, b"x") == b"x"
        assert ext.frame_inbound_complete(proto, True) is None
    rsv2 = RsvBits(False, True, False)
    rsv, _ = ext.frame_outbound(proto, Opcode.TEXT, rsv2, b"Hello", True)
    assert rsv == RsvBits(True, True, False)


# --- Two ends ---


@dataclass
class Sent:
    message: str | bytes
    compress: bool | None
    events: list[TextMessage | BytesMessage | Ping]


TEXTS = st.text(alphabet="ab {}\u00e9\u20ac\U0001f600", max_size=40)
BLOBS = st.binary(max_size=40) | st.builds(
    lambda seed, size, times: noise(size, seed) * times,
    st.integers(0, 3),
    st.integers(0, 700),
    st.integers(0, 3),
)


@st.composite
def sent_messages(draw: st.DrawFn) -> Sent:
    message: str | bytes
    fragments: list[TextMessage] | list[BytesMessage]
    if draw(st.booleans()):
        texts = draw(st.lists(TEXTS, min_size=1, max_size=5))
        message = "".join(texts)
        *heads, tail = texts
        fragments = [
            *(TextMessage(text, message_finished=False) for text in heads),
            TextMessage(tail),
        ]
    else:
        blobs = draw(st.lists(BLOBS, min_size=1, max_size=5))
        message = b"".join(blobs)
        *starts, end = blobs
        fragments = [
            *(BytesMessage(blob, message_finished=False) for blob in starts),
            BytesMessage(end),
        ]
    events: list[TextMessage | BytesMessage | Ping] = []
    for fragment in fragments:
        events += [Ping(b"ping")] * draw(st.integers(0, 2))
        events.append(fragment)
    return Sent(message, draw(st.sampled_from([None, True, False])), events)


@given(
    sent=st.lists(sent_messages(), max_size=6),
    bits=st.integers(9, 15),
    narrower=st.integers(0, 2),
    takeover=st.booleans(),
    config=st.builds(
        Deflate,
        level=st.integers(0, 9),
        mem_level=st.integers(1, 9),
        threshold=st.sampled_from([0, 20, 64]),
    ),
    role=st.sampled_from([ConnectionType.CLIENT, ConnectionType.SERVER]),
    chunk=st.integers(1, 300),
)
def test_what_goes_in_at_one_end_comes_out_at_the_other(
    *,
    sent: list[Sent],
    bits: int,
    narrower: int,
    takeover: bool,
    config: Deflate,
    role: ConnectionType,
    chunk: int,
) -> None:
    """D-8, D-11, D-12, D-13, D-14, D-15, D-16, D-17, D-18, W1, V34."""
    ours = PerMessageDeflate(Negotiated(max(bits - narrower, 9), takeover, 15, True), config, MIB)
    theirs = PerMessageDeflate(Negotiated(15, True, bits, takeover), config, MIB)
    other = ConnectionType.SERVER if role is ConnectionType.CLIENT else ConnectionType.CLIENT
    sender, connection = Connection(role, [ours]), Connection(other, [theirs])
    wire = b""
    for item in sent:
        ours.compress = item.compress
        for event in item.events:
            wire += sender.send(event)
    received = receive(connection, wire, chunk)
    assert received.close is None
    assert received.messages == [item.message for item in sent]
    assert len(received.pings) == count_pings(sent)
    assert connection.state is ConnectionState.OPEN
    assert theirs.failure is None


def count_pings(sent: list[Sent]) -> int:
    return sum(isinstance(event, Ping) for item in sent for event in item.events)

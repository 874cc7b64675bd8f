"""One end of a connection, and what the peer does to it: for the tests of the protocol."""

from __future__ import annotations

import tracemalloc
from typing import Any

from frames import CLOSE, close_frame, frame, read_frames

from anyws._close import Close, Role
from anyws._config import Config, Deflate
from anyws._errors import ConnectionBroken
from anyws._protocol.deflate import PerMessageDeflate
from anyws._protocol.negotiation import Negotiated
from anyws._protocol.protocol import Half, Protocol

KIB = 1024
MIB = 1024 * KIB

ROLES = list(Role)


def protocol(role: Role, *, compression: bool = False, **limits: Any) -> Protocol:
    config = Config(**limits)
    return Protocol(role, config, deflate(config.max_message_size) if compression else None)


def deflate(max_message_size: int | None = MIB) -> PerMessageDeflate:
    agreed = Negotiated(15, True, 15, True)
    return PerMessageDeflate(agreed, Deflate(threshold=0), max_message_size)


def other(role: Role) -> Role:
    return Role.SERVER if role is Role.CLIENT else Role.CLIENT


def masked(p: Protocol) -> bool:
    """Whether the peer has to mask what it sends."""
    return p.role is Role.SERVER


def to(p: Protocol, opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
    """A frame as the peer of `p` has to send it."""
    return frame(opcode, payload, mask=masked(p), **fields)


def feed(p: Protocol, *data: bytes) -> None:
    """Let these chunks arrive, and go through them as far as the inbox has room."""
    for chunk in data:
        p.receive_data(chunk)
    parse_all(p)


def parse_all(p: Protocol) -> None:
    p.parse()
    while p.has_unparsed and not p.inbox.full:
        p.parse()


def close_from_peer(p: Protocol, code: int | None = 1000, reason: bytes = b"") -> None:
    feed(p, close_frame(code, reason, masked(p)))


def violate(p: Protocol) -> None:
    feed(p, to(p, 3))


def end_stream(p: Protocol, error: Exception | None = None) -> None:
    p.receive_eof(error)
    p.parse()


def messages(p: Protocol) -> list[str | bytes]:
    return [p.inbox.take() for _ in range(len(p.inbox.messages))]


def pieces_of(p: Protocol) -> list[str | bytes]:
    return [p.inbox.take_piece()] if p.inbox.has_piece else []


def replies(p: Protocol) -> list[tuple[int, bytes]]:
    """Opcode and payload of what is there to write; each frame masked as it has to be."""
    frames = read_frames(p.take_replies())
    assert all(f.fin and not f.rsv and bool(f.mask) is not masked(p) for f in frames)
    return [(f.opcode, f.payload) for f in frames]


def verdict(p: Protocol) -> int | None:
    """The code with which the connection failed: it must be over, and say so to the peer."""
    if p.theirs is not Half.FAILED:
        return None
    assert p.finished
    sent = p.ending.sent
    assert sent is not None
    assert replies(p)[-1] == (CLOSE, payload_of(sent))
    assert p.ending.received is None
    assert isinstance(p.exception(), ConnectionBroken)
    assert not p.has_unparsed
    return sent.code


def payload_of(close: Close) -> bytes:
    return close.code.to_bytes(2, "big") + close.reason.encode()


def traced_peak(p: Protocol, chunks: list[bytes]) -> int:
    """The memory that it takes at most, in bytes, to read these chunks."""
    tracemalloc.start()
    for chunk in chunks:
        feed(p, chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


# Close codes that a frame may carry, and codes that it may not (RFC 6455, section 7.4; IANA).
ACCEPTED_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
REFUSED_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]

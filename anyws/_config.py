"""Every limit, timeout and policy, with its unit, its default and the reason for it.

Nothing else in the library takes a limit: a function that needs one takes a `Config`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._trace import Trace

from ._close import CloseCode, Role, check_close

__all__ = ["Backlog", "Backoff", "Config", "Deflate", "as_config", "check_range"]

# For tests and measurements, as in ``ANYWS_WITHOUT=lane,native``: what makes it fast, left out.
_WITHOUT: Final = os.environ.get("ANYWS_WITHOUT", "").split(",")
LANE: Final = "lane" not in _WITHOUT
NATIVE: Final = "native" not in _WITHOUT

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Bounds that no program has a reason to move; docs/limits.md lists them with the others.
MAX_HEAD_BYTES: Final = 16 * KIB
MAX_HEAD_LINES: Final = 128
MAX_INTERIM_RESPONSES: Final = 16
MAX_REJECTION_BODY: Final = 64 * KIB
# What `max_redirects` may be: more than any path that was laid on purpose.
MAX_REDIRECTS: Final = 10
MAX_INFLATE_RESTARTS: Final = 64
# The inbox when the program has turned the message limit off.
UNLIMITED_INBOX_BYTES: Final = MIB
# What one task may parse before the others run.
MAX_FRAMES_PER_TURN: Final = 256
# Messages handed out from the inbox before `receive` yields to the scheduler.
MAX_RECEIVES_PER_TURN: Final = 64
# Messages sent without having to wait before `send` does the same.
MAX_SENDS_PER_TURN: Final = 64
# Messages that a program of `anyws.callbacks` may be ahead of the network.
MAX_OUTBOX_BYTES: Final = 16 * MIB
MAX_OUTBOX_MESSAGES: Final = 64 * KIB
# What is kept of a message that is received in pieces, in bytes, until the reader takes a piece.
MAX_PIECE_BYTES: Final = 256 * KIB
# What one read takes from the stream; also what one write hands to it, so that a write of any
# size shows progress to `write_timeout` at least this often.
CHUNK_BYTES: Final = 64 * KIB
# Seconds from one message sent to the next, nothing being received in between, that are taken to
# mean that more will follow: then they go out together, as soon as other tasks have run.
BURST: Final = 0.0001
# Seconds that a peer which needs no more from us has to end its half of TLS and TCP.
LINGER: Final = 1.0
# Clients beyond `Config.max_connections` that are told so at a time; the others just see the
# connection closed.
MAX_TURNED_AWAY: Final = 64
# Seconds after which they may come back, as they are told.
RETRY_AFTER: Final = 5
# Seconds for the one attempt at a Close of a `close` that was cancelled before it went out.
LAST_ATTEMPT: Final = 0.1
# Seconds after a `receive` until the connection reads ahead on its own, where nobody has called
# it again: long enough to cost a busy connection nothing, short for answering a ping.
IDLE_AFTER: Final = 0.05


def check_range(name: str, value: object, low: int, high: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """How messages are compressed (permessage-deflate, RFC 7692).

    level:
        zlib's level for what is sent, 0 to 9. Default 6, zlib's own.
    window_bits:
        Base-2 logarithm of our compressor's window, 9 to 15. Default 12: 4 KiB of history
        compresses JSON nearly as well as 32 KiB do, at an eighth of the memory per connection.
    mem_level:
        zlib's memory level for what is sent, 1 to 9. Default 5, which suits that window.
    threshold:
        Bytes; shorter messages are sent as they are. Default 64: below it the frame seldom
        gets smaller, and each costs microseconds.
    context_takeover:
        Keep our compressor's history from one message to the next. Default true: similar
        messages compress far better. False saves its memory between messages.
    peer_context_takeover:
        Allow the peer to keep its history. Default true. False asks it not to, which saves the
        inflating context between messages.
    peer_window_bits:
        Base-2 logarithm of the largest window that the peer may use, 9 to 15; ``None``, the
        default, leaves it to the peer: naming a number makes some gateways refuse the handshake.
    """

    level: int = 6
    window_bits: int = 12
    mem_level: int = 5
    threshold: int = 64
    context_takeover: bool = True
    peer_context_takeover: bool = True
    peer_window_bits: int | None = None

    def __post_init__(self) -> None:
        check_range("level", self.level, 0, 9)
        check_range("window_bits", self.window_bits, 9, 15)
        check_range("mem_level", self.mem_level, 1, 9)
        check_range("threshold", self.threshold, 0, None)
        if self.peer_window_bits is not None:
            check_range("peer_window_bits", self.peer_window_bits, 9, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits, timeouts and policies of a connection or a server.

    Sizes are in bytes, times in seconds; ``None`` turns a limit or a timer off. Limits bound
    what is received, never what is sent.

    max_message_size:
        A received message, counted after inflating. Default 1 MiB. Excess closes with 1009.
    max_frame_size:
        A received frame, judged from its header alone, before a byte of its payload is kept.
        Default ``None``: the message limit holds for the frame, and 5 % + 1 KiB more for a
        compressed one, since incompressible data grows. Excess closes with 1009.
    max_fragments:
        Fragments of one received message, empty ones included. Default 4096. Excess closes
        with 1009.
    inbox_size:
        Received messages that wait for `receive`. Default 16; `max_message_size` bounds the
        same inbox in bytes. When it is full, reading pauses and TCP holds the peer back. Then
        our answers to the peer's pings wait too, behind the unread messages, and a peer with a
        keepalive of its own may give up: receive, or raise this.
    handshake_timeout:
        The opening handshake as a whole: looking up the name, connecting, proxies, TLS, HTTP and
        redirects. Default 10 s.
    close_timeout:
        The closing handshake as a whole, from asking for it to the closed socket: a write that
        is in the way, the peer's answer, TLS and TCP. Default 10 s. After it the stream is cut.
    cancel_grace:
        What the closing handshake may take when the `async with` ends by cancellation or an
        exception, unless `close_timeout` is shorter. Default 1 s: enough for a Close to reach
        anybody who reads. 0 turns it off.
    drain_timeout:
        What the handlers of a server have to end in when it is closed. Default 10 s. After it
        they are cancelled.
    write_timeout:
        A write during which the peer takes nothing. Default 20 s. After it the connection is
        broken.
    ping_interval:
        Silence of the peer before it is asked for a sign of life. Default 20 s: proxies cut
        idle connections after 30 s and more.
    ping_timeout:
        What it has to answer in; any byte is an answer. Default 20 s. After it the connection
        is broken.
    compression:
        A `Deflate`, or ``None`` to neither offer nor accept compression.
    max_connections:
        Clients that a server has at a time, those in the opening handshake included, but not those
        that a listener of the program's, as AnyIO's for TLS, has not handed over yet. Default
        ``None``: how many it can bear is for the program to know. Those beyond get 503.
    trace:
        A function that is shown a `TraceEvent` for all that happens on a connection. It is called
        where that happens, in the event loop, or within calls of `anyws.sync`: it must be quick,
        and not use the connection. Default ``None``, which costs nothing.
    max_redirects:
        Redirects that a client follows, 0 to 10. Default 0, none: a server chooses where they
        lead. Each one to another origin loses the request's credentials.
    """

    max_message_size: int | None = MIB
    max_frame_size: int | None = None
    max_fragments: int | None = 4096
    inbox_size: int | None = 16
    handshake_timeout: float | None = 10.0
    close_timeout: float | None = 10.0
    cancel_grace: float = 1.0
    drain_timeout: float | None = 10.0
    write_timeout: float | None = 20.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    compression: Deflate | None = Deflate()
    max_connections: int | None = None
    trace: Trace | None = None
    max_redirects: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "compression":
                if value is not None and not isinstance(value, Deflate):
                    raise TypeError(
                        f"compression must be a Deflate or None, not {type(value).__name__}"
                    )
            elif field.name == "trace":
                if value is not None and not callable(value):
                    kind = type(value).__name__
                    raise TypeError(f"trace must be a function of a TraceEvent, not {kind}")
            elif field.name == "max_redirects":
                check_range(field.name, value, 0, MAX_REDIRECTS)
            elif value is None:
                if field.name == "cancel_grace":
                    raise TypeError("cancel_grace must be a number of seconds; 0 turns it off")
            elif field.name.endswith(("_size", "_fragments", "_connections")):
                check_range(field.name, value, 1, None)
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f"{field.name} must be a number of seconds, not {type(value).__name__}"
                )
            elif not value >= 0 or (value == 0 and field.name.startswith("ping_")):
                raise ValueError(f"{field.name} must be a positive number of seconds, not {value}")

    @property
    def inbox_bytes(self) -> int:
        """How many bytes of messages may wait: the message limit, or 1 MiB where that is off."""
        if self.max_message_size is None:
            return UNLIMITED_INBOX_BYTES
        return self.max_message_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long `reconnecting` waits before it connects again. Times are in seconds.

    first_delay:
        The first delay is random, from 0 up to this. Default 5 s, as RFC 6455, section 7.2.3,
        suggests: the clients of a server that restarts do not all come back at once.
    factor:
        How much longer each delay may be than the one before. Default 2.
    max_delay:
        What no delay exceeds, but for a server's `Retry-After`. Default 60 s: a server that was
        away for hours has its clients back within a minute.
    jitter:
        The part of a later delay that is random, 0 to 1. Default 0.5: between half of what it may
        be and all of it.
    stable_after:
        What a connection must have been open for the delays to begin anew. Default 30 s: one that
        is accepted and then lost, again and again, is no success.
    max_retry_after:
        The most that a server's `Retry-After` is heeded. Default 3600 s; more is cut to it, 0
        ignores the header, ``None`` heeds any.
    """

    first_delay: float = 5.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.5
    stable_after: float = 30.0
    max_retry_after: float | None = 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "max_retry_after":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{field.name} must be a number, not {type(value).__name__}")
            low, high, bounds = _BACKOFF_BOUNDS.get(field.name, _NOT_NEGATIVE)
            if not low <= value <= high:
                raise ValueError(f"{field.name} must be {bounds}, not {value}")
        if self.first_delay == 0:
            raise ValueError("first_delay must be above 0: a server is not asked without a pause")


# Finite: a delay of which a part is random has to be a number.
_NOT_NEGATIVE: Final = (0, sys.float_info.max, "a number of at least 0")
_BACKOFF_BOUNDS: Final = {
    "factor": (1, sys.float_info.max, "a number of at least 1"),
    "jitter": (0, 1, "from 0 to 1"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How far a peer may be behind with what `broadcast` sends, and what happens then.

    max_bytes:
        Bytes of broadcast messages that may wait for one peer, beyond what the system has taken
        for it. Default 1 MiB. A peer for which so many wait is behind; one message may go over.
    resume_bytes:
        For a peer that is skipped: it is served again when no more than this waits for it.
        Default ``None``: half of `max_bytes`, so that one which just manages is not now served
        and now skipped.
    close_code:
        What the connection of a peer that is behind is closed with. Default 1013, "try again
        later", which sends the peer to connect anew. ``None``: it is skipped, and misses messages
        until it has caught up.
    """

    max_bytes: int = MIB
    resume_bytes: int | None = None
    close_code: int | None = CloseCode.TRY_AGAIN_LATER

    def __post_init__(self) -> None:
        check_range("max_bytes", self.max_bytes, 1, None)
        if self.resume_bytes is not None:
            check_range("resume_bytes", self.resume_bytes, 0, self.max_bytes - 1)
        if self.close_code is not None:
            # Not 1010, which is a client's to send: this is for the connections of either role.
            check_close(self.close_code, "", Role.SERVER)

    @property
    def resume_at(self) -> int:
        """The bytes of `resume_bytes`, or its default."""
        return self.max_bytes // 2 if self.resume_bytes is None else self.resume_bytes


def as_config(config: object) -> Config:
    """Return the `Config` that a caller gave: ``None`` is the default one."""
    if config is None:
        return Config()
    if not isinstance(config, Config):
        raise TypeError(f"config must be a Config, not {type(config).__name__}")
    return config

"""Whether cost grows with what the peer sends, and no faster: n, 2n and 4n of each.

anyws's protocol is fed directly, with no network in between. Twice as much may take up to 2.3
times as long: what is quadratic takes four times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import wire

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STEP", "Growth", "measure"]

STEP = 2.3
_REPEATS = 5
_CHUNK = 65536


@dataclass(frozen=True)
class Growth:
    """Seconds of CPU for n, 2n and 4n of something."""

    what: str
    n: int
    seconds: tuple[float, float, float]

    @property
    def steps(self) -> tuple[float, float]:
        one, two, four = self.seconds
        return two / one, four / two

    @property
    def met(self) -> bool:
        return max(self.steps) < STEP

    def __str__(self) -> str:
        times = " ".join(f"{seconds * 1000:.1f}" for seconds in self.seconds)
        steps = " ".join(f"{step:.2f}" for step in self.steps)
        return f"{self.what}, n = {self.n}: {times} ms, steps {steps}"


def measure(scale: int = 1) -> list[Growth]:
    """Measure all kinds; `scale` divides the counts, for a run that only shows that it works."""
    return [
        _growth(what, n // scale, prepare)
        for what, n, prepare in (
            ("messages", 4000, _messages),
            ("fragments", 4000, _fragments),
            ("empty fragments", 4000, _empty_fragments),
            ("one-byte chunks of a message", 16000, _single_bytes),
            ("bytes of a message", 1 << 20, _large_message),
            ("bytes of a request, one at a time", 3500, _request_bytes),
            ("bytes of a response, one at a time", 3500, _response_bytes),
        )
    ]


def _growth(what: str, n: int, prepare: Callable[[int], Callable[[], None]]) -> Growth:
    counts = (n, 2 * n, 4 * n)
    best = [float("inf")] * 3
    # In turn, and the best of several: noise only ever adds.
    for _ in range(_REPEATS):
        for place, count in enumerate(counts):
            run = prepare(count)
            start = time.process_time()
            run()
            best[place] = min(best[place], time.process_time() - start)
    return Growth(what, n, (best[0], best[1], best[2]))


def _reader(data: bytes, chunk: int, *, messages: int, size: int) -> Callable[[], None]:
    """Return what feeds a server `data`, which is `messages` messages of `size` bytes in all."""
    from anyws import Config, Role
    from anyws._protocol.protocol import Protocol

    config = Config(compression=None, max_message_size=1 << 30, max_fragments=None)
    protocol = Protocol(Role.SERVER, config)

    def run() -> None:
        taken = total = 0
        for start in range(0, len(data), chunk):
            protocol.receive_data(data[start : start + chunk])
            while protocol.has_unparsed:
                protocol.parse()
                while protocol.inbox.messages:
                    total += len(protocol.inbox.take())
                    taken += 1
        if (taken, total) != (messages, size):
            raise wire.Miscount(f"{taken} messages of {total} bytes, not {messages} of {size}")

    return run


def _messages(n: int) -> Callable[[], None]:
    data = wire.frame(0x82, bytes(32), masked=True) * n
    return _reader(data, _CHUNK, messages=n, size=32 * n)


def _fragments(n: int, payload: bytes = bytes(16)) -> Callable[[], None]:
    first = wire.frame(0x02, payload, masked=True)
    middle = wire.frame(0x00, payload, masked=True)
    last = wire.frame(0x80, payload, masked=True)
    data = first + middle * (n - 2) + last
    return _reader(data, _CHUNK, messages=1, size=n * len(payload))


def _empty_fragments(n: int) -> Callable[[], None]:
    return _fragments(n, b"")


def _single_bytes(n: int) -> Callable[[], None]:
    return _reader(wire.frame(0x82, bytes(n), masked=True), 1, messages=1, size=n)


def _large_message(n: int) -> Callable[[], None]:
    return _reader(wire.frame(0x82, bytes(n), masked=True), _CHUNK, messages=1, size=n)


def _padded(head: bytes, n: int) -> bytes:
    """Return a head of n bytes: many short headers, their number in proportion, and a long one."""
    head = head.removesuffix(b"\r\n")
    room = n - len(head) - 2
    # At most 110 of them with 4n = 14000: a head may have 128 lines.
    short = b"X: y\r\n" * (n * 110 // 14000)
    long = b"X-Long: ".ljust(room - len(short) - 2, b"x") + b"\r\n"
    return head + short + long + b"\r\n"


def _feeder(handshake: Any, head: bytes) -> Callable[[], None]:
    def run() -> None:
        for start in range(len(head) - 1):
            if handshake.receive_data(head[start : start + 1]) is not None:
                raise wire.Miscount("a head was over before its end")
        if handshake.receive_data(head[-1:]) is None:
            raise wire.Miscount("a head was not over at its end")

    return run


def _request_bytes(n: int) -> Callable[[], None]:
    from anyws import Config
    from anyws._protocol.handshake_server import ServerHandshake

    return _feeder(
        ServerHandshake(compression=Config().compression), _padded(wire.request(deflate=True), n)
    )


def _response_bytes(n: int) -> Callable[[], None]:
    from anyws._protocol.handshake_client import ClientHandshake
    from anyws._protocol.url import parse_url

    handshake = ClientHandshake(parse_url("ws://localhost/"), compression=None)
    answer = wire.answer(handshake.request_bytes(), deflate=False)
    return _feeder(handshake, _padded(answer, n))

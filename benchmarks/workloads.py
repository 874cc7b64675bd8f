"""What is measured: a table of workloads, and the messages that each sends."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

__all__ = ["BY_NAME", "WORKLOADS", "Kind", "ModeName", "Workload"]

KIB = 1024
Kind = Literal["exchange", "churn", "idle", "linear"]
ModeName = Literal["plain", "deflate", "tls"]

# Enough different ones that a compressor does not live off repeating a single message.
_JSON_MESSAGES = 16


@dataclass(frozen=True)
class Workload:
    """One column of the table.

    kind:
        "exchange" sends messages back and forth, "churn" opens and closes connections, "idle"
        opens them and leaves them alone, "linear" is of anyws alone (see linear.py).
    depth:
        Messages sent before the first answer is waited for: a window.
    warm, first:
        Windows on each connection before the clock is read, and in the calibrating run.
    needs:
        What a contender has to be able to do.
    """

    name: str
    title: str
    kind: Kind = "exchange"
    mode: ModeName = "plain"
    size: int = 32
    depth: int = 1
    connections: int = 1
    warm: int = 50
    first: int = 300
    needs: frozenset[str] = frozenset()

    @property
    def unit(self) -> str:
        return {"exchange": "message", "churn": "handshake"}.get(self.kind, "connection")

    @property
    def measures_memory(self) -> bool:
        return self.kind == "idle"

    @property
    def is_text(self) -> bool:
        return self.mode == "deflate"

    @cached_property
    def messages(self) -> list[bytes]:
        """The payloads, sent in turn."""
        if self.mode == "deflate":
            return _json_messages(self.size)
        return [random.Random(self.size).randbytes(self.size)]  # noqa: S311 - no secret


def _json_messages(size: int) -> list[bytes]:
    """Messages of exactly `size` bytes, as an exchange of prices or positions would send them."""
    source = random.Random(7)  # noqa: S311 - no secret
    messages = []
    for number in range(_JSON_MESSAGES):
        records: list[dict[str, object]] = []
        while True:
            record = {
                "id": source.randrange(10**6),
                "symbol": source.choice(["ALPHA", "BRAVO", "DELTA", "GAMMA", "OMEGA"]),
                "price": round(source.uniform(1, 1000), 2),
                "volume": source.randrange(10_000),
                "side": source.choice(["buy", "sell"]),
            }
            text = json.dumps({"type": "update", "number": number, "records": [*records, record]})
            if len(text) > size:
                break
            records.append(record)
        text = json.dumps({"type": "update", "number": number, "records": records})
        messages.append(text.ljust(size).encode())
    return messages


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


WORKLOADS = [
    Workload("32B", "32 B"),
    Workload("32Bx64", "32 B x 64", depth=64, warm=10, first=30),
    Workload("50x32B", "50 conns", connections=50, warm=5, first=20, needs=_needs("many")),
    Workload("4KiB", "4 KiB", size=4 * KIB),
    Workload("64KiB", "64 KiB", size=64 * KIB, warm=20, first=100),
    Workload("1MiB", "1 MiB", size=KIB * KIB, warm=3, first=8),
    Workload("json", "1 KiB JSON, deflate", mode="deflate", size=KIB, needs=_needs("deflate")),
    Workload("tls-32B", "32 B, TLS", mode="tls", needs=_needs("tls")),
    Workload(
        "tls-64KiB",
        "64 KiB, TLS",
        mode="tls",
        size=64 * KIB,
        warm=20,
        first=60,
        needs=_needs("tls"),
    ),
    Workload("handshake", "handshake", kind="churn", warm=20, first=60, needs=_needs("websocket")),
    Workload("idle", "idle", kind="idle"),
    Workload("idle-deflate", "idle, deflate", kind="idle", mode="deflate", needs=_needs("deflate")),
    Workload("linear", "linear cost", kind="linear"),
]
BY_NAME = {workload.name: workload for workload in WORKLOADS}

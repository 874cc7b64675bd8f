"""The bars: what anyws is to cost at most, beside others, and whether it does.

A bar holds for the median of the ratios within rounds. Up to 5 % above it counts as met within
noise, and is said to be. What was to be measured and has no figure is missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .measure import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .measure import Group

__all__ = ["BARS", "Bar", "Verdict", "judge"]

NOISE = 1.05
# Of the pure variant, on the bars of messages up to 4 KiB.
PURE_FACTOR = 1.2
BOTH = ("server", "client")


@dataclass(frozen=True)
class Bar:
    """At most `limit`: times what `other` costs, or KiB where there is no other."""

    subject: str
    other: str
    backend: str
    role: str
    workload: str
    limit: float

    def __str__(self) -> str:
        beside = f" vs {self.other}" if self.other else " (KiB)"
        return f"{self.subject}{beside}, {self.backend} {self.role}, {self.workload}"


@dataclass(frozen=True)
class Verdict:
    bar: Bar
    measured: Spread | None

    @property
    def word(self) -> str:
        if self.measured is None:
            return "no figure"
        if self.measured.median <= self.bar.limit:
            return "met"
        if self.measured.median <= self.bar.limit * NOISE:
            return "met within noise"
        return "MISSED"

    @property
    def met(self) -> bool:
        return self.word.startswith("met")


_COLUMNS = ("32B", "32Bx64", "50x32B", "4KiB", "64KiB", "1MiB")
_SMALL = frozenset(_COLUMNS[:4])


def _row(subject: str, other: str, backend: str, *limits: float | None) -> Iterable[Bar]:
    roles = ("client",) if backend == "blocking" else BOTH
    for role in roles:
        for workload, limit in zip(_COLUMNS, limits, strict=True):
            if limit is not None:
                yield Bar(subject, other, backend, role, workload, limit)


def _one(
    subject: str, other: str, backend: str, workload: str, limit: float, roles: tuple[str, ...]
) -> Iterable[Bar]:
    return [Bar(subject, other, backend, role, workload, limit) for role in roles]


_TABLE = [
    *_row("anyws", "picows-websockets", "asyncio", 1.0, 1.3, 1.1, 1.0, 1.0, 1.1),
    *_row("anyws", "websockets", "asyncio", 0.55, 0.4, 0.6, 0.6, 0.8, 0.8),
    *_row("anyws", "picows-websockets", "uvloop", 1.1, 1.3, 1.1, 1.1, 1.0, 1.1),
    *_row("anyws", "websockets", "trio", 0.40, 0.25, 0.40, 0.40, 0.5, 0.7),
    *_row("anyws", "bare-stream", "trio", 1.4, None, None, None, None, None),
    *_row("anyws", "bare-protocol", "asyncio", 1.25, None, None, None, None, None),
    *_row("anyws-plain", "websockets", "trio", 0.5, 0.5, 0.5, 0.5, 0.6, 0.9),
    *_row("anyws-blocking", "websocket-client", "blocking", 0.9, None, None, 0.9, 0.6, 0.4),
]
_PURE = [
    Bar("anyws-pure", bar.other, bar.backend, bar.role, bar.workload, bar.limit * PURE_FACTOR)
    for bar in _TABLE
    if bar.subject == "anyws" and bar.workload in _SMALL
]
_REST = [
    *_one("anyws", "websockets", "asyncio", "json", 0.8, BOTH),
    *_one("anyws", "websockets", "uvloop", "json", 0.8, BOTH),
    *_one("anyws", "websockets", "trio", "json", 0.8, BOTH),
    *_one("anyws", "websockets", "asyncio", "handshake", 0.9, BOTH),
    *_one("anyws", "trio-websocket", "trio", "handshake", 0.7, BOTH),
    *_one("anyws", "", "asyncio", "idle", 13, BOTH),
    *_one("anyws", "", "trio", "idle", 14, BOTH),
    *_one("anyws", "", "asyncio", "idle-deflate", 20, BOTH),
    *_one("anyws", "", "trio", "idle-deflate", 20, BOTH),
    *_one("anyws-plain", "", "asyncio", "idle", 24, BOTH),
    *_one("anyws-plain", "", "trio", "idle", 24, BOTH),
]
BARS: list[Bar] = [*_TABLE, *_PURE, *_REST]


def judge(groups: Mapping[tuple[str, str, str], Group]) -> list[Verdict]:
    """Judge the bars of the groups that were measured, for the subjects that took part in them."""
    verdicts = []
    for bar in BARS:
        group = groups.get((bar.workload, bar.role, bar.backend))
        if group is None or bar.subject not in group.rows:
            continue
        if bar.other:
            verdicts.append(Verdict(bar, group.ratio(bar.subject, bar.other)))
        else:
            costs = group.rows[bar.subject].costs
            verdicts.append(Verdict(bar, Spread.of(costs) if costs else None))
    return verdicts

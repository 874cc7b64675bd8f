"""Rounds: every contender in turn, in an order that rotates, and what comes of it.

A time on a shared machine says little, a ratio of two times taken within a second of each other
says more, and the median of several such ratios more still. So a round measures each contender
once, ratios are taken within rounds, and the spread is told with the median.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import load
from .process import Failure, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .contenders import Contender
    from .load import Sample
    from .workloads import Workload

__all__ = ["Group", "Plan", "Row", "Spread", "run_group"]

# Seconds of waiting that count as one of CPU when the number of messages is chosen: what hardly
# computes must not run for ever.
_PATIENCE = 4


@dataclass(frozen=True)
class Spread:
    """The median of several figures, and what lies around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass
class Row:
    """The figures of one contender in one group, one for each round.

    costs:
        Microseconds of CPU for each message or handshake, or KiB for each connection.
    rates:
        Messages or handshakes a second; empty for memory.
    share:
        Frames through anyws's lane and through its engine.
    """

    contender: str
    costs: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    share: dict[str, Any] | None = None
    failure: str = ""


@dataclass
class Group:
    """The rows that may be compared: of one workload, in one role, on one backend."""

    workload: str
    role: str
    backend: str
    rows: dict[str, Row] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> Spread | None:
        """Return the cost of one contender as a multiple of another's, over the rounds."""
        rows = self.rows.get(one), self.rows.get(other)
        if rows[0] is None or rows[1] is None or not (rows[0].costs and rows[1].costs):
            return None
        if min(rows[1].costs) <= 0:
            return None  # memory by difference, of too few connections to show
        return Spread.of([a / b for a, b in zip(rows[0].costs, rows[1].costs, strict=True)])


@dataclass(frozen=True)
class Plan:
    """How to measure.

    seconds:
        Of CPU, that one measurement is to take.
    windows:
        Instead of `seconds`: so many windows, without calibration.
    connections:
        Idle ones.
    """

    certificates: Path
    rounds: int = 9
    seconds: float = 0.4
    windows: int | None = None
    connections: int = 1000
    core: set[int] | None = None
    say: Callable[[str], None] = print

    def subject(self, contender: Contender, role: str, backend: str) -> Subject:
        return Subject(contender, role, backend, self.certificates, self.core)

    def sample(self, subject: Subject, workload: Workload, windows: int) -> Sample:
        warm = workload.warm if self.windows is None else 1
        return load.exchange(subject, workload, self.certificates, warm=warm, windows=windows)

    def calibrate(self, subject: Subject, workload: Workload) -> int:
        """Return how many windows take about as long as they should."""
        if self.windows is not None:
            return self.windows
        sample = self.sample(subject, workload, workload.first)
        spent = max(sample.cpu, sample.wall / _PATIENCE) / workload.first
        return max(1, round(self.seconds / spent))


def run_group(
    plan: Plan, workload: Workload, role: str, backend: str, contenders: Sequence[Contender]
) -> Group:
    group = Group(workload.name, role, backend)
    group.rows = {contender.name: Row(contender.name) for contender in contenders}
    if workload.measures_memory:
        _measure_memory(plan, workload, group, contenders)
    else:
        _measure_time(plan, workload, group, contenders)
    return group


def _in_turn(
    plan: Plan, group: Group, contenders: Sequence[Contender]
) -> Iterator[tuple[Contender, Row]]:
    """Yield who is next, round after round; who has failed is out, with all figures."""
    for number in range(plan.rounds):
        turn = number % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            row = group.rows[contender.name]
            if not row.failure:
                yield contender, row


def _fail(plan: Plan, row: Row, failure: Failure) -> None:
    row.failure = str(failure)
    row.costs.clear()
    row.rates.clear()
    plan.say(f"    failed: {failure}")


def _measure_memory(
    plan: Plan, workload: Workload, group: Group, contenders: Sequence[Contender]
) -> None:
    for contender, row in _in_turn(plan, group, contenders):
        # A new process each time: what connections leave behind serves the next ones.
        with plan.subject(contender, group.role, group.backend) as subject:
            try:
                size = load.memory(subject, workload, plan.certificates, plan.connections)
            except Failure as failure:
                _fail(plan, row, failure)
            else:
                row.costs.append(size / 1024)


def _measure_time(
    plan: Plan, workload: Workload, group: Group, contenders: Sequence[Contender]
) -> None:
    with ExitStack() as stack:
        subjects = {
            contender.name: stack.enter_context(plan.subject(contender, group.role, group.backend))
            for contender in contenders
        }
        windows: dict[str, int] = {}
        for contender, row in _in_turn(plan, group, contenders):
            name = contender.name
            try:
                if name not in windows:
                    windows[name] = plan.calibrate(subjects[name], workload)
                sample = plan.sample(subjects[name], workload, windows[name])
            except Failure as failure:
                _fail(plan, row, failure)
            else:
                row.costs.append(sample.cpu / sample.count * 1e6)
                row.rates.append(sample.count / sample.wall)
        for name, subject in subjects.items():
            group.rows[name].share = subject.stop()

"""What was measured, in words: for the terminal, as Markdown, and as JSON."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .contenders import CONTENDERS, ROLES, version
from .measure import Group, Spread
from .workloads import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .bars import Verdict
    from .linear import Growth
    from .measure import Row

__all__ = ["Results", "as_json", "as_markdown", "group_lines", "share_lines", "verdict_lines"]


@dataclass
class Results:
    """All of a run."""

    reference: str
    rounds: int
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)
    growths: list[Growth] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        return [
            row.failure
            for group in self.groups.values()
            for row in group.rows.values()
            if row.failure
        ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of what took part."""
    names = {name for contender in CONTENDERS for name in contender.distributions}
    found = {name: version(name) for name in sorted(names | {"uvloop", "trio", "anyio", "wsproto"})}
    return {
        "Python": platform.python_version(),
        **{name: number for name, number in found.items() if number is not None},
    }


def group_lines(group: Group, reference: str) -> Iterable[str]:
    workload = BY_NAME[group.workload]
    cost = "KiB" if workload.measures_memory else "µs CPU"
    yield f"{workload.title}, {group.role}, {group.backend}: {cost} per {workload.unit}"
    for row in group.rows.values():
        if row.failure:
            yield f"  {row.contender:<18} failed: {row.failure}"
        else:
            yield f"  {row.contender:<18} {_figures(row)}{_ratio(group, row, reference)}"


def _figures(row: Row) -> str:
    text = f"{Spread.of(row.costs).median:10.1f}"
    return f"{text} {Spread.of(row.rates).median:10.0f}/s" if row.rates else text


def _ratio(group: Group, row: Row, reference: str) -> str:
    ratio = group.ratio(row.contender, reference)
    return "" if ratio is None else f"   x {ratio}"


def verdict_lines(verdicts: Iterable[Verdict]) -> Iterable[str]:
    for verdict in verdicts:
        yield f"  {verdict.word:<17} <= {verdict.bar.limit:<5.3g} {verdict.measured}   {verdict.bar}"


def share_lines(results: Results) -> Iterable[str]:
    """Tell, for each workload, how many of anyws's frames went through the lane."""
    for group in results.groups.values():
        for row in group.rows.values():
            if row.share is not None:
                place = f"{group.workload}, {group.role}, {group.backend}, {row.contender}"
                yield f"  {place}: {_share(row.share)}"


def _share(share: dict[str, Any]) -> str:
    if "missing" in share:
        return str(share["missing"])
    total = share["lane"] + share["engine"]
    per_cent = f"{100 * share['lane'] / total:.2f} %" if total else "none"
    return f"{per_cent} of {total} frames"


def as_json(results: Results, verdicts: Iterable[Verdict]) -> str:
    words = {
        "versions": versions(),
        "machine": platform.machine(),
        "rounds": results.rounds,
        "reference": results.reference,
        "groups": [asdict(group) for group in results.groups.values()],
        "bars": [{**asdict(verdict), "verdict": verdict.word} for verdict in verdicts],
        "growths": [asdict(growth) for growth in results.growths],
    }
    return json.dumps(words, indent=1) + "\n"


def as_markdown(results: Results, verdicts: Iterable[Verdict]) -> str:
    """Return tables for the documentation: costs by role, bars, growth, and the lane's share."""
    lines = [
        f"Medians of {results.rounds} rounds, on {platform.machine()}: "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
        "",
        "Microseconds of CPU for each message or handshake, KiB for each idle connection; in"
        f" brackets the median of the ratios to {results.reference} in the same round.",
    ]
    for role in ROLES:
        lines += _cost_table(results, role)
    lines += _bar_table(list(verdicts))
    if results.growths:
        lines += ["", "| growth of | n | n, 2n, 4n in ms | steps |", "|---|---|---|---|"]
        for growth in results.growths:
            times = ", ".join(f"{seconds * 1000:.1f}" for seconds in growth.seconds)
            steps = ", ".join(f"{step:.2f}" for step in growth.steps)
            lines.append(f"| {growth.what} | {growth.n} | {times} | {steps} |")
    lines += _share_table(results)
    return "\n".join(lines) + "\n"


def _cost_table(results: Results, role: str) -> list[str]:
    groups = [group for group in results.groups.values() if group.role == role]
    if not groups:
        return []
    workloads = [name for name in BY_NAME if any(group.workload == name for group in groups)]
    titles = " | ".join(BY_NAME[name].title for name in workloads)
    lines = ["", f"| {role} | {titles} |", "|---" * (len(workloads) + 1) + "|"]
    places = dict.fromkeys((group.backend, name) for group in groups for name in group.rows)
    for backend, contender in sorted(places, key=lambda place: place[0]):
        cells = [
            _cell(results, results.groups.get((workload, role, backend)), contender)
            for workload in workloads
        ]
        lines.append(f"| {backend}: {contender} | {' | '.join(cells)} |")
    return lines


def _cell(results: Results, group: Group | None, contender: str) -> str:
    row = None if group is None else group.rows.get(contender)
    if group is None or row is None:
        return ""
    if row.failure:
        return "failed"
    ratio = group.ratio(contender, results.reference)
    text = f"{Spread.of(row.costs).median:.1f}"
    return text if ratio is None else f"{text} ({ratio.median:.2f})"


def _bar_table(verdicts: list[Verdict]) -> list[str]:
    if not verdicts:
        return []
    lines = ["", "| bar | at most | measured (lowest-highest) | |", "|---|---|---|---|"]
    lines += [
        f"| {verdict.bar} | {verdict.bar.limit:.3g} | {verdict.measured} | {verdict.word} |"
        for verdict in verdicts
    ]
    return lines


def _share_table(results: Results) -> list[str]:
    lines = [line.strip() for line in share_lines(results)]
    if not lines:
        return []
    rows = [
        f"| {place} | {share} |" for place, _, share in (line.partition(": ") for line in lines)
    ]
    return ["", "| frames through the lane | |", "|---|---|", *rows]

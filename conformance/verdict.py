"""What a run of the cases says about the library: against `expected.json`, and as tables.

Some results are wrong whatever `expected.json` says: a case that FAILED or was UNIMPLEMENTED, a
connection that did not end as it should, and a Close that never was on the wire (Autobahn calls
that "OK" too, so the code is looked at). Everything else has to be as it was recorded; where two
results are right, or where none but the second-best is possible, the file says so and why.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

ROLES = ("server", "client")
BEHAVIORS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
NEVER_RIGHT = frozenset({"UNIMPLEMENTED", "FAILED"})
CLOSED_WELL = frozenset({"OK", "INFORMATIONAL"})
CATEGORIES = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "limits and performance",
    10: "auto-fragmentation",
    12: "compression: payloads",
    13: "compression: parameters",
}


class Result(NamedTuple):
    """How a case ended: the verdict on its messages, that on its end, our close code."""

    behavior: str
    close: str
    code: int | None

    @classmethod
    def of(cls, case: Mapping[str, Any]) -> Result:
        return cls(case["behavior"], case["behaviorClose"], case["remoteCloseCode"])

    def __str__(self) -> str:
        return f"{self.behavior}, close {self.close}, code {self.code}"


@dataclass(frozen=True, slots=True)
class Note:
    """Why some cases may end otherwise than OK with a close code, or in two ways."""

    cases: Sequence[str]
    why: str
    also: Sequence[Result] = field(default_factory=list)
    no_code: bool = False

    def covers(self, case: str) -> bool:
        return any(fnmatchcase(case, pattern) for pattern in self.cases)


@dataclass(slots=True)
class Expected:
    """The content of `expected.json`."""

    by_role: dict[str, dict[str, Result]] = field(default_factory=lambda: {r: {} for r in ROLES})
    notes: list[Note] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Expected:
        found = cls()
        content = json.loads(path.read_text())
        for note in content["notes"]:
            also = [Result(*result) for result in note.get("also", [])]
            no_code = note.get("no_code", False)
            found.notes.append(Note(note["cases"], note["why"], also, no_code))
        for case, value in content["cases"].items():
            roles = dict.fromkeys(ROLES, value) if isinstance(value, list) else value
            for role, result in roles.items():
                found.by_role[role][case] = Result(*result)
        return found

    def save(self, path: Path) -> None:
        """One line per case, so that a change reads as one."""
        notes = []
        for note in self.notes:
            content: dict[str, object] = {"cases": note.cases, "why": note.why}
            if note.also:
                content["also"] = note.also
            if note.no_code:
                content["no_code"] = True
            notes.append(json.dumps(content))
        lines = []
        for case in sorted(set().union(*self.by_role.values()), key=case_key):
            results = {r: self.by_role[r][case] for r in ROLES if case in self.by_role[r]}
            same = len(results) == len(ROLES) and len(set(results.values())) == 1
            value: object = results[ROLES[0]] if same else results
            lines.append(f'"{case}": {json.dumps(value)}')
        path.write_text(
            '{"notes": [\n  ' + ",\n  ".join(notes) + '\n],\n"cases": {\n  '
            + ",\n  ".join(lines) + "\n}}\n"
        )  # fmt: skip

    def cases(self) -> list[str]:
        return sorted(set().union(*self.by_role.values()), key=case_key)

    def faults(self) -> list[str]:
        """What is wrong with the file itself: a result in it that nothing explains."""
        return [
            f"{case}: expected as {role}: {fault}"
            for role, results in self.by_role.items()
            for case, result in results.items()
            for fault in self._unacceptable(case, result)
        ]

    def complaints(self, role: str, case: str, result: Result) -> list[str]:
        """Why this result does not do; nothing if it does."""
        if complaints := self._unacceptable(case, result):
            return complaints
        wanted = self.by_role[role].get(case)
        if wanted is None:
            return [f"{result}: no result of this case is expected yet"]
        if result != wanted and result not in self._alternatives(case):
            return [f"{result}; expected {wanted}"]
        return []

    def learn(self, role: str, case: str, result: Result) -> None:
        """Expect this from now on, unless it was permitted already or never can be."""
        if self.complaints(role, case, result) and not self._unacceptable(case, result):
            self.by_role[role][case] = result

    def _alternatives(self, case: str) -> list[Result]:
        return [result for note in self.notes if note.covers(case) for result in note.also]

    def _unacceptable(self, case: str, result: Result) -> list[str]:
        notes = [note for note in self.notes if note.covers(case)]
        faults = []
        if result.behavior in NEVER_RIGHT or result.behavior not in BEHAVIORS:
            faults.append(f"{result.behavior} is never right")
        elif result.behavior != "OK" and not notes:
            faults.append(f"{result.behavior}, and no note says why")
        if result.close not in CLOSED_WELL:
            faults.append(f"closing was {result.close}")
        if result.code is None and not any(note.no_code for note in notes):
            faults.append("no close code was on the wire")
        return faults


def case_key(case: str) -> tuple[int, ...]:
    return tuple(int(part) for part in case.split("."))


def judge(
    expected: Expected, role: str, asked: Iterable[str], results: Mapping[str, Result]
) -> list[str]:
    """Every complaint about a run, silence included."""
    missing = [case for case in asked if case not in results]
    complaints = [f"{len(missing)} did not run: {', '.join(missing)}"] if missing else []
    for case in sorted(results, key=case_key):
        complaints += [
            f"{case}: {words}" for words in expected.complaints(role, case, results[case])
        ]
    return complaints


def table(results: Mapping[str, Result]) -> str:
    """Counts per category, as a table of Markdown that is also readable as it stands."""
    head = ["category", "cases", *BEHAVIORS, "closed well", "close code seen"]
    rows = []
    for number in sorted({case_key(case)[0] for case in results}):
        chosen = [result for case, result in results.items() if case_key(case)[0] == number]
        rows.append([f"{number} {CATEGORIES.get(number, '')}".strip(), *_counts(chosen)])
    rows.append(["all", *_counts(results.values())])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        _line(head, widths),
        "| " + " | ".join(_rule(i, w) for i, w in enumerate(widths)) + " |",
    ]
    return "\n".join(lines + [_line(row, widths) for row in rows])


def _counts(results: Iterable[Result]) -> list[str]:
    results = list(results)
    behaviors = Counter(result.behavior for result in results)
    return [
        str(len(results)),
        *(str(behaviors[behavior] or "") for behavior in BEHAVIORS),
        str(sum(result.close in CLOSED_WELL for result in results)),
        str(sum(result.code is not None for result in results)),
    ]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
    return "| " + " | ".join(cells) + " |"


def _rule(column: int, width: int) -> str:
    return "-" * width if column == 0 else "-" * (width - 1) + ":"


def notable(results: Mapping[str, Result]) -> list[str]:
    """What is neither OK nor FAILED, with the cases, for the summary."""
    groups: dict[str, list[str]] = {}
    for case in sorted(results, key=case_key):
        if results[case].behavior != "OK":
            groups.setdefault(results[case].behavior, []).append(case)
    return [f"{behavior}: {', '.join(cases)}" for behavior, cases in groups.items()]

"""The matrix at the end of a run that has talked to other libraries."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def report(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the matrix of what ran, if any of it did, in this process or in others."""
    ran: set[tuple[str, str, str]] = set()
    spoiled: set[tuple[str, str, str]] = set()
    called: set[tuple[str, str, str]] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            cell = dict(getattr(report, "user_properties", ())).get("interop")
            if cell is None:
                continue
            ran.add(cell)
            if report.when == "call" and report.passed:
                called.add(cell)
            elif not report.passed:
                spoiled.add(cell)  # also by its setup or teardown
    if not ran:
        return
    # Not before, where its asserts would not be rewritten yet.
    from interop import matrix

    write = terminalreporter.write_line
    terminalreporter.section("interoperability: cases passed / cases", "=")
    for line in matrix.markdown(_by_cell(called - spoiled), _by_cell(ran)):
        write(line)
    write("")
    for line in matrix.notes():
        write(f"not possible: {line}")


def _by_cell(cases: set[tuple[str, str, str]]) -> Counter[tuple[str, str]]:
    return Counter((row, column) for row, column, _ in cases)

"""The figures of each test, and the table of them at the end of the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("bars.peers", "bars.raw")

from bars.figures import BARS, FORMS, Table  # noqa: E402 - after it is known that asserts are rewritten

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--figures", metavar="FILE", help="write what the bars have measured to a Markdown file"
    )


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that records what a test has measured: `figures("P3", mib_at_peak=0.6)`."""
    name, options = request.getfixturevalue("anyio_backend")
    backend = "uvloop" if options.get("use_uvloop") else name
    properties = request.node.user_properties

    def record(row: str, **measured: float) -> None:
        assert row in BARS
        assert measured.keys() <= FORMS.keys()
        properties.append(("figures", (row, backend, measured)))

    # A test that fails before it has measured anything is to be in the table, too.
    first_line = request.function.__doc__.partition("\n")[0]
    for row in re.findall(r"\bP\d+\b", first_line):
        record(row)
    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = Table()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == "figures":
                    row, backend, measured = value
                    table.add(row, backend, measured, failed=report.failed)
    if not table.cells:
        return
    terminalreporter.section("bars: the worst of each row", "=")
    for line in table.lines():
        terminalreporter.write_line(line)
    file = terminalreporter.config.getoption("--figures", None)
    if file is not None:
        Path(file).write_text("".join(f"{line}\n" for line in table.markdown()), encoding="utf-8")

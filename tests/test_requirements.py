"""What `docs` list, held against the tests: requirements, promises, and other interfaces' items.

A test names what it shows in the first line of its docstring: a requirement of the RFCs, ``R-33`` or
``D-19``, also as ``R-90..R-93``, a promise, ``H24`` or ``P1``, or an item of an interface, ``HS-1``.
`requirements.md`, `promises.md` and `call-by-call.md` have the lists of them, `interfaces.py` once
more the items; the last columns of the pages are written by

    python tests/test_requirements.py --write
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from interfaces import INTERFACES

TESTS = Path(__file__).parent
CALLS = TESTS.parent / "docs" / "call-by-call.md"
PAGES = [*(CALLS.with_name(name) for name in ("requirements.md", "promises.md")), CALLS]
DEVIATIONS = TESTS.parent / "docs" / "conformance.md"

# How many there are of each.
COUNTS = {"R-": 107, "D-": 24, "H": 33, "P": 17, **{k: len(v) for k, v in INTERFACES.items()}}
KINDS = "|".join(COUNTS)
ID = re.compile(rf"\b({KINDS})(\d+)\b(?:\.\.(?:\1)?(\d+))?")
ROW = re.compile(rf"^\| (?P<id>(?:{KINDS})\d+) \| (?P<words>.*[^|]) \|(?P<shown>[^|]*)\|$")


def ids_in(text: str) -> list[str]:
    """The ids in a text, ranges written out."""
    return [
        f"{match[1]}{number}"
        for match in ID.finditer(text)
        for number in range(int(match[2]), int(match[3] or match[2]) + 1)
    ]


def named_by_tests() -> dict[str, list[tuple[str, str]]]:
    """Requirement -> (file, test), in the order of the files."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                first_line = (ast.get_docstring(node) or "").partition("\n")[0]
                for one in dict.fromkeys(ids_in(first_line)):
                    place = path.relative_to(TESTS).as_posix()
                    found.setdefault(one, []).append((place, node.name))
    return found


def deviations() -> dict[str, str]:
    """Requirement -> the anchor of its entry; an entry is a heading that begins with ids."""
    found = {}
    section = DEVIATIONS.read_text().partition("\n## Knowing deviations\n")[2]
    for heading in re.findall(r"^### (.+)$", section.partition("\n## ")[0], re.M):
        for one in ids_in(heading.partition(":")[0]):
            # As GitHub and MyST make anchors from headings.
            found[one] = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    return found


def requirements() -> dict[str, re.Match[str]]:
    """Requirement -> its row on the page."""
    rows = (ROW.match(line) for page in PAGES for line in page.read_text().splitlines())
    return {row["id"]: row for row in rows if row}


def as_it_should_be(page: Path) -> str:
    shown_by = named_by_tests()
    excused = deviations()
    lines = []
    for line in page.read_text().splitlines():
        row = ROW.match(line)
        if row is not None:
            cells = [row["id"], row["words"]]
            tests = shown_by.get(row["id"], [])
            cells.append(as_paths(tests) if page == CALLS else shown(tests, excused.get(row["id"])))
            line = f"| {' | '.join(cells)} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def shown(tests: list[tuple[str, str]], anchor: str | None) -> str:
    """The last cell of a row."""
    by_file: dict[str, list[str]] = {}
    for place, name in tests:
        by_file.setdefault(place, []).append(f"`{name}`")
    parts = [f"{place}: {', '.join(names)}" for place, names in by_file.items()]
    if anchor is not None:
        parts.append(f"[why not](conformance.md#{anchor})")
    return "<br>".join(parts) or "nothing"


def as_paths(tests: list[tuple[str, str]]) -> str:
    """The last cell of a row, as pytest takes it."""
    return "<br>".join(f"`tests/{place}::{name}`" for place, name in tests) or "nothing"


def test_ranges_of_ids_are_written_out():
    text = "R-9. R-90..R-92, D-1..2 and W-3, UTF-8"
    assert ids_in(text) == ["R-9", "R-90", "R-91", "R-92", "D-1", "D-2"]


def test_promises_are_named_without_a_dash():
    assert ids_in("H1, T5. P16, H16; but not H264x or V37") == ["H1", "P16", "H16"]
    assert ids_in("HS-1, CP-2; H3") == ["HS-1", "CP-2", "H3"]


def test_the_pages_list_each_once():
    every = [f"{kind}{n}" for kind, count in COUNTS.items() for n in range(1, count + 1)]
    assert list(requirements()) == every
    lines = [line for page in PAGES for line in page.read_text().splitlines()]
    assert sum(bool(re.match(r"\| [A-Z]+-?\d", line)) for line in lines) == len(every)


@pytest.mark.parametrize("kind", INTERFACES)
def test_the_page_of_other_interfaces_has_every_item_and_what_takes_its_place(kind):
    """In the words of the list, so that none is there by its number only."""
    rows = [row for one, row in requirements().items() if one.startswith(kind)]
    cells = [row["words"].split(" | ") for row in rows]
    assert [theirs for theirs, _ in cells] == INTERFACES[kind]
    assert all(here.strip() for _, here in cells)


def test_no_item_of_another_interface_is_excused():
    """What is not the same is shown to be as the page has it."""
    named = named_by_tests()
    assert [row for row in requirements() if row[:3] in INTERFACES and row not in named] == []


def test_every_requirement_has_a_test_or_an_entry_among_the_deviations():
    missing = requirements().keys() - named_by_tests().keys() - deviations().keys()
    assert not missing, sorted(missing, key=lambda one: (one[0], len(one), one))


def test_no_test_and_no_deviation_names_an_unknown_requirement():
    assert named_by_tests().keys() <= requirements().keys()
    assert deviations().keys() <= requirements().keys()


def test_only_tests_name_requirements():
    named = {name for tests in named_by_tests().values() for _, name in tests}
    assert [name for name in named if not name.lower().startswith("test")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_names_the_tests_that_there_are(page):
    """On a failure: `python tests/test_requirements.py --write`, and look at what changed."""
    assert page.read_text().splitlines() == as_it_should_be(page).splitlines()


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        for one in PAGES:
            one.write_text(as_it_should_be(one))
    uncovered = requirements().keys() - named_by_tests().keys() - deviations().keys()
    sys.stdout.write(f"without a test or a reason: {', '.join(sorted(uncovered)) or 'none'}\n")

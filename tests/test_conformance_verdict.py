"""The judge of Autobahn's results: what it must not let pass."""

from __future__ import annotations

import json

import pytest
from verdict import Expected, Note, Result, judge, table

GOOD = Result("OK", "OK", 1000)
VIOLATION = Result("OK", "OK", 1002)


@pytest.fixture
def expected():
    return Expected(
        {
            "server": {"1.1.1": GOOD, "3.1": VIOLATION, "7.3.1": Result("OK", "OK", None)},
            "client": {},
        },
        [
            Note(["3.*"], "a race", also=[Result("NON-STRICT", "OK", 1002)]),
            Note(["7.3.1"], "a Close without a code", no_code=True),
        ],
    )


def test_results_as_expected_pass(expected):
    assert judge(expected, "server", expected.by_role["server"], expected.by_role["server"]) == []
    assert expected.faults() == []


def test_an_alternative_with_a_reason_passes(expected):
    assert expected.complaints("server", "3.1", Result("NON-STRICT", "OK", 1002)) == []


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("1.1.1", Result("FAILED", "OK", 1000)),
        ("1.1.1", Result("UNIMPLEMENTED", "OK", 1000)),
        ("1.1.1", Result("NON-STRICT", "OK", 1000)),
        ("1.1.1", Result("SOMETHING NEW", "OK", 1000)),
        ("1.1.1", Result("OK", "UNCLEAN", 1000)),
        ("1.1.1", Result("OK", "WRONG CODE", 1000)),
        ("1.1.1", Result("OK", "OK", None)),
        ("1.1.1", Result("OK", "OK", 1001)),
        ("3.1", Result("NON-STRICT", "OK", 1007)),
        ("7.3.1", Result("OK", "OK", 1000)),
        ("12.1.1", GOOD),
    ],
)
def test_any_other_result_is_complained_about(expected, case, result):
    assert expected.complaints("server", case, result) != []


def test_a_case_that_did_not_run_is_complained_about(expected):
    assert judge(expected, "server", ["1.1.1", "3.1"], {"3.1": VIOLATION}) == [
        "1 did not run: 1.1.1"
    ]


def test_what_is_expected_of_one_role_is_not_of_the_other(expected):
    assert expected.complaints("client", "1.1.1", GOOD) != []


@pytest.mark.parametrize("wrong", [Result("FAILED", "OK", 1000), Result("OK", "OK", None)])
def test_what_is_never_right_can_neither_be_learnt_nor_written_by_hand(expected, wrong):
    expected.learn("server", "1.1.1", wrong)
    assert expected.by_role["server"]["1.1.1"] == GOOD
    expected.by_role["server"]["1.1.1"] = wrong
    assert expected.faults() != []


def test_learning_keeps_what_was_permitted_and_takes_what_is_new(expected):
    expected.learn("server", "3.1", Result("NON-STRICT", "OK", 1002))
    expected.learn("server", "1.1.1", Result("OK", "OK", 1001))
    assert expected.by_role["server"]["3.1"] == VIOLATION
    assert expected.by_role["server"]["1.1.1"].code == 1001


def test_the_file_reads_as_it_was_written(expected, tmp_path):
    expected.by_role["client"]["1.1.1"] = GOOD
    expected.save(tmp_path / "expected.json")
    read = Expected.load(tmp_path / "expected.json")
    assert read == expected
    assert json.loads((tmp_path / "expected.json").read_text())["cases"]["1.1.1"] == list(GOOD)


def test_the_table_counts_what_was_on_the_wire():
    lines = table({"1.1.1": GOOD, "1.1.2": Result("FAILED", "UNCLEAN", None)}).splitlines()
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["all", "2", "1", "", "", "", "1", "1", "1"]

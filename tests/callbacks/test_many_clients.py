"""A thousand clients in one process. The figures are printed by the program, not judged here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import run

PROGRAM = Path(__file__).with_name("many_clients.py")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", [(), ("--background",)], ids=["polled", "background"])
def test_a_thousand_clients_share_one_thread_and_have_their_messages_in_order(way):
    result = run(PROGRAM, *way)
    assert result.stderr == ""
    assert result.returncode == 0
    found = re.fullmatch(r".* threads when open: (.*); (\d+) at most\n", result.stdout)
    assert found is not None, result.stdout
    print(result.stdout)  # noqa: T201 - pytest -s shows it
    threads = found[1].split(", ")
    if way:
        # And one for listeners, as long as none of them is slow.
        assert set(threads) <= {"anyws callbacks", "anyws listeners"}
        assert threads.count("anyws callbacks") == 1
    else:
        assert threads == ["anyws callbacks"]
        assert found[2] == "1"

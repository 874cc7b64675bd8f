"""Two connected ends keep their promises, whatever is done to them, in whatever order.

The suite runs the same examples each time, and shows a failure as it was found. To look for more,
at random, and to have a failure made as short as possible, which may take minutes:

    ANYWS_EXAMPLES=2000 pytest tests/stateful
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from stateful.machine import MACHINES

EXAMPLES = int(os.environ.get("ANYWS_EXAMPLES", "0"))
# Half a minute's worth. Making an example short takes far longer than finding it.
OF_THE_SUITE = 400


@pytest.mark.timeout(0 if EXAMPLES else 900)
@pytest.mark.parametrize("backend", sorted(MACHINES))
def test_two_ends_keep_their_promises_whatever_is_done_to_them(backend: str) -> None:
    """H16, H17, H18, H20, T6."""
    run_state_machine_as_test(
        MACHINES[backend],
        settings=settings(
            max_examples=EXAMPLES or OF_THE_SUITE,
            stateful_step_count=40,
            derandomize=not EXAMPLES,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

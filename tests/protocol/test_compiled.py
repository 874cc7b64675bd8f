"""Which functions are in use, and how that is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from twins import BUILT, PURE, functions

from anyws._protocol import codec, masking, payload
from anyws._protocol.compiled import COMPILED

REFUSED = os.environ.get("ANYWS_PURE", "0") not in ("", "0")


def test_the_c_functions_are_in_use_where_they_were_built_and_not_refused(
    record_property: pytest.RecordProperty,
) -> None:
    record_property("compiled", COMPILED)
    assert COMPILED is (BUILT and not REFUSED)
    assert codec.COMPILED is COMPILED


def test_the_functions_in_use_are_the_ones_that_compiled_says() -> None:
    in_use = (masking.mask, codec.read_frames, codec.build_frame, payload.Payload)
    assert in_use == (functions("c") if COMPILED else PURE)


def test_the_extension_is_there_where_it_is_required() -> None:
    functions("c")


def compiled_in_another_process(before: str = "", **environment: str) -> bool:
    code = f"{before}\nfrom anyws._protocol import codec\nprint(codec.COMPILED)"
    inherited = {name: value for name, value in os.environ.items() if name != "ANYWS_PURE"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],  # the installed package, not the one in this folder
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {"True\n": True, "False\n": False}[done.stdout]


@pytest.mark.parametrize("value", ["1", "yes"])
def test_anyws_pure_refuses_them(value: str) -> None:
    assert compiled_in_another_process(ANYWS_PURE=value) is False


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_anyws_pure_or_zero_refuses_nothing(value: str) -> None:
    assert compiled_in_another_process(ANYWS_PURE=value) is BUILT


def test_without_anyws_pure_they_are_used_where_they_are() -> None:
    assert compiled_in_another_process() is BUILT


def test_an_extension_that_cannot_be_imported_is_done_without() -> None:
    hidden = "import sys\nsys.modules['anyws._speedups'] = None"
    assert compiled_in_another_process(hidden) is False

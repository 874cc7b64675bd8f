"""A display for windows that nobody sees."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where there is none, a test of windows fails in place of being skipped.
REQUIRED = os.environ.get("ANYWS_REQUIRE_DISPLAY", "0") not in ("", "0")
# There any program of somebody who is logged in may open windows.
HAS_OWN = sys.platform in ("win32", "darwin")


@contextmanager
def display() -> Iterator[dict[str, str]]:
    """Give the environment in which a program can open windows with Tk."""
    missing = []
    if importlib.util.find_spec("_tkinter") is None:
        missing.append("this Python was built without tkinter")
    if not HAS_OWN and shutil.which("Xvfb") is None:
        missing.append("Xvfb is not installed")
    if missing:
        (pytest.fail if REQUIRED else pytest.skip)(f"no windows: {', '.join(missing)}")
    if HAS_OWN:
        yield {}
    else:
        with _virtual_display() as name:
            yield {"DISPLAY": name}


@contextmanager
def _virtual_display() -> Iterator[str]:
    told, tells = os.pipe()
    with os.fdopen(told) as number:
        try:
            # It takes a number that is free, and says which when clients may come.
            server = subprocess.Popen(
                ["Xvfb", "-displayfd", str(tells), "-screen", "0", "640x480x24"],
                pass_fds=[tells],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(tells)
        try:
            name = number.readline().strip()
            assert name, f"Xvfb has ended with {server.wait()}"
            yield f":{name}"
        finally:
            server.terminate()
            server.wait()

"""The one thing that `pyproject.toml` cannot say: there is an extension, and it may be left out."""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

# Without a compiler the build goes on without it; with ANYWS_PURE=1 it is not tried.
speedups = Extension(
    "anyws._speedups",
    ["anyws/_speedups.c"],
    # At -O2 GCC leaves the loops as they are.
    extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
    optional=True,
)
refused = os.environ.get("ANYWS_PURE", "0") not in ("", "0")

setup(ext_modules=[] if refused else [speedups])

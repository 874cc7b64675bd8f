"""The functions that exist in Python and in C, side by side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from anyws._protocol.codec import pure_build_frame, pure_read_frames
from anyws._protocol.masking import pure_mask
from anyws._protocol.payload import PurePayload

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from anyws import _speedups
except ImportError:
    _speedups = None  # type: ignore[assignment]

BUILT = _speedups is not None
REQUIRED = os.environ.get("ANYWS_REQUIRE_SPEEDUPS", "0") not in ("", "0")

# For tests that go over both, and for those that compare them.
TWINS = ["python", "c"]


class Functions(NamedTuple):
    mask: Callable[..., Any]
    read_frames: Callable[..., Any]
    build_frame: Callable[..., Any]
    Payload: Callable[..., Any]


PURE = Functions(pure_mask, pure_read_frames, pure_build_frame, PurePayload)


def functions(twin: str) -> Functions:
    """Those in Python or in C; without the extension, a test of C is skipped, or fails."""
    if twin == "python":
        return PURE
    if not BUILT and REQUIRED:
        pytest.fail("anyws._speedups is not there, and ANYWS_REQUIRE_SPEEDUPS wants it")
    if not BUILT:
        pytest.skip("anyws._speedups was not built: there are no C functions to test")
    c = _speedups
    return Functions(c.mask, c.read_frames, c.build_frame, c.Payload)

"""Whether the C functions are there and wanted: the one place where that is decided.

They are optional. A wheel built without a compiler has none, and ``ANYWS_PURE=1`` refuses them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["COMPILED", "speedups"]

speedups: ModuleType | None = None
if os.environ.get("ANYWS_PURE", "0") in ("", "0"):
    try:
        from .. import _speedups as speedups
    except ImportError:
        pass

# The C functions are in use.
COMPILED: bool = speedups is not None

"""For tests of programs that use WebSockets: no network, no waiting, faults on demand.

- `open_websocket_pair`: both ends of a connection, in memory
- `memory_stream_pair`, `MemoryListener`: what lies below, to be told to misbehave
- `virtual_time`: an hour of timeouts in milliseconds, on asyncio and Trio
- `anyws.testing.fixtures`: the same for pytest, with AnyIO's plugin

Nothing in here is used by the library itself.
"""

from __future__ import annotations

from ._pair import open_websocket_pair
from ._streams import MemoryListener, MemoryStream, Pipe, memory_stream_pair
from ._time import VirtualTimeLoop, virtual_time

__all__ = [
    "MemoryListener",
    "MemoryStream",
    "Pipe",
    "VirtualTimeLoop",
    "memory_stream_pair",
    "open_websocket_pair",
    "virtual_time",
]

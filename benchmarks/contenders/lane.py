"""How many frames went through anyws's lane, and how many through its engine."""

from __future__ import annotations

from typing import Any

__all__ = ["Share"]


class Share:
    """The sum over the connections of a process."""

    def __init__(self) -> None:
        self._lane = self._engine = 0
        self._missing = ""

    def add(self, ws: Any) -> None:
        """Add the counts of a connection: a `WebSocket`, or the `Protocol` below one."""
        protocol = getattr(ws, "_protocol", ws)
        try:
            self._lane += protocol.lane_frames
            self._engine += protocol.engine_frames
        except AttributeError as error:
            self._missing = f"this anyws does not count its frames: {error}"

    def report(self) -> dict[str, object]:
        if self._missing:
            return {"missing": self._missing}
        return {"lane": self._lane, "engine": self._engine}

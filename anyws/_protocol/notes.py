"""What a server has found out about a request, beside what the peer says in it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .http import Request

__all__ = ["Notes", "note_path_parameters", "take_on_end"]


class Notes:
    """Made when there is something: most requests need none."""

    __slots__ = ("on_end", "path_parameters", "state")

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.path_parameters: Mapping[str, str] = {}
        self.on_end: list[Callable[[], object]] = []


def note_path_parameters(request: Request, parameters: Mapping[str, str]) -> None:
    """Let a request tell what the names in its path stand for."""
    if parameters:
        request._noted().path_parameters = MappingProxyType(dict(parameters))


def take_on_end(request: Request | None) -> list[Callable[[], object]]:
    """Return what is to be called now that the server is done with this client; once."""
    notes = None if request is None else request._notes
    if notes is None:
        return []
    callbacks, notes.on_end = notes.on_end, []
    return callbacks

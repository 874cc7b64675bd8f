"""What a server has found out about a request, beside what the peer says in it."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .http import Request

__all__ = ["Notes", "call_on_end", "note_path_parameters"]

_logger = logging.getLogger("anyws.server")


class Notes:
    """Made when there is something, the end of a server's client included."""

    __slots__ = ("_is_over", "_on_end", "path_parameters", "state")

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.path_parameters: Mapping[str, str] = {}
        self._on_end: list[Callable[[], object]] = []
        self._is_over = False

    # A hook's thread may go on when its client is gone. So each callback is taken out of the list by
    # whoever calls it, and looked for once more by whoever has put it there.

    def add_on_end(self, callback: Callable[[], object]) -> None:
        self._on_end.append(callback)
        if self._is_over:
            self._call()

    def end(self) -> None:
        self._is_over = True
        self._call()

    def _call(self) -> None:
        while True:
            try:
                callback = self._on_end.pop()
            except IndexError:
                return
            try:
                callback()
            except Exception as error:
                _logger.error("a callback of Request.on_end failed", exc_info=error)
            except BaseException:
                self._call()
                raise


def note_path_parameters(request: Request, parameters: Mapping[str, str]) -> None:
    """Let a request tell what the names in its path stand for."""
    if parameters:
        request._noted().path_parameters = MappingProxyType(dict(parameters))


def call_on_end(request: Request | None) -> None:
    """Call what is to be called when a server is done with a client; see `Request.on_end`."""
    if request is not None:
        request._noted().end()

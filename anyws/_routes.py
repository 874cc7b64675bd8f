"""Which handler serves a client: path -> handler, or path -> subprotocol -> handler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from ._handlers import H, Handlers
from ._protocol.http import Reject
from ._protocol.notes import note_path_parameters
from ._protocol.paths import PathTable, Pattern, split_path

if TYPE_CHECKING:
    from ._protocol.http import Request

__all__ = ["RouteLike", "RouteTable", "Routes", "Table", "make_table"]

RouteLike: TypeAlias = (
    Callable[[Any], object]
    | Mapping[str | None, Callable[[Any], object]]
    | Mapping[str, Callable[[Any], object]]
)


class Routes:
    """A table of paths, to be given to a server in place of a handler.

    ::

        async def room(ws):
            name = ws.request.path_parameters["room"]
            ...

        await anyws.serve(anyws.Routes({"/": lobby, "/rooms/{room}": room}), port=8080)

    :param routes: a mapping from paths to handlers, or to mappings from subprotocols to handlers as
        `open_server` takes them. ``{name}`` in a path stands for any segment that is not empty,
        and ``{name...}`` at its end for all that is left of it. A path without names wins over
        those with names, and among these, the first that fits
    :raises ValueError, TypeError: a path or a handler is wrong, or two paths are the same (the
        caller's fault)

    A request for another path is answered with 404, unless ``on_request`` has answered it. Paths
    are written decoded, and compared with what was asked for segment by segment, case and slashes
    at the end included. What has an encoded slash, a backslash, a dot segment, a control character
    or a broken encoding in its path is answered with 400.
    """

    def __init__(self, routes: Mapping[str, RouteLike]) -> None:
        if not isinstance(routes, Mapping):
            raise TypeError(f"routes must be a mapping, not {type(routes).__name__}")
        if not routes:
            raise ValueError("the mapping of routes is empty: no client could be served")
        self._routes: list[tuple[Pattern, RouteLike]]
        self._routes = [(Pattern(path), handlers) for path, handlers in routes.items()]
        PathTable(self._routes)

    def __repr__(self) -> str:
        return f"anyws.Routes({[pattern.text for pattern, _ in self._routes]!r})"

    def _table(self, default: Any, kind: str) -> RouteTable[Any]:
        entries: list[tuple[Pattern, Handlers[Any]]] = []
        is_used = default is None
        for pattern, handlers in self._routes:
            of_this = default if isinstance(handlers, Mapping) else None
            is_used = is_used or of_this is not None
            try:
                table: Handlers[Any] = Handlers(handlers, of_this, kind)
            except (TypeError, ValueError) as error:
                raise type(error)(f"route {pattern.text}: {error}") from None
            entries.append((pattern, table))
        if not is_used:
            raise TypeError("default= goes with a mapping of subprotocols, and no route has one")
        return RouteTable(entries)


class RouteTable(Generic[H]):
    """The routes of a server, checked; with the interface of `Handlers`."""

    def __init__(self, entries: list[tuple[Pattern, Handlers[H]]]) -> None:
        self._tables = [table for _, table in entries]
        self._paths = PathTable(entries)

    def __iter__(self) -> Iterator[H]:
        for table in self._tables:
            yield from table

    def choose(self, request: Request) -> str | None:
        """Return the subprotocol for a client; raise `Reject` where no handler would serve it."""
        table, parameters = self._find(request)
        note_path_parameters(request, parameters)
        return table.choose(request)

    def handler(self, request: Request, chosen: str | None) -> H:
        """Return the handler for the client that `choose` has answered."""
        return self._find(request)[0].handler(request, chosen)

    def _find(self, request: Request) -> tuple[Handlers[H], dict[str, str]]:
        try:
            found = self._paths.find(split_path(request.raw_path))
        except ValueError as error:
            raise Reject(400, f"the path is malformed: {error}\n") from None
        if found is None:
            raise Reject(404, "there is nothing at this path\n")
        return found


Table: TypeAlias = Handlers[H] | RouteTable[H]


def make_table(
    handlers: H | Mapping[str | None, H] | Mapping[str, H] | Routes,
    default: H | None,
    kind: str = "an async function",
) -> Table[H]:
    """Check the arguments of a server."""
    if isinstance(handlers, Routes):
        return handlers._table(default, kind)
    return Handlers(handlers, default, kind)

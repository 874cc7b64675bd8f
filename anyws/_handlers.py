"""Which handler serves a client: subprotocol -> handler."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from ._protocol.fields import is_token
from ._protocol.http import Reject

if TYPE_CHECKING:
    from ._protocol.http import Request
    from ._routes import Routes
    from ._websocket import WebSocket

__all__ = [
    "Handler",
    "Handlers",
    "HandlersLike",
    "call_at_once",
    "choose_subprotocol",
    "no_coroutines",
]

H = TypeVar("H", bound="Callable[[Any], object]")
T = TypeVar("T")
R = TypeVar("R")

Handler: TypeAlias = "Callable[[WebSocket], Awaitable[object]]"
HandlersLike: TypeAlias = "Handler | Mapping[str | None, Handler] | Mapping[str, Handler] | Routes"


def choose_subprotocol(offered: tuple[str, ...], known: Mapping[str, object]) -> str | None:
    """Return the client's first choice among those that both ends know.

    Its list is by preference (RFC 6455, section 4.1, line 10 of the request).
    """
    return next((name for name in offered if name in known), None)


class Handlers(Generic[H]):
    """The handlers of a server, checked.

    handlers:
        One handler for everybody, with no subprotocol; or a mapping from subprotocols, with
        ``None`` for clients that offer none.
    default:
        For clients that offer none of those in the mapping; also for those that offer none at all,
        where the mapping has no ``None``.
    """

    def __init__(
        self,
        handlers: H | Mapping[str | None, H] | Mapping[str, H],
        default: H | None,
        kind: str = "an async function",
    ) -> None:
        if not isinstance(handlers, Mapping):
            if default is not None:
                raise TypeError("default= goes with a mapping of handlers, not with one handler")
            _check_handler(handlers, "the handler", kind)
            default = handlers
        mapping: dict[Any, H] = {}
        if isinstance(handlers, Mapping):
            mapping.update(handlers)
        for name, handler in mapping.items():
            if name is not None and not (isinstance(name, str) and is_token(name)):
                is_path = isinstance(name, str) and name.startswith("/")
                advice = "; for a table of paths there is Routes({...})" if is_path else ""
                raise ValueError(
                    f"{name!r} cannot be the name of a subprotocol: it is no token{advice}"
                )
            _check_handler(handler, f"the handler for {name!r}", kind)
        if default is not None:
            _check_handler(default, "the default handler", kind)
        elif not mapping:
            raise ValueError("the mapping of handlers is empty: no client could be served")
        self._by_name: dict[str, H] = {
            name: handler for name, handler in mapping.items() if isinstance(name, str)
        }
        self._for_none = mapping.get(None, default)
        self._default = default

    def __iter__(self) -> Iterator[H]:
        yield from self._by_name.values()
        for one in (self._for_none, self._default):
            if one is not None:
                yield one

    def choose(self, request: Request) -> str | None:
        """Return the subprotocol for a client; raise `Reject` where no handler would serve it."""
        offered = request.subprotocols
        name = choose_subprotocol(offered, self._by_name)
        if name is None and (self._default if offered else self._for_none) is None:
            if offered:
                what = "this server serves none of the subprotocols offered"
            else:
                what = "this server does not serve clients without a subprotocol"
            raise Reject(400, f"{what}; it knows: {', '.join(self._by_name) or 'none'}\n")
        return name

    def handler(self, request: Request, chosen: str | None) -> H:
        """Return the handler for the client that `choose` has answered."""
        if chosen is not None:
            return self._by_name[chosen]
        handler = self._default if request.subprotocols else self._for_none
        assert handler is not None
        return handler


def no_coroutines(function: object, what: str) -> None:
    """Refuse an async function where there is no event loop."""
    if inspect.iscoroutinefunction(function) or getattr(function, "is_async", False):
        raise TypeError(f"{what} must not be async: there is no event loop")


def call_at_once(function: Callable[[T], R], argument: T, what: str) -> R:
    """Call a function, and refuse what it returns where that would have to be awaited."""
    result = function(argument)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"{what} returned something to await, and there is no event loop")
    return result


def _check_handler(handler: object, what: str, kind: str) -> None:
    if not callable(handler):
        raise TypeError(
            f"{what} must be {kind} that takes a WebSocket, not {type(handler).__qualname__}"
        )

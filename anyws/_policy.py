"""Who gets in, and what the others are told: the same for every server."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from anyio import get_cancelled_exc_class

from ._config import RETRY_AFTER
from ._connection import is_cancellation, split_cancellations
from ._errors import HandshakeError, HandshakeInvalid, HandshakeRejected
from ._protocol.handshake_server import ServerHandshake
from ._protocol.http import (
    FIRST_ERROR,
    Headers,
    Reject,
    Request,
    Response,
    make_headers,
    text_response,
)
from ._protocol.origin import Origins, check_origin, check_origins_argument

if TYPE_CHECKING:
    from ._protocol.handshake_server import BadRequest
    from ._protocol.http import HeadersLike

__all__ = [
    "NO_ROOM",
    "TOO_MANY",
    "OnRequest",
    "OnRequests",
    "Policy",
    "hooks_of",
    "peer_of",
    "refusal_of",
]

Answer: TypeAlias = Response | Reject | None
OnRequest: TypeAlias = Callable[[Request], Awaitable[Answer] | Answer]
OnRequests: TypeAlias = OnRequest | Sequence[OnRequest] | None

# What a client gets for whom there is no room.
NO_ROOM: Final = "the server has as many clients as it takes"
TOO_MANY: Final = text_response(503, f"{NO_ROOM}\n", {"Retry-After": str(RETRY_AFTER)})

_logger = logging.getLogger("anyws.server")

# Where a path that is none is the better answer: the others say that the request is malformed.
_ABOUT_METHOD_OR_UPGRADE = (405, 426)


@dataclass(frozen=True)
class Policy:
    """What a server says to a request.

    choose:
        The subprotocol for a request; raises `Reject`.
    hooks:
        Asked about every request, in order, before it is answered; what the first of them returns
        that is not None is the answer.
    """

    choose: Callable[[Request], str | None]
    hooks: tuple[OnRequest, ...]
    origins: Origins
    headers: Headers

    @classmethod
    def make(
        cls,
        choose: Callable[[Request], str | None],
        on_request: OnRequests,
        origins: Origins,
        headers: HeadersLike | None,
    ) -> Policy:
        """Check the arguments of a way in."""
        # What cannot be said in a 101 is found out now, not with the first client.
        checked = ServerHandshake.check_headers(headers)
        return cls(choose, hooks_of(on_request), check_origins_argument(origins), checked)

    async def judge(self, request: Request) -> tuple[Response | None, str | None]:
        """Return the answer to a valid request where that is not 101, and else the subprotocol."""
        if not check_origin(request, self.origins):
            return text_response(403, "this Origin is not served\n"), None
        # Chosen first, so that hooks know the path's parameters; but theirs is the first word.
        refusal, subprotocol = self._choose(request)
        answer = await self._ask(request)
        return (refusal, subprotocol) if answer is None else (answer, None)

    def _choose(self, request: Request) -> tuple[Response | None, str | None]:
        try:
            return None, self.choose(request)
        except Reject as reject:
            return reject.response, None

    async def _ask(self, request: Request) -> Response | None:
        for hook in self.hooks:
            answer = await _ask_one(hook, request)
            if answer is not None:
                return answer
        return None

    async def answer_to_bad(self, error: BadRequest) -> Response:
        """Return the answer to a request that is wrong, or for something else than a WebSocket."""
        request = error.request
        if request is None:
            return error.response
        refusal, _ = self._choose(request)
        answer = await self._ask(request)
        if answer is not None:
            return answer
        gives_way = error.response.status in _ABOUT_METHOD_OR_UPGRADE
        if refusal is not None and refusal.status == 404 and gives_way:
            return refusal
        return error.response


def refusal_of(bad: BadRequest, response: Response) -> HandshakeError:
    """Return what our caller is told of a request that is none of a WebSocket's client."""
    if response.status < FIRST_ERROR:
        return HandshakeRejected(response)  # a hook was ready for it: nothing is wrong
    return HandshakeInvalid(f"the client was refused: {bad}")


def hooks_of(on_request: OnRequests) -> tuple[OnRequest, ...]:
    """Return the hooks that a caller gave: none, one, or several in order."""
    if on_request is None:
        return ()
    hooks = tuple(on_request) if isinstance(on_request, Sequence) else (on_request,)
    if not all(map(callable, hooks)):
        raise TypeError("on_request must be a function that takes a Request, or several of them")
    return hooks


async def _ask_one(hook: OnRequest, request: Request) -> Response | None:
    try:
        answer = hook(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Reject):
            return answer.response
        if answer is None or isinstance(answer, Response):
            if answer is not None and answer.status < 200:
                raise ValueError(f"a request is not answered with status {answer.status}")
            if answer is not None:
                # What cannot be sent, as a header that came from a peer, is the hook's failure.
                make_headers(answer.headers)
            return answer
        raise TypeError(
            f"on_request must return a Response, a Reject or None, not {type(answer).__name__}"
        )
    except Reject as reject:
        return reject.response
    except Exception as error:  # noqa: BLE001 - it is the program's, and logged
        return _failed(request, error)
    except BaseException as error:
        if (failure := _failure_in(error)) is not None:
            return _failed(request, failure)
        raise


def _failure_in(error: BaseException) -> BaseException | None:
    """Return what is the hook's own failure in what is none at first sight, if there is something.

    It is not where the task of the hook is cancelled, or where the hook asks for the program's end.
    """
    try:
        cancelled = get_cancelled_exc_class()
    except RuntimeError:
        # A thread of `anyws.sync`, which nobody cancels: it comes from a loop of the hook's own.
        return error if isinstance(error, asyncio.CancelledError) else None
    if isinstance(error, BaseExceptionGroup):
        # A nursery of Trio's, where a child fails because of a cancellation.
        failures = split_cancellations(error)[1]
        return failures if isinstance(failures, Exception) else None
    return error if isinstance(error, cancelled) and not is_cancellation(error) else None


def _failed(request: Request, error: BaseException) -> Response:
    _logger.error("on_request failed for %r; the client gets 500", request, exc_info=error)
    return text_response(500, "internal server error\n")


def peer_of(address: object) -> str:
    """Return a name for a remote address, if there is one, that fits a log."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return repr(address) if address else "a stream"

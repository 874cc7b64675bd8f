"""Who gets in, and what the others are told: the same for every server."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from anyio import get_cancelled_exc_class

from ._connection import is_cancellation
from ._protocol.handshake_server import ServerHandshake
from ._protocol.http import Headers, Reject, Request, Response, text_response
from ._protocol.origin import Origins, check_origin, check_origins_argument

if TYPE_CHECKING:
    from ._protocol.handshake_server import BadRequest
    from ._protocol.http import HeadersLike

__all__ = ["OnRequest", "Policy", "peer_of"]

Answer: TypeAlias = Response | Reject | None
OnRequest: TypeAlias = Callable[[Request], Awaitable[Answer] | Answer]

_logger = logging.getLogger("anyws.server")


@dataclass(frozen=True)
class Policy:
    """What a server says to a request.

    choose:
        The subprotocol for what a client offers; raises `Reject`.
    on_request:
        Asked about every request before it is answered; what it returns is the answer.
    """

    choose: Callable[[tuple[str, ...]], str | None]
    on_request: OnRequest | None
    origins: Origins
    headers: Headers

    @classmethod
    def make(
        cls,
        choose: Callable[[tuple[str, ...]], str | None],
        on_request: OnRequest | None,
        origins: Origins,
        headers: HeadersLike | None,
    ) -> Policy:
        """Check the arguments of a way in."""
        if on_request is not None and not callable(on_request):
            raise TypeError("on_request must be a function that takes a Request")
        # What cannot be said in a 101 is found out now, not with the first client.
        checked = ServerHandshake.check_headers(headers)
        return cls(choose, on_request, check_origins_argument(origins), checked)

    async def judge(self, request: Request) -> tuple[Response | None, str | None]:
        """Return the answer to a valid request where that is not 101, and else the subprotocol."""
        if not check_origin(request, self.origins):
            return text_response(403, "this Origin is not served\n"), None
        refusal = await self._ask(request)
        if refusal is None:
            try:
                return None, self.choose(request.subprotocols)
            except Reject as reject:
                refusal = reject.response
        return refusal, None

    async def _ask(self, request: Request) -> Response | None:
        if self.on_request is None:
            return None
        try:
            answer = self.on_request(request)
            if inspect.isawaitable(answer):
                answer = await answer
            if isinstance(answer, Reject):
                return answer.response
            if answer is None or isinstance(answer, Response):
                if answer is not None and answer.status < 200:
                    raise ValueError(f"a request is not answered with status {answer.status}")
                return answer
            raise TypeError(
                f"on_request must return a Response, a Reject or None, not {type(answer).__name__}"
            )
        except Reject as reject:
            return reject.response
        except Exception as error:  # noqa: BLE001 - it is the program's, and logged
            return _failed(request, error)
        except get_cancelled_exc_class() as error:
            if is_cancellation(error):
                raise
            return _failed(request, error)

    async def answer_to_bad(self, error: BadRequest) -> Response:
        """Return the answer to a request that is wrong, or for something else than a WebSocket."""
        answer = None
        if error.request is not None:
            answer = await self._ask(error.request)
        return answer or error.response


def _failed(request: Request, error: BaseException) -> Response:
    _logger.error("on_request failed for %r; the client gets 500", request, exc_info=error)
    return text_response(500, "internal server error\n")


def peer_of(address: object) -> str:
    """Return a name for a remote address, if there is one, that fits a log."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return repr(address) if address else "a stream"

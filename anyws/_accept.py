"""Ways in: a stream becomes a server's `WebSocket`. Who gets in, and what the others are told."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    current_time,
    get_cancelled_exc_class,
    move_on_after,
)

from ._close import Role
from ._config import CHUNK_BYTES, LINGER, as_config
from ._connection import Connection, Opening, is_cancellation
from ._errors import HandshakeError, HandshakeInvalid, HandshakeRejected, HandshakeTimeout
from ._handlers import choose_subprotocol
from ._handshake import Handshake
from ._protocol.handshake_server import BadRequest, ServerHandshake
from ._protocol.http import Headers, Reject, Request, Response, text_response
from ._protocol.origin import Origins, check_origin, check_origins_argument
from ._transports.errors import STREAM_ERRORS
from ._transports.sockets import AcceptedStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteStream

    from ._config import Config
    from ._protocol.http import HeadersLike
    from ._transports.sockets import Accepted
    from ._websocket import WebSocket

__all__ = ["OnRequest", "Policy", "accept", "peer_of", "wrap_server_stream"]

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
        except (Exception, get_cancelled_exc_class()) as error:
            if is_cancellation(error):
                raise
            _logger.exception("on_request failed for %r; the client gets 500", request)
            return text_response(500, "internal server error\n")

    async def answer_to_bad(self, error: BadRequest) -> Response:
        """Return the answer to a request that is wrong, or for something else than a WebSocket."""
        answer = None
        if error.request is not None:
            answer = await self._ask(error.request)
        return answer or error.response


def wrap_server_stream(
    stream: ByteStream,
    *,
    subprotocols: Sequence[str] = (),
    on_request: OnRequest | None = None,
    origins: Origins = None,
    headers: HeadersLike | None = None,
    config: Config | None = None,
) -> AbstractAsyncContextManager[WebSocket]:
    """Accept a WebSocket on any AnyIO byte stream, for the length of an ``async with`` block.

    :param stream: connected, with the client's request still to be read. It belongs to the block
        from entering on, and has to lose nothing when its `receive` is cancelled
    :param subprotocols: those known here; the client's first choice among them is taken
    :raises HandshakeInvalid: the request was none of a WebSocket client; the client was told
    :raises HandshakeRejected: ``on_request`` or ``origins`` refused the client
    :raises HandshakeTimeout: ``Config.handshake_timeout`` passed

    Other arguments are those of `open_server`; leaving the block closes the connection as at
    `open_websocket`, but with 1011 where the body raises.
    """
    known = dict.fromkeys(subprotocols)
    policy = Policy.make(
        lambda offered: choose_subprotocol(offered, known), on_request, origins, headers
    )
    return _ServerOpening(stream, policy, as_config(config))


class _ServerOpening(Opening):
    def __init__(self, stream: ByteStream, policy: Policy, config: Config) -> None:
        super().__init__()
        self._stream = stream
        self._policy = policy
        self._config = config

    async def connect(self) -> Connection:
        return await accept(AcceptedStream(self._stream), self._policy, self._config)


def peer_of(accepted: Accepted) -> tuple[object, str]:
    """Return the remote address, if there is one, and a name for it that fits a log."""
    address = accepted.remote_address
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return address, f"{host}:{address[1]}"
    return address, repr(address) if address else "a stream"


async def accept(
    accepted: Accepted,
    policy: Policy,
    config: Config,
    *,
    ssl_context: ssl.SSLContext | None = None,
    scope: CancelScope | None = None,
) -> Connection:
    """Do the opening handshake, TLS included, and return the connection, to be entered.

    Whoever cancels `scope`, having taken its deadline away, refuses the client with 503. On any
    failure the client is told, where there is a way to, the stream is closed, and what went wrong
    is raised.
    """
    timeout = config.handshake_timeout
    scope = scope if scope is not None else CancelScope()
    scope.deadline = current_time() + timeout if timeout is not None else math.inf
    address, peer = peer_of(accepted)
    handshake = ServerHandshake(config.compression, address)
    stream: ByteStream | None = None
    refused: _Refused | None = None
    try:
        with scope:
            stream = await accepted.open(ssl_context)
            try:
                await _answer(stream, handshake, policy)
            except _Refused as error:
                refused = error
            else:
                assert handshake.request is not None
                assert handshake.response is not None
                return Connection(
                    Role.SERVER,
                    stream,
                    config,
                    Handshake(
                        handshake.request,
                        handshake.response,
                        subprotocol=handshake.subprotocol,
                        peer=peer,
                    ),
                    negotiated=handshake.deflate,
                    trailing_data=handshake.trailing_data,
                )
        if refused is None and current_time() >= scope.deadline:
            raise HandshakeTimeout(f"the opening handshake was not over after {timeout:g} s")
        refused = refused or _Refused(text_response(503, "the server is closing\n"))
        # Outside the scope: a client is refused once, whatever else ends meanwhile.
        if stream is not None:
            await _refuse(stream, handshake, refused.response)
        raise refused.error
    except BaseException:
        await accepted.cut()
        raise


class _Refused(Exception):
    """The client gets this response, and the caller of ours that exception."""

    def __init__(self, response: Response, error: HandshakeError | None = None) -> None:
        self.response = response
        self.error = error if error is not None else HandshakeRejected(response)


async def _answer(stream: ByteStream, handshake: ServerHandshake, policy: Policy) -> None:
    """Read the request and answer it with 101, or raise `_Refused`."""
    try:
        request = None
        while request is None:
            request = handshake.receive_data(await stream.receive(CHUNK_BYTES))
    except EndOfStream:
        handshake.receive_eof()
    except BrokenResourceError as cause:
        raise HandshakeInvalid("the client was lost during the opening handshake") from cause
    except BadRequest as bad:
        response = await policy.answer_to_bad(bad)
        raise _Refused(response, HandshakeInvalid(f"the client was refused: {bad}")) from None
    refusal, subprotocol = await policy.judge(request)
    if refusal is not None:
        raise _Refused(refusal)
    await stream.send(handshake.accept(subprotocol, policy.headers))


async def _refuse(stream: ByteStream, handshake: ServerHandshake, refusal: Response) -> None:
    """Send the refusal so that it arrives, and close the stream."""
    try:
        with move_on_after(LINGER):
            await stream.send(handshake.reject(refusal))
            try:
                await stream.send_eof()
            except NotImplementedError:
                pass  # TLS has no such thing
            # Closing over unread data would reset the connection, and lose the answer.
            while True:
                await stream.receive(CHUNK_BYTES)
    except (EndOfStream, *STREAM_ERRORS):
        pass
    try:
        with move_on_after(LINGER):
            await stream.aclose()
    except STREAM_ERRORS:
        pass

"""Ways in: an accepted socket becomes a server's `WebSocket`, or the client is refused."""

from __future__ import annotations

import math
import socket
import time
from typing import TYPE_CHECKING, TypeVar

from .._close import Role
from .._config import LINGER
from .._errors import HandshakeError, HandshakeInvalid, HandshakeRejected, HandshakeTimeout
from .._handshake import Handshake
from .._policy import peer_of, refusal_of
from .._protocol.handshake_server import BadRequest, ServerHandshake
from .._protocol.http import text_response
from .._protocol.notes import call_on_end
from .._transports.blocking_stream import BlockingStream, OutOfTime
from ._made import make_websocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from typing import Any

    from .._config import Config
    from .._policy import Policy
    from .._protocol.http import Response
    from ._websocket import WebSocket

__all__ = ["Refused", "accept", "turn_away"]

_TCP = (socket.AF_INET, socket.AF_INET6)
_CLOSING = "the server is closing\n"

T = TypeVar("T")


class Refused(Exception):
    """The client gets this response, and the caller of ours that exception."""

    def __init__(self, response: Response, error: HandshakeError | None = None) -> None:
        self.response = response
        self.error = error if error is not None else HandshakeRejected(response)


def accept(
    sock: socket.socket,
    address: object,
    policy: Policy,
    config: Config,
    ssl_context: ssl.SSLContext | None,
    is_closing: Callable[[], bool],
    admit: Callable[[], bool],
) -> WebSocket:
    """Do the opening handshake, TLS included; the socket is closed on any failure.

    Raises HandshakeError, and OSError where TLS fails. Once the server closes, which is looked
    for each second and when something comes, the client gets 503. `admit` is asked right before
    the 101, and tells whether the server does not close.
    """
    timeout = config.handshake_timeout
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    handshake = ServerHandshake(config.compression, address)
    try:
        if sock.family in _TCP:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = BlockingStream(sock)
        if ssl_context is not None:
            stream.start_tls(ssl_context, deadline, server_side=True)
        try:
            _answer(stream, handshake, policy, deadline, is_closing, admit)
        except Refused as refused:
            call_on_end(handshake.asked)  # who knows the answer may be back at once
            _refuse(stream, handshake, refused.response, deadline, is_closing)
            raise refused.error from None
        except OutOfTime:
            raise HandshakeTimeout("the opening handshake was not over in time") from None
        except OSError as cause:
            raise HandshakeInvalid("the client was lost during the opening handshake") from cause
        assert handshake.request is not None
        assert handshake.response is not None
        settled = Handshake(
            handshake.request,
            handshake.response,
            subprotocol=handshake.subprotocol,
            peer=peer_of(address),
        )
        return make_websocket(
            Role.SERVER, stream, config, settled, handshake.deflate, handshake.trailing_data
        )
    except BaseException:
        call_on_end(handshake.asked)
        sock.close()
        raise


def turn_away(sock: socket.socket, response: Response, ssl_context: ssl.SSLContext | None) -> None:
    """Give a client this answer whatever it asks for, and close; all that in a bounded time.

    Raises OSError where TLS fails.
    """
    with sock:
        stream = BlockingStream(sock)
        if ssl_context is not None:
            stream.start_tls(ssl_context, time.monotonic() + LINGER, server_side=True)
        _refuse(stream, ServerHandshake(None), response, -math.inf, lambda: False)


def _answer(
    stream: BlockingStream,
    handshake: ServerHandshake,
    policy: Policy,
    deadline: float,
    is_closing: Callable[[], bool],
    admit: Callable[[], bool],
) -> None:
    """Read the request and answer it with 101, or raise `Refused`."""
    try:
        request = None
        while request is None:
            if stream.eof:
                handshake.receive_eof()
            elif stream.fetch_in_time(deadline):
                request = handshake.receive_data(stream.take())
            if is_closing():
                raise Refused(text_response(503, _CLOSING))
    except BadRequest as bad:
        response = _without_waiting(policy.answer_to_bad(bad))
        raise Refused(response, refusal_of(bad, response)) from None
    refusal, subprotocol = _without_waiting(policy.judge(request))
    if time.monotonic() >= deadline:
        raise OutOfTime
    if refusal is not None:
        raise Refused(refusal)
    if not admit():
        # It may have begun to close while the program's functions judged.
        raise Refused(text_response(503, _CLOSING))
    stream.send_all(stream.wrap(handshake.accept(subprotocol, policy.headers)), deadline)


def _without_waiting(judging: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        judging.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a policy without an async function waits for nothing")


def _refuse(
    stream: BlockingStream,
    handshake: ServerHandshake,
    refusal: Response,
    deadline: float,
    is_closing: Callable[[], bool],
) -> None:
    """Send the refusal so that it arrives.

    The client may take its time over the body until then, unless the server closes, and `LINGER`
    in any case. That is also what it has to leave in, once all was sent.
    """
    soon = time.monotonic() + LINGER
    if deadline == math.inf:
        deadline = soon
    try:
        rest = memoryview(stream.wrap(handshake.reject(refusal)))
        while rest := rest[stream.send_now(rest) :]:
            now = time.monotonic()
            if now >= (soon if is_closing() else max(soon, deadline)):
                return
            stream.wait(now + LINGER)
        deadline = time.monotonic() + LINGER
        stream.end_our_half()
        # Closing over unread data would reset the connection, and lose the answer.
        while not stream.eof and time.monotonic() < deadline:
            if stream.fetch(deadline):
                stream.take()
    except OSError:
        pass

"""Ways in: a stream becomes a server's `WebSocket`, or the client is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    current_time,
    move_on_after,
)

from ._close import Role
from ._config import CHUNK_BYTES, LINGER, as_config
from ._connection import Connection, Opening
from ._errors import HandshakeError, HandshakeInvalid, HandshakeRejected, HandshakeTimeout
from ._handlers import choose_subprotocol
from ._handshake import Handshake
from ._policy import OnRequests, Policy, peer_of, refusal_of
from ._protocol.handshake_server import BadRequest, ServerHandshake
from ._protocol.http import Response, text_response
from ._protocol.notes import call_on_end
from ._transports.errors import STREAM_ERRORS
from ._transports.sockets import AcceptedStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import ByteStream

    from ._config import Config
    from ._protocol.http import HeadersLike
    from ._protocol.origin import Origins
    from ._transports.sockets import Accepted
    from ._websocket import WebSocket

__all__ = ["accept", "turn_away", "wrap_server_stream"]

_LOST = "the client was lost during the opening handshake"


def wrap_server_stream(
    stream: ByteStream,
    *,
    subprotocols: Sequence[str] = (),
    on_request: OnRequests = None,
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
        lambda request: choose_subprotocol(request.subprotocols, known),
        on_request,
        origins,
        headers,
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


async def accept(
    accepted: Accepted,
    policy: Policy,
    config: Config,
    *,
    ssl_context: ssl.SSLContext | None = None,
    ways_out: WaysOut | None = None,
) -> Connection:
    """Do the opening handshake, TLS included, and return the connection, to be entered.

    On any failure, and where the server calls `WaysOut.refuse`, the client is told, where there is
    a way to, the stream is closed, and what went wrong is raised.
    """
    timeout = config.handshake_timeout
    ways_out = ways_out if ways_out is not None else WaysOut()
    scope = ways_out.handshake
    deadline = -math.inf
    if timeout is not None and not scope.cancel_called:
        scope.deadline = deadline = current_time() + timeout
    address = accepted.remote_address
    peer = peer_of(address)
    handshake = ServerHandshake(config.compression, address)
    stream: ByteStream | None = None
    refused: _Refused | None = None
    try:
        with scope:
            # Without TLS that takes a moment, and who is refused then is to be told so.
            with CancelScope(shield=ssl_context is None):
                stream = await accepted.open(ssl_context)
            assert stream is not None
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
        call_on_end(handshake.asked)  # who knows the answer may be back at once
        ways_out.told = refused.error
        # Outside the scope: a client is refused once, whatever else ends meanwhile.
        if stream is not None:
            ways_out.allow(deadline)
            await _refuse(stream, handshake, refused.response, ways_out.refusal)
        raise refused.error
    except BaseException:
        call_on_end(handshake.asked)
        await accepted.cut()
        raise


async def turn_away(
    accepted: Accepted, response: Response, ssl_context: ssl.SSLContext | None = None
) -> None:
    """Give a client this answer whatever it asks for, and close; all that in a bounded time.

    It is not read what it asks for: that would take as long as the client likes. Raises what the
    stream does.
    """
    stream: ByteStream | None = None
    try:
        with move_on_after(LINGER):
            stream = await accepted.open(ssl_context)
        if stream is None:
            await accepted.cut()
        else:
            await _refuse(stream, ServerHandshake(None), response, move_on_after(LINGER))
    except BaseException:
        await accepted.cut()
        raise


class WaysOut:
    """How a server that closes sends a client away that is in the opening handshake."""

    def __init__(self) -> None:
        self.handshake = CancelScope()  # cancelled: the client gets 503
        self.refusal = CancelScope()  # its deadline: until when the client may read what it gets
        self.told: HandshakeError | None = None  # why there is no WebSocket, once that is settled

    def refuse(self) -> None:
        """Answer with 503, unless the client is being refused already; then that has to end soon."""
        # It is no timeout.
        self.handshake.deadline = math.inf
        self.handshake.cancel()
        self.refusal.deadline = min(self.refusal.deadline, current_time() + LINGER)

    def allow(self, deadline: float) -> None:
        """Give a refusal until then, and `LINGER` in any case, if the server does not close."""
        deadline = max(deadline, current_time() + LINGER)
        self.refusal.deadline = min(self.refusal.deadline, deadline)


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
        raise HandshakeInvalid(_LOST) from cause
    except BadRequest as bad:
        response = await policy.answer_to_bad(bad)
        raise _Refused(response, refusal_of(bad, response)) from None
    refusal, subprotocol = await policy.judge(request)
    if refusal is not None:
        raise _Refused(refusal)
    try:
        await stream.send(handshake.accept(subprotocol, policy.headers))
    except BrokenResourceError as cause:
        raise HandshakeInvalid(_LOST) from cause


async def _refuse(
    stream: ByteStream, handshake: ServerHandshake, refusal: Response, scope: CancelScope
) -> None:
    """Send the refusal so that it arrives, within that scope, and close the stream.

    Once all was sent, the client has `LINGER` to leave.
    """
    try:
        late = True
        with scope:
            await stream.send(handshake.reject(refusal))
            late = False
        with move_on_after(0 if late else LINGER):
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

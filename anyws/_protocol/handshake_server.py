"""The server's half of the opening handshake (RFC 6455, section 4.2), without I/O.

The checks stand in an order that matters to what a program may do with a refused request: one
that is no valid HTTP is never shown to it; any other is, in `BadRequest.request`, so that health
checks and ordinary pages can be answered on the same port.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

import h11

from .._config import MAX_HEAD_BYTES
from .._errors import HandshakeInvalid
from .fields import (
    Extension,
    accept_key,
    is_key,
    is_token,
    parse_extensions,
    parse_host,
    parse_subprotocols,
    parse_tokens,
    split_list,
)
from .head import HeadError, HeadReader, NotHTTP, read_request
from .http import (
    Headers,
    HeadersLike,
    Request,
    Response,
    check_not_reserved,
    make_headers,
    reason_phrase,
    text_response,
)
from .negotiation import accept_offers

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._config import Deflate
    from .negotiation import Negotiated

__all__ = ["BadRequest", "ServerHandshake"]

_VERSION_RE: Final = re.compile(r"[0-9]{1,3}")
_ABSOLUTE_RE: Final = re.compile(r"(?:http|ws)(s?)://([^/?]*)", re.IGNORECASE)
# What frames the response or belongs to the connection (RFC 9110, section 7.6.1): ours to say.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_WITHOUT_BODY: Final = frozenset({204, 304})


class BadRequest(Exception):
    """A request that cannot become a WebSocket; its text says why.

    response:
        The answer to send, through `ServerHandshake.reject`.
    request:
        The request where it is valid HTTP; ``None`` where it is not.
    """

    def __init__(self, message: str, status: int = 400, headers: HeadersLike | None = None) -> None:
        super().__init__(message)
        self.response: Response = text_response(status, message + "\n", headers)
        self.request: Request | None = None


class ServerHandshake:
    """One request and its answer.

    Feed it with `receive_data` until that returns the request; then send what `accept` or
    `reject` returns. After `reject` nothing that the peer sends is to be parsed: close.

    address:
        Of the peer, for the request to tell.
    """

    def __init__(self, compression: Deflate | None, address: object = None) -> None:
        self.request: Request | None = None
        self.asked: Request | None = None  # the same, also where it is none for a WebSocket
        self.response: Response | None = None  # the 101, once there is one
        self.subprotocol: str | None = None
        self.deflate: Negotiated | None = None
        self.trailing_data = b""
        self._compression = compression
        self._address = address
        self._http = h11.Connection(h11.SERVER, MAX_HEAD_BYTES)
        self._head = HeadReader()
        self._method = ""
        self._extensions: list[Extension] = []

    def receive_data(self, data: bytes) -> Request | None:
        """Take bytes from the network; return the request once it is complete and valid.

        What follows it is kept in `trailing_data`: after `accept`, those are the first frames.
        That is not bounded here, so stop reading once there is a request. Raises `BadRequest`.
        """
        if self.request is not None:
            self.trailing_data += data
            return self.request
        try:
            head = self._head.feed(data)
            if head is None:
                return None
            event = read_request(self._http, head)
        except NotHTTP as error:
            kind = "TLS, and no TLS is spoken here" if error.is_tls else "not HTTP"
            raise BadRequest(f"the request is {kind}") from None
        except HeadError as error:
            raise BadRequest(f"the request is malformed: {error}", error.status) from None
        self.request = self._judge(event)
        self.trailing_data = self._head.rest
        return self.request

    def receive_eof(self) -> NoReturn:
        """Raise `HandshakeInvalid`: the client has left."""
        if self.request is not None:
            raise HandshakeInvalid("the client left before its request was answered")
        if self._head.size:
            raise HandshakeInvalid("the client left in the middle of its request")
        raise HandshakeInvalid("the client left without a request")

    def _judge(self, event: h11.Request) -> Request:
        self._method = event.method.decode("ascii")
        request = Request(
            self._method,
            event.target.decode("ascii"),
            Headers.decode(event.headers.raw_items()),
            self._address,
        )
        self.asked = request
        _check_host(request)
        try:
            if event.http_version != b"1.1":
                raise BadRequest("the request is not HTTP/1.1", 505)
            for check in _CHECKS:
                check(request)
            self._extensions = _read_extensions(request)
        except BadRequest as error:
            error.request = request
            raise
        return request

    @staticmethod
    def check_headers(headers: HeadersLike | None) -> Headers:
        """Return what may be added to a 101, or raise `ValueError` for what may not."""
        extra = make_headers(headers)
        check_not_reserved(extra)
        return extra

    def accept(self, subprotocol: str | None = None, headers: HeadersLike | None = None) -> bytes:
        """Return the 101 that opens the WebSocket, with ``headers`` added.

        Raises `ValueError` for a subprotocol that the client has not offered and for headers
        that are the handshake's own: then nothing has changed.
        """
        if self.request is None:
            raise RuntimeError("there is no request to accept")
        extra = self.check_headers(headers)
        if subprotocol is not None and subprotocol not in self.request.subprotocols:
            raise ValueError(f"the client has not offered the subprotocol {subprotocol!r}")
        answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(self.request.headers["Sec-WebSocket-Key"])),
        ]
        if subprotocol is not None:
            answer.append(("Sec-WebSocket-Protocol", subprotocol))
        if self._compression is not None:
            accepted = accept_offers(self._extensions, self._compression)
            if accepted is not None:
                value, self.deflate = accepted
                answer.append(("Sec-WebSocket-Extensions", value))
        self.subprotocol = subprotocol
        headers = Headers.of_checked((*answer, *extra.raw))
        self.response = Response(101, headers)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.raw])
        return f"HTTP/1.1 101 {reason_phrase(101)}\r\n{lines}\r\n".encode("latin-1")

    def reject(self, response: Response) -> bytes:
        """Return this response as the last bytes of the connection, whatever came before.

        Headers that frame it or speak of the connection are replaced by ours. Raises
        `ValueError` for a 1xx, which would not be an answer.
        """
        if response.status < 200:
            raise ValueError(f"a request is not refused with status {response.status}")
        headers = make_headers(response.headers.raw)
        lines = [(n, v) for n, v in headers.raw if n.lower() not in _HOP_BY_HOP]
        options = "close"
        if response.status == 426:
            # RFC 9110, section 15.5.22: it names the protocols, which section 7.8 ties to this.
            options = "close, Upgrade"
            lines.append(("Upgrade", headers.get("Upgrade", "websocket")))
        lines.append(("Connection", options))
        body = b"" if response.status in _WITHOUT_BODY else response.body
        if response.status not in _WITHOUT_BODY:
            lines.append(("Content-Length", str(len(body))))
        # A connection of its own: that of the request may be in any state.
        head = h11.Connection(h11.SERVER).send(
            h11.Response(
                status_code=response.status,
                reason=reason_phrase(response.status),
                headers=Headers(lines).encode(),
            )
        )
        return head if self._method == "HEAD" else head + body


def _check_host(request: Request) -> None:
    # h11 has refused several, and none in HTTP/1.1.
    if "Host" in request.headers:
        try:
            parse_host(request.host)
        except ValueError as error:
            raise BadRequest(f"the Host header is malformed: {error}") from None


def _check_method(request: Request) -> None:
    if request.method != "GET":
        raise BadRequest("only GET opens a WebSocket", 405, {"Allow": "GET"})


def _check_target(request: Request) -> None:
    if "#" in request.target:
        raise BadRequest("the request's target has a fragment")
    if request.target.startswith("/"):
        return
    absolute = _ABSOLUTE_RE.match(request.target)
    if absolute is None:
        raise BadRequest("the request's target is neither a path nor an http URL")
    port = 443 if absolute[1] else 80
    try:
        host, own_port = parse_host(absolute[2])
    except ValueError as error:
        raise BadRequest(f"the request's target is malformed: {error}") from None
    meant_host, meant_port = parse_host(request.host)
    if (host, own_port or port) != (meant_host, meant_port or port):
        raise BadRequest("the request's target and its Host header name different hosts")


def _check_body(request: Request) -> None:
    length = request.headers.get("Content-Length", "0")
    if "Transfer-Encoding" in request.headers or length.strip("0"):
        raise BadRequest("a request for a WebSocket has no body")


def _check_upgrade(request: Request) -> None:
    value = request.headers.get("Upgrade", "")
    if value.lower() == "websocket":
        return
    protocols = split_list(value)
    if not all(is_token(part) for protocol in protocols for part in protocol.split("/", 1)):
        raise BadRequest("the Upgrade header is malformed")
    if "websocket" not in (protocol.lower() for protocol in protocols):
        raise BadRequest(
            "this is a WebSocket server: it answers requests with Upgrade: websocket",
            426,
            {"Upgrade": "websocket"},
        )


def _check_connection(request: Request) -> None:
    value = request.headers.get("Connection", "")
    if value.lower() == "upgrade":
        return
    try:
        options = parse_tokens(value)
    except ValueError as error:
        raise BadRequest(f"the Connection header is malformed: {error}") from None
    if "upgrade" not in (option.lower() for option in options):
        raise BadRequest("the Connection header does not name Upgrade")


def _check_version(request: Request) -> None:
    version = _single(request, "Sec-WebSocket-Version")
    if not _VERSION_RE.fullmatch(version):
        raise BadRequest("the Sec-WebSocket-Version header is not a number")
    if version != "13":
        raise BadRequest(
            f"the WebSocket version is 13, not {version}", 426, {"Sec-WebSocket-Version": "13"}
        )


def _check_key(request: Request) -> None:
    if not is_key(_single(request, "Sec-WebSocket-Key")):
        raise BadRequest("the Sec-WebSocket-Key header is not the base64 of 16 bytes")


def _check_origin_lines(request: Request) -> None:
    if len(request.headers.get_all("Origin")) > 1:
        raise BadRequest("the request has several Origin headers")


def _check_subprotocols(request: Request) -> None:
    if "Sec-WebSocket-Protocol" in request.headers:
        try:
            parse_subprotocols(request.headers["Sec-WebSocket-Protocol"])
        except ValueError as error:
            raise BadRequest(f"the Sec-WebSocket-Protocol header is malformed: {error}") from None


def _read_extensions(request: Request) -> list[Extension]:
    if "Sec-WebSocket-Extensions" not in request.headers:
        return []
    try:
        return parse_extensions(request.headers["Sec-WebSocket-Extensions"])
    except ValueError as error:
        raise BadRequest(f"the Sec-WebSocket-Extensions header is malformed: {error}") from None


def _single(request: Request, name: str) -> str:
    values = request.headers.get_all(name)
    if len(values) != 1:
        raise BadRequest(f"the request has {len(values) or 'no'} {name} headers, where one belongs")
    return values[0]


# In the order of their precedence: the first that fails is the answer.
_CHECKS: Final[tuple[Callable[[Request], None], ...]] = (
    _check_method,
    _check_target,
    _check_body,
    _check_upgrade,
    _check_connection,
    _check_version,
    _check_key,
    _check_origin_lines,
    _check_subprotocols,
)

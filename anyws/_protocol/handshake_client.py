"""The client's half of the opening handshake (RFC 6455, section 4.1), without I/O."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import h11

from .._config import MAX_HEAD_BYTES, MAX_INTERIM_RESPONSES, MAX_REJECTION_BODY
from .._errors import HandshakeInvalid, HandshakeRejected
from .fields import accept_key, excerpt, is_token, make_key, parse_extensions, parse_tokens
from .head import HeadError, HeadReader, NotHTTP, read_response
from .http import Headers, HeadersLike, Request, Response, check_not_reserved, make_headers
from .negotiation import NAME, accept_response, offer

if TYPE_CHECKING:
    from .._config import Deflate
    from .negotiation import Negotiated
    from .url import URL

__all__ = ["USER_AGENT", "ClientHandshake"]

USER_AGENT: Final = f"Python/{sys.version_info.major}.{sys.version_info.minor} anyws"

_STATUS_LINE: Final = b"HTTP/1."
# h11 bounds a line of chunked framing only while it is incomplete: so it gets no more at a time.
_SLICE_BYTES: Final = 4096


class ClientHandshake:
    """One request and its answer.

    Send `request_bytes`; feed `receive_data` until it returns the 101.

    url:
        Whose user info goes into an Authorization header, unless ``headers`` have one.
    subprotocols:
        Offered, by preference.
    headers:
        Added to the request. Those of the handshake itself are refused.
    origin:
        The Origin header; none by default.
    compression:
        Offered; ``None`` offers none.

    Raises `ValueError` or `TypeError` for arguments that cannot be sent: the caller's doing.
    """

    def __init__(
        self,
        url: URL,
        *,
        subprotocols: Sequence[str] = (),
        headers: HeadersLike | None = None,
        origin: str | None = None,
        compression: Deflate | None,
    ) -> None:
        extra = make_headers(headers)
        check_not_reserved(extra)
        _check_subprotocols(subprotocols)
        if len(extra.get_all("Origin")) + (origin is not None) > 1:
            raise ValueError("Origin is given more than once: use the origin argument alone")
        self._key = make_key()
        lines = [
            ("Host", url.host_header),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", "13"),
        ]
        if origin is not None:
            lines.append(("Origin", origin))
        if subprotocols:
            lines.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        if compression is not None:
            lines.append(("Sec-WebSocket-Extensions", offer(compression)))
        if url.username is not None and "Authorization" not in extra:
            lines.append(("Authorization", _basic(url.username, url.password or "")))
        if "User-Agent" not in extra:
            lines.append(("User-Agent", USER_AGENT))
        self.request = Request("GET", url.target, Headers((*lines, *extra.raw)))
        self.subprotocol: str | None = None
        self.deflate: Negotiated | None = None
        self.trailing_data = b""
        self._subprotocols = tuple(subprotocols)
        self._compression = compression
        self._http = h11.Connection(h11.CLIENT, MAX_HEAD_BYTES)
        self._request_bytes = self._encode_request()
        self._head = HeadReader(_STATUS_LINE)
        self._interim = 0
        self._response: Response | None = None
        self._body = bytearray()

    def _encode_request(self) -> bytes:
        request = self.request
        try:
            event = h11.Request(
                method=request.method, target=request.target, headers=request.headers.encode()
            )
        except h11.LocalProtocolError as error:
            raise ValueError(f"the request cannot be sent: {error}") from None
        return self._http.send(event) + self._http.send(h11.EndOfMessage())

    def request_bytes(self) -> bytes:
        """Return the request as it goes out. It is the same at every call."""
        return self._request_bytes

    @property
    def rejected(self) -> Response | None:
        """The refusal, with as much of its body as has arrived; ``None`` if there is none."""
        if self._response is None or self._response.status == 101:
            return None
        return Response(self._response.status, self._response.headers, bytes(self._body))

    def receive_data(self, data: bytes) -> Response | None:
        """Take bytes from the network; return the 101 once it is complete and valid.

        What follows it is in `trailing_data`: the first frames. Raises `HandshakeRejected` when
        a refusal is complete or its body at its bound, and `HandshakeInvalid` for an answer that
        is no HTTP, beyond a bound, or an invalid 101.
        """
        while self._response is None:
            event = self._read_head(data)
            if event is None:
                return None
            data = self._head.rest
            if event.status_code >= 200 or event.status_code == 101:
                headers = Headers.decode(event.headers.raw_items())
                response = Response(event.status_code, headers)
                if response.status == 101:
                    self._check_switch(event.http_version, headers)
                self._response = response
                break
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise HandshakeInvalid(
                    f"the server sent more than {MAX_INTERIM_RESPONSES} interim (1xx) responses"
                )
            self._head = HeadReader(_STATUS_LINE)
        if self._response.status == 101:
            self.trailing_data += data
            return self._response
        refusal = self._read_body(data)
        if refusal is not None:
            raise refusal
        return None

    def receive_eof(self) -> NoReturn:
        """Raise what the end of the stream means here.

        `HandshakeRejected` if the head of a refusal has arrived, whose body this ends;
        `HandshakeInvalid` otherwise.
        """
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        if self._response is not None:
            how = "right after its 101"
        elif self._head.size:
            how = "in the middle of its answer"
        else:
            how = "without an answer: is it a WebSocket server?"
        raise HandshakeInvalid(f"the server left {how}", cut_short=True)

    def _read_head(self, data: bytes) -> h11.InformationalResponse | h11.Response | None:
        try:
            head = self._head.feed(data)
            return None if head is None else read_response(self._http, head)
        except NotHTTP as error:
            if error.is_tls:
                message = "the server answered with TLS: does its URL begin with wss://?"
            else:
                message = (
                    f"the server answered with {excerpt(error.beginning)}, which is not HTTP/1.1:"
                    " is it a WebSocket server?"
                )
            raise HandshakeInvalid(message) from None
        except HeadError as error:
            raise HandshakeInvalid(f"the server's answer is malformed: {error}") from None

    def _read_body(self, data: bytes) -> HandshakeRejected | None:
        # At least once: the head alone may say that there is no body.
        for start in range(0, max(len(data), 1), _SLICE_BYTES):
            if piece := data[start : start + _SLICE_BYTES]:
                self._http.receive_data(piece)
            if self._is_body_over():
                return self._refusal()
        return None

    def _is_body_over(self) -> bool:
        try:
            while isinstance(event := self._http.next_event(), h11.Data):
                self._body += event.data
                if len(self._body) >= MAX_REJECTION_BODY:
                    del self._body[MAX_REJECTION_BODY:]
                    return True
        except h11.RemoteProtocolError:
            # The status counts, and what came of the body may still explain it.
            return True
        return event is not h11.NEED_DATA

    def _refusal(self) -> HandshakeRejected | None:
        response = self.rejected
        return None if response is None else HandshakeRejected(response)

    def _check_switch(self, http_version: bytes, headers: Headers) -> None:
        if http_version != b"1.1":
            raise HandshakeInvalid("the server answered 101 in HTTP/1.0, not HTTP/1.1")
        upgrade = headers.get("Upgrade", "")
        if upgrade.lower() != "websocket":
            raise _wrong("Upgrade", headers, "websocket")
        try:
            options = parse_tokens(headers.get("Connection", ""))
        except ValueError:
            options = []
        if "upgrade" not in (option.lower() for option in options):
            raise _wrong("Connection", headers, "Upgrade")
        expected = accept_key(self._key)
        if [value.strip() for value in headers.get_all("Sec-WebSocket-Accept")] != [expected]:
            raise _wrong("Sec-WebSocket-Accept", headers, expected)
        self.deflate = self._read_extensions(headers.get_all("Sec-WebSocket-Extensions"))
        self.subprotocol = self._read_subprotocol(headers.get_all("Sec-WebSocket-Protocol"))

    def _read_extensions(self, values: list[str]) -> Negotiated | None:
        name = "Sec-WebSocket-Extensions"
        if not values:
            return None
        if len(values) > 1:
            raise HandshakeInvalid(f"the server answered with several {name} headers")
        try:
            extensions = parse_extensions(values[0])
        except ValueError as error:
            raise HandshakeInvalid(
                f"the server answered with {name}: {excerpt(values[0])}: {error}"
            ) from None
        if self._compression is None:
            raise HandshakeInvalid(
                f"the server answered with {name}: {excerpt(values[0])}, and none was offered"
            )
        if [extension for extension, _ in extensions] != [NAME]:
            raise HandshakeInvalid(
                f"the server answered with {name}: {excerpt(values[0])},"
                f" and only {NAME} was offered, once"
            )
        try:
            return accept_response(extensions[0][1], self._compression)
        except ValueError as error:
            raise HandshakeInvalid(
                f"the server answered with {name}: {excerpt(values[0])}: {error}"
            ) from None

    def _read_subprotocol(self, values: list[str]) -> str | None:
        name = "Sec-WebSocket-Protocol"
        if not values:
            return None
        if len(values) > 1:
            raise HandshakeInvalid(f"the server answered with several {name} headers")
        if values[0] not in self._subprotocols:
            offered = ", ".join(self._subprotocols) or "no subprotocol"
            raise HandshakeInvalid(
                f"the server chose the subprotocol {excerpt(values[0])}, and {excerpt(offered)}"
                " was offered"
            )
        return values[0]


def _wrong(name: str, headers: Headers, expected: str) -> HandshakeInvalid:
    found = excerpt(headers[name]) if name in headers else "missing"
    return HandshakeInvalid(f"the server's {name} header is {found}, where {expected!r} belongs")


def _check_subprotocols(subprotocols: Sequence[str]) -> None:
    if isinstance(subprotocols, (str, bytes)) or not isinstance(subprotocols, Sequence):
        raise TypeError(
            f"subprotocols must be a sequence of str, not {type(subprotocols).__name__}"
        )
    for subprotocol in subprotocols:
        if not isinstance(subprotocol, str):
            raise TypeError(f"a subprotocol must be a str, not {type(subprotocol).__name__}")
        if not is_token(subprotocol):
            raise ValueError(f"{excerpt(subprotocol)} is not a subprotocol: it must be a token")
    if len(set(subprotocols)) != len(subprotocols):
        raise ValueError("subprotocols names one twice")


def _basic(username: str, password: str) -> str:
    # RFC 7617, with the UTF-8 of its section 2.1.
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")

"""The opening handshake as programs see it: headers, request, response, refusal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote

from .fields import EXCERPT_CHARACTERS, excerpt, is_token, parse_subprotocols
from .notes import Notes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FIRST_ERROR",
    "Headers",
    "HeadersLike",
    "Redirect",
    "Reject",
    "Request",
    "Response",
    "check_not_reserved",
    "make_headers",
    "reason_phrase",
    "text_response",
]

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]] | str

# RFC 9110, section 15: the first status of those that refuse.
FIRST_ERROR: Final = 400

_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
# RFC 9110, section 5.5: no control characters; CR, LF and NUL would end or cut the header.
_CONTROL_RE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TEXT: Final = "text/plain; charset=utf-8"

_HANDSHAKE = "the handshake sets it"
_NO_BODY = "a handshake has no body"
_RESERVED: Final = {
    "connection": _HANDSHAKE,
    "content-length": _NO_BODY,
    "expect": _NO_BODY,
    "host": "it follows from the URL",
    "sec-websocket-accept": _HANDSHAKE,
    "sec-websocket-extensions": "use the compression setting",
    "sec-websocket-key": _HANDSHAKE,
    "sec-websocket-protocol": "use the argument for subprotocols",
    "sec-websocket-version": _HANDSHAKE,
    "te": _NO_BODY,
    "trailer": _NO_BODY,
    "transfer-encoding": _NO_BODY,
    "upgrade": _HANDSHAKE,
}

# Names that most handshakes have, and their keys: kept once for all connections. (Not by
# `sys.intern`: there are Pythons that never let go of what a peer has made up.)
_KEYS: Final = {
    name: name.lower()
    for name in (
        *("Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control"),
        *("Connection", "Cookie", "Date", "Host", "Origin", "Pragma", "Server", "Upgrade"),
        *("User-Agent", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP"),
        *(f"Sec-WebSocket-{rest}" for rest in ("Accept", "Extensions", "Key", "Protocol")),
        "Sec-WebSocket-Version",
    )
}
_KEYS.update({key: key for key in _KEYS.values()})
_COMMON: Final = {name: name for name in _KEYS}


class Headers(Mapping[str, str]):
    """The header lines of a request or response: a mapping that ignores the case of names.

    A name that stands on several lines has one value in the mapping, the lines joined by ``", "``
    (RFC 9110, section 5.2). That is wrong for Set-Cookie alone: `get_all` keeps lines apart.

    headers:
        A mapping, (name, value) pairs where a name may come again, or one string of
        ``name: value`` lines with CRLF between them.

    Raises `ValueError` for a name that is not a token and for a value with control characters
    (CR, LF and NUL among them), with whitespace at an end or outside of Latin-1; `TypeError` for
    what is not a ``str``. Both are the caller's doing, and neither shows the value. Immutable.
    """

    __slots__ = ("_is_fit", "_keys", "_raw")

    def __init__(self, headers: HeadersLike = ()) -> None:
        self._is_fit: bool = True  # to be sent: they were checked
        self._set(_checked(headers))

    def _set(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._raw = tuple([(_COMMON.get(name, name), value) for name, value in pairs])
        self._keys = tuple([_KEYS.get(name) or name.lower() for name, _ in self._raw])

    @classmethod
    def decode(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the headers that a peer sent, as h11 gave them. Any byte is a character."""
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs]
        return cls._of(lines, is_fit=False)

    @classmethod
    def of_checked(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Return headers with these lines, which were checked or are ours."""
        return cls._of(pairs, is_fit=True)

    @classmethod
    def _of(cls, pairs: Iterable[tuple[str, str]], *, is_fit: bool) -> Headers:
        headers = cls.__new__(cls)
        headers._is_fit = is_fit
        headers._set(pairs)
        return headers

    def encode(self) -> list[tuple[bytes, bytes]]:
        """Return the lines as h11 takes them."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._raw]

    @property
    def raw(self) -> tuple[tuple[str, str], ...]:
        """The lines as (name, value) pairs, in the order and the spelling of the wire."""
        return self._raw

    def get_all(self, name: str) -> list[str]:
        """Return the value of every line with this name, in order; none gives an empty list."""
        key = name.lower()
        if key not in self._keys:
            return []
        lines = zip(self._keys, self._raw, strict=True)
        return [value for one, (_, value) in lines if one == key]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._keys

    def __iter__(self) -> Iterator[str]:
        # A name in the spelling of its first line.
        first: dict[str, str] = {}
        for key, (name, _) in zip(self._keys, self._raw, strict=True):
            first.setdefault(key, name)
        return iter(first.values())

    def __len__(self) -> int:
        return len(set(self._keys))

    def _key(self) -> tuple[tuple[str, str], ...]:
        lines = zip(self._keys, self._raw, strict=True)
        return tuple((key, value) for key, (_, value) in lines)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        lines = ((n, "***" if n.lower() in _SECRET else v) for n, v in self._raw)
        return f"Headers({list(lines)!r})"


def make_headers(headers: HeadersLike | None) -> Headers:
    """Return the headers that a caller of ours gave, checked; ``None`` is none."""
    if isinstance(headers, Headers) and headers._is_fit:
        return headers
    return Headers(() if headers is None else headers)


def check_not_reserved(headers: Headers) -> None:
    """Raise `ValueError` for a header that is the handshake's own, and say what to use."""
    for name in headers:
        lower = name.lower()
        if lower.startswith("sec-websocket-") or lower in _RESERVED:
            advice = _RESERVED.get(lower, "names of that kind belong to the protocol")
            raise ValueError(f"{excerpt(name)} is not for the headers argument: {advice}")


def _checked(headers: object) -> Iterator[tuple[str, str]]:
    pairs: object = headers
    if isinstance(headers, Headers):
        pairs = headers.raw
    elif isinstance(headers, Mapping):
        pairs = headers.items()
    elif isinstance(headers, str):
        pairs = _split_lines(headers)
    if isinstance(pairs, bytes) or not isinstance(pairs, Iterable):
        raise TypeError(f"headers must be a mapping or pairs, not {type(headers).__name__}")
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("headers must be a mapping or (name, value) pairs")
        yield _check_line(*pair)


def _split_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.removesuffix("\r\n").split("\r\n") if text else ():
        name, colon, value = line.partition(":")
        if not colon:
            # Not shown: it may be the rest of a secret.
            raise ValueError("a line of the headers is not of the form 'name: value'")
        yield name, value.strip(" \t")


def _check_line(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not is_token(name):
        raise ValueError(f"{excerpt(name)} is not the name of a header")
    if not isinstance(value, str):
        raise TypeError(f"header {name} must be a str, not {type(value).__name__}")
    if _CONTROL_RE.search(value):
        raise ValueError(f"header {name} contains a control character, such as CR, LF or NUL")
    if value.strip(" \t") != value:
        raise ValueError(f"header {name} begins or ends with whitespace")
    if any(character > "\xff" for character in value):
        raise ValueError(f"header {name} contains a character outside of Latin-1")
    return name, value


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """The client's half of the opening handshake.

    method:
        ``"GET"`` for every WebSocket.
    target:
        What the request line asks for, as it was sent: path and query, percent-encoded.
    headers:
        Every header line.
    remote_address:
        On a server, the peer's address as the stream below reports it; ``None`` on a client.

    On a server everything here is the peer's word. ``repr`` shows neither query nor headers.
    What the server has found out about it is beside that: `state`, `user`, `path_parameters`.
    """

    method: str
    target: str
    headers: Headers
    remote_address: Any = None
    _notes: Notes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def raw_path(self) -> str:
        """The path without the query, still percent-encoded."""
        return _split_target(self.target)[0]

    @property
    def path(self) -> str:
        """The path without the query, percent-decoded; bytes that are not UTF-8 become U+FFFD."""
        return unquote(self.raw_path)

    @property
    def query_string(self) -> str:
        """What follows the question mark, still encoded; empty when there is none."""
        return _split_target(self.target)[1]

    @property
    def query(self) -> dict[str, list[str]]:
        """The query as a form is decoded: each name with all its values, empty ones included."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def host(self) -> str:
        """The Host header: where the client means to be; empty when there is none."""
        return self.headers.get("Host", "")

    @property
    def origin(self) -> str | None:
        """The Origin header, which browsers always send; ``None`` when there is none."""
        return self.headers.get("Origin")

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, by preference; none if malformed."""
        try:
            return tuple(parse_subprotocols(self.headers.get("Sec-WebSocket-Protocol", "")))
        except ValueError:
            return ()

    @property
    def path_parameters(self) -> Mapping[str, str]:
        """On a server with `Routes`, what the names in the path's pattern stand for, decoded."""
        return {} if self._notes is None else self._notes.path_parameters

    @property
    def state(self) -> dict[str, Any]:
        """What a server's hooks leave for one another and for the handler. ``repr`` hides it."""
        return self._noted().state

    @property
    def user(self) -> Any:
        """Who was let in: what `BasicAuth` or `BearerAuth` left; ``None`` where neither did.

        It is ``state["user"]``, so that a hook of one's own can say it, too.
        """
        return None if self._notes is None else self._notes.state.get("user")

    def on_end(self, callback: Callable[[], object]) -> None:
        """Have this called once, when a server has nothing to do with this client any more.

        That is when it was refused, when its handshake has failed, or when its connection is over.
        For hooks that count or hold something. It is called where the client was served, in its
        task or thread, and must not wait; what it raises is logged. The latest is called first.
        Where all that is over already, as for a hook that was given up, it is called at once.

        :raises TypeError: it is no function, or an async one (the caller's fault)
        """
        if not callable(callback):
            raise TypeError(f"callback must be a function, not {type(callback).__name__}")
        if inspect.iscoroutinefunction(callback):
            raise TypeError("callback must not be async: nobody waits for it")
        self._noted().add_on_end(callback)

    def _noted(self) -> Notes:
        if self._notes is None:
            object.__setattr__(self, "_notes", Notes())
        assert self._notes is not None
        return self._notes

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.raw_path} host={self.host!r}>"


def _split_target(target: str) -> tuple[str, str]:
    path, _, query = target.partition("?")
    scheme, separator, rest = path.partition("://")
    if separator and not scheme.startswith("/"):
        # The absolute form (RFC 9112, section 3.2.2), which RFC 6455, section 4.2.1 allows.
        path = "/" + rest.partition("/")[2]
    return path, query


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """The server's half of the opening handshake, or what it says instead.

    status:
        The HTTP status; 101 is the one that opens a WebSocket.
    headers:
        Every header line. A mapping or pairs are made into `Headers`, and checked like them.
    body:
        What came with a refusal, cut at a bound when a peer sent it.
    redirects:
        On a client, the redirects that were followed to get to this server, the first one first.
    """

    status: int
    headers: Headers = Headers()  # noqa: RUF009 - immutable
    body: bytes = b""
    redirects: tuple[Redirect, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int):
            raise TypeError(f"status must be an int, not {type(self.status).__name__}")
        if not 100 <= self.status <= 999:
            raise ValueError(f"{int(self.status)} is not an HTTP status")
        if not isinstance(self.body, bytes):
            raise TypeError(f"body must be bytes, not {type(self.body).__name__}")
        object.__setattr__(self, "status", int(self.status))
        if not isinstance(self.headers, Headers):
            object.__setattr__(self, "headers", make_headers(self.headers))

    @property
    def text(self) -> str:
        """The body as UTF-8; bytes that are not become U+FFFD."""
        return self.body.decode(errors="replace")

    def describe(self) -> str:
        """Return one line for logs and errors: the status and how the body begins."""
        line = f"{self.status} {reason_phrase(self.status)}".rstrip()
        if not self.body:
            return line
        # A character is four bytes at most, and the cut may leave a part of one.
        text = self.body[: 4 * EXCERPT_CHARACTERS + 4].decode(errors="replace").rstrip("\ufffd")
        if not text.strip() or "\ufffd" in text or "\0" in text:
            return f"{line} (body: {len(self.body)} bytes)"
        return f"{line}: {excerpt(text.strip())}"

    def __repr__(self) -> str:
        return f"<Response {self.describe()}>"


@dataclass(frozen=True, slots=True, repr=False)
class Redirect:
    """A redirect that a client has followed.

    response:
        What the server said, the ``Location`` as it wrote it among the headers.
    url:
        Where that was, as ``ws://`` or ``wss://``, without user information.
    location:
        Where it led to, in the same form.
    """

    response: Response
    url: str
    location: str

    def __repr__(self) -> str:
        leading = f"{self.url.partition('?')[0]} to {self.location.partition('?')[0]}"
        return f"<Redirect {self.response.status} from {leading}>"


def reason_phrase(status: int) -> str:
    """Return the registered words for a status, empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def text_response(status: int, text: str, headers: HeadersLike | None = None) -> Response:
    """Return a response whose body is this text, in UTF-8."""
    given = make_headers(headers)
    if text and "Content-Type" not in given:
        given = Headers((*given.raw, ("Content-Type", _TEXT)))
    return Response(status, given, text.encode())


class Reject(Exception):
    """A server's refusal of a request, to be returned or raised where it is judged.

    status:
        Any final HTTP status, 200 to 599. Default 403. A health check may well get 200.
    body:
        Sent with it; a ``str`` goes out as UTF-8 and, unless ``headers`` say otherwise, as plain
        text.
    headers:
        Sent with it. Those that frame the response or the connection are the library's: it
        replaces them.

    Raises `ValueError` and `TypeError` for arguments that cannot be sent: the caller's doing.
    """

    def __init__(
        self, status: int = 403, body: str | bytes = "", headers: HeadersLike | None = None
    ) -> None:
        if isinstance(body, str):
            response = text_response(status, body, headers)
        else:
            response = Response(status, make_headers(headers), body)
        if not 200 <= response.status <= 599:
            raise ValueError(f"a request is refused with a status from 200 to 599, not {status}")
        self.response = response
        super().__init__(response.describe())

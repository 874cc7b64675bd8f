"""Where a redirect leads, and what of the request goes there: decisions, without I/O.

A redirect is an order from whoever answered, so it is given as little as possible:

* Only ``ws``, ``wss`` and what stands for them in HTTP, ``http`` and ``https``, is gone to. What
  was asked for with TLS is never asked for without.
* Within one origin (scheme, host and port) the request stays as it is. To any other one no header
  with credentials goes along: not one of several lines, in no spelling. They do not come back
  either, wherever later redirects lead: the last server could have chosen the target.
* User information is the caller's, and for the origin that the caller named. What a ``Location``
  says there was made up by a server, and is not sent to anybody.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urljoin

from .._errors import HandshakeRejected, InvalidURL, TooManyRedirects
from .fields import excerpt
from .http import Headers, Redirect, Response, make_headers
from .url import parse_url

if TYPE_CHECKING:
    from .http import HeadersLike
    from .url import URL

__all__ = ["Course", "is_redirect", "redirected", "without_credentials"]

# RFC 9110, section 15.4: those that say "there, and with this request".
_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization"})
_IN_HTTP: Final = {"ws": "http", "wss": "https"}
_IN_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_MAX_LOCATION: Final = 8192
_VISIBLE: Final = "".join(map(chr, range(0x21, 0x7F)))


class Course:
    """One opening's way from server to server.

    max_redirects:
        How far it may lead; ``None`` where there is no other server to be asked.
    url:
        Whom to ask now.
    headers:
        The caller's headers that may go there.
    redirects:
        How it came there.
    """

    def __init__(self, url: URL, headers: HeadersLike | None, max_redirects: int | None) -> None:
        self.url = url
        self.headers = make_headers(headers)
        self.redirects: tuple[Redirect, ...] = ()
        self._max_redirects = max_redirects

    def is_over_with(self, response: Response) -> bool:
        """Whether nothing more of this answer is needed: it is a redirect to be followed."""
        return bool(self._max_redirects) and is_redirect(response)

    def refusal(self, response: Response) -> HandshakeRejected:
        """Return the error for an answer that is not followed, which knows how it was come by."""
        why = ""
        if is_redirect(response) and self._max_redirects is None:
            why = "redirects are not followed here: the stream leads to one server"
        elif is_redirect(response) and not self._max_redirects:
            why = "redirects are not followed, as Config.max_redirects is 0"
        return HandshakeRejected(self.arrived(response), why)

    def follow(self, refusal: HandshakeRejected) -> None:
        """Go where an answer leads.

        Raises `HandshakeRejected` where it leads nowhere, or nowhere that is gone to, and
        `TooManyRedirects`.
        """
        if not self._max_redirects or not is_redirect(refusal.response):
            raise self.refusal(refusal.response)
        response = self.arrived(refusal.response)
        url = redirected(self.url, response)
        if len(self.redirects) >= self._max_redirects:
            raise TooManyRedirects(response)
        redirect = Redirect(response, self.url.bare, url.bare)
        self.redirects = (*self.redirects, redirect)
        if url.origin != self.url.origin:
            self.headers = without_credentials(self.headers)
        self.url = url

    def arrived(self, response: Response) -> Response:
        """Return the answer at the end, which knows how it was come by."""
        return replace(response, redirects=self.redirects) if self.redirects else response


def is_redirect(response: Response) -> bool:
    """Whether a response names another place for the same request."""
    return response.status in _STATUSES


def redirected(url: URL, response: Response) -> URL:
    """Return where a redirect leads from here, with the user info that may go there.

    Raises `HandshakeRejected` for a ``Location`` that is missing, given twice, none of a
    WebSocket, or without TLS where there was TLS.
    """
    locations = response.headers.get_all("Location")
    if len(locations) != 1 or not locations[0] or len(locations[0]) > _MAX_LOCATION:
        what = "has no Location" if not locations else "has no Location of use"
        raise HandshakeRejected(response, f"the redirect {what}")
    try:
        target = parse_url(_resolve(url, locations[0]))
    except (InvalidURL, ValueError) as error:
        # What it says beyond the scheme is not shown, as it may be a password.
        raise HandshakeRejected(response, f"the redirect leads nowhere: {error}") from None
    if url.secure and not target.secure:
        raise HandshakeRejected(
            response, "the redirect leads from wss:// to ws://, and TLS is not given up"
        )
    if target.origin != url.origin:
        return replace(target, username=None, password=None)
    return replace(target, host=url.host, username=url.username, password=url.password)


def without_credentials(headers: Headers) -> Headers:
    """Return the headers without every line that has credentials."""
    return Headers.of_checked(
        (name, value) for name, value in headers.raw if name.lower() not in _CREDENTIALS
    )


def _resolve(url: URL, location: str) -> str:
    # Headers come as Latin-1; bytes beyond ASCII in a Location are those of UTF-8, if anything.
    location = quote(location.encode("latin-1"), safe=_VISIBLE)
    scheme = "wss" if url.secure else "ws"
    # The standard library resolves references for schemes that it knows (RFC 3986, section 5).
    base = url.bare.replace(scheme, _IN_HTTP[scheme], 1)
    absolute = urljoin(base, location)
    found, separator, rest = absolute.partition("://")
    if not separator:
        raise ValueError(f"{excerpt(found.partition(':')[0])} is no scheme of WebSockets")
    found = _IN_WEBSOCKET.get(found.lower(), found)
    # RFC 9110, section 10.2.2: a fragment is for who shows the resource.
    return f"{found}://{rest.partition('#')[0]}"

"""Redirects: off unless they are asked for, bounded, and without anybody's secrets."""

from __future__ import annotations

import base64
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from bars import raw
from callbacks.clients import served
from connections import client_tls, server_tls
from faces.plain import answered_by, until_it_leaves
from proxying import running

import anyws
from anyws import Config, Proxy, Reject

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from faces.drivers import Face

pytestmark = pytest.mark.timeout(30)

FOLLOW = Config(max_redirects=5, cancel_grace=0.2, close_timeout=2)
SECRETS = [
    ("Authorization", "Bearer a"),
    ("Cookie", "a=1"),
    ("COOKIE", "b=2"),
    ("X-Trace", "1"),
    ("proxy-authorization", "Basic c"),
    ("Proxy-Authorization", "Basic d"),
]
NAMES = {"authorization", "cookie", "proxy-authorization"}


class Site:
    """A server that redirects from its paths as told, accepts at any other, and remembers."""

    def __init__(self, leads: dict[str, str]) -> None:
        self.leads = leads
        self.requests: list[anyws.Request] = []
        self.url = ""

    def judge(self, request: anyws.Request) -> Reject | None:
        self.requests.append(request)
        if (location := self.leads.get(request.path)) is None:
            return None
        status, _, place = location.rpartition(" ")
        return Reject(int(status or 302), "see there", {"Location": place})

    def at(self, path: str, *, user: str = "", host: str = "127.0.0.1") -> str:
        return self.url.replace("127.0.0.1", f"{user}{'@' if user else ''}{host}") + path[1:]

    def secrets(self) -> list[tuple[str, str]]:
        """What the last request had of them, in order."""
        headers = self.requests[-1].headers.raw
        return [(name, value) for name, value in headers if name.lower() in NAMES]


@contextmanager
def site(kind: str = "tcp", **leads: str) -> Iterator[Site]:
    made = Site({f"/{name}": place for name, place in leads.items()})
    tls = {"ssl_context": server_tls()} if kind == "tls" else {}
    with served(on_request=made.judge, **tls) as url:
        made.url = url
        yield made


def context_for(url: str) -> dict[str, Any]:
    return {"ssl_context": client_tls()} if url.startswith("wss") else {}


def test_redirects_are_refusals_unless_they_are_asked_for(face: Face) -> None:
    """V26."""
    with site(a="/b") as here:
        words, error = face.failure(here.at("/a"))
        assert isinstance(error, anyws.HandshakeRejected)
        assert words.endswith("; redirects are not followed, as Config.max_redirects is 0")
        assert error.response.status == 302
        assert error.response.headers["Location"] == "/b"
        assert error.response.redirects == ()
        assert len(here.requests) == 1


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_where_they_are_asked_for(
    face: Face, kind: str, status: int
) -> None:
    with site(kind, a=f"{status} /b?x=1", b="c") as here:
        ours = context_for(here.url)
        with face.opened(here.at("/a"), config=FOLLOW, subprotocols=[], **ours) as ws:
            ws.send("hello")
            assert ws.receive() == "hello"
            assert ws.request.target == "/c"
            response = ws.response
            assert response.status == 101
            assert [(one.response.status, one.url, one.location) for one in response.redirects] == [
                (status, here.at("/a"), here.at("/b?x=1")),
                (302, here.at("/b?x=1"), here.at("/c")),
            ]
        keys = [request.headers["Sec-WebSocket-Key"] for request in here.requests]
        assert len(set(keys)) == 3, "a key is used once"


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        pytest.param(lambda here, there: "/end", True, id="path"),
        pytest.param(lambda here, there: here.at("/end"), True, id="origin written out"),
        pytest.param(
            lambda here, there: here.at("/end").replace("ws:", "HTTP:"), True, id="as HTTP says it"
        ),
        pytest.param(lambda here, there: there.at("/end"), False, id="port"),
        pytest.param(lambda here, there: here.at("/end", host="localhost"), False, id="host"),
        pytest.param(
            lambda here, there: there.at("/end", user="admin:made"), False, id="user of its own"
        ),
    ],
)
@pytest.mark.parametrize("user", ["", "me:secret"])
def test_secrets_stay_with_the_origin_that_they_were_meant_for(
    face: Face, change: Callable[[Site, Site], str], is_same: bool, user: str
) -> None:
    """V26, V28: every line of every one, in any case, and the URL's user information."""
    with site() as here, site() as there:
        here.leads["/a"] = change(here, there)
        headers = [line for line in SECRETS if not (user and line[0] == "Authorization")]
        expected = headers.copy()
        if user:
            expected.insert(0, ("Authorization", _basic(user)))
        expected = [line for line in expected if line[0].lower() in NAMES]
        with face.opened(here.at("/a", user=user), headers=headers, config=FOLLOW, proxy=None):
            end = (here if here.requests[-1].path == "/end" else there).requests[-1]
        assert end.path == "/end"
        got = [line for line in end.headers.raw if line[0].lower() in NAMES]
        assert sorted(got) == (sorted(expected) if is_same else [])
        assert end.headers["X-Trace"] == "1"
        first = [line for line in here.requests[0].headers.raw if line[0].lower() in NAMES]
        assert sorted(first) == sorted(expected)


def _basic(user: str) -> str:
    return "Basic " + base64.b64encode(user.encode()).decode()


def test_from_ws_to_wss_is_another_origin(face: Face) -> None:
    """V26. With a certificate that nobody vouches for, since `ssl_context` is for wss:// URLs."""
    with site("tls") as there, site(a=there.at("/end")) as here:
        words, error = face.failure(here.at("/a"), headers=SECRETS, config=FOLLOW)
        assert isinstance(error, OSError)
        assert f"the certificate of {there.url[6:-1]} was refused" in words
        assert not there.requests


def test_from_wss_to_wss_elsewhere_the_context_is_the_same(face: Face) -> None:
    with site("tls") as there, site("tls", a=there.at("/end")) as here:
        ours = {"config": FOLLOW, "headers": SECRETS, "ssl_context": client_tls()}
        with face.opened(here.at("/a", user=""), **ours) as ws:
            assert ws.request.target == "/end"
        assert there.secrets() == []


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_tls_is_not_given_up(face: Face, scheme: str) -> None:
    """V26."""
    with site() as there, site("tls", a=there.at("/end").replace("ws", scheme, 1)) as here:
        words, error = face.failure(
            here.at("/a"), headers=SECRETS, config=FOLLOW, ssl_context=client_tls()
        )
        assert isinstance(error, anyws.HandshakeRejected)
        assert error.response.status == 302
        assert words.endswith("the redirect leads from wss:// to ws://, and TLS is not given up")
        assert not there.requests


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "javascript:alert(1)", "ws://", "ws://a b/"]
)
def test_a_redirect_that_leads_nowhere_is_a_refusal(face: Face, location: str) -> None:
    """V26."""
    with site(a="x") as here:
        here.leads["/a"] = location.replace(" ", "%20")
        words, error = face.failure(here.at("/a"), config=FOLLOW)
        assert isinstance(error, anyws.HandshakeRejected)
        assert "the redirect leads nowhere: " in words


def test_a_loop_has_an_end(face: Face) -> None:
    """V26."""
    with site(a="/b", b="/a") as here:
        words, error = face.failure(here.at("/a"), config=FOLLOW)
        assert isinstance(error, anyws.TooManyRedirects)
        assert words == "the server redirects once more after 5 redirects: 302 Found: 'see there'"
        assert len(error.response.redirects) == 5
        assert len(here.requests) == 6


def test_a_refusal_behind_a_redirect_knows_where_it_comes_from(face: Face) -> None:
    def refuse(request: anyws.Request) -> Reject:
        return Reject(403, "no")

    with served(on_request=refuse) as there, site(a=there) as here:
        _, error = face.failure(here.at("/a"), config=FOLLOW)
        assert isinstance(error, anyws.HandshakeRejected)
        assert error.response.status == 403
        assert [one.location for one in error.response.redirects] == [there]


# Of these seconds, the way to the last server takes next to none.
LATE = Config(max_redirects=5, handshake_timeout=2, cancel_grace=0.2)


def test_a_refusal_whose_body_is_late_knows_where_it_comes_from_too(face: Face) -> None:
    with answering(b"HTTP/1.1 403 x\r\nContent-Length: 99999\r\n\r\nno") as there:
        with site(a=there) as here:
            words, error = face.failure(here.at("/a"), config=LATE)
            assert isinstance(error, anyws.HandshakeRejected)
            assert words == "the server refused the WebSocket: 403 Forbidden: 'no'"
            assert [one.location for one in error.response.redirects] == [there]


def test_a_redirect_whose_body_is_late_says_that_redirects_are_off(face: Face) -> None:
    with answering(b"HTTP/1.1 302 x\r\nLocation: /b\r\nContent-Length: 9\r\n\r\nno") as url:
        words, error = face.failure(url, config=replace(LATE, max_redirects=0))
        assert isinstance(error, anyws.HandshakeRejected)
        assert words.endswith("; redirects are not followed, as Config.max_redirects is 0")


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Give the URL of a server that says this to its one client, and stays until that leaves."""

    def serve(sock: socket.socket) -> None:
        with suppress(ConnectionError):
            raw._read_head(sock)
            sock.sendall(answer)
            until_it_leaves(sock)

    with answered_by(serve) as authority:
        yield f"ws://{authority}/"


def test_what_comes_behind_a_redirect_is_not_waited_for(face: Face) -> None:
    with site() as there:
        endless = f"HTTP/1.1 302 x\r\nLocation: {there.at('/end')}\r\nContent-Length: 99999\r\n\r\n"
        with answering(endless.encode() + b"x") as url:
            with face.opened(url, config=FOLLOW) as ws:
                assert ws.request.target == "/end"


def test_all_of_it_has_one_deadline(face: Face) -> None:
    """V36."""
    with answering(b"") as silent:
        with site(a="/b", b="/c", c=silent) as here:
            words, error = face.failure(here.at("/a"), config=LATE)
            assert isinstance(error, anyws.HandshakeTimeout)
            assert words == f"the opening handshake with {silent[5:-1]} was not over after 2 s"


def test_a_server_that_is_gone_where_the_redirect_leads(face: Face) -> None:
    with site(a="ws://127.0.0.1:1/") as here:
        words, error = face.failure(here.at("/a"), config=FOLLOW)
        assert isinstance(error, OSError)
        assert "127.0.0.1 port 1" in words


def test_every_server_on_the_way_is_asked_through_the_proxy(face: Face) -> None:
    with ExitStack() as stack:
        there = stack.enter_context(site())
        here = stack.enter_context(site(a="/b", b=there.at("/end")))
        proxy = stack.enter_context(running(credentials=("me", "hunter2")))
        ours = {"config": FOLLOW, "proxy": proxy.url("me:hunter2")}
        with face.opened(here.at("/a"), **ours) as ws:
            assert ws.request.target == "/end"
        port = int(there.url[:-1].rpartition(":")[2])
        assert len(proxy.asked) == 3
        assert proxy.asked[-1] == ("127.0.0.1", port)
        assert b"roxy-" not in proxy.carried


def test_the_environment_is_asked_anew_for_every_server(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V28: credentials of one proxy do not go to another, nor to a server that needs none."""
    with ExitStack() as stack:
        there = stack.enter_context(site())
        here = stack.enter_context(site(a=there.at("/end", host="localhost")))
        proxy = stack.enter_context(running(credentials=("me", "hunter2")))
        monkeypatch.setenv("http_proxy", proxy.url("me:hunter2"))
        monkeypatch.setenv("no_proxy", "localhost")
        with face.opened(here.at("/a"), config=FOLLOW):
            assert len(proxy.asked) == 1
        for request in (*here.requests, *there.requests):
            assert "Proxy-Authorization" not in request.headers


def test_a_stream_leads_to_one_place_whatever_the_server_says() -> None:
    """V26."""

    async def main() -> None:
        with site(a="/b") as here:
            port = int(here.url[:-1].rpartition(":")[2])
            stream = await anyio.connect_tcp("127.0.0.1", port)
            with pytest.raises(anyws.HandshakeRejected) as caught:
                async with anyws.wrap_client_stream(stream, here.at("/a"), config=FOLLOW):
                    pass
            assert caught.value.response.status == 302
            assert str(caught.value).endswith("the stream leads to one server")

    anyio.run(main)


def test_a_task_group_s_connection_follows_them_too() -> None:
    async def main() -> None:
        with site(a="/b") as here:
            async with anyio.create_task_group() as tg:
                ws = await anyws.connect_websocket(tg, here.at("/a"), config=FOLLOW)
                assert ws.request.target == "/b"
                await ws.close()
            with running() as proxy:
                async with anyio.create_task_group() as tg:
                    ws = await anyws.connect_websocket(
                        tg, here.at("/a"), config=FOLLOW, proxy=Proxy(proxy.url())
                    )
                    await ws.close()
                assert len(proxy.asked) == 2

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)


def test_opening_again_begins_where_the_first_time_began(face: Face) -> None:
    if face.name in {"sync", "callbacks"}:
        pytest.skip("context managers of the async face may be entered again")

    async def main() -> None:
        with site(a="/b") as here:
            opening = anyws.open_websocket(here.at("/a"), headers=SECRETS, config=FOLLOW)
            for _ in range(2):
                async with opening as ws:
                    assert len(ws.response.redirects) == 1
            assert [request.path for request in here.requests] == ["/a", "/b"] * 2

    anyio.run(main, backend="trio" if face.name == "trio" else "asyncio")

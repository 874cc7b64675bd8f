"""Handlers by path, and other answers on the same port: the same in each face."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from callbacks.clients import GUARD
from faces.drivers import Paths
from faces.plain import Answer, asked, upgrade

import anyws
import anyws.sync

if TYPE_CHECKING:
    from faces.drivers import ServerFace

pytestmark = pytest.mark.timeout(60)


def says(word: str) -> Any:
    def handler(ws: Any) -> None:
        ws.send(word)

    return handler


def tell(ws: Any) -> None:
    """Say what the names in the path stand for."""
    ws.send_json(dict(ws.request.path_parameters))


ROUTES = Paths(
    {
        "/": says("home"),
        "/rooms/new": says("a new room"),
        "/rooms/{room}": tell,
        "/files/{path...}": tell,
        "/chat": {"chat.v1": says("one"), "chat.v2": says("two")},
        "/news": {"news": says("news"), None: says("for everybody")},
    }
)


def heard(server: Any, path: str, *offered: str) -> str | bytes:
    with anyws.sync.open_websocket(server.url + path[1:], subprotocols=offered) as ws:
        return ws.receive(GUARD)


def test_the_path_chooses_the_handler_and_then_the_subprotocol(server_face: ServerFace) -> None:
    with server_face.serving(ROUTES) as server:
        assert heard(server, "/") == "home"
        assert heard(server, "/?x=/chat") == "home"
        assert heard(server, "/chat", "chat.v2", "chat.v1") == "two"
        assert heard(server, "/news") == "for everybody"
        assert heard(server, "/news", "news") == "news"


def test_a_handler_learns_what_the_names_in_its_path_stand_for(server_face: ServerFace) -> None:
    with server_face.serving(ROUTES) as server:
        assert heard(server, "/rooms/tea%20time?from=5") == '{"room":"tea time"}'
        assert heard(server, "/rooms/new") == "a new room"
        assert heard(server, "/files/a/b") == '{"path":"a/b"}'


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/chat", 400),  # none of its subprotocols is offered
        ("/nothing", 404),
        ("/chat/", 404),
        ("//", 404),
        ("/CHAT", 404),
        ("/rooms/", 404),
        ("/rooms/../chat", 400),
        ("/rooms/%2e%2e/chat", 400),
        ("/rooms/a%2fb", 400),
        ("/rooms/..\\a", 400),
        ("/rooms/%ff", 400),
        ("/rooms/%0d%0a", 400),
        ("/rooms/a%", 400),
        ("/rooms/%61", 101),
        ("http://localhost/rooms/a", 101),
        ("http://localhost/nothing", 404),
        ("http://localhost", 101),
        ("http://localhost?x", 101),
    ],
)
def test_what_is_at_no_path_is_404_and_what_is_no_path_400(
    server_face: ServerFace, target: str, status: int
) -> None:
    with server_face.serving(ROUTES) as server:
        assert asked(server, upgrade(target)).status == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /chat HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"POST /chat HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /nothing HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ],
)
def test_who_asks_for_no_websocket_is_told_what_there_is_at_the_path(
    server_face: ServerFace, request_: bytes, status: int
) -> None:
    with server_face.serving(ROUTES) as server:
        assert asked(server, request_).status == status


def test_a_default_is_for_every_route_with_subprotocols(server_face: ServerFace) -> None:
    with server_face.serving(ROUTES, default=says("the default")) as server:
        assert heard(server, "/chat", "other") == "the default"
        assert heard(server, "/chat") == "the default"
        assert heard(server, "/news") == "for everybody"
        assert heard(server, "/") == "home"
        assert asked(server, upgrade("/nothing")).status == 404


@pytest.mark.parametrize(
    ("routes", "error", "words"),
    [
        ({}, ValueError, "the mapping of routes is empty"),
        (None, TypeError, "routes must be a mapping, not NoneType"),
        ({"chat": print}, ValueError, "does not begin with a slash"),
        ({"/{a}": print, "/{b}": print}, ValueError, "are the same paths"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_where_it_is_made(
    routes: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        anyws.Routes(routes)


@pytest.mark.parametrize(
    ("routes", "default", "error", "words"),
    [
        ({"/": 5}, None, TypeError, "route /: the handler must be"),
        ({"/": {}}, None, ValueError, "route /: the mapping of handlers is empty"),
        ({"/": {"a b": print}}, None, ValueError, "route /: 'a b' cannot be the name"),
        ({"/": print}, print, TypeError, "no route has one"),
    ],
)
def test_a_handler_that_is_none_is_refused_and_its_route_named(
    server_face: ServerFace, routes: Any, default: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        server_face.make(anyws.Routes(routes), default=default, port=0)


def test_a_table_of_paths_in_the_place_of_subprotocols_is_named(server_face: ServerFace) -> None:
    with pytest.raises(ValueError, match=re.escape("for a table of paths there is Routes({...})")):
        server_face.make({"/chat": print}, port=0)


def test_routes_show_their_paths_and_nothing_of_their_handlers() -> None:
    assert repr(anyws.Routes({"/": print, "/a/{b}": print})) == "anyws.Routes(['/', '/a/{b}'])"


# --- Other answers ---


def health(request: anyws.Request) -> anyws.Response | None:
    if request.path == "/health" and "Upgrade" not in request.headers:
        return anyws.Response(200, {"Content-Type": "text/plain"}, b"ok\n")
    return None


def test_a_hook_answers_on_the_same_port_whatever_the_method_and_the_path(
    server_face: ServerFace,
) -> None:
    with server_face.serving(ROUTES, on_request=health) as server:
        answer = asked(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"ok\n")
        answer = asked(server, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == "3"
        assert answer.headers["connection"] == "close"
        assert asked(server, upgrade("/health")).status == 404
        assert heard(server, "/") == "home"


def test_of_several_hooks_the_first_that_answers_is_the_last_that_is_asked(
    server_face: ServerFace,
) -> None:
    """V19: each is asked before the 101, for every path."""
    seen: list[tuple[int, str]] = []

    def hook(number: int, path: str) -> Any:
        def ask(request: anyws.Request) -> anyws.Reject | None:
            seen.append((number, request.path))
            request.state[f"asked {number}"] = True
            return anyws.Reject(400 + number) if request.path == path else None

        return ask

    def tell_state(ws: Any) -> None:
        ws.send_json(ws.request.state)

    table = Paths({"/": tell_state})
    with server_face.serving(table, on_request=[hook(1, "/one"), hook(2, "/two")]) as server:
        assert asked(server, upgrade("/one")).status == 401
        assert asked(server, upgrade("/two")).status == 402
        assert asked(server, upgrade("/three")).status == 404
        assert heard(server, "/") == '{"asked 1":true,"asked 2":true}'
    assert seen == [
        *((1, "/one"), (1, "/two"), (2, "/two")),
        *((1, "/three"), (2, "/three"), (1, "/"), (2, "/")),
    ]


def test_a_hook_that_fails_is_the_last_word_and_no_handler_runs(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    """V19."""

    def fail(request: anyws.Request) -> None:
        raise OSError("the database is gone")

    def never(ws: Any) -> None:
        raise AssertionError

    with server_face.serving(never, on_request=(fail, never)) as server:
        assert asked(server, upgrade("/?token=s3cret")).status == 500
    assert "the database is gone" in caplog.text
    assert "s3cret" not in caplog.text


def test_an_answer_that_cannot_be_sent_is_a_failure_of_its_hook(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    """V23: as one that sends back what a client has sent."""

    def echo(request: anyws.Request) -> anyws.Response:
        return anyws.Response(200, request.headers)

    with server_face.serving(says("x"), on_request=echo) as server:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Red: \x1b[31m\r\n\r\n"
        assert asked(server, request).status == 500
        assert asked(server, request.replace(b"\x1b", b"")).status == 200
    assert "header X-Red contains a control character" in caplog.text
    assert "on_request failed" in caplog.text


def test_a_cancellation_of_what_a_hook_has_waited_for_is_a_failure_of_the_hook(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    if server_face.name == "trio":
        pytest.skip("nothing is cancelled there but what is in a scope that is")

    def fail(request: anyws.Request) -> None:
        raise asyncio.CancelledError

    with server_face.serving(says("x"), on_request=fail) as server:
        assert asked(server, upgrade()).status == 500
        assert asked(server, upgrade()).status == 500
    assert "on_request failed" in caplog.text


def test_hooks_know_what_the_names_in_the_path_stand_for(server_face: ServerFace) -> None:
    def members_only(request: anyws.Request) -> anyws.Reject | None:
        return anyws.Reject(403) if request.path_parameters.get("room") == "private" else None

    with server_face.serving(ROUTES, on_request=members_only) as server:
        assert asked(server, upgrade("/rooms/private")).status == 403
        assert asked(server, upgrade("/rooms/public")).status == 101


@pytest.mark.parametrize("hooks", [5, "hook", [None], [health, "x"]])
def test_what_is_no_hook_is_refused_where_it_is_given(server_face: ServerFace, hooks: Any) -> None:
    with pytest.raises(TypeError, match="on_request must be a function that takes a Request"):
        server_face.make(says("x"), on_request=hooks, port=0)


def test_an_answer_has_what_the_tests_look_at() -> None:
    answer = Answer(b"HTTP/1.1 418 \r\nA: b\r\n\r\nx")
    assert (answer.status, answer.headers, answer.body) == (418, {"a": "b"}, b"x")

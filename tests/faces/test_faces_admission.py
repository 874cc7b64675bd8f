"""Who is let in: by name, by token, and how many. The same in each face."""

from __future__ import annotations

import hmac
import logging
import socket
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bars import raw
from callbacks.clients import GUARD, QUICK
from connections import client_tls, server_tls
from faces.plain import answer_of, asked, basic, upgrade

import anyws
import anyws.sync
from anyws._config import MAX_TURNED_AWAY
from anyws._hooks import address_of
from anyws._protocol.notes import call_on_end

if TYPE_CHECKING:
    from faces.drivers import ServerFace

pytestmark = pytest.mark.timeout(60)
SHORT = replace(QUICK, handshake_timeout=1.0)


def greet(ws: Any) -> None:
    ws.send(f"welcome, {ws.request.user}")


def hold(ws: Any) -> None:
    """Stay as long as the client does."""
    for message in ws:
        ws.send(message)


# --- By name ---

ADA = anyws.BasicAuth({"ada": "s3cret", "josé": "contraseña"}, realm="the feed")


@pytest.mark.parametrize(
    ("user", "password"), [("ada", "s3cret"), ("jos%C3%A9", "contrase%C3%B1a")]
)
def test_who_knows_a_password_is_let_in_and_the_handler_learns_who_it_is(
    server_face: ServerFace, user: str, password: str
) -> None:
    with server_face.serving(greet, on_request=ADA) as server:
        url = server.url.replace("//", f"//{user}:{password}@")
        with anyws.sync.open_websocket(url) as ws:
            assert ws.receive(GUARD) in ("welcome, ada", "welcome, josé")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [basic(b"ada:S3cret")],
        [basic(b"bob:s3cret")],
        [basic(b"ada:")],
        [basic("ada:contraseña".encode())],
        [basic(b"\xff:\xff")],
        ["Authorization: Bearer s3cret"],
        ["Authorization: Digest username=ada"],
    ],
)
def test_who_does_not_is_told_what_to_do_with_401(
    server_face: ServerFace, lines: list[str]
) -> None:
    """V19, V20: before the 101, and on every path."""
    with server_face.serving(greet, on_request=ADA) as server:
        for path in ("/", "/anything"):
            answer = asked(server, upgrade(path, *lines))
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="the feed", charset="UTF-8"'


@pytest.mark.parametrize(
    "lines",
    [
        ["Authorization: Basic"],
        ["Authorization: Basic YTpi!"],
        ["Authorization: Basic YTpi YTpi"],
        [basic(b"no colon")],
        [basic(b"ada:s3cret\n")],
        [basic(b"ada:s3cret"), basic(b"ada:s3cret")],
    ],
)
def test_a_malformed_header_is_400_also_with_the_right_password_in_it(
    server_face: ServerFace, lines: list[str]
) -> None:
    with server_face.serving(greet, on_request=ADA) as server:
        assert asked(server, upgrade("/", *lines)).status == 400


def test_no_password_and_no_token_gets_into_a_log_or_a_repr(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    """V20, V24."""
    caplog.set_level(logging.DEBUG)
    requests: list[anyws.Request] = []
    bearer = anyws.BearerAuth(lambda token: None)
    with server_face.serving(greet, on_request=[requests.append, ADA]) as server:
        for credentials in (b"ada:s3cret", b"ada:wr0ng", b"wr0ng"):
            asked(server, upgrade("/?token=t0ken", basic(credentials)))
    with server_face.serving(greet, on_request=bearer) as server:
        asked(server, upgrade("/", "Authorization: Bearer t0ken"))
    requests[0].state["password"] = "s3cret"
    told = caplog.text + repr([requests, requests[0].headers, ADA, bearer, vars(ADA)])
    told += repr(anyws.BasicAuth({"ada": "s3cret"})._passwords._digests)
    for secret in ("s3cret", "wr0ng", "t0ken", basic(b"ada:s3cret").split()[-1]):
        assert secret not in told


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: anyws.BasicAuth("ada"), TypeError, "passwords must be a mapping, not str"),
        (lambda: anyws.BasicAuth({}), ValueError, "passwords is empty: nobody could be let in"),
        (lambda: anyws.BasicAuth({"a": ""}, realm="\n"), ValueError, "must be printable ASCII"),
        (lambda: anyws.BearerAuth("t0ken"), TypeError, "check must be a function of a token"),
        (lambda: anyws.BearerAuth(str, realm="\n"), ValueError, "realm must be printable ASCII"),
        (lambda: anyws.AllowedHosts("x"), TypeError, "hosts must be a collection, not str"),
        (lambda: anyws.PerAddressLimit(0), ValueError, "limit must be at least 1, not 0"),
        (lambda: anyws.PerAddressLimit(1, address="x"), TypeError, "address must be a function"),
        (lambda: anyws.PerAddressLimit(1, address=whose_it_is), TypeError, "must not be async"),
    ],
)
def test_a_hook_that_could_let_nobody_in_is_refused_where_it_is_made(
    make: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make()


# --- By token ---

TOKENS = {"t0ken": "ada", "zero": 0}


def whose(token: str) -> object:
    for known, user in TOKENS.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            return user
    return None


async def whose_it_is(token: str) -> object:
    return whose(token)


def checks(server_face: ServerFace) -> list[Any]:
    """The checks that a face takes."""
    return [whose] if server_face.name == "sync" else [whose, whose_it_is]


def test_who_has_a_token_is_let_in_as_the_check_says(server_face: ServerFace) -> None:
    for check in checks(server_face):
        with server_face.serving(greet, on_request=anyws.BearerAuth(check)) as server:
            for token, user in TOKENS.items():
                headers = {"Authorization": f"Bearer {token}"}
                with anyws.sync.open_websocket(server.url, headers=headers) as ws:
                    assert ws.receive(GUARD) == f"welcome, {user}"


@pytest.mark.parametrize(
    ("lines", "status", "challenge"),
    [
        ([], 401, 'Bearer realm="r"'),
        (["Authorization: Basic YTpi"], 401, 'Bearer realm="r"'),
        (["Authorization: Bearer other"], 401, 'Bearer realm="r", error="invalid_token"'),
        (["Authorization: Bearer a b"], 400, 'Bearer realm="r", error="invalid_request"'),
        (["Authorization: Bearer t0ken"] * 2, 400, 'Bearer realm="r", error="invalid_request"'),
    ],
)
def test_who_has_none_is_told_what_is_wrong(
    server_face: ServerFace, lines: list[str], status: int, challenge: str
) -> None:
    """V19."""
    for check in checks(server_face):
        hook = anyws.BearerAuth(check, realm="r")
        with server_face.serving(greet, on_request=hook) as server:
            answer = asked(server, upgrade("/", *lines))
            assert (answer.status, answer.headers["www-authenticate"]) == (status, challenge)


def test_a_check_that_returns_false_refuses_and_one_that_fails_is_500(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(token: str) -> None:
        raise OSError("the database is gone")

    request = upgrade("/", "Authorization: Bearer t0ken")
    for check, status in ((lambda token: False, 401), (fail, 500)):
        with server_face.serving(greet, on_request=anyws.BearerAuth(check)) as server:
            assert asked(server, request).status == status
    assert "the database is gone" in caplog.text
    assert "t0ken" not in caplog.text


def test_an_async_check_is_refused_where_there_is_no_event_loop() -> None:
    with pytest.raises(TypeError, match="must not be async: there is no event loop"):
        anyws.sync.open_server(print, port=0, on_request=anyws.BearerAuth(whose_it_is))


# --- How many ---


def test_a_server_has_as_many_clients_as_it_is_told_and_the_next_gets_503(
    server_face: ServerFace,
) -> None:
    """V10."""
    config = replace(QUICK, max_connections=2)
    with server_face.serving(hold, config=config) as server, ExitStack() as stack:
        first = stack.enter_context(anyws.sync.open_websocket(server.url))
        stack.enter_context(anyws.sync.open_websocket(server.url))
        answer = asked(server, upgrade())
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        # Those who are there do not notice, and one who goes makes room.
        first.send("still here")
        assert first.receive(GUARD) == "still here"
        first.close()
        eventually_let_in(server)
        assert server.totals.turned_away >= 1


def eventually_let_in(server: Any) -> None:
    """A server learns of the end of a client a little later than the client."""
    for _ in range(1000):
        answer = asked(server, upgrade())
        if answer.status == 101:
            return
        assert answer.status == 503
        time.sleep(0.01)
    raise AssertionError("there is no room")


def test_a_client_that_has_not_asked_yet_counts(server_face: ServerFace) -> None:
    """V10."""
    config = replace(QUICK, max_connections=1)
    with server_face.serving(hold, config=config) as server:
        with raw.connect(server.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert asked(server, upgrade()).status == 503
            sock.shutdown(socket.SHUT_RDWR)
        eventually_let_in(server)


def test_who_is_turned_away_need_not_ask_first_and_is_not_waited_for(
    server_face: ServerFace,
) -> None:
    """V10, V36: a refusal costs a moment, whatever the client does."""
    config = replace(QUICK, max_connections=1)
    with server_face.serving(hold, config=config) as server:
        with anyws.sync.open_websocket(server.url), raw.connect(server.port) as silent:
            assert answer_of(silent).status == 503


def test_only_so_many_are_told_at_a_time_and_the_others_find_the_connection_closed(
    server_face: ServerFace,
) -> None:
    """V10: nothing grows with the number of those that are refused."""
    config = replace(QUICK, max_connections=1)
    with server_face.serving(hold, config=config) as server, ExitStack() as stack:
        stack.enter_context(anyws.sync.open_websocket(server.url))
        late = [stack.enter_context(raw.connect(server.port)) for _ in range(2 * MAX_TURNED_AWAY)]
        told = [read_start(sock) for sock in late]
        assert told.count(b"HTTP/1.1 503 ") >= MAX_TURNED_AWAY
        assert set(told) <= {b"HTTP/1.1 503 ", b""}
        assert server.totals.turned_away == len(late)
        assert server.totals.accepted == 1


def read_start(sock: socket.socket) -> bytes:
    data = b""
    try:
        while len(data) < 13 and (chunk := sock.recv(13 - len(data))):
            data += chunk
    except ConnectionError:
        pass
    return data


def test_over_tls_too_there_is_an_answer(server_face: ServerFace) -> None:
    config = replace(QUICK, max_connections=1)
    with server_face.serving(hold, config=config, ssl_context=server_tls()) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with anyws.sync.open_websocket(url, ssl_context=client_tls()):
            with pytest.raises(anyws.HandshakeRejected) as caught:
                with anyws.sync.open_websocket(url, ssl_context=client_tls()):
                    raise AssertionError
            # Who never begins with TLS is not waited for, either.
            with raw.connect(server.port) as silent:
                assert read_start(silent) == b""
        assert caught.value.response.status == 503


# --- How many from one address ---


def test_one_address_has_so_many_clients_until_one_of_them_is_gone(
    server_face: ServerFace,
) -> None:
    limit = anyws.PerAddressLimit(2)
    with server_face.serving(hold, on_request=limit) as server, ExitStack() as stack:
        first = stack.enter_context(anyws.sync.open_websocket(server.url))
        stack.enter_context(anyws.sync.open_websocket(server.url))
        answer = asked(server, upgrade())
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert limit.counts == {"127.0.0.1": 2}
        first.close()
        for _ in range(1000):
            if asked(server, upgrade()).status == 101:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("the place of the first is not free")
    assert limit.counts == {}


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        upgrade("/refused"),
        upgrade("/failed"),
        upgrade("/", "Origin: https://evil.example"),
        upgrade("/", "Sec-WebSocket-Version: 12"),
    ],
)
def test_who_got_no_websocket_does_not_count_any_more(
    server_face: ServerFace, request_: bytes
) -> None:
    limit = anyws.PerAddressLimit(1)

    def judge(request: anyws.Request) -> anyws.Reject | None:
        if request.path == "/failed":
            raise OSError
        return anyws.Reject(403) if request.path == "/refused" else None

    with server_face.serving(hold, on_request=[limit, judge]) as server:
        assert asked(server, request_).status != 101
        with anyws.sync.open_websocket(server.url):
            assert limit.counts == {"127.0.0.1": 1}
    assert limit.counts == {}


def test_the_address_behind_a_proxy_is_what_the_program_says(server_face: ServerFace) -> None:
    limit = anyws.PerAddressLimit(1, address=lambda request: request.headers.get("X-Real-IP"))
    with server_face.serving(hold, on_request=limit) as server:
        with anyws.sync.open_websocket(server.url, headers={"X-Real-IP": "192.0.2.1"}):
            assert asked(server, upgrade("/", "X-Real-IP: 192.0.2.1")).status == 429
            assert asked(server, upgrade("/", "X-Real-IP: 192.0.2.2")).status == 101
            # Where it says nothing, nothing is limited.
            with anyws.sync.open_websocket(server.url), anyws.sync.open_websocket(server.url):
                assert limit.counts["192.0.2.1"] == 1


@pytest.mark.parametrize(
    ("address", "counted_by"),
    [
        (("192.0.2.1", 5000), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5000, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5000), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5000), "fe80::/64"),
        (("a name", 1), "a name"),
        ("/run/socket", None),
        ("", None),
        (None, None),
        ((), None),
    ],
)
def test_clients_are_counted_by_the_network_that_one_of_them_has(
    address: Any, counted_by: str | None
) -> None:
    assert address_of(anyws.Request("GET", "/", anyws.Headers(), address)) == counted_by


def test_what_a_hook_has_registered_is_called_once_the_latest_first(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def register(request: anyws.Request) -> None:
        request.on_end(lambda: told.append("first"))
        request.on_end(lambda: 1 / 0)
        request.on_end(lambda: told.append("latest"))

    with server_face.serving(hold, on_request=register) as server:
        with anyws.sync.open_websocket(server.url) as ws:
            ws.send("x")
            ws.receive(GUARD)
            assert told == []
    assert told == ["latest", "first"]
    assert "a callback of Request.on_end failed" in caplog.text


def test_what_is_registered_when_all_is_over_is_called_at_once(server_face: ServerFace) -> None:
    """As by a thread of a hook that was given up: what it holds is not held for ever."""
    requests: list[anyws.Request] = []
    limit = anyws.PerAddressLimit(1)
    with server_face.serving(hold, on_request=requests.append) as server:
        assert asked(server, upgrade()).status == 101
        assert asked(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").status == 426
    for request in requests:
        assert limit(request) is None
        assert limit.counts == {}
    assert len(requests) == 2


def test_a_callback_that_ends_its_thread_keeps_no_other_from_its_turn() -> None:
    told: list[str] = []
    request = anyws.Request("GET", "/", anyws.Headers())
    request.on_end(lambda: told.append("first"))
    request.on_end(sys.exit)
    with pytest.raises(SystemExit):
        call_on_end(request)
    call_on_end(request)
    assert told == ["first"]


@pytest.mark.parametrize(
    ("callback", "words"),
    [(None, "must be a function, not NoneType"), (whose_it_is, "must not be async")],
)
def test_what_cannot_be_called_at_the_end_is_refused_where_it_is_registered(
    callback: Any, words: str
) -> None:
    request = anyws.Request("GET", "/", anyws.Headers())
    with pytest.raises(TypeError, match=words):
        request.on_end(callback)


def test_who_is_judged_too_late_is_not_let_in() -> None:
    """A thread cannot be told to stop judging; its verdict comes too late, as on an event loop."""
    limit = anyws.PerAddressLimit(1)
    is_gone = threading.Event()

    def dawdle(request: anyws.Request) -> None:
        is_gone.wait(1.5 * SHORT.handshake_timeout)

    with anyws.sync.open_server(print, port=0, on_request=[limit, dawdle], config=SHORT) as server:
        assert asked(server, upgrade()).status is None
        assert server.totals.accepted == 0
    assert limit.counts == {}


def test_a_request_is_as_equal_as_it_was_whatever_is_noted_of_it() -> None:
    one, other = (anyws.Request("GET", "/", anyws.Headers()) for _ in range(2))
    assert (one.user, one.path_parameters) == (None, {})
    one.state["user"] = "ada"
    assert one == other
    assert hash(one) == hash(other)
    assert (one.user, other.user) == ("ada", None)
    assert "ada" not in repr(one)

"""Proxies that other people wrote, in front of the client and in front of the server.

`real_proxies.py` has how each is started.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest
import real_proxies
from connections import client_tls, server_tls
from faces.drivers import SyncFace
from programs import free_port

import anyws
from anyws import Close, Config, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from faces.drivers import Face, ServerFace

pytestmark = pytest.mark.timeout(60)

QUICK = Config(cancel_grace=0.5, close_timeout=5, drain_timeout=0.5)
# More than any buffer on the way holds, and less than what a message may have.
LARGE = bytes(range(256)) * 3500

#: the other end, where the test is of one
BLOCKING = SyncFace()

every_kind = pytest.mark.parametrize("kind", ["tcp", "tls"])


class Echo:
    """A server that answers, closes with 4003 where it is told to, and remembers how it ended."""

    def __init__(self) -> None:
        self.ended: Queue[anyws.Closure | None] = Queue()
        self.requests: list[anyws.Request] = []

    def __call__(self, ws: Any) -> None:
        self.requests.append(ws.request)
        try:
            for message in ws:
                if message == "close":
                    ws.close(4003, "as you like")
                    return
                ws.send(message)
        except anyws.ConnectionClosed:
            pass
        finally:
            self.ended.put(ws.closure)

    def end(self) -> anyws.Closure:
        closure = self.ended.get(timeout=10)
        assert closure is not None
        return closure


@contextmanager
def echoing(face: Any, kind: str = "tcp", **options: Any) -> Iterator[tuple[int, Echo]]:
    echo = Echo()
    tls = {"ssl_context": server_tls()} if kind == "tls" else {}
    with face.serving(echo, **{"config": QUICK, **tls, **options}) as server:
        yield server.port, echo


def talk(face: Face, url: str, echo: Echo, **options: Any) -> None:
    """Do what programs do, and close once from each end."""
    ours = {"ssl_context": client_tls()} if url.startswith("wss") else {}
    options = {"config": QUICK, **ours, **options}
    with face.opened(url, **options) as ws:
        for message in ("hello", "", "é€😀" * 1000, b"\0", LARGE):
            ws.send(message)
            assert ws.receive() == message
        assert ws.ping() >= 0
        ws.close(4001, "enough")
    assert echo.end().received == Close(4001, "enough")
    with face.opened(url, **options) as ws:
        ws.send("close")
        assert ws.end().received == Close(4003, "as you like")
    assert echo.end().clean


# --- In front of the client ---


@contextmanager
def forward(name: str, folder: Path, *, secure: bool, user: bool = False) -> Iterator[str]:
    """Run a forward proxy, with TLS in front if it is to be secure, and give its URL."""
    with ExitStack() as stack:
        if name == "tinyproxy":
            lines = ["BasicAuth me correct"] if user else []
            port = stack.enter_context(real_proxies.tinyproxy(folder, *lines))
            scheme = "https" if secure else "http"
        else:
            options = ["-u", "me", "-P", "correct"] if user else []
            port = stack.enter_context(real_proxies.microsocks(folder, *options))
            scheme = "socks5h+tls" if secure else "socks5h"
        if secure:
            port = stack.enter_context(real_proxies.tls_in_front(folder, port))
        yield f"{scheme}://localhost:{port}"


def as_proxy(url: str, user: str = "") -> Proxy:
    context = client_tls() if url.startswith("https") or "+tls" in url else None
    return Proxy(url.replace("://", f"://{user}@" if user else "://"), ssl_context=context)


forwarding = pytest.mark.parametrize("name", ["tinyproxy", "microsocks"])


@forwarding
@every_kind
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "over-tls"])
def test_a_connection_through_a_proxy(
    face: Face, tmp_path: Path, name: str, kind: str, secure: bool
) -> None:
    with forward(name, tmp_path, secure=secure) as url, echoing(BLOCKING, kind) as (port, echo):
        scheme = "wss" if kind == "tls" else "ws"
        talk(face, f"{scheme}://localhost:{port}/", echo, proxy=as_proxy(url))


@forwarding
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "over-tls"])
def test_a_proxy_that_asks_for_credentials(
    face: Face, tmp_path: Path, name: str, secure: bool
) -> None:
    """V28."""
    with forward(name, tmp_path, secure=secure, user=True) as url:
        with echoing(BLOCKING) as (port, echo):
            target = f"ws://localhost:{port}/"
            talk(face, target, echo, proxy=as_proxy(url, "me:correct"))
            assert "Proxy-Authorization" not in echo.requests[0].headers
            for user in ("", "me:hunter2"):
                words, error = face.failure(target, proxy=as_proxy(url, user))
                assert isinstance(error, anyws.ProxyError)
                assert not error.transient
                assert "hunter2" not in words
                assert len(echo.requests) == 2
                if name == "tinyproxy":
                    # It does not say 407 to who has none, but 401 to who has wrong ones.
                    assert error.status in {401, 407}


@forwarding
def test_a_server_that_is_not_there(face: Face, tmp_path: Path, name: str) -> None:
    with forward(name, tmp_path, secure=False) as url:
        port = free_port()
        words, error = face.failure(f"ws://127.0.0.1:{port}/", proxy=as_proxy(url))
        assert isinstance(error, anyws.ProxyError)
        assert f"connect to 127.0.0.1:{port}" in words
        assert error.transient
        assert error.status == {"tinyproxy": 500, "microsocks": 5}[name]


def test_a_port_that_the_proxy_does_not_connect_to(face: Face, tmp_path: Path) -> None:
    with real_proxies.tinyproxy(tmp_path, "ConnectPort 443") as port:
        words, error = face.failure("ws://127.0.0.1:1/", proxy=f"http://127.0.0.1:{port}")
        assert isinstance(error, anyws.ProxyError)
        assert (error.status, error.transient) == (403, False)
        assert "refused to connect to 127.0.0.1:1: 403" in words


def test_keepalive_keeps_an_idle_connection_through_a_proxy(face: Face, tmp_path: Path) -> None:
    """V39. Tinyproxy cuts here after two seconds without a byte."""
    lively = Config(ping_interval=0.3, ping_timeout=5, close_timeout=5)
    silent = Config(ping_interval=None, close_timeout=5)
    with real_proxies.tinyproxy(tmp_path, idle=2) as through:
        with echoing(BLOCKING, config=silent) as (port, echo):
            ours = {"proxy": f"http://localhost:{through}"}
            with face.opened(f"ws://localhost:{port}/", config=lively, **ours) as ws:
                wait(face, ws, 2.6)
                ws.send("still there")
                assert ws.receive() == "still there"
            assert echo.end().clean
            with face.opened(f"ws://localhost:{port}/", config=silent, **ours) as ws:
                assert ws.end().received is None


# --- In front of the server ---

before_servers = pytest.mark.parametrize(
    "before", [real_proxies.nginx_before, real_proxies.haproxy_before], ids=["nginx", "haproxy"]
)


@before_servers
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("to_tls", [False, True], ids=["to-plain", "to-tls"])
def test_a_server_behind_a_proxy(
    server_face: ServerFace, tmp_path: Path, before: Any, tls: bool, to_tls: bool
) -> None:
    with echoing(server_face, "tls" if to_tls else "tcp") as (behind, echo):
        with before(tmp_path, behind, tls=tls, to_tls=to_tls) as port:
            url = f"{'wss' if tls else 'ws'}://localhost:{port}/chat?a=1"
            talk(BLOCKING, url, echo)
            assert echo.requests[0].target == "/chat?a=1"


@before_servers
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_client_of_a_server_behind_a_proxy(
    face: Face, tmp_path: Path, before: Any, tls: bool
) -> None:
    with echoing(BLOCKING) as (behind, echo):
        with before(tmp_path, behind, tls=tls, to_tls=False) as port:
            talk(face, f"{'wss' if tls else 'ws'}://localhost:{port}/", echo)


@before_servers
def test_keepalive_keeps_an_idle_connection(face: Face, tmp_path: Path, before: Any) -> None:
    """V39. The proxies here cut after two seconds without a byte."""
    lively = Config(ping_interval=0.3, ping_timeout=5, close_timeout=5)
    silent = Config(ping_interval=None, close_timeout=5)
    with echoing(BLOCKING, config=silent) as (behind, echo):
        with before(tmp_path, behind, tls=False, to_tls=False, idle=2) as port:
            url = f"ws://localhost:{port}/"
            start = time.monotonic()
            with face.opened(url, config=lively) as ws:
                wait(face, ws, 2.6)
                ws.send("still there")
                assert ws.receive() == "still there"
            assert time.monotonic() - start > 2.5
            assert echo.end().clean
            with face.opened(url, config=silent) as ws:
                closure = ws.end()
                assert not closure.clean
                assert closure.received is None


@before_servers
def test_a_server_that_is_gone_behind_its_proxy(face: Face, tmp_path: Path, before: Any) -> None:
    with before(tmp_path, free_port(), tls=False, to_tls=False) as port:
        _, error = face.failure(f"ws://localhost:{port}/")
        assert isinstance(error, anyws.HandshakeRejected)
        assert error.response.status in {502, 503}


@before_servers
def test_a_refusal_comes_through(server_face: ServerFace, tmp_path: Path, before: Any) -> None:
    def refuse(request: anyws.Request) -> anyws.Reject:
        return anyws.Reject(403, "not you", {"X-Why": "because"})

    with echoing(server_face, on_request=refuse) as (behind, _):
        with before(tmp_path, behind, tls=False, to_tls=False) as port:
            _, error = BLOCKING.failure(f"ws://localhost:{port}/")
            assert isinstance(error, anyws.HandshakeRejected)
            assert error.response.status == 403
            assert error.response.text == "not you"
            assert error.response.headers["X-Why"] == "because"


@before_servers
def test_through_a_proxy_to_a_server_behind_one(face: Face, tmp_path: Path, before: Any) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    with ExitStack() as stack:
        behind, echo = stack.enter_context(echoing(BLOCKING))
        port = stack.enter_context(before(tmp_path / "theirs", behind, tls=True, to_tls=False))
        proxy = stack.enter_context(forward("tinyproxy", tmp_path / "ours", secure=True))
        talk(face, f"wss://localhost:{port}/", echo, proxy=as_proxy(proxy))


def wait(face: Face, ws: Any, seconds: float) -> None:
    """Let time pass; the blocking face serves the connection within its calls."""
    if face.name == "sync":
        with pytest.raises(TimeoutError):
            ws._ws.receive(seconds)
    elif face.name == "callbacks":
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ws.poll(left)
    else:
        time.sleep(seconds)

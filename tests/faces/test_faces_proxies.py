"""Through proxies: every kind of them, to every kind of server, from every face."""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import time
import traceback
from functools import cache
from queue import Queue
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from callbacks.clients import peered, served
from connections import authority, client_tls, server_tls
from programs import free_port, run
from proxying import RESOLVES, FakeProxy, leave, running, saying, stay

import anyws
import anyws.sync
from anyws import Config, Proxy
from anyws._transports.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream
    from faces.drivers import Face

pytestmark = pytest.mark.timeout(30)

every_kind = pytest.mark.parametrize("kind", ["tcp", "tls"])
to_proxy_and_server = pytest.mark.parametrize(
    ("proxy_secure", "kind"),
    [
        pytest.param(False, "tcp", id="plain"),
        pytest.param(False, "tls", id="tls-through-plain"),
        pytest.param(True, "tcp", id="plain-through-tls"),
        pytest.param(True, "tls", id="tls-through-tls"),
    ],
)

#: long enough for loopback, short enough for a test
SHORT = Config(handshake_timeout=0.4, cancel_grace=0.2, close_timeout=2)
PASSWORD = "hunter2-é"
# More than any buffer on the way holds.
LARGE = bytes(range(256)) * 3000


def server_options(kind: str) -> dict[str, Any]:
    return {"ssl_context": server_tls()} if kind == "tls" else {}


def options(kind: str, proxy: FakeProxy, user: str = "", **more: Any) -> dict[str, Any]:
    """What a client needs for this server through this proxy."""
    context = client_tls() if proxy._secure else None
    ours = {"ssl_context": client_tls()} if kind == "tls" else {}
    return {"proxy": Proxy(proxy.url(user), ssl_context=context), **ours, **more}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


# --- It works ---


@to_proxy_and_server
@pytest.mark.parametrize("scheme", RESOLVES)
def test_a_connection_is_what_it_is_without_a_proxy(
    face: Face, scheme: str, proxy_secure: bool, kind: str
) -> None:
    """R-3."""
    ended: Queue[anyws.Closure | None] = Queue()

    def handler(ws: anyws.sync.WebSocket) -> None:
        try:
            for message in ws:
                ws.send(message)
        finally:
            ended.put(ws.closure)

    with running(scheme, secure=proxy_secure) as proxy:
        with served(handler, **server_options(kind)) as url:
            with face.opened(url, **options(kind, proxy)) as ws:
                for message in ("hello", LARGE):
                    ws.send(message)
                    assert ws.receive() == message
                assert ws.ping() >= 0
                assert [host for host, _ in proxy.asked] == ["127.0.0.1"]
                ws.close(4001, "enough")
            closure = ended.get(timeout=10)
            assert closure is not None
            assert closure.received == anyws.Close(4001, "enough")
    # Nothing of what the server is asked for is the proxy's to know.
    assert b"Sec-WebSocket" not in proxy.told


@to_proxy_and_server
def test_the_server_s_close_comes_through(face: Face, proxy_secure: bool, kind: str) -> None:
    with running(secure=proxy_secure) as proxy, peered(**server_options(kind)) as served:
        url, peer = served
        with face.opened(url, **options(kind, proxy)) as ws:
            peer.wait().close(4002, "that was all")
            assert ws.end().received == anyws.Close(4002, "that was all")


@pytest.mark.parametrize("scheme", RESOLVES)
def test_who_looks_the_name_up_depends_on_the_scheme(face: Face, scheme: str) -> None:
    with running(scheme, names={"server.test": "127.0.0.1"}) as proxy, served() as url:
        port = int(url[5:-1].partition(":")[2])
        if not RESOLVES[scheme]:
            with face.opened(f"ws://localhost:{port}/", proxy=proxy.url()):
                assert proxy.asked == [("127.0.0.1", port)]
            words, error = face.failure(f"ws://server.invalid:{port}/", proxy=proxy.url())
            assert isinstance(error, OSError)
            assert "the host server.invalid was not found" in words
        else:
            with face.opened(f"ws://server.test:{port}/", proxy=proxy.url()) as ws:
                assert proxy.asked == [("server.test", port)]
                assert ws.request.headers["Host"] == f"server.test:{port}"


@cache
def context_of_another_name() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("server.test").configure_cert(context)
    return context


@pytest.mark.parametrize("secure", [False, True])
def test_the_certificate_is_that_of_the_server_and_not_of_the_proxy(
    face: Face, secure: bool
) -> None:
    """V27."""
    names = {"server.test": "127.0.0.1", "other.test": "127.0.0.1"}
    context = context_of_another_name()
    with running(secure=secure, names=names) as proxy, served(ssl_context=context) as url:
        port = int(url[6:-1].partition(":")[2])
        with face.opened(f"wss://server.test:{port}/", **options("tls", proxy)) as ws:
            assert ws.is_open
        for name in ("other.test", "localhost"):
            words, error = face.failure(f"wss://{name}:{port}/", **options("tls", proxy))
            assert isinstance(error, ssl.SSLCertVerificationError)
            assert f"the certificate of {name}:{port} was refused" in words


@pytest.mark.parametrize("secure", [False, True])
def test_a_dot_behind_the_server_s_name_is_not_for_its_certificate(
    face: Face, secure: bool
) -> None:
    """V27: such a name is looked up as it stands; in TLS there is no dot (RFC 6066, section 3)."""
    names = {"server.test.": "127.0.0.1"}
    context = context_of_another_name()
    with running(secure=secure, names=names) as proxy, served(ssl_context=context) as url:
        port = int(url[6:-1].partition(":")[2])
        with face.opened(f"wss://server.test.:{port}/", **options("tls", proxy)) as ws:
            assert ws.request.headers["Host"] == f"server.test.:{port}"


@pytest.mark.parametrize("name", ["localhost.", "127.0.0.1%lo"])
def test_dots_and_zones_are_not_for_certificates_where_the_loop_does_tls(name: str) -> None:
    """V27. No system has to find such names."""

    async def main() -> None:
        with served(**server_options("tls")) as url:
            sock = socket.create_connection(("127.0.0.1", int(url[6:-1].partition(":")[2])))
            sock.setblocking(False)
            link = await Link.make(sock, client_tls(), server_hostname=name)
            await anyio.aclose_forcefully(link)

    anyio.run(main)


def test_a_proxy_may_be_its_url(face: Face) -> None:
    with running() as proxy, served() as url, face.opened(url, proxy=proxy.url()) as ws:
        ws.send("x")
        assert ws.receive() == "x"
        assert len(proxy.asked) == 1


# --- Credentials ---


@pytest.mark.parametrize(
    ("scheme", "credentials", "user"),
    [
        ("http", ("me", "hunter2"), "me:hunter2"),
        ("http", ("mé", PASSWORD), "m%C3%A9:hunter2-%C3%A9"),
        ("http", ("me", ""), "me"),
        ("socks5", ("me", "hunter2"), "me:hunter2"),
        ("socks5h", ("me", "h@nter:2"), "me:h%40nter%3A2"),
        ("socks4", ("me", ""), "me"),
    ],
)
def test_credentials_of_a_proxy_go_to_the_proxy_and_no_further(
    face: Face, scheme: str, credentials: tuple[str, str], user: str
) -> None:
    """V28."""
    requests: list[anyws.Request] = []
    with running(scheme, credentials=credentials) as proxy:
        with served(on_request=requests.append) as url:
            with face.opened(url, proxy=proxy.url(user)) as ws:
                assert ws.is_open
                assert "hunter2" not in repr(ws)
            assert "Proxy-Authorization" not in requests[0].headers
            assert "Authorization" not in requests[0].headers
    token = base64.b64encode(":".join(credentials).encode())
    assert (credentials[1] or credentials[0]).encode() in proxy.told or token in proxy.told
    assert token not in proxy.carried
    assert b"hunter2" not in proxy.carried
    assert b"roxy" not in proxy.carried


def test_credentials_of_a_server_are_not_the_proxy_s_to_know(face: Face) -> None:
    requests: list[anyws.Request] = []
    with running() as proxy, served(on_request=requests.append, **server_options("tls")) as url:
        ours = options("tls", proxy, headers={"Cookie": "a=1"})
        with face.opened(url.replace("://", "://me:secret@"), **ours):
            assert requests[0].headers["Authorization"].startswith("Basic ")
        for secret in (b"Authorization", b"Cookie", b"secret"):
            assert secret not in proxy.told


@pytest.mark.parametrize(
    ("scheme", "user", "status", "words"),
    [
        ("http", "me:hunter2", 407, "refuses the credentials that it got: 407"),
        ("http", "", 407, "asks for some: 407 Proxy Authentication Required"),
        ("socks5", "me:hunter2", None, "Username and password authentication failure"),
        ("socks5", "", None, "No acceptable authentication methods"),
        ("socks4", "hunter2", 0x5D, "different user-ids"),
    ],
)
def test_refused_credentials_are_told_and_shown_nowhere(
    face: Face,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
    user: str,
    status: int | None,
    words: str,
) -> None:
    """V28: 407 fails."""
    caplog.set_level(logging.DEBUG)
    with running(scheme, credentials=("me", "correct")) as proxy, served() as url:
        said, error = face.failure(url, proxy=proxy.url(user))
        assert isinstance(error, anyws.ProxyError)
        assert words in said
        assert (error.status, error.transient) == (status, False)
        assert error.proxy == f"{scheme}://localhost:{proxy.port}"
        everything = f"{said}{error!r}{''.join(traceback.format_exception(error))}{caplog.text}"
        assert "hunter2" not in everything
        assert base64.b64encode(b"me:hunter2").decode() not in everything


def test_a_header_for_the_proxy_is_refused_where_it_would_go_to_the_server(
    face: Face,
) -> None:
    """V28."""
    with pytest.raises(ValueError, match="into the proxy's URL"):
        face.make(
            "ws://127.0.0.1:1/",
            proxy="http://127.0.0.1:1",
            headers=[("proxy-authorization", "Basic x")],
        )


@pytest.mark.parametrize(
    ("proxy", "error"),
    [("ftp://x", ValueError), ("x:3128", ValueError), (3128, TypeError), (b"http://x", TypeError)],
)
def test_a_proxy_that_is_none_is_refused_before_anything_is_sent(
    face: Face, proxy: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="proxy"):
        face.make("ws://127.0.0.1:1/", proxy=proxy)


# --- What fails ---


@every_kind
@pytest.mark.parametrize(
    ("status", "transient"), [(403, False), (429, True), (502, True), (503, True)]
)
def test_a_refusal_says_its_status_and_whether_to_try_again(
    face: Face, kind: str, status: int, transient: bool
) -> None:
    answer = f"HTTP/1.1 {status} X\r\nRetry-After: 7\r\nContent-Length: 100000000\r\n\r\nsecret"
    with running(behave=saying(answer.encode())) as proxy:
        url = "wss://127.0.0.1:9/" if kind == "tls" else "ws://127.0.0.1:9/"
        words, error = face.failure(url, proxy=proxy.url())
        assert isinstance(error, anyws.ProxyError)
        assert (error.status, error.transient) == (status, transient)
        assert error.response is not None
        assert error.response.headers["Retry-After"] == "7"
        assert "127.0.0.1:9: " in words
        assert "secret" not in words


def test_a_proxy_that_is_not_there_is_named(face: Face) -> None:
    port = free_port()
    words, error = face.failure("ws://127.0.0.1:1/", proxy=f"http://me:hunter2@localhost:{port}")
    assert isinstance(error, anyws.ProxyError)
    assert words.startswith(f"there is no way to the proxy http://localhost:{port}: ")
    assert error.transient
    assert error.status is None
    assert "hunter2" not in words


def test_a_proxy_whose_name_is_not_known_is_named(face: Face) -> None:
    words, error = face.failure("ws://127.0.0.1:1/", proxy="http://proxy.invalid:1")
    assert isinstance(error, anyws.ProxyError)
    assert "the host proxy.invalid was not found" in words


def test_a_proxy_s_certificate_is_verified(face: Face) -> None:
    """V27."""
    other = ssl.create_default_context()
    trustme.CA().configure_trust(other)
    contexts = [(server_tls(), other), (context_of_another_name(), client_tls())]
    for theirs, ours in contexts:
        with running(secure=theirs) as proxy:
            url = proxy.url("me:hunter2")
            words, error = face.failure("ws://a.test/", proxy=Proxy(url, ssl_context=ours))
            assert isinstance(error, anyws.ProxyError)
            assert f"there is no way to the proxy {error.proxy}: the certificate of" in words
            assert not error.transient
            assert not proxy.told, "said before it was known to whom"


def test_a_proxy_without_tls_where_tls_was_asked_for(face: Face) -> None:
    with running(behave=saying(b"HTTP/1.0 400 Bad Request\r\n\r\n")) as proxy:
        url = proxy.url().replace("http", "https")
        words, error = face.failure("ws://a.test/", proxy=url)
        assert isinstance(error, anyws.ProxyError)
        assert "it does not speak TLS there; for a http:// URL?" in words
        assert not error.transient


def test_a_proxy_that_leaves_during_tls(face: Face) -> None:
    with running(behave=leave) as proxy:
        url = proxy.url().replace("http", "https")
        words, error = face.failure("ws://a.test/", proxy=url)
        assert isinstance(error, anyws.ProxyError)
        assert "left during the TLS handshake" in words
        assert error.transient


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5h"])
def test_a_proxy_that_leaves_without_an_answer(face: Face, scheme: str) -> None:
    with running(scheme, behave=leave) as proxy:
        words, error = face.failure("ws://a.test/", proxy=proxy.url())
        assert isinstance(error, anyws.ProxyError)
        assert words.endswith("left without an answer")
        assert error.transient


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("http", b"\x05\x00", "with no HTTP"),
        ("http", b"\x15\x03\x03\x00\x02", "with TLS: does its URL begin with https://"),
        ("http", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, "longer than 16384 bytes"),
        ("http", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000, "more than 128 header lines"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 x\r\n\r\n", "more than its answer"),
        ("socks5h", b"HTTP/1.1 400 x\r\n\r\n", "Unexpected SOCKS version number"),
        ("socks5h", b"\x05\x07", "Invalid authentication method"),
        ("socks5h", b"\x05\x02", "Unexpected SOCKS authentication method"),
        ("socks4a", b"HTTP/1.1", "Unexpected reply version"),
        ("socks4a", b"\0\x99" + bytes(6), "Invalid reply code"),
    ],
)
def test_an_answer_that_is_none_ends_it(face: Face, scheme: str, answer: bytes, words: str) -> None:
    """V28: what a proxy says is bounded."""
    with running(scheme, behave=saying(answer)) as proxy:
        said, error = face.failure("ws://a.test/", proxy=proxy.url())
        assert isinstance(error, anyws.ProxyError)
        assert words in said
        assert not error.transient


@pytest.mark.parametrize(
    ("code", "words", "transient"),
    [
        (1, "General SOCKS server failure", True),
        (2, "Connection not allowed by ruleset", False),
        (5, "Connection refused by destination host", True),
    ],
)
def test_what_socks5_refuses_with_is_told(
    face: Face, code: int, words: str, transient: bool
) -> None:
    async def behave(stream: ByteStream) -> None:
        await stream.receive()
        await stream.send(b"\x05\0")
        await stream.receive()
        await stream.send(bytes([5, code, 0, 1]) + bytes(6))
        await anyio.sleep_forever()

    with running("socks5h", behave=behave) as proxy:
        said, error = face.failure("ws://a.test/", proxy=proxy.url())
        assert isinstance(error, anyws.ProxyError)
        assert said.endswith(f"did not connect to a.test:80: {words}")
        assert (error.status, error.transient) == (code, transient)


def granting_in_socks5(address: bytes, rest: bytes = b"") -> Callable[[ByteStream], Any]:
    """What a proxy does that grants from this address, and says more behind that."""

    async def behave(stream: ByteStream) -> None:
        for answer in (b"\x05\0", b"\x05\0\0" + address + b"\0\0" + rest):
            await stream.receive()
            await stream.send(answer)
        await anyio.sleep_forever()

    return behave


@pytest.mark.parametrize("secure", [False, True])
def test_what_is_not_text_in_an_answer_of_socks_is_the_proxy_s_doing(
    face: Face, secure: bool
) -> None:
    behave = granting_in_socks5(b"\x03\x02\xff\xfe")
    with running("socks5h", secure=secure, behave=behave) as proxy:
        words, error = face.failure("ws://a.test/", **options("tcp", proxy))
        assert isinstance(error, anyws.ProxyError)
        assert words == f"the answer of the proxy {error.proxy} is malformed"
        assert not error.transient


@every_kind
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("address", [b"\x01\0\0\0\0", b"\x03\x01a", b"\x04" + bytes(16)])
def test_what_comes_behind_an_answer_of_socks_is_not_the_server_s(
    face: Face, address: bytes, secure: bool, kind: str
) -> None:
    behave = granting_in_socks5(address, b"HTTP/1.1 403 Forbidden\r\n\r\n")
    with running("socks5h", secure=secure, behave=behave) as proxy:
        url = "wss://a.test/" if kind == "tls" else "ws://a.test/"
        words, error = face.failure(url, **options(kind, proxy))
        assert isinstance(error, anyws.ProxyError)
        assert "sent more than its answer" in words


async def dribble_head(stream: ByteStream) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
        await stream.send(bytes([byte]))
        await anyio.sleep(0.05)


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5h"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_says_nothing_gets_no_more_time_than_the_handshake(
    face: Face, scheme: str, secure: bool
) -> None:
    """V36."""
    with running(scheme, secure=secure, behave=stay) as proxy:
        given = options("tcp", proxy, config=SHORT)
        words, error = face.failure("ws://a.test/", **given)
        assert isinstance(error, anyws.HandshakeTimeout)
        through = f"through the proxy {Proxy(proxy.url()).safe}"
        assert words == f"the opening handshake with a.test:80 {through} was not over after 0.4 s"


def test_a_proxy_that_dribbles_gets_no_more_time_than_the_handshake(face: Face) -> None:
    """V36."""
    with running(behave=dribble_head) as proxy:
        _, error = face.failure("ws://a.test/", proxy=proxy.url(), config=SHORT)
        assert isinstance(error, anyws.HandshakeTimeout)


def test_a_proxy_that_never_gets_to_tls_gets_no_more_time(face: Face) -> None:
    with running(behave=stay) as proxy:
        url = proxy.url().replace("http", "https")
        _, error = face.failure("ws://a.test/", proxy=url, config=SHORT)
        assert isinstance(error, anyws.HandshakeTimeout)


# In TLS 1.2, "say hello" of a server to whom that is being said means nothing.
SAY_HELLO = b"\x16\x03\x03\0\x04" + bytes(4)


@pytest.mark.parametrize("secure", [False, True])
def test_who_speaks_without_end_and_says_nothing_gets_no_more_time(
    face: Face, secure: bool
) -> None:
    """V36: the proxy in its own TLS, or in that of the server."""

    async def behave(stream: ByteStream) -> None:
        await stream.receive()
        if not secure:
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await stream.receive()
        while True:
            await stream.send(SAY_HELLO * 2000)

    with running(behave=behave) as proxy:
        url, scheme = ("ws://a.test/", "https") if secure else ("wss://a.test/", "http")
        started = time.monotonic()
        _, error = face.failure(url, proxy=proxy.url().replace("http", scheme), config=SHORT)
        assert isinstance(error, anyws.HandshakeTimeout)
        assert time.monotonic() - started < 4


# --- The environment ---


def test_the_environment_s_proxy_is_the_default(
    face: Face, environment: pytest.MonkeyPatch
) -> None:
    with running("socks5") as proxy, served() as url:
        environment.setenv("ALL_PROXY", proxy.url())
        with face.opened(url) as ws:
            assert ws.is_open
            assert len(proxy.asked) == 1
        with face.opened(url, proxy=True) as ws:
            assert len(proxy.asked) == 2


@pytest.mark.parametrize("off", [None, False])
def test_without_a_proxy_the_environment_means_nothing(
    face: Face, environment: pytest.MonkeyPatch, off: bool | None
) -> None:
    environment.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with served() as url, face.opened(url, proxy=off) as ws:
        assert ws.is_open


def test_the_environment_names_hosts_that_need_none(
    face: Face, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("http_proxy", "http://127.0.0.1:1")
    environment.setenv("no_proxy", "example.com,127.0.0.1")
    with served() as url, face.opened(url) as ws:
        assert ws.is_open
    # A proxy that is asked for is taken all the same.
    with running() as proxy, served() as url, face.opened(url, proxy=proxy.url()):
        assert len(proxy.asked) == 1


def test_an_environment_that_names_no_proxy_is_told_of(
    face: Face, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("HTTPS_PROXY", "gopher://me:hunter2@x")
    words, error = face.failure("wss://127.0.0.1:1/")
    assert isinstance(error, anyws.ProxyError)
    assert "the environment names a proxy (https_proxy) that is none" in words
    assert "hunter2" not in words


# --- Without python-socks ---

_WITHOUT = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "python_socks":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nowhere())
import anyio, anyws, anyws.sync, anyws.callbacks

def told(error):
    assert isinstance(error, anyws.ProxyError), repr(error)
    assert isinstance(error, ImportError)
    assert "pip install 'anyio-websocket[proxy]', or proxy=None" in str(error), str(error)
    assert f"the proxy {error.proxy} needs python-socks" in str(error), str(error)
    assert error.proxy.endswith("://127.0.0.1:1"), error.proxy
    assert "hunter2" not in str(error), str(error)
    assert not error.transient

async def main():
    try:
        async with anyws.open_websocket("ws://127.0.0.1:1/", proxy="http://me:hunter2@127.0.0.1:1"):
            pass
    except anyws.ProxyError as error:
        told(error)
    else:
        raise SystemExit("open")

anyio.run(main)
anyio.run(main, backend="trio")
try:
    with anyws.sync.open_websocket("ws://127.0.0.1:1/", proxy="socks5://127.0.0.1:1"):
        pass
except anyws.ProxyError as error:
    told(error)
else:
    raise SystemExit("open")
client = anyws.callbacks.Client("ws://127.0.0.1:1/", print, polled=True, proxy="http://127.0.0.1:1")
client.open()
client.poll(10)
"""


def test_without_the_extra_an_error_names_it() -> None:
    done = run("-c", _WITHOUT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install 'anyio-websocket[proxy]'" in done.stdout

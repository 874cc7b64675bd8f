"""What a program says when it opens a connection, and what it is told: the same in each face."""

from __future__ import annotations

import os
import socket
import ssl
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from callbacks.clients import GUARD, echo, served
from connections import authority, client_tls, server_tls
from faces.plain import answered_by, until_it_leaves
from programs import free_port

import anyws
from anyws import Config
from anyws._target import Target

if TYPE_CHECKING:
    from pathlib import Path

    from faces.drivers import Face

pytestmark = pytest.mark.timeout(60)

# Long enough for loopback, short enough for a test that waits for its end.
SHORT = Config(handshake_timeout=0.3, cancel_grace=0.2, close_timeout=2)


def request_of(face: Face, **options: Any) -> anyws.Request:
    """What a server is asked by a client with these options."""
    requests: list[anyws.Request] = []
    with served(on_request=requests.append, origins="*") as url:
        with face.opened(url, **options):
            pass
    [request] = requests
    return request


# --- The request ---


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1", "Origin": "https://game.example"},
        [("X-A", "1"), ("Origin", "https://game.example")],
        iter([("X-A", "1"), ("Origin", "https://game.example")]),
        "X-A: 1\r\nOrigin: https://game.example",
        "X-A: 1\r\nOrigin: https://game.example\r\n",
    ],
    ids=["mapping", "pairs", "iterator", "string", "string with an end"],
)
def test_headers_are_a_mapping_pairs_or_one_string_of_lines(face: Face, headers: Any) -> None:
    """DE-7, DE-8."""
    if not isinstance(headers, (dict, list, str)):
        headers = iter([("X-A", "1"), ("Origin", "https://game.example")])
    lines = request_of(face, headers=headers).headers.raw
    assert ("X-A", "1") in lines
    assert ("Origin", "https://game.example") in lines


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ("no colon", "colon|name: value"),
        ("X-A: 1\nX-B: 2", "X-A"),
        ("X-A: 1\r\n\r\nGET / HTTP/1.1", "colon|name: value"),
        ({"X-A": "1\r\nX-B: 2"}, "X-A"),
        ([("X A", "1")], "name"),
        ("Sec-WebSocket-Protocol: chat", "argument for subprotocols"),
        ("Host: elsewhere.test", "follows from the URL"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_before_anything_is(
    face: Face, headers: Any, words: str
) -> None:
    """DE-9."""
    with pytest.raises(ValueError, match=words):
        face.make("ws://127.0.0.1:1/", headers=headers)


def test_a_subprotocol_is_offered_where_one_is_named_and_else_there_is_no_such_header(
    face: Face,
) -> None:
    """DE-5, DE-6, LW-6."""
    assert "Sec-WebSocket-Protocol" not in request_of(face).headers
    requests: list[anyws.Request] = []
    with served({"chat": echo}, on_request=requests.append) as url:
        with face.opened(url, subprotocols=["chat"]) as ws:
            assert ws.subprotocol == "chat"
    assert requests[0].headers["Sec-WebSocket-Protocol"] == "chat"


def test_a_port_beside_the_url_takes_the_place_of_its_own(face: Face) -> None:
    """HS-2, SO-7, SO-8."""
    with served() as url:
        port = int(url[5:-1].partition(":")[2])
        for without in ("ws://127.0.0.1/", "ws://127.0.0.1:1/"):
            with face.opened(without, port=port) as ws:
                assert ws.is_open
                assert ws.request.headers["Host"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize(("url", "port"), [("ws://a.test/", 80), ("wss://a.test/", 443)])
def test_without_a_port_it_is_the_scheme_s(url: str, port: int) -> None:
    """SO-9."""
    assert Target(url, None, None).url.port == port


# --- TLS ---


def tls_of(version: ssl.TLSVersion, context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context speak this version and no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    if version < ssl.TLSVersion.TLSv1_2:
        # What they sign with is below OpenSSL's ordinary level.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def server_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1").configure_cert(context)
    return tls_of(version, context)


def client_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return tls_of(version, context)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The system trusts the authority of the tests."""
    path = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(os.fspath(path))
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(path))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_is_told_nothing_speaks_tls_1_2_and_newer(
    face: Face, version: ssl.TLSVersion
) -> None:
    """HS-2, SO-7, SO-11."""
    with served(ssl_context=server_of(version)) as url, face.opened(url) as ws:
        assert url.startswith("wss://")
        ws.send("secret")
        assert ws.receive() == "secret"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_what_is_older_is_refused_unless_it_is_asked_for(
    face: Face, version: ssl.TLSVersion
) -> None:
    """SO-10, SO-12, SO-13."""
    if not (ssl.HAS_TLSv1 and ssl.HAS_TLSv1_1):
        pytest.skip("this Python's OpenSSL has no such version")
    with served(ssl_context=server_of(version)) as url:
        words, error = face.failure(url)
        assert words.startswith(f"TLS with {url[6:-1]} failed: ")
        assert isinstance(error, ssl.SSLError)
        with face.opened(url, ssl_context=client_of(version)) as ws:
            ws.send("secret")
            assert ws.receive() == "secret"


def test_a_client_that_asks_for_tls_1_3_takes_nothing_older(face: Face) -> None:
    """SO-10."""
    newest = client_of(ssl.TLSVersion.TLSv1_3)
    with served(ssl_context=server_of(ssl.TLSVersion.TLSv1_3)) as url:
        with face.opened(url, ssl_context=newest) as ws:
            assert ws.is_open
    with served(ssl_context=server_of(ssl.TLSVersion.TLSv1_2)) as url:
        words, _ = face.failure(url, ssl_context=newest)
    assert "protocol version" in words


def test_tls_settings_for_a_url_without_tls_are_a_mistake(face: Face) -> None:
    with pytest.raises(ValueError, match="wss://"):
        face.make("ws://127.0.0.1/", ssl_context=client_tls())


# --- What keeps it from opening, in words for a person ---


def test_an_unknown_host_is_named(face: Face) -> None:
    """HS-6, DE-16, DE-18, LW-8."""
    words, error = face.failure("ws://nowhere.invalid/")
    assert isinstance(error, socket.gaierror)
    assert "the host nowhere.invalid was not found: " in words


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_refused_port_is_named(face: Face, scheme: str) -> None:
    """HS-6, LW-8."""
    port = free_port()
    words, error = face.failure(f"{scheme}://127.0.0.1:{port}/")
    assert words == f"cannot connect to 127.0.0.1 port {port}: Connection refused"
    assert isinstance(error, anyio.ConnectionFailed)


def test_a_certificate_of_somebody_else_is_refused_and_the_host_named(face: Face) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("elsewhere.test").configure_cert(context)
    with served(ssl_context=context) as url:
        words, error = face.failure(url, ssl_context=client_tls())
    assert words.startswith(f"the certificate of {url[6:-1]} was refused: ")
    assert "not valid for '127.0.0.1'" in words
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_a_certificate_that_nobody_vouches_for_is_refused(face: Face) -> None:
    with served(ssl_context=server_tls()) as url:
        words, error = face.failure(url)
    assert words.startswith(f"the certificate of {url[6:-1]} was refused: unable to get local")
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_a_server_without_tls_is_said_to_have_none(face: Face) -> None:
    with served() as url:
        words, error = face.failure(url.replace("ws:", "wss:"))
    assert words.startswith(f"TLS with {url[5:-1]} failed: it does not speak TLS there")
    assert isinstance(error, ssl.SSLError)


def test_a_server_that_leaves_within_the_handshake_of_tls_is_named(face: Face) -> None:
    with answered_by(lambda sock: sock.recv(4096)) as authority_:
        words, error = face.failure(f"wss://{authority_}/", ssl_context=client_tls())
    assert words == f"{authority_} left during the TLS handshake"
    assert isinstance(error, OSError)


def refuse_for_want_of_a_certificate(sock: socket.socket) -> None:
    """Do TLS 1.3 as a server that asks for one; what it says then arrives."""
    context = server_of(ssl.TLSVersion.TLSv1_3)
    context.verify_mode = ssl.CERT_REQUIRED
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    refused = False
    while not refused:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
        except ssl.SSLError:
            refused = True
    sock.sendall(outgoing.read())
    sock.shutdown(socket.SHUT_WR)
    until_it_leaves(sock)


def test_a_client_without_the_certificate_that_it_needs_is_told_so(face: Face) -> None:
    """With TLS 1.3, once the client takes TLS for open: it fails as TLS all the same."""
    with answered_by(refuse_for_want_of_a_certificate) as authority_:
        words, error = face.failure(f"wss://{authority_}/", ssl_context=client_tls())
    assert words == (
        f"TLS with {authority_} failed: it asks for a certificate of the client's"
        " (tlsv13 alert certificate required)"
    )
    assert isinstance(error, ssl.SSLError)
    assert error.__cause__ is None


def test_a_client_without_the_certificate_that_its_proxy_needs_is_told_so(face: Face) -> None:
    with answered_by(refuse_for_want_of_a_certificate) as authority_:
        proxy = anyws.Proxy(f"https://{authority_}", ssl_context=client_tls())
        words, error = face.failure("ws://a.test/", proxy=proxy)
    assert words == (
        f"there is no way to the proxy https://{authority_}: TLS with https://{authority_} failed:"
        " it asks for a certificate of the client's (tlsv13 alert certificate required)"
    )
    assert isinstance(error, anyws.ProxyError)
    assert not error.transient


def leave_behind_tls(sock: socket.socket) -> None:
    with server_tls().wrap_socket(sock.dup(), server_side=True) as tls:
        tls.recv(4096)


def test_a_server_that_leaves_once_tls_is_open_has_left_without_an_answer(face: Face) -> None:
    """Without TLS's own end: its version does not matter, nor who asks."""
    with answered_by(leave_behind_tls) as authority_:
        words, error = face.failure(f"wss://{authority_}/", ssl_context=client_tls())
    assert words == "the server left without an answer: is it a WebSocket server?"
    assert isinstance(error, anyws.HandshakeInvalid)


def test_a_refusal_is_told_with_status_headers_and_body(face: Face) -> None:
    """DE-19."""

    def refuse(request: anyws.Request) -> anyws.Reject:
        return anyws.Reject(403, "members only", {"X-Reason": "age"})

    with served(on_request=refuse) as url:
        words, error = face.failure(url)
    assert words == "the server refused the WebSocket: 403 Forbidden: 'members only'"
    assert isinstance(error, anyws.HandshakeRejected)
    response = error.response
    assert (response.status, response.body) == (403, b"members only")
    assert response.headers["X-Reason"] == "age"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_that_never_answers_is_given_up_after_so_many_seconds(
    face: Face, scheme: str
) -> None:
    """DE-3, LW-3."""
    with answered_by(until_it_leaves) as authority_:
        words, error = face.failure(f"{scheme}://{authority_}/", config=SHORT)
    assert words == f"the opening handshake with {authority_} was not over after 0.3 s"
    assert isinstance(error, anyws.HandshakeTimeout)
    assert isinstance(error, TimeoutError)


def test_there_is_a_timeout_for_connecting_by_default() -> None:
    """DE-4."""
    assert Config().handshake_timeout == 10


# --- Closing while connecting ---


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_is_cancelled_while_it_connects_leaves_no_connection(backend: str) -> None:
    """For the blocking face that is Ctrl-C, and with callbacks `close`."""

    async def connect_and_change_one_s_mind() -> None:
        has_asked, has_left = anyio.Event(), anyio.Event()

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                assert (await stream.receive()).startswith(b"GET / ")
                has_asked.set()
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            has_left.set()

        async def connect(url: str) -> None:
            async with anyws.open_websocket(url):
                raise AssertionError("nobody has answered")

        with anyio.fail_after(GUARD):
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            async with anyio.create_task_group() as servers:
                servers.start_soon(listener.serve, serve)
                url = f"ws://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(connect, url)
                    await has_asked.wait()
                    task_group.cancel_scope.cancel()
                await has_left.wait()
                servers.cancel_scope.cancel()
            await listener.aclose()

    anyio.run(connect_and_change_one_s_mind, backend=backend)

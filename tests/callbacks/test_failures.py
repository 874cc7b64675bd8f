"""What keeps a connection from opening: one Failed, in words that a person understands, in time."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from callbacks.clients import GUARD, Heard, served, silent_server
from connections import authority, client_tls, server_tls
from programs import free_port

import anyws
from anyws import Config
from anyws.callbacks import Client, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

# What the whole of opening may take, in seconds.
CONNECT_TIMEOUT = 3.0


def failure(url: str, *, timeout: float = CONNECT_TIMEOUT, **options: object) -> Failed:
    """Open, and return the one event that comes of it."""
    heard = Heard()
    client = Client(url, heard, config=Config(handshake_timeout=timeout), **options)
    before = time.monotonic()
    client.open()
    end = heard.wait_for_end()
    assert time.monotonic() - before < timeout + 1
    assert heard.events == [end]
    assert isinstance(end, Failed)
    assert client.status is anyws.Status.CLOSED
    with pytest.raises(anyws.ConnectionClosed, match="could not be opened"):
        client.send("x")
    return end


def test_a_server_that_refuses_is_told_with_status_headers_and_body():
    def refuse(request: anyws.Request) -> anyws.Reject:
        return anyws.Reject(403, "members only", {"X-Reason": "age"})

    with served(on_request=refuse) as url:
        end = failure(url)
    assert end.what == "the server refused the WebSocket: 403 Forbidden: 'members only'"
    assert end.response is not None
    assert (end.response.status, end.response.text) == (403, "members only")
    assert end.response.headers["X-Reason"] == "age"
    assert isinstance(end.error, anyws.HandshakeRejected)


def test_an_unknown_host_is_named():
    end = failure("ws://nowhere.invalid/")
    assert isinstance(end.error, (socket.gaierror, anyws.HandshakeTimeout))
    assert "nowhere.invalid" in end.what
    assert end.response is None


def test_a_refused_port_is_named():
    port = free_port()
    end = failure(f"ws://127.0.0.1:{port}/")
    assert end.what == f"cannot connect to 127.0.0.1 port {port}: Connection refused"
    assert isinstance(end.error, OSError)


def test_a_certificate_for_another_host_is_refused_and_said_to_be():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("elsewhere.test").configure_cert(context)
    with served(ssl_context=context) as url:
        end = failure(url, ssl_context=client_tls())
    assert end.what.startswith(f"the certificate of {url[6:-1]} was refused: ")
    assert "127.0.0.1" in end.what
    assert isinstance(end.error, ssl.SSLCertVerificationError)


def test_a_certificate_that_nobody_vouches_for_is_refused():
    with served(ssl_context=server_tls()) as url:
        end = failure(url)
    assert "unable to get local issuer certificate" in end.what


def test_a_tls_version_that_the_server_does_not_have_is_a_failure_of_tls():
    old = server_tls()
    ours = ssl.create_default_context()
    ours.maximum_version = ssl.TLSVersion.TLSv1_2
    authority().configure_trust(ours)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority().issue_cert("127.0.0.1").configure_cert(context)
    assert old is not context
    with served(ssl_context=context) as url:
        end = failure(url, ssl_context=ours)
    assert end.what.startswith(f"TLS with {url[6:-1]} failed: ")


def test_a_silent_server_is_given_up_when_the_time_is_over():
    with silent_server() as url:
        end = failure(url, timeout=1)
    assert end.what == f"the opening handshake with {url[5:-1]} was not over after 1 s"
    assert isinstance(end.error, TimeoutError)


def test_a_server_that_leaves_within_the_handshake():
    with answering(b"") as url:
        end = failure(url)
    assert isinstance(end.error, anyws.HandshakeInvalid)


def test_a_server_that_is_none_of_websockets():
    with answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea\r\n\r\n") as url:
        end = failure(url)
    assert isinstance(end.error, anyws.HandshakeInvalid)
    assert end.response is None


def test_a_failed_client_can_be_opened_again():
    heard = Heard()
    client = Client(f"ws://127.0.0.1:{free_port()}/", heard)
    for number in range(1, 4):
        client.open()
        heard.wait_for_end(number)
    assert heard.kinds == [Failed] * 3


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Take a connection, read its request, answer with these bytes, and leave."""

    def answer_one() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(GUARD)
            request = b""
            while not request.endswith(b"\r\n\r\n") and (more := sock.recv(4096)):
                request += more
            sock.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(GUARD)
        thread = threading.Thread(target=answer_one)
        thread.start()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(GUARD)

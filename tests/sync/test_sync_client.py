"""From a URL to a connection, without an event loop: what is asked for, and all that can fail."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from bars import raw
from bars.peers import CLOSE, TEXT, authority, client_tls
from faces import plain
from frames import close_frame, frame
from streams import request_bytes
from sync.peers import QUICK, client_of_peer, connect, connected, served

import anyws
import anyws.sync
from anyws import Config, Role, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(30)

every_network = pytest.mark.parametrize("kind", ["tcp", "tls"])
#: seconds; long enough for loopback, short enough for a test
SHORT = Config(handshake_timeout=0.3, cancel_grace=0.2, close_timeout=2)


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


@contextmanager
def answered_by(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Give the URL of a server that does this with its one client's socket, and hangs up."""
    with plain.answered_by(serve) as authority:
        yield f"ws://{authority}/"


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        raw._read_head(sock)
        sock.sendall(answer)

    return serve


def opened(url: str, **options: object) -> None:
    """Open and close."""
    with anyws.sync.open_websocket(url, **{"config": QUICK, **options}):
        pass


# --- What is asked for ---


@every_network
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 900_000])
def test_messages_come_back_as_they_were_sent(kind: str, size: int) -> None:
    """LW-1, LW-2."""
    with served(echo, kind) as server, connect(server) as ws:
        for message in ["é€😀" * (size // 9) + "x" * (size % 9), bytes(range(256)) * (size // 256)]:
            ws.send(message)
            assert ws.receive(20) == message


def test_both_ends_know_what_they_are() -> None:
    """LW-7, LW-29."""
    with connected() as (client, server):
        assert (client.role, server.role) == (Role.CLIENT, Role.SERVER)
        assert (client.status, server.status) == (Status.OPEN, Status.OPEN)
        assert client.is_open
        assert client.closure is None
        assert client.response.status == 101
        assert client.request.path == server.request.path == "/"
        assert client.subprotocol is None
        assert client.latency is None
        assert repr(client).startswith("<anyws.sync.WebSocket client of ws://127.0.0.1:")
        assert repr(server).startswith("<anyws.sync.WebSocket server of 127.0.0.1:")


@pytest.mark.parametrize("headers", [{"X-A": "1", "X-B": "2"}, [("X-A", "1"), ("X-B", "2")]])
def test_headers_go_out_as_a_mapping_and_as_pairs(headers) -> None:
    with client_of_peer(headers=headers, origin="http://o.test") as (ws, peer):
        assert "X-A: 1\r\nX-B: 2" in peer.head
        assert "Origin: http://o.test" in peer.head
        assert ws.request.headers["X-A"] == "1"


def test_the_subprotocol_is_the_one_that_the_server_chose() -> None:
    with served({"b": echo}) as server:
        with connect(server, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
            assert "subprotocol 'b'" in repr(ws)


def test_a_port_given_beside_the_url_takes_the_place_of_its_own() -> None:
    with served(echo) as server:
        opened("ws://127.0.0.1:1/", port=server.port)
        opened("ws://127.0.0.1", port=server.port)


def test_messages_are_compressed_where_both_ends_agree() -> None:
    for config, agreed in [
        (QUICK, ("permessage-deflate",)),
        (Config(compression=None, close_timeout=2), ()),
    ]:
        with served(echo) as server, connect(server, config=config) as ws:
            assert ws.extensions == agreed
            for message in ["a" * 500_000, "b" * 500_000, b"\0" * 10]:
                ws.send(message)
                assert ws.receive(20) == message
            ws.send("c" * 1000, compress=False)
            assert ws.receive(20) == "c" * 1000


def test_tls_is_1_2_or_newer_by_default_and_by_option_another() -> None:
    context = client_tls()
    with served(echo, "tls") as server:
        with connect(server, ssl_context=context) as ws:
            tls = ws._transport._stream.ssl_object
            assert tls.version() in {"TLSv1.2", "TLSv1.3"}
        older = ssl.create_default_context()
        authority().configure_trust(older)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with connect(server, ssl_context=older) as ws:
            tls = ws._transport._stream.ssl_object
            assert tls.version() == "TLSv1.2"
            ws.send("x")
            assert ws.receive(5) == "x"


@every_network
def test_frames_that_come_with_the_101_are_received(kind: str) -> None:
    first = frame(TEXT, b"at once") + frame(TEXT, b"at twice") + close_frame(4000)
    with client_of_peer(kind, after=first) as (ws, peer):
        assert ws.receive(5) == "at once"
        assert ws.receive(0) == "at twice"
        with pytest.raises(anyws.ClosedWithError):
            ws.receive(5)
        assert peer.next_frame().opcode == CLOSE


# --- The caller's mistakes, raised before anything happens ---


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("http://localhost/", {}, anyws.InvalidURL),
        ("ws://", {}, anyws.InvalidURL),
        ("ws://localhost/", {"port": 70000}, ValueError),
        ("ws://localhost/", {"port": "80"}, TypeError),
        ("ws://localhost/", {"ssl_context": ssl.create_default_context()}, ValueError),
        ("ws://localhost/", {"headers": {"X": "a\r\nb"}}, ValueError),
        ("ws://localhost/", {"headers": {"Host": "x"}}, ValueError),
        ("ws://localhost/", {"subprotocols": "chat"}, TypeError),
        ("ws://localhost/", {"subprotocols": ["a b"]}, ValueError),
        ("ws://localhost/", {"config": {}}, TypeError),
    ],
)
def test_what_cannot_be_asked_for_is_refused_where_it_is_asked(url, options, error) -> None:
    with pytest.raises(error):
        anyws.sync.open_websocket(url, **options)


def test_a_context_manager_is_entered_once_at_a_time() -> None:
    with served(echo) as server:
        opening = connect(server, headers=iter([("X-A", "1")]))
        for _ in range(2):
            with opening as ws:
                assert ws.request.headers["X-A"] == "1"
                with pytest.raises(RuntimeError, match="entered already"):
                    opening.__enter__()
            assert ws.status is Status.CLOSED


# --- What the server, or the network, can do ---


def test_a_refusal_tells_status_headers_and_body() -> None:
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nX-Why: rain\r\n\r\nno, a"
    with answered_by(saying(answer)) as url:
        with pytest.raises(anyws.HandshakeRejected, match="403") as caught:
            opened(url)
    response = caught.value.response
    assert (response.status, response.body, response.headers["X-Why"]) == (403, b"no, a", "rain")


def test_a_refusal_whose_body_does_not_end_is_a_refusal_all_the_same() -> None:
    def serve(sock: socket.socket) -> None:
        saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nno, a")(sock)
        plain.until_it_leaves(sock)

    with answered_by(serve) as url:
        with pytest.raises(anyws.HandshakeRejected) as caught:
            opened(url, config=Config(handshake_timeout=0.9))
    assert caught.value.response.body == b"no, a"


def test_a_refusal_cut_off_by_a_reset_is_a_refusal_all_the_same() -> None:
    def serve(sock: socket.socket) -> None:
        saying(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nno, a")(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with answered_by(serve) as url:
        with pytest.raises((anyws.HandshakeRejected, anyws.HandshakeInvalid)):
            opened(url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"220 mail.test ESMTP\r\n", "which is not HTTP/1.1"),
        (b"", "without an answer"),
        (b"HTTP/1.1 101 Swi", "in the middle of its answer"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "missing"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "wss://"),
    ],
)
def test_garbage_is_no_handshake(answer: bytes, words: str) -> None:
    with answered_by(saying(answer)) as url:
        with pytest.raises(anyws.HandshakeInvalid, match=words):
            opened(url)


def test_a_server_that_resets_the_connection_has_lost_it() -> None:
    def serve(sock: socket.socket) -> None:
        raw._read_head(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with answered_by(serve) as url:
        with pytest.raises(anyws.HandshakeInvalid, match="was lost during the opening handshake"):
            opened(url)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_that_never_answers_has_as_long_as_it_was_given(scheme: str) -> None:
    with answered_by(plain.until_it_leaves) as url:
        began = time.monotonic()
        with pytest.raises(anyws.HandshakeTimeout, match=r"not over after 0\.3 s") as caught:
            opened(url.replace("ws:", f"{scheme}:"), config=SHORT)
        assert isinstance(caught.value, TimeoutError)
        assert 0.25 < time.monotonic() - began < 5


def test_a_server_that_answers_a_byte_at_a_time_has_no_longer() -> None:
    def serve(sock: socket.socket) -> None:
        raw._read_head(sock)
        gone = threading.Event()
        try:
            for byte in b"HTTP/1.1 101 Switching Protocols" + b"X" * 1000:
                sock.sendall(bytes([byte]))
                gone.wait(0.01)
        except OSError:
            pass

    with answered_by(serve) as url:
        began = time.monotonic()
        with pytest.raises(anyws.HandshakeTimeout):
            opened(url, config=SHORT)
        assert time.monotonic() - began < 5


def test_a_server_that_accepts_nothing_has_as_long_as_it_was_given() -> None:
    """Its backlog is full, so that the system leaves the connection unanswered."""
    with socket.socket() as listening:
        listening.bind((raw.HOST, 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        try:
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(listening.getsockname())
            began = time.monotonic()
            with pytest.raises(anyws.HandshakeTimeout):
                opened(f"ws://{raw.HOST}:{listening.getsockname()[1]}/", config=SHORT)
            assert 0.25 < time.monotonic() - began < 5
        finally:
            for sock in waiting:
                sock.close()


def test_a_refused_port_is_told_with_host_and_port() -> None:
    with socket.socket() as bound:
        bound.bind((raw.HOST, 0))
        port = bound.getsockname()[1]
        with pytest.raises(
            anyio.ConnectionFailed, match=f"127.0.0.1 port {port}: .*refused"
        ) as caught:
            opened(f"ws://{raw.HOST}:{port}/")
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_an_unknown_host_is_an_error_of_the_system_s() -> None:
    with pytest.raises(socket.gaierror):
        opened("ws://nowhere.invalid/")


def test_a_certificate_for_somebody_else_is_refused() -> None:
    with served(echo, "tls") as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(server, ssl_context=ssl.create_default_context()).__enter__()
        with connect(server) as ws:  # the server goes on
            ws.send("x")
            assert ws.receive(5) == "x"


@every_network
def test_a_network_that_takes_its_time_has_all_of_the_time_that_there_is(kind: str) -> None:
    """More than a second, after which a wait looks around, at the start of each direction."""
    with served(echo, kind) as server, raw.listen() as listening:

        def carry(source: socket.socket, target: socket.socket) -> None:
            time.sleep(1.2)
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def relay() -> None:
            with raw.accept(listening) as one, raw.connect(server.port) as other:
                back = threading.Thread(target=carry, args=(other, one))
                back.start()
                carry(one, other)
                back.join()

        thread = threading.Thread(target=relay)
        thread.start()
        url = server.url.replace(str(server.port), str(listening.getsockname()[1]))
        options = {"ssl_context": client_tls()} if kind == "tls" else {}
        with anyws.sync.open_websocket(url, **options) as ws:
            ws.send("slow")
            assert ws.receive(10) == "slow"
        thread.join()


def test_a_server_without_tls_is_no_server_with_tls() -> None:
    with served(echo) as server:
        with pytest.raises(OSError, match=r"(?i)ssl|tls|reset|left"):
            opened(server.url.replace("ws:", "wss:"))


def test_a_server_that_leaves_during_the_handshake_of_tls_has_lost_the_connection() -> None:
    with answered_by(lambda sock: sock.recv(10)) as url:
        with pytest.raises(OSError, match=r"(?i)ssl|tls|reset|left"):
            opened(url.replace("ws:", "wss:"))


def test_the_request_is_one_that_every_server_reads() -> None:
    with client_of_peer() as (ws, peer):
        lines = peer.head.split("\r\n")
        assert lines[0] == "GET / HTTP/1.1"
        assert {line.split(":")[0] for line in request_bytes().decode().split("\r\n")[1:-2]} <= {
            line.split(":")[0] for line in lines[1:]
        }
        assert ws.request.headers["Host"] in ws._handshake.peer


# --- Names and addresses ---


def resolving(
    monkeypatch: pytest.MonkeyPatch, families: list[int], after: float = 0.0
) -> list[int]:
    """Have the system's resolver give these families, after some seconds; count its calls."""
    calls: list[int] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        calls.append(port)
        time.sleep(after)
        stream = socket.SOCK_STREAM
        return [(family, stream, 0, "", (raw.HOST, port)) for family in families]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return calls


def test_a_family_that_the_system_does_not_know_leaves_those_behind_it(monkeypatch) -> None:
    with served(echo) as server:
        resolving(monkeypatch, [9999, socket.AF_INET])
        opened(f"ws://somewhere.test:{server.port}/")


def test_where_the_system_knows_no_family_of_a_host_that_is_told(monkeypatch) -> None:
    resolving(monkeypatch, [9999, 9998])
    with pytest.raises(anyio.ConnectionFailed, match=r"cannot connect to somewhere\.test"):
        opened("ws://somewhere.test/")


def test_a_lookup_counts_as_part_of_the_handshake_and_is_not_broken_off(monkeypatch) -> None:
    accepted = []
    with raw.listen() as listening:
        listening.settimeout(0.1)
        port = listening.getsockname()[1]
        calls = resolving(monkeypatch, [socket.AF_INET], after=0.4)
        began = time.monotonic()
        with pytest.raises(anyws.HandshakeTimeout, match=r"not over after 0\.3 s"):
            opened(f"ws://somewhere.test:{port}/", config=SHORT)
        assert time.monotonic() - began >= 0.4
        with contextlib.suppress(TimeoutError):
            accepted.append(listening.accept())
    # There was no time left to connect.
    assert (calls, accepted) == ([port], [])

"""A server in threads: who serves which client, how it listens, and how it is closed."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from bars import raw
from bars.peers import CLOSE, client_tls
from programs import free_port, started
from streams import request_bytes
from sync.peers import LARGE, QUICK, Peer, connect, served

import anyws
import anyws.sync
from anyws import Config, Reject, Response
from anyws.sync._server import _Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(30)

HANDSHAKE = request_bytes()


def says(word: str) -> Callable[[WebSocket], None]:
    def handler(ws: WebSocket) -> None:
        ws.send(word)

    return handler


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [r.levelno for r in caplog.records if r.name == "anyws.server"]


def answer_to(port: int, request: bytes) -> bytes:
    """All that the server says to this, to the end of the stream."""
    with raw.connect(port) as sock:
        sock.sendall(request)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
        return answer


def is_refused(port: int) -> bool:
    """Whether nobody listens there; only a `free_port` is nobody else's by then."""
    try:
        raw.connect(port).close()
    except OSError:
        return True
    return False


# --- Who serves whom ---


BOTH = {"a": says("a"), "b": says("b")}


@pytest.mark.parametrize(
    ("handlers", "default", "offered", "answer"),
    [
        (BOTH, None, ["b", "a"], ("b", "b")),
        (BOTH, None, ["x", "b", "a"], ("b", "b")),
        ({**BOTH, None: says("none")}, says("default"), [], ("none", None)),
        ({**BOTH, None: says("none")}, says("default"), ["x"], ("default", None)),
        (BOTH, says("default"), [], ("default", None)),
        ({None: says("none")}, None, [], ("none", None)),
        (says("everybody"), None, ["x", "y"], ("everybody", None)),
    ],
)
def test_the_client_s_first_choice_decides_and_then_the_default(
    handlers, default, offered, answer
) -> None:
    with served(handlers, default=default) as server:
        with connect(server, subprotocols=offered) as ws:
            assert (ws.receive(5), ws.subprotocol) == answer


@pytest.mark.parametrize("offered", [[], ["x"]])
def test_whom_no_handler_serves_is_told_so_with_400(offered, caplog) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    with served(BOTH) as server:
        with pytest.raises(anyws.HandshakeRejected) as caught:
            connect(server, subprotocols=offered).__enter__()
    assert caught.value.response.status == 400
    assert b"it knows: a, b" in caught.value.response.body
    assert levels(caplog) == [logging.INFO]


def test_each_connection_has_a_thread_of_its_own() -> None:
    together = threading.Barrier(3, timeout=raw.GUARD)

    def handler(ws: WebSocket) -> None:
        together.wait()
        echo(ws)

    with served(handler) as server, connect(server) as first, connect(server) as second:
        together.wait()
        for ws in (first, second, first):
            ws.send("x")
            assert ws.receive(5) == "x"


# --- Who gets in ---


def test_on_request_lets_in_and_refuses() -> None:
    def on_request(request: anyws.Request) -> Any:
        match request.path:
            case "/returned":
                return Reject(401, "who?")
            case "/response":
                return Response(403, {"X-Why": "rain"}, b"no")
            case "/raised":
                raise Reject(404, "where?")
        assert request.remote_address[0] == raw.HOST
        return None

    with served(says("in"), on_request=on_request) as server:
        for path, status, body in [
            ("returned", 401, b"who?"),
            ("response", 403, b"no"),
            ("raised", 404, b"where?"),
        ]:
            with pytest.raises(anyws.HandshakeRejected) as caught:
                anyws.sync.open_websocket(server.url + path, config=QUICK).__enter__()
            assert (caught.value.response.status, caught.value.response.body) == (status, body)
        with connect(server) as ws:
            assert ws.receive(5) == "in"


async def not_now(_: object) -> None:
    """An async function, where there is no event loop."""


@pytest.mark.parametrize(
    "on_request", [lambda _: 1 / 0, lambda _: "yes", lambda _: Response(101), not_now.__call__]
)
def test_an_on_request_that_fails_is_answered_with_500_and_logged(on_request, caplog) -> None:
    with served(echo, on_request=lambda request: on_request(request)) as server:
        for _ in range(2):
            with pytest.raises(anyws.HandshakeRejected) as caught:
                connect(server).__enter__()
            assert caught.value.response.status == 500
    assert levels(caplog) == [logging.ERROR] * 2
    assert "on_request failed" in caplog.text
    assert all(record.exc_info for record in caplog.records)


def test_a_foreign_origin_is_refused_with_403() -> None:
    with served(says("in")) as server:
        with pytest.raises(anyws.HandshakeRejected) as caught:
            connect(server, origin="https://else.test").__enter__()
        assert caught.value.response.status == 403
    with served(says("in"), origins=["https://else.test"]) as server:
        with connect(server, origin="https://else.test") as ws:
            assert ws.receive(5) == "in"


def test_headers_of_the_server_s_are_in_the_101() -> None:
    with served(echo, headers={"X-Served-By": "us"}) as server, connect(server) as ws:
        assert ws.response.headers["X-Served-By"] == "us"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (HANDSHAKE.replace(b"13", b"12"), b"426"),
        (HANDSHAKE + b"x" * 100_000, None),
    ],
)
def test_a_request_that_is_none_of_a_websocket_is_answered_as_http_has_it(
    request_, status, caplog
) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    with served(echo) as server:
        answer = answer_to(server.port, request_)
        if status is None:
            assert answer.startswith(b"HTTP/1.1 101")
        else:
            assert answer.split(b" ")[1] == status
    assert set(levels(caplog)) == {logging.INFO}


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_who_says_nothing_is_sent_away_after_the_handshake_timeout(kind: str, caplog) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    config = Config(handshake_timeout=0.2, drain_timeout=1)
    with served(echo, kind, config=config) as server:
        began = time.monotonic()
        assert answer_to(server.port, b"") == b""
        assert 0.15 < time.monotonic() - began < 5
    assert levels(caplog) == [logging.INFO]
    assert "not over in time" in caplog.text


def test_who_leaves_within_the_handshake_disturbs_nobody(caplog) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    with served(says("in")) as server:
        for request in (b"", HANDSHAKE[:40]):
            raw_client = raw.connect(server.port)
            raw_client.sendall(request)
            raw_client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw_client.close()
        with connect(server) as ws:
            assert ws.receive(5) == "in"
    assert set(levels(caplog)) == {logging.INFO}


# --- Handlers ---


@pytest.mark.parametrize(
    ("handler", "code", "words"),
    [
        (lambda ws: 1 / 0, 1011, "ZeroDivisionError"),
        (lambda ws: not_now(ws), 1011, "something to await"),
        (lambda ws: None, 1000, None),
        (lambda ws: ws.close(4000, "enough"), 4000, None),
        (lambda ws: ws.receive_json(), 1011, "JSON"),
    ],
)
def test_the_end_of_a_handler_is_the_end_of_its_connection(handler, code, words, caplog) -> None:
    patient = Config(cancel_grace=20, close_timeout=20, drain_timeout=20)
    with served(handler, config=patient) as server:
        with connect(server) as ws:
            ws.send("{")
            with pytest.raises(anyws.ConnectionClosed) as caught:
                ws.receive(5)
            assert caught.value.closure.code == code
            assert ws.close().clean
        with connect(server) as ws:
            ws.send("the next")
            assert ws.close().clean
    if words is None:
        assert levels(caplog) == []
    else:
        assert levels(caplog)[0] == logging.ERROR
        assert words in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_handler_that_asks_for_the_end_of_its_thread_ends_its_connection() -> None:
    def handler(ws: WebSocket) -> None:
        raise SystemExit

    with served(handler) as server, connect(server) as ws:
        with pytest.raises(anyws.ClosedWithError) as caught:
            ws.receive(5)
        assert caught.value.closure.code == 1011


def test_the_end_of_its_own_connection_is_no_crash_of_a_handler(caplog) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    with served(lambda ws: ws.receive()) as server:
        with connect(server) as ws:
            assert ws.close(4000, "enough").clean
    assert levels(caplog) == [logging.INFO]
    assert not any(r.exc_info for r in caplog.records)
    assert "4000" in caplog.text


# --- Arguments ---


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"port": None}, TypeError, "a server needs a port=, or else sockets="),
        ({"sockets": []}, TypeError, "a server needs a port=, or else sockets="),
        ({"port": 65536}, ValueError, "port must be from 0 to 65535"),
        ({"port": "80"}, TypeError, "port must be an int"),
        ({"handlers": 5}, TypeError, "the handler must be a function"),
        ({"handlers": {}}, ValueError, "the mapping of handlers is empty"),
        ({"handlers": not_now}, TypeError, "must not be async: there is no event loop"),
        ({"handlers": {"a": not_now}}, TypeError, "must not be async"),
        ({"handlers": {"a": echo}, "default": not_now}, TypeError, "must not be async"),
        ({"on_request": not_now}, TypeError, "must not be async"),
        ({"on_request": 5}, TypeError, "on_request must be a function that takes a Request"),
        ({"origins": "https://x.test"}, TypeError, "origins"),
        ({"headers": {"A": "b\r\nC: d"}}, ValueError, "A"),
        ({"config": {}}, TypeError, "config must be a Config"),
    ],
)
def test_a_wrong_argument_is_told_where_it_is_given(options, error, words: str) -> None:
    given = {"handlers": echo, "port": 0, **options}
    with pytest.raises(error, match=words):
        anyws.sync.open_server(**given)
    with pytest.raises(error, match=words):
        anyws.sync.serve(**given)


def test_a_server_that_is_never_entered_leaves_nothing() -> None:
    """The fixture of every test sees to that."""
    anyws.sync.open_server(echo, port=0)


def test_a_server_is_entered_once() -> None:
    opening = anyws.sync.open_server(echo, host=raw.HOST, port=0, config=QUICK)
    with opening as server:
        with pytest.raises(RuntimeError, match="entered before"):
            opening.__enter__()
        with connect(server) as ws:
            ws.send("still here")
            assert ws.receive(5) == "still here"
    with pytest.raises(RuntimeError, match="entered before"):
        opening.__enter__()


def test_listening_where_another_listens_is_the_system_s_error() -> None:
    with served(echo) as server:
        for _ in range(2):
            with pytest.raises(OSError, match="in use"):
                anyws.sync.open_server(echo, host=raw.HOST, port=server.port).__enter__()
        with pytest.raises(OSError, match="in use"):
            anyws.sync.serve(echo, host=raw.HOST, port=server.port)


# --- Where it listens ---


@pytest.mark.parametrize("host", [raw.HOST, "localhost", "0.0.0.0", None])
def test_the_url_reaches_the_server_from_its_own_machine(host: str | None) -> None:
    with served(says("hello"), host=host) as server:
        assert server.url.endswith(f":{server.port}/")
        with connect(server) as ws:
            assert ws.receive(5) == "hello"
        # On each of the addresses, the port is the same.
        assert len({address[1] for address in server._addresses}) == 1


def test_with_tls_the_url_says_wss_and_large_messages_pass() -> None:
    with served(echo, "tls") as server, connect(server) as ws:
        assert server.url == f"wss://{raw.HOST}:{server.port}/"
        for _ in range(3):
            ws.send(b"x" * LARGE)
            assert len(ws.receive(20)) == LARGE


def test_a_request_that_comes_with_the_last_of_the_handshake_of_tls_is_read() -> None:
    """Together with frames, and all in one write."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with served(echo, "tls") as server, raw.connect(server.port) as sock:
        tls = client_tls().wrap_bio(incoming, outgoing, server_hostname=raw.HOST)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))
        peer = Peer(sock, "", b"", is_server=False)
        tls.write(HANDSHAKE + peer.frame(1, b"at once") + peer.frame(CLOSE, b"\x03\xe8"))
        sock.sendall(outgoing.read())
        answer = b""
        while chunk := sock.recv(1 << 16):
            incoming.write(chunk)
            try:
                while piece := tls.read():
                    answer += piece
            except ssl.SSLWantReadError:
                pass
            except OSError:
                break
        head, _, frames = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert frames == b"\x81\x07at once\x88\x02\x03\xe8"


def test_a_server_accepts_from_each_of_the_sockets_given_and_closes_them(tmp_path: Path) -> None:
    first, second = (socket.create_server((raw.HOST, free_port())) for _ in range(2))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    ports = first.getsockname()[1], second.getsockname()[1]
    with served(says("hello"), host=None, port=None, sockets=[unix, first, second]) as server:
        assert server.port == ports[0]
        for port in ports:
            with anyws.sync.open_websocket(f"ws://{raw.HOST}:{port}/", config=QUICK) as ws:
                assert ws.receive(5) == "hello"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
            _, received = raw.ask(client)
            peer = Peer(client, "", received, is_server=False)
            assert [f.payload for f in peer.until_close()] == [b"hello", b"\x03\xe8"]
    assert [is_refused(port) for port in ports] == [True, True]
    assert {first.fileno(), second.fileno(), unix.fileno()} == {-1}
    # Where it listened is still known: for a log, say.
    assert server.port == ports[0]


def test_a_server_without_tcp_has_no_port(tmp_path: Path) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    with served(echo, host=None, port=None, sockets=[unix]) as server:
        for what in ("port", "url"):
            with pytest.raises(RuntimeError, match="listens at no TCP port"):
                getattr(server, what)


def test_the_connections_are_those_whose_handlers_run() -> None:
    arrived: list[WebSocket] = []
    entered, released = threading.Event(), threading.Event()

    def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        entered.set()
        released.wait(raw.GUARD)

    with served(handler) as server:
        half_open = raw.connect(server.port)
        assert server.connections == frozenset()
        with connect(server):
            assert entered.wait(raw.GUARD)
            assert server.connections == frozenset(arrived)
            released.set()
        half_open.close()
    assert server.connections == frozenset()


# --- How it ends ---


@pytest.mark.parametrize("how", ["left", "close"])
def test_a_server_that_is_closed_sends_1001_and_its_handlers_end(how: str, run) -> None:
    ended = threading.Event()

    def handler(ws: WebSocket) -> None:
        try:
            ws.receive()
        except anyws.ClosedByUs:
            ended.set()

    with served(handler, port=free_port(), config=Config(drain_timeout=20)) as server:
        opening = connect(server)
        ws = opening.__enter__()
        receiving = run(ws.receive)
        if how == "close":
            server.close()
            assert ended.is_set()
            server.close()
    assert ended.is_set()
    with pytest.raises(anyws.ClosedByPeer) as caught:
        receiving.result(5)
    assert caught.value.closure.code == 1001
    opening.__exit__(None, None, None)
    assert is_refused(server.port)


def test_connections_that_are_kept_go_on_until_they_end_themselves(run) -> None:
    with served(echo, port=free_port()) as server:
        opening = connect(server)
        ws = opening.__enter__()
        ws.send("before")
        assert ws.receive(5) == "before"
        server.close(keep_connections=True)
        assert is_refused(server.port)
        ws.send("after")
        assert ws.receive(5) == "after"
        leaving = run(lambda: (ws.send("last"), ws.receive(5), ws.close())[1])
    assert leaving.result(5) == "last"
    opening.__exit__(None, None, None)
    assert ws.closure.sent.code == 1000


def test_connections_that_were_kept_can_be_closed_later(run) -> None:
    with served(echo) as server:
        opening = connect(server)
        ws = opening.__enter__()
        ws.send("before")
        assert ws.receive(5) == "before"
        server.close(keep_connections=True)
        closing = run(server.close)
        with pytest.raises(anyws.ClosedByPeer):
            ws.receive(5)
        opening.__exit__(None, None, None)
        closing.result(5)


@pytest.mark.parametrize("where", ["receive", "send", "elsewhere"])
def test_a_handler_that_does_not_end_is_cut_off_and_named(where: str, caplog) -> None:
    entered, released = threading.Event(), threading.Event()

    def handler(ws: WebSocket) -> None:
        entered.set()
        try:
            while where == "send":
                ws.send(b"x" * LARGE)
            if where == "receive":
                ws.receive()
        except anyws.ConnectionClosed:
            pass
        if where == "elsewhere":
            released.wait(raw.GUARD)

    config = Config(drain_timeout=0.2, cancel_grace=0.2 if where == "elsewhere" else 2)
    with served(handler, config=config) as server, raw.connect(server.port) as sock:
        raw.ask(sock)
        assert entered.wait(raw.GUARD)
        name = next(iter(server._served.values())).name
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 5
        released.set()
    named = f"handlers still run: {name}" in caplog.text
    assert named is (where == "elsewhere")


def test_handlers_have_their_grace_from_when_their_connections_are_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes, as for very many."""
    entered = threading.Event()

    def handler(ws: WebSocket) -> None:
        entered.set()
        with pytest.raises(anyws.ConnectionClosed):
            ws.receive()
        time.sleep(0.1)

    cut = _Served.cut

    def cut_slowly(served: _Served) -> None:
        time.sleep(0.4)
        cut(served)

    monkeypatch.setattr(_Served, "cut", cut_slowly)
    with ExitStack() as stack:
        config = Config(drain_timeout=0, cancel_grace=1.2)
        server = stack.enter_context(served(handler, config=config))
        for _ in range(4):
            raw.ask(stack.enter_context(raw.connect(server.port)))
        assert entered.wait(raw.GUARD)
        server.close()
        assert server._served == {}
    assert "handlers still run" not in caplog.text


def test_a_body_that_raises_gives_handlers_their_grace_alone() -> None:
    entered, released = threading.Event(), threading.Event()

    def handler(ws: WebSocket) -> None:
        entered.set()
        released.wait(raw.GUARD)

    began = time.monotonic()
    with pytest.raises(ValueError, match="mine"):
        with served(handler, config=Config(cancel_grace=0.1, drain_timeout=20)) as server:
            sock = raw.connect(server.port)
            raw.ask(sock)
            assert entered.wait(raw.GUARD)
            raise ValueError("mine")
    assert time.monotonic() - began < 5
    released.set()
    sock.close()


@pytest.mark.parametrize("begun", [b"", HANDSHAKE[:50]])
def test_a_half_open_handshake_is_answered_with_503_when_the_server_closes(
    begun: bytes, run
) -> None:
    with served(echo) as server:
        sock = raw.connect(server.port)
        sock.sendall(begun)
        # By then the other one was accepted.
        with connect(server) as ws:
            ws.send("x")
            ws.receive(5)
    answer = b""
    with sock:
        while chunk := sock.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_handler_may_close_the_server() -> None:
    closed = threading.Event()
    holder: list[Any] = []

    def handler(ws: WebSocket) -> None:
        ws.receive()
        holder[0].close()
        closed.set()

    config = Config(drain_timeout=20, close_timeout=2)
    with served(handler, port=free_port(), config=config) as server:
        holder.append(server)
        with connect(server) as ws:
            ws.send("stop")
            with pytest.raises(anyws.ClosedByPeer) as caught:
                ws.receive(5)
            assert caught.value.closure.code == 1001
        assert closed.wait(raw.GUARD)
        assert is_refused(server.port)


def test_the_end_of_the_process_waits_for_handlers() -> None:
    """Else it would cut their connections off without a word."""
    daemons = []
    with served(lambda ws: daemons.append(threading.current_thread().daemon)) as server:
        with connect(server) as ws:
            with pytest.raises(anyws.ClosedByPeer):
                ws.receive(5)
    assert daemons == [False]


PROGRAM = """
import anyws.sync, sys

def echo(ws):
    print("open", flush=True)
    try:
        for message in ws:
            ws.send(message)
    finally:
        print("closed", flush=True)

try:
    anyws.sync.serve(echo, host="127.0.0.1", port=int(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_serve_and_closes_its_connections_with_1001() -> None:
    port = free_port()
    with started("-c", PROGRAM, port) as process:
        sock = connected_soon(port)
        with sock:
            _, received = raw.ask(sock)
            peer = Peer(sock, "", received, is_server=False)
            assert process.stdout.readline() == "open\n"
            peer.send(1, b"x")
            assert peer.next_frame().payload == b"x"
            process.send_signal(2)
            assert [f.payload for f in peer.until_close()] == [b"\x03\xe9"]
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "closed\ninterrupted\n", "")


def connected_soon(port: int) -> socket.socket:
    """A connection to a program that is about to listen."""
    deadline = time.monotonic() + raw.GUARD
    while True:
        try:
            return raw.connect(port)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline

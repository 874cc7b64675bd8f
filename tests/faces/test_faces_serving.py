"""Where a server listens, whom it serves, and how it stops: the same in each face."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from bars import raw
from callbacks.clients import GUARD
from programs import free_port

import anyws
import anyws.sync
from anyws._listening import Place

if TYPE_CHECKING:
    from faces.drivers import ServerFace

pytestmark = pytest.mark.timeout(60)


def has_more_loopback() -> bool:
    """Whether all of 127.0.0.0/8 is this machine, as on Linux."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            return False
        return True


needs_more_loopback = pytest.mark.skipif(
    not has_more_loopback(), reason="there is one loopback address"
)


def greet(ws: Any) -> None:
    ws.send("hello")


def echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


def answer_at(host: str, port: int) -> str | bytes:
    with anyws.sync.open_websocket(f"ws://{host}:{port}/") as ws:
        return ws.receive(GUARD)


def is_deaf(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), GUARD).close()
    except ConnectionRefusedError:
        return True
    return False


# --- Where ---


@pytest.mark.parametrize("host", ["*", None, ["*"]])
def test_an_asterisk_stands_for_all_interfaces(server_face: ServerFace, host: Any) -> None:
    """LW-26."""
    with server_face.serving(greet, host=host) as server:
        for address in ("127.0.0.1", "127.0.0.2" if has_more_loopback() else "localhost"):
            assert answer_at(address, server.port) == "hello"
        assert "0.0.0.0" not in server.url
        with anyws.sync.open_websocket(server.url) as ws:
            assert ws.receive(GUARD) == "hello"


@needs_more_loopback
@pytest.mark.parametrize("kind", [list, tuple, iter, set])
def test_several_interfaces_are_served_on_one_port_and_no_other_is(
    server_face: ServerFace, kind: Any
) -> None:
    """LW-26."""
    port = free_port()
    with server_face.serving(greet, host=kind(["127.0.0.1", "127.0.0.2"]), port=port) as server:
        assert answer_at("127.0.0.1", server.port) == "hello"
        assert answer_at("127.0.0.2", server.port) == "hello"
        assert is_deaf("127.0.0.3", server.port)
    assert is_deaf("127.0.0.1", server.port)
    assert is_deaf("127.0.0.2", server.port)


def test_an_interface_that_is_named_twice_is_one(server_face: ServerFace) -> None:
    with server_face.serving(greet, host=["127.0.0.1", "127.0.0.1"]) as server:
        assert answer_at("127.0.0.1", server.port) == "hello"


def test_the_port_is_the_one_that_was_asked_for(server_face: ServerFace) -> None:
    """LW-24, LW-25."""
    with server_face.serving(greet) as server:
        assert server.port != 0
    port = free_port()
    with server_face.serving(greet, port=port) as server:
        assert server.port == port
        assert answer_at("127.0.0.1", port) == "hello"


def test_a_server_needs_a_port(server_face: ServerFace) -> None:
    """LW-25."""
    with pytest.raises(TypeError, match="needs a port="):
        server_face.make(echo)


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ([], ValueError, "no host to listen at"),
        ("", ValueError, "no host to listen at"),
        (["127.0.0.1", ""], ValueError, "no host to listen at"),
        (5, TypeError, "host must be a str"),
        ([5], TypeError, "host must be a str"),
        (b"127.0.0.1", TypeError, "host must be a str"),
    ],
)
def test_what_is_no_host_is_refused_where_it_is_given(
    server_face: ServerFace, host: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        server_face.make(echo, host=host, port=0)


@needs_more_loopback
def test_a_port_that_is_taken_is_named(server_face: ServerFace) -> None:
    port = free_port()
    with socket.create_server((raw.HOST, port)):
        words = f"cannot listen at 127.0.0.1 port {port}: Address already in use"
        # The second one: what listens already at the first is closed again.
        with pytest.raises(OSError, match=words):
            with server_face.serving(echo, host=["127.0.0.2", "127.0.0.1"], port=port):
                raise AssertionError
        assert is_deaf("127.0.0.2", port)


def test_a_host_that_is_none_of_ours_is_named(server_face: ServerFace) -> None:
    with pytest.raises(socket.gaierror, match=r"the host nowhere\.invalid was not found: "):
        with server_face.serving(echo, host="nowhere.invalid"):
            raise AssertionError


def test_a_port_that_is_nowhere_free_on_all_is_not_looked_for_without_end(
    server_face: ServerFace,
) -> None:
    """Whatever the system chooses for the first, the second wants it, too."""
    with pytest.raises(OSError, match=r"cannot listen at 0\.0\.0\.0 port \d+: .* in use"):
        with server_face.serving(echo, host=["127.0.0.1", "0.0.0.0"]):
            raise AssertionError


@needs_more_loopback
def test_a_port_that_is_free_on_the_first_address_only_is_given_up_for_another() -> None:
    place = Place(["127.0.0.1", "127.0.0.2"], 0)
    addresses = [one for host in place.hosts for one in place.addresses_of(host)]
    listening: list[socket.socket] = []
    try:
        # So many that some of them meet a port which is taken on the other address.
        for _ in range(50):
            with socket.create_server(("127.0.0.2", 0)):
                first, second = place.listen(addresses)
            listening += first, second
            assert first.getsockname()[1] == second.getsockname()[1]
    finally:
        for sock in listening:
            sock.close()


# --- Whom: the example of a library in Lua ---


def uppercase(ws: Any) -> None:
    for message in ws:
        ws.send(message.upper())


def goodbye(ws: Any) -> None:
    ws.send("goodbye strange client")
    ws.close()


@pytest.mark.parametrize(
    ("offered", "chosen", "answer"),
    [
        (["echo"], "echo", "Hello"),
        (["echo-uppercase"], "echo-uppercase", "HELLO"),
        (["echo-uppercase", "echo"], "echo-uppercase", "HELLO"),
        (["unknown", "echo"], "echo", "Hello"),
        (["unknown"], None, "goodbye strange client"),
        ([], None, "goodbye strange client"),
    ],
)
def test_handlers_are_chosen_by_name_and_the_default_gets_the_others(
    server_face: ServerFace, offered: list[str], chosen: str | None, answer: str
) -> None:
    """LW-27, LW-28, LW-30, LW-33, LW-34, LW-35."""
    handlers = {"echo": echo, "echo-uppercase": uppercase}
    with server_face.serving(handlers, default=goodbye) as server:
        with anyws.sync.open_websocket(server.url, subprotocols=offered) as ws:
            assert ws.subprotocol == chosen
            if chosen is not None:
                ws.send("Hello")
            assert ws.receive(GUARD) == answer
            if chosen is None:
                with pytest.raises(anyws.ClosedByPeer) as caught:
                    ws.receive(GUARD)
                assert caught.value.closure.code == 1000


# --- How it stops ---


def test_a_server_that_is_closed_closes_its_connections(server_face: ServerFace) -> None:
    """LW-31, LW-32."""
    with server_face.serving(echo, port=free_port()) as server:
        opening = anyws.sync.open_websocket(server.url)
        with opening as ws:
            ws.send("here")
            assert ws.receive(GUARD) == "here"
            closing = threading.Thread(target=server.close)
            closing.start()
            with pytest.raises(anyws.ClosedByPeer) as caught:
                ws.receive(GUARD)
            closing.join(GUARD)
            assert caught.value.closure.code == 1001
        assert is_deaf("127.0.0.1", server.port)


def test_a_server_that_keeps_its_connections_stops_listening_and_nothing_else(
    server_face: ServerFace,
) -> None:
    """LW-31, LW-32."""
    with server_face.serving(echo, port=free_port()) as server:
        with anyws.sync.open_websocket(server.url) as ws:
            ws.send("before")
            assert ws.receive(GUARD) == "before"
            server.close(keep_connections=True)
            assert is_deaf("127.0.0.1", server.port)
            ws.send("after")
            assert ws.receive(GUARD) == "after"
            assert len(server.connections) == 1

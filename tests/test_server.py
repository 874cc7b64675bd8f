"""A server by name: who serves which client, where it listens, and what it says of itself."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from connections import QUICK, client_tls, served, server_tls
from programs import free_port
from streams import GUARD, URL

import anyws
from anyws import Config, WebSocket
from anyws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyio.abc import Listener

pytestmark = pytest.mark.timeout(30)

# For a peer that is to be told why: it answers, and nobody waits for so long.
PATIENT = replace(QUICK, cancel_grace=GUARD)


def says(word: str) -> Callable[[WebSocket], Awaitable[None]]:
    async def handler(ws: WebSocket) -> None:
        await ws.send(word)

    return handler


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def greeting(connect: Any, *offered: str) -> tuple[str | bytes, str | None]:
    """What a client hears that offers these subprotocols, and what was agreed on."""
    async with connect(subprotocols=offered) as ws:
        return await ws.receive(), ws.subprotocol


async def refused(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return True
    await stream.aclose()
    return False


# --- Who serves whom ---


BOTH = {"a": says("a"), "b": says("b")}


@pytest.mark.parametrize(
    ("handlers", "default", "offered", "answer"),
    [
        (BOTH, None, ["a", "b"], ("a", "a")),
        (BOTH, None, ["b", "a"], ("b", "b")),
        (BOTH, None, ["x", "b", "a"], ("b", "b")),
        ({**BOTH, None: says("none")}, None, [], ("none", None)),
        ({**BOTH, None: says("none")}, says("default"), [], ("none", None)),
        ({**BOTH, None: says("none")}, says("default"), ["x"], ("default", None)),
        (BOTH, says("default"), ["x"], ("default", None)),
        (BOTH, says("default"), [], ("default", None)),
        (BOTH, says("default"), ["x", "a"], ("a", "a")),
        ({}, says("default"), ["x"], ("default", None)),
        ({None: says("none")}, None, [], ("none", None)),
        (says("everybody"), None, [], ("everybody", None)),
        (says("everybody"), None, ["x", "y"], ("everybody", None)),
    ],
)
async def test_the_client_s_first_choice_decides_and_then_the_default(
    handlers, default, offered, answer
) -> None:
    with anyio.fail_after(GUARD):
        async with served("memory", handlers, default=default) as connect:
            assert await greeting(connect, *offered) == answer


@pytest.mark.parametrize(
    ("handlers", "offered", "body"),
    [
        (BOTH, [], "this server does not serve clients without a subprotocol; it knows: a, b\n"),
        (BOTH, ["x"], "this server serves none of the subprotocols offered; it knows: a, b\n"),
        (
            {None: says("none")},
            ["x"],
            "this server serves none of the subprotocols offered; it knows: none\n",
        ),
    ],
)
async def test_whom_no_handler_serves_is_told_so_with_400(
    handlers, offered, body, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    with anyio.fail_after(GUARD):
        async with served("memory", handlers) as connect:
            with pytest.raises(anyws.HandshakeRejected) as caught:
                await greeting(connect, *offered)
    assert caught.value.response.status == 400
    assert caught.value.response.body.decode() == body
    assert [r.levelno for r in caplog.records] == [logging.INFO]


async def test_both_ends_know_what_was_agreed_on_and_nothing_else_is_said() -> None:
    seen = []

    async def handler(ws: WebSocket) -> None:
        seen.append(ws.subprotocol)

    with anyio.fail_after(GUARD):
        async with served("memory", {"b": handler}, default=handler) as connect:
            async with connect(subprotocols=["a", "b"]) as ws:
                assert ws.response.headers["Sec-WebSocket-Protocol"] == "b"
            async with connect(subprotocols=["a"]) as ws:
                assert "Sec-WebSocket-Protocol" not in ws.response.headers
                await ws.wait_closed()
    assert seen == ["b", None]


async def test_each_connection_has_a_handler_of_its_own() -> None:
    numbers = iter(range(100))

    async def handler(ws: WebSocket) -> None:
        mine = next(numbers)
        async for message in ws:
            await ws.send(f"{mine}: {message}")

    with anyio.fail_after(GUARD):
        async with served("memory", handler) as connect, connect() as first, connect() as second:
            for ws in (first, second, first):
                await ws.send("x")
            assert {await first.receive(), await second.receive()} == {"0: x", "1: x"}


# --- How handlers end ---


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [r.levelno for r in caplog.records if r.name == "anyws.server"]


@pytest.mark.parametrize("how", ["alone", "in a group"])
async def test_the_end_of_its_own_connection_is_no_crash_of_a_handler(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anyws.server")
    done = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        try:
            if how == "alone":
                await ws.receive()
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.receive)
                tg.start_soon(ws.ping)
        finally:
            done.set()

    with anyio.fail_after(GUARD):
        async with served("memory", handler) as connect:
            async with connect() as ws:
                await ws.close(4000, "enough")
            await done.wait()
    assert levels(caplog) == [logging.INFO]
    assert not any(r.exc_info for r in caplog.records)
    assert "4000" in caplog.text


async def test_the_end_of_another_connection_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that talks on over a connection that has ended has an error in it."""
    ended = []

    async def handler(ws: WebSocket) -> None:
        if ended:
            await ended[0].send("x")
        ended.append(ws)

    with anyio.fail_after(GUARD):
        async with served("memory", handler, config=PATIENT) as connect:
            async with connect() as ws:
                assert (await ws.wait_closed()).code == 1000
            async with connect() as ws:
                assert (await ws.wait_closed()).code == 1011
    assert levels(caplog) == [logging.ERROR]
    assert "ClosedByUs" in caplog.text


async def test_what_is_no_async_function_fails_with_its_first_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with anyio.fail_after(GUARD):
        async with served("memory", lambda ws: None, config=PATIENT) as connect, connect() as ws:
            assert (await ws.wait_closed()).code == 1011
    assert levels(caplog) == [logging.ERROR]
    assert "await" in caplog.text


# --- Arguments ---


WRONG = [
    ({}, TypeError, "a server needs a port=, or else listeners="),
    ({"port": 0, "listeners": []}, TypeError, "a server needs a port=, or else listeners="),
    ({"port": 65536}, ValueError, "port must be from 0 to 65535, not 65536"),
    ({"port": -1}, ValueError, "port must be from 0 to 65535, not -1"),
    ({"port": "80"}, TypeError, "port must be an int, not str"),
    ({"port": True}, TypeError, "port must be an int, not bool"),
    ({"handlers": 5}, TypeError, "the handler must be an async function that takes a WebSocket"),
    ({"handlers": {}}, ValueError, "the mapping of handlers is empty"),
    ({"handlers": {"a": 5}}, TypeError, "the handler for 'a' must be an async .* not int"),
    ({"handlers": {None: 5}}, TypeError, "the handler for None must be an async"),
    ({"handlers": {"a b": echo}}, ValueError, "'a b' cannot be the name of a subprotocol"),
    ({"handlers": {"": echo}}, ValueError, "'' cannot be the name of a subprotocol"),
    ({"handlers": {5: echo}}, ValueError, "5 cannot be the name of a subprotocol"),
    ({"default": echo}, TypeError, "default= goes with a mapping of handlers"),
    ({"handlers": BOTH, "default": 5}, TypeError, "the default handler must be an async"),
    ({"on_request": 5}, TypeError, "on_request must be a function that takes a Request"),
    ({"origins": "https://x.test"}, TypeError, "origins"),
    ({"origins": ["x.test"]}, ValueError, "'x.test' in origins is not an origin"),
    ({"headers": {"A": "b\r\nC: d"}}, ValueError, "A"),
    ({"headers": {"Sec-WebSocket-Accept": "x"}}, ValueError, "Sec-WebSocket-Accept"),
    ({"config": {"ping_interval": 1}}, TypeError, "config must be a Config, not dict"),
]


# Names without addresses: they are to be the same in every process.
@pytest.mark.parametrize(
    ("options", "error", "words"),
    WRONG,
    ids=[f"{number}: {w[2]}" for number, w in enumerate(WRONG)],
)
async def test_a_wrong_argument_is_told_where_it_is_given(options, error, words: str) -> None:
    place = {"port": 0} if options else {}
    given: dict[str, Any] = {"handlers": echo, **place, **options}
    with pytest.raises(error, match=words):
        anyws.open_server(**given)
    with pytest.raises(error, match=words):
        await anyws.serve(**given)


def test_a_server_may_be_made_where_no_event_loop_runs() -> None:
    """So that it can be entered elsewhere: in a thread's portal, on a stack."""
    opening = anyws.open_server(echo, port=0)

    async def main() -> int:
        async with opening as server:
            return server.port

    assert anyio.run(main) > 0


async def test_a_server_is_entered_once() -> None:
    opening = anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK)
    async with opening as server:
        port = server.port
        with pytest.raises(RuntimeError, match="entered before"):
            await opening.__aenter__()
    with pytest.raises(RuntimeError, match="entered before"):
        await opening.__aenter__()
    assert await refused(port)


async def test_listening_where_another_listens_is_the_system_s_error() -> None:
    async with anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK) as server:
        with pytest.raises(OSError, match=r"(?i)in use|attempts"):
            async with anyws.open_server(echo, host="127.0.0.1", port=server.port):
                raise AssertionError
        async with anyws.open_websocket(server.url, config=QUICK) as ws:
            await ws.send("still here")
            assert await ws.receive() == "still here"


# --- Where it listens ---


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", None, *(["::1", "::"] if has_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
async def test_the_url_reaches_the_server_from_its_own_machine(host: str | None) -> None:
    with anyio.fail_after(GUARD):
        async with anyws.open_server(says("hello"), host=host, port=0, config=QUICK) as server:
            assert server.url.startswith("ws://")
            assert server.url.endswith(f":{server.port}/")
            assert not any(word in server.url for word in ("0.0.0.0", "[::]"))
            async with anyws.open_websocket(server.url, config=QUICK) as ws:
                assert await ws.receive() == "hello"


async def test_the_port_is_the_one_asked_for() -> None:
    port = free_port()
    async with anyws.open_server(echo, host="127.0.0.1", port=port, config=QUICK) as server:
        assert server.port == port


async def test_with_tls_the_url_says_wss() -> None:
    with anyio.fail_after(GUARD):
        async with anyws.open_server(
            says("hello"), host="127.0.0.1", port=0, ssl_context=server_tls(), config=QUICK
        ) as server:
            assert server.url == f"wss://127.0.0.1:{server.port}/"
            async with anyws.open_websocket(
                server.url, ssl_context=client_tls(), config=QUICK
            ) as ws:
                assert await ws.receive() == "hello"


async def tcp_listener() -> Listener[Any]:
    return (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]


def port_of(listener: Listener[Any]) -> int:
    return listener.extra(SocketAttribute.local_port)


async def test_a_server_accepts_from_each_of_its_listeners_and_closes_them() -> None:
    first, second, memory = await tcp_listener(), await tcp_listener(), MemoryListener()
    ports = port_of(first), port_of(second)
    with anyio.fail_after(GUARD):
        async with anyws.open_server(
            says("hello"), listeners=[memory, first, second], config=QUICK
        ) as server:
            assert server.listeners == (memory, first, second)
            assert server.port == ports[0]
            for port in ports:
                async with anyws.open_websocket(f"ws://127.0.0.1:{port}/", config=QUICK) as ws:
                    assert await ws.receive() == "hello"
            async with anyws.wrap_client_stream(memory.connect(), URL, config=QUICK) as ws:
                assert await ws.receive() == "hello"
    assert [await refused(port) for port in ports] == [True, True]
    with pytest.raises(anyio.ClosedResourceError):
        memory.connect()
    # Where it listened is still known: for a log, say.
    assert server.port == ports[0]


@pytest.mark.parametrize("how", ["left", "aclose"])
async def test_a_server_without_listeners_ends_like_any_other(how: str) -> None:
    with anyio.fail_after(5):
        async with anyws.open_server(echo, listeners=[], config=QUICK) as server:
            if how == "aclose":
                await server.aclose()


async def test_a_listener_of_several_is_served_as_several() -> None:
    several = await anyio.create_tcp_listener(local_host="localhost")
    with anyio.fail_after(GUARD):
        async with anyws.open_server(says("hello"), listeners=[several], config=QUICK) as server:
            assert server.listeners == tuple(several.listeners)
            for one in several.listeners:
                host, port = one.extra(SocketAttribute.local_address)[:2]
                host = f"[{host}]" if ":" in host else host
                async with anyws.open_websocket(f"ws://{host}:{port}/", config=QUICK) as ws:
                    assert await ws.receive() == "hello"


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    seen = []

    async def handler(ws: WebSocket) -> None:
        seen.append(ws.extra(SocketAttribute.family))
        await echo(ws)

    listener = await anyio.create_unix_listener(path)
    with anyio.fail_after(GUARD):
        async with anyws.open_server(handler, listeners=[listener], config=QUICK) as server:
            for what in ("port", "url"):
                with pytest.raises(RuntimeError, match="listens at no TCP port"):
                    getattr(server, what)
            async with anyws.wrap_client_stream(
                await anyio.connect_unix(path), URL, config=QUICK
            ) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
    assert seen == [socket.AF_UNIX]
    with pytest.raises(OSError, match=r"(?i)refused|no such file"):
        await anyio.connect_unix(path)


async def test_the_port_is_that_of_the_first_listener_that_has_one(tmp_path: Path) -> None:
    unix, tcp = await anyio.create_unix_listener(tmp_path / "socket"), await tcp_listener()
    async with anyws.open_server(echo, listeners=[unix, tcp], config=QUICK) as server:
        assert server.port == port_of(tcp)
        assert server.url == f"ws://127.0.0.1:{port_of(tcp)}/"


# --- What it says of itself ---


async def test_the_connections_are_those_whose_handlers_run() -> None:
    arrived = []
    entered, released = anyio.Event(), anyio.Event()

    async def handler(ws: WebSocket) -> None:
        arrived.append(ws)
        entered.set()
        await released.wait()

    with anyio.fail_after(GUARD):
        listener = MemoryListener()
        async with anyws.open_server(handler, listeners=[listener], config=QUICK) as server:
            assert server.connections == frozenset()
            assert repr(server) == "<anyws.Server serving, 0 connections>"
            half_open = listener.connect()
            await anyio.wait_all_tasks_blocked()
            assert server.connections == frozenset()
            await half_open.aclose()
            async with anyws.wrap_client_stream(listener.connect(), URL, config=QUICK) as ws:
                await entered.wait()
                assert server.connections == frozenset(arrived)
                assert repr(server) == "<anyws.Server serving, 1 connections>"
                released.set()
                await ws.wait_closed()
            await anyio.wait_all_tasks_blocked()
            assert server.connections == frozenset()
        assert repr(server) == "<anyws.Server closed, 0 connections>"


async def test_half_open_handshakes_are_no_connections_in_the_repr_either() -> None:
    listener = MemoryListener()
    async with anyws.open_server(echo, listeners=[listener], config=QUICK) as server:
        half_open = listener.connect()
        await anyio.wait_all_tasks_blocked()
        assert repr(server) == "<anyws.Server serving, 0 connections>"
        await half_open.aclose()


async def test_a_server_that_only_keeps_its_connections_does_not_say_that_it_serves() -> None:
    listener = MemoryListener()
    async with anyws.open_server(echo, listeners=[listener], config=QUICK) as server:
        await server.aclose(keep_connections=True)
        assert "serving" not in repr(server)


# --- serve ---


async def test_serve_says_when_it_listens_and_runs_until_it_is_cancelled() -> None:
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            server = await tg.start(
                partial(anyws.serve, BOTH, default=echo, host="127.0.0.1", port=0, config=QUICK)
            )
            assert isinstance(server, anyws.Server)
            async with anyws.open_websocket(server.url, subprotocols=["b"], config=QUICK) as ws:
                assert await ws.receive() == "b"
            tg.cancel_scope.cancel()
    assert await refused(server.port)


async def test_serve_that_cannot_listen_says_so_to_who_waits_for_it() -> None:
    async with anyws.open_server(echo, host="127.0.0.1", port=0, config=QUICK) as server:
        async with anyio.create_task_group() as tg:
            with pytest.raises(OSError, match=r"(?i)in use|attempts"):
                await tg.start(partial(anyws.serve, echo, host="127.0.0.1", port=server.port))


async def test_the_config_of_the_server_is_that_of_its_connections() -> None:
    config = Config(max_message_size=10, cancel_grace=0.2, close_timeout=1)
    with anyio.fail_after(GUARD):
        async with served("memory", echo, config=config) as connect, connect() as ws:
            await ws.send("x" * 11)
            with pytest.raises(anyws.ClosedWithError) as caught:
                await ws.receive()
    assert caught.value.closure.code == 1009

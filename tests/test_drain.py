"""How a server ends: in which order, who gets how much time, and that nothing is left."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSStream
from connections import client_tls, every_network, server_tls
from drains import (
    CONFIG,
    DRAIN,
    ENDS,
    GRACE,
    PATIENT,
    Client,
    Encrypted,
    Stage,
    busy,
    deadline,
    deaf,
    encrypted_client,
    every_end,
    idle,
    noted,
    one_client,
    one_silent_client,
    run,
    saving,
    stuck,
)
from streams import GUARD, TEXT, URL, request_bytes

import anyws
from anyws import Close, Config, WebSocket
from anyws.testing import MemoryListener, MemoryStream, Pipe, memory_stream_pair

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

pytestmark = pytest.mark.timeout(30)
both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


# --- Who gets how much time ---


@both_backends
@every_end
@pytest.mark.parametrize("handler", [idle, busy])
def test_handlers_that_notice_and_clients_that_answer_take_no_time(
    backend: str, end: str, handler
) -> None:
    def prepare(stage: Stage) -> None:
        for _ in range(3):
            stage.client()

    stage = run(backend, end, handler, prepare)
    assert [c.seen for c in stage.clients] == [[("Close 1001", 0), ("end", 0)]] * 3
    assert stage.when("closed") == [0.1 if handler is busy else 0] * 3
    assert stage.when("over") == stage.when("closed")[:1]


@both_backends
@every_end
def test_a_client_that_does_not_answer_is_cut_off_at_the_deadline(backend: str, end: str) -> None:
    stage = run(backend, end, idle, one_silent_client)
    assert stage.when("closed") == [0]
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", deadline(end))]
    assert stage.when("over") == [deadline(end)]


@both_backends
@every_end
def test_a_client_has_no_longer_than_the_close_timeout_whatever_its_handler_has(
    backend: str, end: str
) -> None:
    config = replace(CONFIG, close_timeout=3)
    stage = run(backend, end, stuck, one_silent_client, config=config)
    [client] = stage.clients
    assert client.seen == [("Close 1001", 0), ("end", min(3, deadline(end)))]
    assert stage.when("cancelled") == stage.when("over") == [deadline(end)]


@both_backends
@every_end
def test_work_after_the_loop_that_ends_in_time_is_not_cancelled(backend: str, end: str) -> None:
    """H8, H11."""
    seconds = deadline(end) - 0.5
    stage = run(backend, end, partial(saving, seconds), one_client)
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]
    assert stage.when("done") == stage.when("over") == [seconds]


@both_backends
@every_end
@pytest.mark.parametrize("client", [one_client, one_silent_client])
@pytest.mark.parametrize("handler", [partial(saving, 60), stuck], ids=["saving", "stuck"])
def test_a_handler_that_is_not_done_at_the_deadline_is_cancelled(
    backend: str, end: str, handler, client
) -> None:
    """H11."""
    stage = run(backend, end, handler, client)
    assert stage.when("cancelled") == stage.when("over") == [deadline(end)]
    cut_off = 0 if client is one_client else deadline(end)
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", cut_off)]


@both_backends
@every_end
def test_a_handler_that_cannot_be_cancelled_is_waited_for_without_its_connection(
    backend: str, end: str
) -> None:
    stage = run(backend, end, partial(deaf, 50), one_silent_client)
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", deadline(end))]
    assert stage.when("done") == stage.when("over") == [50]


@both_backends
@every_end
def test_a_blocked_send_does_not_hold_up_the_end(backend: str, end: str) -> None:
    """H18. Not even Close gets past it."""

    async def handler(stage: Stage, ws: WebSocket) -> None:
        await ws.send("x" * 10_000, compress=False)

    stage = run(backend, end, handler, lambda stage: stage.client(reads=False))
    assert stage.when("over") == [deadline(end)]
    assert stage.clients[0].stream.incoming.ended


@both_backends
@every_end
def test_a_connection_that_was_closing_has_no_more_time_than_others(backend: str, end: str) -> None:
    async def handler(stage: Stage, ws: WebSocket) -> None:
        """Return, and so begin a closing handshake that may take a minute."""

    stage = run(backend, end, handler, one_silent_client)
    assert stage.clients[0].seen == [("Close 1000", -1), ("end", deadline(end))]
    assert stage.when("over") == [deadline(end)]


@both_backends
@every_end
def test_no_time_at_all_is_one_attempt_at_close(backend: str, end: str) -> None:
    config = replace(CONFIG, cancel_grace=0, drain_timeout=0)
    stage = run(backend, end, stuck, one_silent_client, config=config)
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", stage.when("over")[0])]
    assert stage.when("over")[0] <= 0.1


@both_backends
@pytest.mark.parametrize("end", PATIENT)
def test_without_a_drain_timeout_handlers_have_all_the_time(backend: str, end: str) -> None:
    """H11. Their connections have not: there, `close_timeout` holds."""
    config = replace(CONFIG, drain_timeout=None)
    stage = run(backend, end, partial(saving, 100_000), one_silent_client, config=config)
    assert stage.when("done") == stage.when("over") == [100_000]
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 60)]


@both_backends
@pytest.mark.parametrize(("end", "seconds"), [("body returns", 10), ("body is cancelled", 1)])
def test_by_default_a_server_ends_in_bounded_time(backend: str, end: str, seconds: int) -> None:
    """H11."""
    stage = run(backend, end, stuck, one_silent_client, config=Config())
    assert stage.when("cancelled") == stage.when("over") == [seconds]


# --- In which order ---


@both_backends
@every_end
def test_listening_ends_before_any_client_is_told(backend: str, end: str) -> None:
    """H10."""

    class SlowToClose(MemoryListener):
        async def aclose(self) -> None:
            await super().aclose()
            await anyio.sleep(1)

    def prepare(stage: Stage) -> None:
        stage.client()
        stage.client(asks=False)

    stage = run(backend, end, idle, prepare, listener=SlowToClose())
    assert [c.seen[0] for c in stage.clients] == [("Close 1001", 1), ("503", 0)]


@both_backends
@every_end
def test_half_open_handshakes_are_refused_with_503(backend: str, end: str) -> None:
    """H10. Those who have said nothing yet, half of it, and all of it."""

    async def ask_for_ever(request: anyws.Request) -> None:
        await anyio.sleep_forever()

    def prepare(stage: Stage) -> None:
        stage.client(asks=False)
        stage.client(asks=False).push(request_bytes()[:50])
        stage.client()

    stage = run(backend, end, idle, prepare, on_request=ask_for_ever)
    assert [c.seen for c in stage.clients] == [[("503", 0), ("end", 0)]] * 3
    assert stage.when("over") == [0]


@both_backends
@every_end
def test_who_is_accepted_while_the_server_ends_is_refused(backend: str, end: str) -> None:
    """As many as there may be on their way from the listener to their first step."""

    class Late(MemoryListener):
        async def serve(self, handler: Any, task_group: TaskGroup | None = None) -> None:
            try:
                await super().serve(handler, task_group)
            finally:
                while self._arrived.statistics().current_buffer_used:
                    task_group.start_soon(handler, self._arrived.receive_nowait())

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async def begin_and_connect() -> None:
            await begin()
            stage.client(asks=False)

        await ENDS[end](stage, begin_and_connect, serve)

    stage = run(backend, way, stuck, one_client, listener=Late())
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]
    assert stage.clients[1].seen == [("503", 0), ("end", 0)]


@both_backends
@every_end
@pytest.mark.parametrize(("handler", "how"), [(idle, "closed"), (stuck, "cancelled")])
def test_who_never_ends_the_handshake_of_a_listener_s_own_tls_holds_nobody_up(
    backend: str, end: str, handler, how: str
) -> None:
    """Those behind it, whom the same listener has accepted, have all of their time."""

    def prepare(stage: Stage) -> None:
        stage.client(asks=False)
        stage.client(asks=False).push(b"\x16\x03\x01")
        stage.task_group.start_soon(encrypted_client, stage)

    listener: Any = Encrypted(MemoryListener(), server_tls())
    stage = run(backend, end, handler, prepare, listener=listener)
    assert [c.seen for c in stage.clients] == [[("end", 0)]] * 2
    assert stage.when(f"client: {Close(1001)}") == [0]
    assert stage.when(how) == [0 if how == "closed" else deadline(end)]
    assert stage.when("over") == [0 if how == "closed" else deadline(end)]


@every_end
def test_a_client_whose_task_somebody_cancels_while_the_server_ends_takes_nobody_with_it(
    end: str,
) -> None:
    """A listener of TLS has begun that task, and handed it over: its end is the client's alone."""

    async def silent_client(stage: Stage) -> None:
        stream = await TLSStream.wrap(
            stage.listener.connect(), hostname="localhost", ssl_context=client_tls()
        )
        await stream.send(request_bytes())
        await stream.receive()
        await anyio.sleep_forever()

    async def cancelled_natively(stage: Stage, ws: WebSocket) -> None:
        await anyio.sleep(0.8)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()

    def prepare(stage: Stage) -> None:
        stage.task_group.start_soon(silent_client, stage)

    listener: Any = Encrypted(MemoryListener(), server_tls())
    stage = run("asyncio", end, cancelled_natively, prepare, listener=listener)
    assert stage.when("over")[0] <= deadline(end)


class Pumping(MemoryListener):
    """A listener with a part of its own in each stream: two tasks that move its bytes."""

    async def serve(self, handler: Any, task_group: Any = None) -> None:
        async def serve_pumped(stream: Any) -> None:
            near, far = memory_stream_pair()
            task_group.start_soon(pump, stream, far)
            task_group.start_soon(pump, far, stream)
            await handler(near)

        await super().serve(serve_pumped, task_group)


async def pump(source: Any, sink: Any) -> None:
    async for chunk in source:
        await sink.send(chunk)
    await sink.send_eof()


@both_backends
@pytest.mark.parametrize("end", PATIENT)
def test_what_a_listener_does_for_its_streams_goes_on_until_they_are_closed(
    backend: str, end: str
) -> None:
    stage = run(backend, end, idle, one_client, listener=Pumping())
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]


@both_backends
def test_connections_that_are_kept_need_not_have_ended_the_handshake_of_tls(backend: str) -> None:
    """Whose listener has accepted them; with `keep_connections` nothing but listening ends."""

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            stage.task_group.start_soon(encrypted_client, stage)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert not server.connections
            await server.aclose(keep_connections=True)
            while not server.connections:
                await anyio.sleep(0.1)
            await server.aclose()

    listener: Any = Encrypted(MemoryListener(), server_tls())
    stage = run(backend, way, idle, lambda _: None, listener=listener)
    assert len(stage.when(f"client: {Close(1001)}")) == 1


# --- aclose ---


@both_backends
def test_many_may_close_a_server_and_the_first_to_ask_sets_the_time(backend: str) -> None:
    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async def close(server: anyws.Server, after: float) -> None:
            await anyio.sleep(after)
            await server.aclose()
            stage.note("aclose returned")

        async with serve() as server:
            await begin()
            async with anyio.create_task_group() as tg:
                for after in (0, 0, 3):
                    tg.start_soon(close, server, after)
            await server.aclose()

    stage = run(backend, way, stuck, one_client)
    assert stage.when("aclose returned") == [DRAIN] * 3
    assert stage.when("cancelled") == stage.when("over") == [DRAIN]


@both_backends
def test_a_cancelled_aclose_leaves_the_rest_to_the_end_of_the_block(backend: str) -> None:
    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            with anyio.move_on_after(1) as scope:
                await server.aclose()
            assert scope.cancelled_caught
            stage.note("aclose cancelled")
            with pytest.raises(anyio.ClosedResourceError):
                stage.listener.connect()
            await anyio.sleep(100)
            assert len(server.connections) == 1
            stage.note("leaving")

    stage = run(backend, way, stuck, one_client)
    assert stage.when("aclose cancelled") == [1]
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]
    # They had their time when they were told.
    assert stage.when("cancelled") == stage.when("over") == [101]


@both_backends
def test_an_aclose_in_a_cancelled_scope_still_begins_the_end(backend: str) -> None:
    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await server.aclose()
            assert scope.cancelled_caught
            await anyio.sleep(50)

    stage = run(backend, way, idle, one_client)
    assert stage.clients[0].seen == [("Close 1001", 0), ("end", 0)]
    assert stage.when("over") == [50]


@both_backends
def test_a_handler_may_close_its_server_and_is_cancelled_for_it_in_the_end(backend: str) -> None:
    async def handler(stage: Stage, ws: WebSocket) -> None:
        async with noted(stage):
            await ws.receive()
            await servers[0].aclose()

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            servers.append(server)
            await begin()
            stage.clients[0].send(TEXT, b"stop")
            await anyio.sleep(100)

    servers: list[anyws.Server] = []
    stage = run(backend, way, handler, lambda stage: [stage.client() for _ in range(2)])
    assert [c.seen for c in stage.clients] == [[("Close 1001", 0), ("end", 0)]] * 2
    assert stage.when("cancelled") == [DRAIN]
    assert stage.when("closed") == [0]


@both_backends
@pytest.mark.parametrize("after", [1, DRAIN - 1])
@pytest.mark.parametrize("end", PATIENT)
def test_a_cancellation_makes_a_drain_shorter_and_never_longer(
    backend: str, end: str, after: int
) -> None:
    """One that finds the server closing gives `cancel_grace`, and no more than was left."""

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async def begin_and_limit() -> None:
            await begin()
            scope.deadline = anyio.current_time() + after

        with anyio.CancelScope() as scope:
            await PATIENT[end](stage, begin_and_limit, serve)
        assert scope.cancelled_caught

    stage = run(backend, way, stuck, one_client)
    assert stage.when("cancelled") == stage.when("over") == [min(after + GRACE, DRAIN)]


def test_a_task_cancelled_during_the_drain_raises_what_its_body_raised() -> None:
    """H6, H29: `Task.cancel` makes the drain shorter, and takes no exception's place."""
    error = KeyError("the body's")

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async def fail() -> None:
            async with serve():
                await begin()
                begun.set()
                raise error

        begun = anyio.Event()
        task = asyncio.create_task(fail())
        await begun.wait()
        await anyio.sleep(GRACE / 2)
        task.cancel()
        with pytest.raises(KeyError) as caught:
            await task
        assert caught.value is error

    stage = run("asyncio", way, stuck, one_client)
    assert stage.when("cancelled") == stage.when("over") == [GRACE / 2]


# --- aclose(keep_connections=True) ---


async def answer(stage: Stage, ws: WebSocket) -> None:
    async with noted(stage):
        async for message in ws:
            await ws.send(message, compress=False)


@both_backends
def test_connections_that_are_kept_go_on_until_they_end_by_themselves(backend: str) -> None:
    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            client, half_open = stage.clients
            await server.aclose(keep_connections=True)
            stage.note("aclose returned")
            with pytest.raises(anyio.ClosedResourceError):
                stage.listener.connect()
            half_open.ask()
            client.send(TEXT, b"still here")
            await anyio.wait_all_tasks_blocked()
            assert client.stream.incoming.log.endswith(b"still here")
            assert len(server.connections) == 2
            stage.task_group.start_soon(leave_later, client, 100)
            stage.task_group.start_soon(leave_later, half_open, 200)

    async def leave_later(client: Client, seconds: float) -> None:
        await anyio.sleep(seconds)
        client.send_close(1000)

    stage = run(backend, way, answer, lambda stage: (stage.client(), stage.client(asks=False)))
    assert stage.when("aclose returned") == [0]
    assert [round(at) for at in stage.when("done")] == [100, 200]
    assert [c.seen[0][0] for c in stage.clients] == ["Close 1000"] * 2
    assert round(stage.when("over")[0]) == 200


@both_backends
@pytest.mark.parametrize("how", ["aclose", "cancelled", "raises"])
def test_keeping_connections_can_be_ended(backend: str, how: str) -> None:
    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        with anyio.CancelScope() as scope:
            try:
                async with serve() as server:
                    await begin()
                    await server.aclose(keep_connections=True)
                    if how == "cancelled":
                        scope.deadline = anyio.current_time() + 100
                    else:
                        await anyio.sleep(100)
                    if how == "raises":
                        raise KeyError
                    if how == "aclose":
                        await server.aclose()
            except KeyError:
                assert how == "raises"
        assert scope.cancelled_caught == (how == "cancelled")

    stage = run(backend, way, stuck, one_client)
    assert stage.clients[0].seen == [("Close 1001", 100), ("end", 100)]
    allowed = DRAIN if how == "aclose" else GRACE
    assert stage.when("cancelled") == stage.when("over") == [100 + allowed]


# --- Handlers that fail meanwhile ---


async def fails(stage: Stage, ws: WebSocket) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise ValueError("cleaning up failed")


async def fails_in_a_task(stage: Stage, ws: WebSocket) -> None:
    async with anyio.create_task_group() as tg:
        tg.start_soon(fails, stage, ws)
        tg.start_soon(anyio.sleep_forever)
        await anyio.sleep_forever()


@both_backends
@every_end
@pytest.mark.parametrize("handler", [fails, fails_in_a_task])
def test_a_handler_that_fails_while_it_is_cancelled_is_logged_and_no_more(
    backend: str, end: str, handler, caplog: pytest.LogCaptureFixture
) -> None:
    """H9: the error is the handler's, and it is the handler that the log names."""
    stage = run(backend, end, handler, one_client)
    assert stage.when("over") == [deadline(end)]
    errors = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.levelname for r in errors] == ["ERROR"]
    assert "cleaning up failed" in caplog.text
    assert errors[0].getMessage().startswith("the handler of <anyws.WebSocket server of")


@both_backends
@every_end
@pytest.mark.parametrize("handler", [idle, busy, stuck, partial(deaf, 20)])
def test_a_server_that_ends_has_nothing_to_complain_about(
    backend: str, end: str, handler, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(stage: Stage) -> None:
        stage.client()
        stage.client(answers=False)
        stage.client(asks=False)

    run(backend, end, handler, prepare)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


class Odd(MemoryStream):
    """Has errors of its own, also for being cancelled."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except anyio.get_cancelled_exc_class():
            raise ValueError("odd") from None


@both_backends
@every_end
def test_a_stream_that_fails_in_its_own_way_fails_alone(
    backend: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    def odd_pair() -> tuple[MemoryStream, MemoryStream]:
        near, far = memory_stream_pair()
        return near, Odd(far.incoming, far.outgoing)

    stage = run(
        backend,
        end,
        idle,
        lambda stage: stage.client(asks=False),
        listener=MemoryListener(odd_pair),
    )
    assert stage.when("over") == [0]
    assert [r.levelname for r in caplog.records if r.levelno >= logging.WARNING] == ["ERROR"]
    assert "ValueError: odd" in caplog.text


# --- At any turn ---


class Attentive(MemoryListener):
    """Knows whom it has accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[Pipe] = []

    async def serve(self, handler: Any, task_group: TaskGroup | None = None) -> None:
        def accept(stream: MemoryStream) -> Any:
            self.accepted.append(stream.incoming)
            return handler(stream)

        await super().serve(accept, task_group)


@pytest.mark.parametrize("how", ["cancelled", "aclose"])
async def test_whenever_a_server_ends_each_client_gets_an_answer_and_none_half_of_one(
    how: str,
) -> None:
    """T5: one turn of the scheduler later each time, from the first byte of a client on."""

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def end(turns: int, server: anyws.Server, scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        if how == "aclose":
            await server.aclose()
        scope.cancel()

    async def talk(listener: Attentive) -> None:
        try:
            stream = listener.connect()
        except anyio.ClosedResourceError:
            return
        try:
            async with anyws.wrap_client_stream(stream, URL, config=CONFIG) as ws:
                outcomes.add("open")
                while True:
                    await ws.send("x" * 1000)
                    assert await ws.receive() == "x" * 1000
        except anyws.HandshakeInvalid:
            assert stream.outgoing not in listener.accepted
        except anyws.HandshakeRejected as error:
            outcomes.add(error.response.status)
        except anyws.ClosedByPeer as error:
            outcomes.add(error.closure.code)

    outcomes: set[object] = set()
    for turns in range(60):
        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tg:
                listener = Attentive()
                with anyio.CancelScope() as scope:
                    async with anyws.open_server(
                        handler, listeners=[listener], config=CONFIG
                    ) as server:
                        await anyio.lowlevel.checkpoint()
                        for _ in range(3):
                            tg.start_soon(talk, listener)
                        tg.start_soon(end, turns, server, scope)
                        await anyio.sleep_forever()
    assert outcomes == {"open", 503, 1001}


# --- Over sockets ---


@every_network
@pytest.mark.parametrize("how", ["serve is cancelled", "body raises", "body returns", "aclose"])
@pytest.mark.parametrize("handler", ["idle", "stuck"])
async def test_no_socket_outlives_the_server(kind: str, how: str, handler: str) -> None:
    """H10."""
    # Whoever is stuck takes all of it; the others need room to be told.
    grace = 0.7 if handler == "stuck" else GUARD
    config = Config(cancel_grace=grace, drain_timeout=grace, close_timeout=5)
    tls = {"ssl_context": server_tls()} if kind == "tls" else {}
    ours = {"ssl_context": client_tls()} if kind == "tls" else {}
    sockets, closes = [], []
    arrived = anyio.Event()

    async def handle(ws: WebSocket) -> None:
        sockets.append(ws.extra(SocketAttribute.raw_socket))
        if len(sockets) == 3:
            arrived.set()
        if handler == "stuck":
            await anyio.sleep_forever()
        await ws.receive()

    async def client(url: str) -> None:
        async with anyws.open_websocket(url, config=config, **ours) as ws:
            closes.append((await ws.wait_closed()).received)

    async def half_open(port: int) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            head = b""
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    head += await stream.receive()
            # Where TLS has not begun, there is no way to say anything.
            assert head[:12] == (b"" if kind == "tls" else b"HTTP/1.1 503")

    async def half_open_behind_tls(port: int) -> None:
        async with await anyio.connect_tcp(
            "127.0.0.1", port, tls=True, ssl_context=client_tls(), tls_standard_compatible=False
        ) as stream:
            encrypted.set()
            assert (await stream.receive())[:12] == b"HTTP/1.1 503"

    async def connect(server: anyws.Server) -> None:
        if kind == "tls":
            clients.start_soon(half_open_behind_tls, server.port)
        listening.extend(one.extra(SocketAttribute.raw_socket) for one in server.listeners)
        for _ in range(3):
            clients.start_soon(client, server.url)
        clients.start_soon(half_open, server.port)
        await arrived.wait()
        while len(server._served) < (5 if kind == "tls" else 4):
            await anyio.lowlevel.checkpoint()
        if kind == "tls":
            await encrypted.wait()
            for _ in range(20):
                # What the client has said last is on its way through the system.
                await anyio.lowlevel.checkpoint()

    encrypted = anyio.Event()
    listening: list[Any] = []
    serve = partial(anyws.open_server, handle, host="127.0.0.1", port=0, config=config, **tls)
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as clients:
            if how == "serve is cancelled":
                async with anyio.create_task_group() as tg:
                    server = await tg.start(partial(anyws.serve, *serve.args, **serve.keywords))
                    await connect(server)
                    tg.cancel_scope.cancel()
            else:
                try:
                    async with serve() as server:
                        await connect(server)
                        if how == "aclose":
                            await server.aclose()
                        elif how == "body raises":
                            raise KeyError
                except KeyError:
                    assert how == "body raises"
            assert [s.fileno() for s in listening + sockets] == [-1] * 4
            with pytest.raises(OSError, match=r"(?i)refused|attempts"):
                await anyio.connect_tcp("127.0.0.1", server.port)
    assert closes == [Close(1001)] * 3

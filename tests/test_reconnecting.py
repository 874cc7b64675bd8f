"""`reconnecting`: one connection after another, in virtual time, and what leaving the loop does."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from connections import QUICK, client_tls, server_tls
from programs import free_port
from streams import GUARD, URL

import anyws
from anyws import Backoff, Config, Interruption, Reconnecting, Response, WebSocket, reconnecting
from anyws._protocol.fields import accept_key
from anyws.testing import MemoryListener, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HASTY = Backoff(first_delay=0.001, max_delay=0.002)
REFUSED = ConnectionRefusedError("nobody listens")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return virtual_time(request.param)


class Service:
    """A server in memory that comes and goes, and a way to it."""

    def __init__(self) -> None:
        self.listener: MemoryListener | None = None
        self.attempts: list[float] = []
        self.streams: list[Any] = []
        self.answers: list[Exception] = []  # what the next attempts fail with
        self.config: Config = QUICK

    @asynccontextmanager
    async def running(self, handler: Any, **options: Any) -> AsyncIterator[None]:
        listener = MemoryListener()
        async with anyws.open_server(handler, listeners=[listener], config=QUICK, **options):
            self.listener = listener
            try:
                yield
            finally:
                self.listener = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[WebSocket]:
        self.attempts.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        if self.answers:
            raise self.answers.pop(0)
        if self.listener is None:
            raise REFUSED
        stream = self.listener.connect()
        self.streams.append(stream)
        async with anyws.wrap_client_stream(stream, URL, config=self.config) as ws:
            yield ws

    def connections(self, **options: Any) -> Reconnecting:
        return Reconnecting(self.open, name=URL, **options)

    def kill(self) -> None:
        """Cut every connection."""
        for stream in self.streams:
            stream.incoming.end(reset=True)

    @property
    def all_closed(self) -> bool:
        return all(stream.closed for stream in self.streams)

    @property
    def delays(self) -> list[float]:
        return [b - a for a, b in zip(self.attempts, self.attempts[1:], strict=False)]


@asynccontextmanager
async def service(handler: Any = None) -> AsyncIterator[Service]:
    """Give a service that runs, and see that nothing of it is left."""
    one = Service()
    with anyio.fail_after(10**7):
        async with one.running(handler or talk):
            yield one
    assert one.all_closed


async def talk(ws: WebSocket) -> None:
    """Say hello, and echo."""
    await ws.send("hello")
    async for message in ws:
        await ws.send(message)


async def part(ws: WebSocket) -> None:
    await ws.send("hello")


def refusal(status: int, **headers: str) -> anyws.HandshakeRejected:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return anyws.HandshakeRejected(Response(status, lines))


# --- A server that is killed and restarted ---


async def test_a_server_is_killed_and_restarted_a_hundred_times():
    """Each of its lives lasts a minute, and each of its deaths; everything said is heard once."""
    server = Service()
    said: list[int] = []
    heard: list[str | bytes] = []
    interruptions: list[Interruption] = []
    over = anyio.Event()

    async def count(ws: WebSocket) -> None:
        said.append(len(said))
        await ws.send(str(said[-1]))
        async for _ in ws:
            pass

    async def live_and_die() -> None:
        for _ in range(100):
            with anyio.move_on_after(60):
                async with server.running(count):
                    try:
                        await anyio.sleep_forever()
                    finally:
                        server.kill()
            await anyio.sleep(60)
        over.set()

    async def listen(connections: Reconnecting) -> None:
        async for ws in connections:
            try:
                async for message in ws:
                    heard.append(message)
            except anyws.ConnectionClosed:
                continue

    def note(interruption: Interruption) -> bool:
        interruptions.append(interruption)
        return interruption.transient

    async with anyio.create_task_group() as tg:
        tg.start_soon(live_and_die)
        await anyio.sleep(1)
        async with server.connections(should_retry=note) as connections:
            async with anyio.create_task_group() as listening:
                listening.start_soon(listen, connections)
                await over.wait()
                connections.stop()
    assert server.all_closed
    assert heard == [str(number) for number in said]
    # Within a minute there is always another attempt, so no life of the server is missed.
    assert len(heard) >= 100
    ends = Counter(type(one.error) for one in interruptions)
    assert ends[type(None)] == len(heard)
    assert ends[ConnectionRefusedError] > 100
    assert max(server.delays) <= 60 + 60


async def test_a_handler_is_run_for_each_connection_until_told_to_stop():
    lives = 0

    async def handler(ws: WebSocket) -> None:
        nonlocal lives
        lives += 1
        assert await ws.receive() == "hello"
        if lives == 100:
            connections.stop()
        await ws.receive()  # raises, however the connection ends

    async with service(part) as server:
        async with server.connections() as connections:
            await connections.run(handler)
            assert server.all_closed
    assert lives == 100


# --- Delays ---


async def test_the_first_connection_is_tried_at_once():
    async with service() as server:
        start = anyio.current_time()
        async with server.connections() as connections:
            await anext(connections)
    assert server.attempts == [start]


async def test_delays_grow_while_attempts_fail_and_begin_anew_after_a_stable_connection():
    """R-89."""
    server = Service()
    server.answers = [REFUSED] * 8
    async with server.running(talk):
        async with server.connections(backoff=Backoff(jitter=0)) as connections:
            ws = await anext(connections)
            assert server.delays[0] <= 5
            assert server.delays[1:] == pytest.approx([10, 20, 40, 60, 60, 60, 60])
            await anyio.sleep(30)
            await ws.close()
            await anext(connections)
            assert server.delays[-1] <= 30 + 5


async def test_a_connection_that_is_lost_at_once_is_no_success():
    async with service(part) as server:
        async with server.connections(backoff=Backoff(jitter=0)) as connections:
            for _ in range(6):
                async for _ in await anext(connections):
                    pass
    assert server.delays[1:] == pytest.approx([10, 20, 40, 60], abs=0.1)


async def test_time_that_the_program_takes_after_the_end_counts_as_delay():
    async with service(part) as server:
        async with server.connections() as connections:
            ws = await anext(connections)
            await ws.wait_closed()
            await anyio.sleep(5)
            start = anyio.current_time()
            await anext(connections)
            assert anyio.current_time() == pytest.approx(start, abs=0.01)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_says_when_is_asked_then(status):
    server = Service()
    server.answers = [
        refusal(status, Retry_After="120"),
        refusal(
            status,
            Date="Sun, 06 Nov 1994 08:49:37 GMT",
            Retry_After="Sun, 06 Nov 1994 08:59:37 GMT",
        ),
    ]
    async with server.running(talk):
        async with server.connections() as connections:
            await anext(connections)
    assert 120 <= server.delays[0] <= 125
    assert 600 <= server.delays[1] <= 605


# --- Whether ---


@pytest.mark.parametrize(
    "error",
    [refusal(401), refusal(404), anyws.HandshakeInvalid("not HTTP"), ValueError("a bug")],
    ids=lambda error: f"{error}",
)
async def test_what_will_not_pass_is_raised_as_it_is(error):
    server = Service()
    server.answers = [error]
    async with server.running(talk):
        with pytest.raises(type(error)) as caught:
            async with server.connections() as connections:
                async for _ in connections:
                    pytest.fail("a connection")
    assert caught.value is error
    assert len(server.attempts) == 1


async def test_the_program_may_give_up_what_would_be_tried_again():
    def three(interruption: Interruption) -> bool:
        assert interruption.error is REFUSED
        assert interruption.closure is None
        assert interruption.transient
        return interruption.attempt < 3

    server = Service()
    async with server.connections(should_retry=three) as connections:
        with pytest.raises(ConnectionRefusedError):
            await anext(connections)
    assert len(server.attempts) == 3


async def test_the_program_may_try_again_what_would_be_given_up():
    server = Service()
    server.answers = [refusal(403), refusal(403)]
    async with server.running(talk):
        async with server.connections(should_retry=lambda _: True) as connections:
            ws = await anext(connections)
            assert await ws.receive() == "hello"


async def test_the_program_may_take_the_end_of_a_connection_for_the_end():
    closures = []

    def once(interruption: Interruption) -> bool:
        closures.append(interruption.closure)
        return interruption.closure is None

    async with service(part) as server:
        async with server.connections(should_retry=once) as connections:
            heard = [[message async for message in ws] async for ws in connections]
    assert heard == [["hello"]]
    assert closures[0].received.code == 1000


async def test_what_the_program_says_by_raising_is_raised():
    def fail(interruption: Interruption) -> bool:
        raise LookupError("no such answer")

    server = Service()
    async with server.connections(should_retry=fail) as connections:
        with pytest.raises(LookupError, match="no such answer"):
            await anext(connections)


async def test_what_happened_is_in_the_log(caplog):
    caplog.set_level(logging.INFO, logger="anyws.client")
    server = Service()
    server.answers = [REFUSED]
    async with server.running(part):
        async with server.connections() as connections:
            async for _ in await anext(connections):
                pass
            server.answers = [refusal(403)]
            with pytest.raises(anyws.HandshakeRejected):
                await anext(connections)
    words = [record.getMessage() for record in caplog.records if record.name == "anyws.client"]
    assert words[0].startswith(f"{URL}: connecting failed: ConnectionRefusedError: nobody listens;")
    assert words[0].endswith("(attempt 1)")
    assert words[1] == f"{URL}: connected again, at attempt 1"
    assert words[2].startswith(f"{URL}: the peer closed the connection with 1000 (normal), after ")
    assert words[3].startswith(f"{URL}: connecting again in ")
    assert "403" in words[4]
    assert words[4].endswith("not trying again")


# --- Leaving the loop ---


class Left(Exception):
    """What a body raises."""


async def leave_by_break(connections: Reconnecting) -> None:
    async for ws in connections:
        await ws.receive()
        break


async def leave_by_an_exception(connections: Reconnecting) -> None:
    with pytest.raises(Left):
        async for _ in connections:
            raise Left


async def leave_by_a_timeout_around_the_loop(connections: Reconnecting) -> None:
    with anyio.move_on_after(7) as scope:
        async for ws in connections:
            async for _ in ws:
                pass
    assert scope.cancelled_caught


async def leave_by_a_timeout_around_the_loop_that_fails(connections: Reconnecting) -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(7):
            async for ws in connections:
                async for _ in ws:
                    pass


async def leave_by_a_timeout_within_the_loop(connections: Reconnecting) -> None:
    async for ws in connections:
        with anyio.move_on_after(7) as scope:
            async for _ in ws:
                pass
        if scope.cancelled_caught:
            break


async def leave_by_a_scope_of_the_body_s_own(connections: Reconnecting) -> None:
    with anyio.CancelScope() as scope:
        async for ws in connections:
            assert await ws.receive() == "hello"
            scope.cancel()
    assert scope.cancelled_caught or scope.cancel_called


async def leave_by_a_task_group_of_the_body_s_own(connections: Reconnecting) -> None:
    async with anyio.create_task_group() as tg:
        async for ws in connections:
            tg.start_soon(ws.receive)
            break


async def leave_by_returning_with_a_timeout_open(connections: Reconnecting) -> None:
    with anyio.move_on_after(100):
        async for ws in connections:
            with anyio.fail_after(50):
                await ws.receive()
                return


WAYS = [value for name, value in list(globals().items()) if name.startswith("leave_by")]


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
async def test_the_loop_may_be_left_in_any_way_and_be_taken_up_again(leave):
    """Nothing is left of it: no task, no scope, no stream."""
    async with service() as server:
        async with server.connections() as connections:
            await leave(connections)
            # The connection is open still.
            assert [stream.closed for stream in server.streams] == [False]
            for _ in range(3):
                await leave(connections)
            # And scopes are as they should be: the next one works.
            with anyio.move_on_after(1) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
        assert server.all_closed


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
async def test_the_block_may_be_left_right_after_the_loop(leave):
    async with service() as server:
        async with server.connections() as connections:
            await leave(connections)
        assert server.all_closed


async def test_leaving_the_block_closes_with_1000():
    async with service() as server:
        async with server.connections() as connections:
            ws = await anext(connections)
        assert ws.closure is not None
        assert ws.closure.clean
        assert ws.closure.sent.code == 1000


async def test_what_the_body_raises_leaves_the_block_as_itself_and_closes_with_1001():
    error = Left()
    async with service() as server:
        with pytest.raises(Left) as caught:
            async with server.connections() as connections:
                ws = await anext(connections)
                raise error
        assert caught.value is error
        assert error.__cause__ is error.__context__ is None
        assert ws.closure.sent.code == 1001
        assert server.all_closed


async def test_a_group_that_the_body_raises_stays_that_group():
    group = ExceptionGroup("the body's own", [Left()])
    async with service() as server:
        with pytest.raises(ExceptionGroup) as caught:
            async with server.connections() as connections:
                async for _ in connections:
                    raise group
        assert caught.value is group


async def test_a_timeout_around_the_block_closes_with_1001_and_costs_a_grace_at_most():
    async with service() as server:
        start = anyio.current_time()
        with anyio.move_on_after(10) as scope:
            async with server.connections() as connections:
                async for ws in connections:
                    async for _ in ws:
                        pass
        assert scope.cancelled_caught
        assert ws.closure.sent.code == 1001
        assert anyio.current_time() - start <= 10 + QUICK.cancel_grace + 0.01
        assert server.all_closed


async def test_a_peer_that_never_answers_holds_up_a_cancelled_block_for_the_grace():
    async def silent(ws: WebSocket) -> None:
        await ws.send("hello")
        await anyio.sleep_forever()

    async with service(silent) as server:
        start = anyio.current_time()
        with anyio.move_on_after(10):
            async with server.connections() as connections:
                ws = await anext(connections)
                await ws.receive()
                server.streams[0].incoming.stall()
                await ws.receive()
        passed = anyio.current_time() - start
        server.streams[0].incoming.resume()
    assert passed == pytest.approx(10 + QUICK.cancel_grace, abs=0.05)


@pytest.mark.parametrize("moment", ["delay", "opening"])
async def test_a_timeout_may_find_the_delay_or_the_opening(moment):
    server = Service()
    hanging = MemoryListener()  # which accepts nobody
    if moment == "opening":
        server.listener = hanging
        server.config = Config(handshake_timeout=None)
    async with server.connections() as connections:
        for _ in range(20):
            with anyio.move_on_after(0.7):
                await anext(connections)
        assert server.all_closed
        if moment == "delay":
            # A wait that was cancelled goes on; it does not begin anew.
            assert 2 <= len(server.attempts) <= 5
    await hanging.aclose()


async def test_the_latest_connection_is_closed_by_the_next_step_with_1000():
    async with service() as server:
        async with server.connections(backoff=HASTY) as connections:
            first = await anext(connections)
            second = await anext(connections)
            assert first.closure.clean
            assert first.closure.sent.code == 1000
            assert second.is_open


# --- Telling it to stop ---


async def test_stopping_ends_a_loop_wherever_it_is():
    for moment in (0.5, 2.5, 100):
        server = Service()
        server.answers = [REFUSED] * (100 if moment == 2.5 else 0)
        async with server.running(talk):
            async with server.connections() as connections:

                async def loop(connections=connections) -> None:
                    async for ws in connections:
                        try:
                            async for _ in ws:
                                pass
                        except anyws.ClosedByUs:
                            continue

                async with anyio.create_task_group() as tg:
                    tg.start_soon(loop)
                    await anyio.sleep(moment)
                    connections.stop()
                    connections.stop()
        assert server.all_closed


async def test_stopped_it_gives_no_connection():
    async with service() as server:
        async with server.connections() as connections:
            connections.stop()
            with pytest.raises(StopAsyncIteration):
                await anext(connections)
        assert server.attempts == []


async def test_what_a_handler_raises_of_its_own_is_raised():
    async def handler(ws: WebSocket) -> None:
        raise Left

    async with service() as server:
        with pytest.raises(Left):
            async with server.connections() as connections:
                await connections.run(handler)
        assert server.all_closed


async def test_the_end_of_another_connection_is_an_error_of_the_handler():
    async def handler(ws: WebSocket) -> None:
        await other.receive()

    async with service() as server:
        async with server.open() as other:
            await other.receive()
            await other.close()
            async with server.connections() as connections:
                with pytest.raises(anyws.ClosedByUs):
                    await connections.run(handler)


async def test_a_handler_may_end_with_a_group_of_its_connection_s_ends():
    lives = 0

    async def handler(ws: WebSocket) -> None:
        nonlocal lives
        lives += 1
        if lives == 3:
            connections.stop()
        await ws.receive()
        await ws.wait_closed()
        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(ws.send, "x")

    async with service(part) as server:
        async with server.connections() as connections:
            await connections.run(handler)
    assert lives == 3


# --- Using it the wrong way ---


async def test_one_task_at_a_time_takes_a_step():
    server = Service()
    async with server.connections() as connections:
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(anext, connections))
            await anyio.sleep(0.1)
            with pytest.raises(anyio.BusyResourceError):
                await anext(connections)
            tg.cancel_scope.cancel()


async def test_it_is_entered_once_and_ends_with_the_block():
    connections = Service().connections()
    with pytest.raises(RuntimeError, match="within `async with`"):
        await anext(connections)
    async with connections:
        with pytest.raises(RuntimeError, match="make another"):
            await connections.__aenter__()
    with pytest.raises(StopAsyncIteration):
        await anext(connections)
    with pytest.raises(RuntimeError, match="make another"):
        await connections.__aenter__()


@pytest.mark.parametrize("moment", ["delay", "opening", "connection"])
@pytest.mark.parametrize("error", [None, Left()], ids=["returns", "raises"])
async def test_a_loop_of_another_task_ends_with_the_block(moment, error):
    server = Service()
    hanging = MemoryListener()  # which accepts nobody
    server.config = Config(handshake_timeout=None, cancel_grace=0.2)
    async with server.running(talk):
        if moment == "delay":
            server.answers = [REFUSED] * 1000
        elif moment == "opening":
            server.listener = hanging

        async def loop(connections: Reconnecting) -> None:
            async for ws in connections:
                try:
                    async for _ in ws:
                        pass
                except anyws.ConnectionClosed:
                    continue

        async with anyio.create_task_group() as tg:
            try:
                async with server.connections() as connections:
                    tg.start_soon(loop, connections)
                    await anyio.sleep(100)
                    start = anyio.current_time()
                    if error is not None:
                        raise error
            except Left:
                pass
        assert anyio.current_time() - start <= 0.3
        assert server.all_closed
    await hanging.aclose()


@pytest.mark.parametrize("is_lost", [False, True], ids=["open", "lost"])
async def test_a_step_of_another_task_may_meet_the_end_of_the_block_anywhere(is_lost):
    """It closes the connection, or waits for its end, while the block does the same."""

    async def step(connections: Reconnecting, turns: int) -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        with pytest.raises(StopAsyncIteration):
            await anext(connections)

    for turns in range(30):
        async with service() as server, anyio.create_task_group() as tg:
            async with server.connections() as connections:
                ws = await anext(connections)
                if is_lost:
                    server.kill()
                    await ws.wait_closed()
                    await anyio.wait_all_tasks_blocked()
                tg.start_soon(step, connections, turns)


def test_what_is_wrong_with_the_arguments_is_raised_at_once():
    with pytest.raises(anyws.InvalidURL):
        reconnecting("http://example.com/")
    with pytest.raises(ValueError, match="Sec-WebSocket"):
        reconnecting(URL, headers={"Sec-WebSocket-Key": "x"})
    with pytest.raises(TypeError, match="backoff must be a Backoff"):
        reconnecting(URL, backoff=5)


async def test_another_task_may_take_the_steps():
    async with service() as server:
        async with server.connections(backoff=HASTY) as connections:

            async def take() -> None:
                for _ in range(3):
                    ws = await anext(connections)
                    assert await ws.receive() == "hello"

            async with anyio.create_task_group() as tg:
                tg.start_soon(take)
        assert server.all_closed


async def test_a_connection_that_cannot_be_left_in_order_is_logged_and_no_more(caplog):
    """What a program's own way to a connection raises when it is left."""
    async with service() as server:

        @asynccontextmanager
        async def clumsy() -> AsyncIterator[WebSocket]:
            async with server.open() as ws:
                yield ws
            raise Left

        async with Reconnecting(clumsy, backoff=HASTY) as connections:
            await anext(connections)
            await anext(connections)
    failures = [one for one in caplog.records if "closing a connection failed" in one.getMessage()]
    assert len(failures) == 2


# --- Over the network ---


class TestOverTheNetwork:
    @pytest.fixture(params=["asyncio", "uvloop", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        name = request.param
        return ("asyncio", {"use_uvloop": True}) if name == "uvloop" else (name, {})

    async def test_a_client_finds_the_server_that_has_come_back(self):
        heard = []
        port = free_port()
        url = f"ws://127.0.0.1:{port}/"
        # Whoever is connected is to be told.
        config = replace(QUICK, drain_timeout=GUARD)
        with anyio.fail_after(GUARD):
            async with reconnecting(url, config=QUICK, backoff=HASTY) as connections:
                for _ in range(3):
                    async with anyws.open_server(talk, host="127.0.0.1", port=port, config=config):
                        ws = await anext(connections)
                        heard.append(await ws.receive())
                    with pytest.raises(anyws.ClosedByPeer):
                        await ws.receive()
        assert heard == ["hello"] * 3

    async def test_a_certificate_that_does_not_fit_is_not_asked_for_again(self):
        asked = []

        def note(interruption: Interruption) -> bool:
            asked.append(interruption)
            return interruption.transient

        with anyio.fail_after(GUARD):
            async with anyws.open_server(
                talk, host="127.0.0.1", port=0, config=QUICK, ssl_context=server_tls()
            ) as server:
                async with reconnecting(server.url, should_retry=note) as connections:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        await anext(connections)
                async with reconnecting(
                    server.url, ssl_context=client_tls(), config=QUICK
                ) as connections:
                    assert await (await anext(connections)).receive() == "hello"
        assert [one.transient for one in asked] == [False]

    async def test_a_server_that_hangs_up_during_tls_or_the_handshake_is_asked_again(self):
        asked = []

        def note(interruption: Interruption) -> bool:
            asked.append(interruption)
            return interruption.transient and len(asked) < 3

        async def hang_up(stream: Any) -> None:
            await stream.receive()
            await stream.aclose()

        for scheme in ("ws", "wss"):
            asked.clear()
            with anyio.fail_after(GUARD):
                async with (
                    await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
                    anyio.create_task_group() as tg,
                ):
                    tg.start_soon(listener.serve, hang_up)
                    port = listener.extra(anyio.abc.SocketAttribute.local_port)
                    async with reconnecting(
                        f"{scheme}://127.0.0.1:{port}/", backoff=HASTY, should_retry=note
                    ) as connections:
                        with pytest.raises((OSError, anyws.HandshakeInvalid)):
                            await anext(connections)
                    tg.cancel_scope.cancel()
            assert [one.transient for one in asked] == [True] * 3, asked[0].error

    @pytest.mark.parametrize("times", [1, 2])
    async def test_a_task_cancelled_natively_has_the_grace_and_one_cancelled_twice_has_not(
        self, times, anyio_backend_name
    ):
        """`asyncio.Task.cancel`, of which AnyIO knows nothing. The peer answers no Close."""
        if anyio_backend_name != "asyncio":
            pytest.skip("there is no such thing on Trio")
        grace = 0.5 if times == 1 else GUARD / 2
        seen: list[WebSocket] = []

        async def answer_nothing(stream: Any) -> None:
            request = (await stream.receive()).decode()
            key = request.partition("Sec-WebSocket-Key: ")[2].partition("\r")[0]
            lines = [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {accept_key(key)}",
            ]
            await stream.send("\r\n".join([*lines, "", ""]).encode())
            async with stream:
                async for _ in stream:
                    pass

        async def live(url: str) -> None:
            async with reconnecting(url, config=Config(cancel_grace=grace)) as connections:
                async for ws in connections:
                    seen.append(ws)
                    await ws.receive()

        with anyio.fail_after(GUARD):
            async with (
                await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
                anyio.create_task_group() as tg,
            ):
                tg.start_soon(listener.serve, answer_nothing)
                port = listener.extra(anyio.abc.SocketAttribute.local_port)
                task = asyncio.ensure_future(live(f"ws://127.0.0.1:{port}/"))
                while not seen:
                    await asyncio.sleep(0.001)
                start = anyio.current_time()
                for _ in range(times):
                    task.cancel()
                    await asyncio.sleep(0.05)
                with pytest.raises(asyncio.CancelledError):
                    await task
                passed = anyio.current_time() - start
                assert seen[0].status is anyws.Status.CLOSED
                assert seen[0].closure.sent.code == 1001
                assert (passed >= grace) is (times == 1)
                tg.cancel_scope.cancel()


def test_a_program_may_drop_it_unentered():
    connections = reconnecting(URL)
    del connections
    gc.collect()

"""The same events in programs that are async already: `Client.run`, on both backends."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from callbacks.clients import GUARD, QUICK, threads_of_ours
from programs import free_port

import anyws
from anyws import Status
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened, Pong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def served(handler: Any, **options: Any) -> AsyncIterator[str]:
    with anyio.fail_after(GUARD):
        async with anyws.open_server(
            handler, host="127.0.0.1", port=0, config=QUICK, **options
        ) as server:
            yield server.url


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def test_listeners_are_called_in_order_and_async_ones_awaited(anyio_backend) -> None:
    calls: list[Any] = []

    async def listen(event: Event) -> None:
        calls.append(event)
        await anyio.sleep(0)
        match event:
            case Opened():
                event.client.send("one")
                event.client.send("two")
                event.client.ping()
            case Message("two"):
                event.client.close(4000, "enough")
        calls.append("after")

    def also(event: Event) -> None:
        calls.append("also")

    async with served(echo) as url:
        client = Client(url, listen, config=QUICK)
        client.add_listener(Event, also)
        assert client.status is Status.CLOSED
        end = await client.run()
        assert client.status is Status.CLOSED
    events = [call for call in calls if isinstance(call, Event)]
    assert calls == [call for event in events for call in (event, "after", "also")]
    assert [type(event) for event in events if not isinstance(event, Pong)] == [
        Opened,
        Message,
        Message,
        Closed,
    ]
    assert isinstance(end, Closed)
    assert end.closure.sent == anyws.Close(4000, "enough")
    assert end is events[-1]
    assert threads_of_ours() == []


async def test_a_pong_is_told(anyio_backend) -> None:
    def listen(event: Event) -> None:
        match event:
            case Opened():
                event.client.ping()
            case Pong():
                assert event.latency < GUARD
                event.client.close(4000)

    async with served(echo) as url:
        end = await Client(url, listen, config=QUICK).run()
    assert isinstance(end, Closed)
    assert end.closure.sent == anyws.Close(4000)


async def test_a_failure_is_told_and_returned(anyio_backend) -> None:
    heard: list[Event] = []
    end = await Client(f"ws://127.0.0.1:{free_port()}/", heard.append).run()
    assert isinstance(end, Failed)
    assert heard == [end]


async def test_it_can_be_run_again(anyio_backend) -> None:
    heard: list[Event] = []
    async with served(lambda ws: ws.send("x")) as url:
        client = Client(url, heard.append, config=QUICK)
        for _ in range(3):
            await client.run()
    assert [type(event) for event in heard] == [Opened, Message, Closed] * 3


async def test_cancelled_it_closes_the_connection_with_1001_and_tells_nothing(
    anyio_backend,
) -> None:
    closes: list[Any] = []
    heard: list[Event] = []

    async def handler(ws: anyws.WebSocket) -> None:
        closes.append((await ws.wait_closed()).received)

    async with served(handler) as url:
        client = Client(url, heard.append, config=QUICK)
        with anyio.CancelScope() as scope:
            client.add_listener(Opened, lambda event: scope.cancel())
            await client.run()
        assert scope.cancelled_caught
        assert client.status is Status.CLOSED
        with pytest.raises(anyws.ConnectionClosed):
            client.send("x")
    assert closes == [anyws.Close(1001)]
    assert [type(event) for event in heard] == [Opened]


async def test_cancelled_within_a_listener_it_cancels_that(anyio_backend) -> None:
    ended = []
    is_within = anyio.Event()

    async def listen(event: Event) -> None:
        try:
            is_within.set()
            await anyio.sleep_forever()
        finally:
            ended.append(type(event))

    async with served(echo) as url, anyio.create_task_group() as task_group:
        task_group.start_soon(Client(url, {Opened: listen}, config=QUICK).run)
        await is_within.wait()
        task_group.cancel_scope.cancel()
    assert ended == [Opened]


async def test_what_is_sent_while_it_is_cancelled_does_not_wait_for_ever(anyio_backend) -> None:
    async def send_at_every_turn() -> None:
        while True:
            await anyio.sleep(0)
            if client.is_open:
                scope.cancel()
                client.send("too late")

    async with served(echo) as url:
        client = Client(url, config=QUICK)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send_at_every_turn)
            with anyio.CancelScope() as scope:
                await client.run()
            task_group.cancel_scope.cancel()
        assert scope.cancelled_caught
        assert client.pending_bytes == 0


async def test_cancelled_while_connecting_it_gives_that_up(anyio_backend) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        client = Client(f"ws://127.0.0.1:{port}/", print)
        with anyio.move_on_after(0.05) as scope:
            await client.run()
        assert scope.cancelled_caught
        assert client.status is Status.CLOSED
        with pytest.raises(anyws.ConnectionClosed, match="cancelled"):
            client.send("x")


async def test_closing_while_connecting_is_told(anyio_backend) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        client = Client(f"ws://127.0.0.1:{port}/")
        ends: list[Any] = []

        async def run() -> None:
            ends.append(await client.run())

        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(run)
                await anyio.wait_all_tasks_blocked()
                assert client.status is Status.CONNECTING
                client.close()
    assert isinstance(ends[0], Closed)


async def test_a_slow_listener_holds_up_no_other_client(anyio_backend) -> None:
    heard: list[Any] = []
    is_within = anyio.Event()

    async def wait(event: Event) -> None:
        is_within.set()
        await anyio.sleep_forever()

    def listen(event: Event) -> None:
        heard.append(event)
        match event:
            case Opened():
                event.client.send("x")
            case Message():
                event.client.close()

    async with served(echo) as url, anyio.create_task_group() as task_group:
        task_group.start_soon(Client(url, wait, config=QUICK).run)
        await is_within.wait()
        await Client(url, listen, config=QUICK).run()
        task_group.cancel_scope.cancel()
    assert [type(event) for event in heard] == [Opened, Message, Closed]


async def test_a_slow_listener_gets_every_message_in_order(anyio_backend) -> None:
    heard: list[Any] = []

    async def send(ws: anyws.WebSocket) -> None:
        for number in range(300):
            await ws.send(str(number))

    async def listen(event: Message) -> None:
        await anyio.sleep(0)
        heard.append(event.data)

    async with served(send) as url:
        await Client(url, {Message: listen}, config=anyws.Config(inbox_size=2)).run()
    assert heard == [str(number) for number in range(300)]


async def test_a_listener_that_raises_is_reported_and_kills_nothing(anyio_backend, caplog) -> None:
    async def fail(event: Event) -> None:
        raise LookupError

    async with served(lambda ws: ws.send("x")) as url:
        end = await Client(url, fail, config=QUICK).run()
    assert isinstance(end, Closed)
    reported = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.message for record in reported] == [
        f"a listener for {name} failed" for name in ("Opened", "Message", "Closed")
    ]


async def test_what_is_no_error_leaves_as_itself(anyio_backend) -> None:
    class Interrupt(BaseException):
        pass

    def listen(event: Event) -> None:
        raise Interrupt

    async with served(echo) as url:
        with pytest.raises(Interrupt):
            await Client(url, listen, config=QUICK).run()


async def test_what_is_no_error_leaves_as_itself_beside_a_cancellation_too(anyio_backend) -> None:
    class Interrupt(BaseException):
        pass

    def listen(event: Event) -> None:
        scope.cancel()
        raise Interrupt

    async with served(echo) as url:
        with anyio.CancelScope() as scope, pytest.raises(Interrupt):
            await Client(url, listen, config=QUICK).run()


async def test_other_threads_may_send_and_close(anyio_backend) -> None:
    heard: list[Any] = []
    is_open = threading.Event()

    def talk() -> None:
        assert is_open.wait(GUARD)
        for number in range(100):
            client.send(str(number))
        client.close()

    async with served(echo) as url:
        client = Client(url, {Opened: lambda event: is_open.set()}, config=QUICK)
        ends: list[Any] = []

        async def run() -> None:
            ends.append(await client.run())

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(run)
            await anyio.to_thread.run_sync(talk)
    assert ends[0].closure.sent == anyws.Close(1000)
    assert heard == []


async def test_send_does_not_wait_for_room_in_the_thread_that_would_make_it(anyio_backend) -> None:
    errors = []

    def flood(event: Opened) -> None:
        try:
            while True:
                event.client.send(bytes(4_000_000), timeout=GUARD)
        except TimeoutError as error:
            errors.append(error)
        event.client.close()

    async def idle(ws: anyws.WebSocket) -> None:
        await anyio.sleep_forever()

    async with served(idle) as url:
        config = anyws.Config(close_timeout=0.2, compression=None)
        await Client(url, {Opened: flood}, config=config).run()
    assert len(errors) == 1


async def test_it_is_run_or_opened_one_way_at_a_time(anyio_backend) -> None:
    async with served(echo) as url:
        for options in ({"polled": True}, {"dispatch": print}):
            with pytest.raises(RuntimeError, match=r"run\(\) calls listeners itself"):
                await Client(url, **options).run()

        async def open_again(event: Opened) -> None:
            with pytest.raises(RuntimeError, match="open already"):
                event.client.open()
            with pytest.raises(RuntimeError, match="open already"):
                await event.client.run()
            event.client.close()

        end = await Client(url, {Opened: open_again}, config=QUICK).run()
        assert isinstance(end, Closed)


def test_it_runs_without_anyios_own_runner() -> None:
    async def main() -> Any:
        async with served(lambda ws: ws.send("x")) as url:
            return await Client(url, heard.append, config=QUICK).run()

    heard: list[Event] = []
    assert isinstance(asyncio.run(main()), Closed)
    assert [type(event) for event in heard] == [Opened, Message, Closed]

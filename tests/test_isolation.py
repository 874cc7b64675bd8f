"""What goes wrong in one place stays there: handlers, hooks and listeners of a server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import Listener, TaskGroup

import anyws
from anyws import Config, WebSocket
from anyws.testing import memory_stream_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUICK = Config(cancel_grace=0.2, close_timeout=2.0, drain_timeout=0.2)
on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)


async def a_stray_cancellation() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def fail_or_echo(ws: WebSocket) -> None:
    async for message in ws:
        if message == "fail":
            await a_stray_cancellation()
        await ws.send(message)


@on_asyncio
async def test_a_handler_that_ends_with_a_stray_cancellation_has_crashed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """H9: 1011 for its client, a traceback in the log, and nothing for anybody else."""
    async with (
        anyws.open_server(fail_or_echo, host="127.0.0.1", port=0, config=QUICK) as server,
        anyws.open_websocket(server.url) as other,
        anyws.open_websocket(server.url) as ws,
    ):
        await ws.send("fail")
        with anyio.fail_after(10), pytest.raises(anyws.ClosedWithError) as caught:
            await ws.receive()
        assert caught.value.closure.code == 1011
        await other.send("still here")
        assert await other.receive() == "still here"
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert "a_stray_cancellation" in caplog.text
    assert record.exc_info is not None


@on_asyncio
async def test_a_hook_that_ends_with_a_stray_cancellation_is_answered_with_500() -> None:
    """V19."""

    async def ask(request: anyws.Request) -> None:
        if request.path == "/fail":
            await a_stray_cancellation()

    async with anyws.open_server(
        fail_or_echo, host="127.0.0.1", port=0, on_request=ask, config=QUICK
    ) as server:
        with pytest.raises(anyws.HandshakeRejected) as caught:
            async with anyws.open_websocket(server.url + "fail"):
                pass
        assert caught.value.response.status == 500
        async with anyws.open_websocket(server.url) as ws:
            await ws.send("still here")
            assert await ws.receive() == "still here"


class OddListener(Listener[Any]):
    """Serves one stream that waits for it, then does what it was told to."""

    def __init__(
        self, serve: Callable[[], None] = lambda: None, close: Callable[[], None] = lambda: None
    ) -> None:
        self.served = 0
        self.closed = 0
        self._serve = serve
        self._close = close

    async def serve(
        self, handler: Callable[[Any], Any], task_group: TaskGroup | None = None
    ) -> None:
        self.served += 1
        await anyio.lowlevel.checkpoint()
        self._serve()

    async def aclose(self) -> None:
        self.closed += 1
        self._close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}


def fail() -> None:
    raise OSError("odd")


async def test_a_stream_that_fails_in_its_own_way_is_told_of_as_what_it_was(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake of the program's, and no matter of time."""

    async def receive(max_bytes: int = 65536) -> bytes:
        raise KeyError("odd")

    caplog.set_level(logging.INFO)
    _, stream = memory_stream_pair()
    monkeypatch.setattr(stream, "receive", receive)

    class OneStream(OddListener):
        async def serve(self, handler: Any, task_group: TaskGroup | None = None) -> None:
            await handler(stream)

    async with anyws.open_server(fail_or_echo, listeners=[OneStream()], config=QUICK) as server:
        with anyio.fail_after(10):
            while not server.totals.refused:
                await anyio.sleep(0.01)
        await anyio.wait_all_tasks_blocked()
    assert "a stream: no WebSocket: 'odd'" in caplog.messages
    assert "anyws failed while serving a client" in caplog.messages


async def test_a_listener_that_ends_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    listener = OddListener()
    async with anyws.open_server(fail_or_echo, listeners=[listener], config=QUICK):
        await anyio.wait_all_tasks_blocked()
        assert listener.served == 1
    assert "accepts no more" in caplog.text


async def test_a_listener_out_of_something_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = OddListener(serve=fail)
    async with anyws.open_server(fail_or_echo, listeners=[listener], config=QUICK):
        with anyio.fail_after(10):
            while listener.served < 3:
                await anyio.sleep(0.01)
    assert "trying again: odd" in caplog.text


async def test_a_listener_that_cannot_be_closed_holds_nothing_up() -> None:
    """H6, H10: connections are closed, other listeners too, and the body's exception leaves."""
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    odd = OddListener(close=fail)
    error = KeyError("the body's")
    with anyio.fail_after(10), pytest.raises(KeyError) as caught:
        async with (
            anyws.open_server(
                fail_or_echo, listeners=[odd, *listeners.listeners], config=QUICK
            ) as server,
            anyws.open_websocket(server.url) as ws,
        ):
            await ws.send("hello")
            assert await ws.receive() == "hello"
            raise error
    assert caught.value is error
    assert odd.closed
    with pytest.raises(OSError, match=r"(?i)refused|failed|attempts"):
        await anyio.connect_tcp("127.0.0.1", server.port)


async def test_no_time_at_all_is_one_attempt_at_close() -> None:
    """A timeout of 0 sends Close if that takes no waiting, on every backend."""
    config = Config(cancel_grace=0, close_timeout=0, drain_timeout=0)

    async def handler(ws: WebSocket) -> None:
        await ws.close(4000)

    async with anyws.open_server(handler, host="127.0.0.1", port=0, config=config) as server:
        for _ in range(5):
            async with anyws.open_websocket(server.url) as ws:
                with pytest.raises(anyws.ClosedWithError) as caught:
                    await ws.receive()
                assert caught.value.closure.code == 4000

"""`reconnecting` through a proxy: which one is asked, and whether it is asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from connections import QUICK
from proxying import FakeProxy, saying
from streams import GUARD

import anyws
from anyws import Backoff, Interruption, Proxy

if TYPE_CHECKING:
    from anyio.abc import ByteStream

HASTY = Backoff(first_delay=0.001, max_delay=0.002)


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def connections(url: str, proxy: Any, **options: Any) -> anyws.Reconnecting:
    return anyws.reconnecting(url, proxy=proxy, config=QUICK, **options)


async def test_each_connection_goes_through_the_proxy() -> None:
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg, anyws.open_server(echo, port=0) as server:
            fake = FakeProxy()
            await tg.start(fake.serve)
            async with connections(server.url, fake.url(), backoff=HASTY) as found:
                for number in (1, 2):
                    ws = await anext(found)
                    await ws.send("hello")
                    assert await ws.receive() == "hello"
                    assert len(fake.asked) == number
            tg.cancel_scope.cancel()


async def test_a_proxy_that_cannot_reach_the_server_is_asked_again_when_it_says() -> None:
    answers = [
        saying(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 100\r\n\r\n"),
        saying(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
    ]
    told: list[tuple[Any, bool, bool]] = []

    def note(interruption: Interruption) -> bool:
        error = interruption.error
        assert isinstance(error, anyws.ProxyError)
        told.append((error.status, interruption.transient, interruption.delay > 0.01))
        return interruption.transient

    async def behave(stream: ByteStream) -> None:
        if answers:
            await answers.pop(0)(stream)
        else:
            await FakeProxy().serve_one(stream)

    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg, anyws.open_server(echo, port=0) as server:
            fake = FakeProxy(behave=behave)
            await tg.start(fake.serve)
            backoff = Backoff(first_delay=0.001, max_delay=0.002, max_retry_after=0.55)
            found = connections(server.url, fake.url(), backoff=backoff, should_retry=note)
            async with found:
                ws = await anext(found)
                await ws.send("hello")
                assert await ws.receive() == "hello"
            tg.cancel_scope.cancel()
    assert told == [(503, True, True), (502, True, False)]


async def test_a_proxy_that_wants_other_credentials_is_not_asked_again() -> None:
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tg:
            fake = FakeProxy(credentials=("me", "secret"))
            await tg.start(fake.serve)
            async with connections("ws://a.test/", Proxy(fake.url("me:wrong"))) as found:
                with pytest.raises(anyws.ProxyError, match="407"):
                    await anext(found)
            tg.cancel_scope.cancel()
    assert len(fake.asked) == 1
    with pytest.raises(ValueError, match="proxy"):
        anyws.reconnecting("ws://a.test/", proxy="gopher://a.test/")

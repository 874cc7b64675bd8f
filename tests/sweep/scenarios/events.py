"""Callback clients: what is told, in which order, and what comes after a cancellation.

One that comes at the very end may only cut the closing handshake short: then the end is told, and
returned, and is not clean.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from connections import client_tls
from streams import TEXT, URL
from world import GUARD, MEMORY, NATIVE, QUICK, SLACK, SOCKET_LIKE, TCP, TLS, Peer, World, check

import anyws
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened, Pong
from anyws.callbacks import _background as background

from ._registry import LOOPS_OF_ASYNCIO, scenario

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from anyws import Config, WebSocket

    Listeners = Mapping[type[Event], Callable[[Any], object]]

ENDS = (Closed, Failed)
# Streams of each sort; what differs between the others lies below the events.
SOME_KINDS = (MEMORY, SOCKET_LIKE, TCP, NATIVE)


class ClientOver(Client):
    """A client over streams that are there already, and all that it was told."""

    def __init__(
        self,
        openings: list[Any],
        listeners: Listeners,
        config: Config = QUICK,
        *,
        polled: bool = False,
    ) -> None:
        super().__init__(URL, listeners, config=config, polled=polled)
        self._make = lambda **_: openings.pop(0)


class Heard:
    """What the listeners of a client were told."""

    def __init__(self, client: Client) -> None:
        self.events: list[Event] = []
        self.returned: Event | None = None
        self.client = client
        client.add_listener(Event, self.events.append)

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]

    @property
    def messages(self) -> list[str | bytes]:
        return [event.data for event in self.events if isinstance(event, Message)]

    @property
    def last(self) -> Any:
        return self.events[-1] if self.events else None

    async def run(self) -> None:
        self.returned = await self.client.run()

    async def check_order(self, world: World) -> None:
        """One last event and nothing behind it; where it was cancelled, perhaps none."""
        ends = [kind for kind in self.kinds if kind in ENDS]
        check(len(ends) <= 1, f"told {len(ends)} ends: {self.events}")
        check(not ends or self.kinds[-1] in ENDS, f"told more behind the end: {self.events}")
        check(Failed not in ends or len(self.events) == 1, f"failed, and more: {self.events}")
        for place, kind in enumerate(self.kinds):
            alone = kind in ENDS and len(self.events) == 1
            check(alone or (kind is Opened) is (place == 0), f"the order is wrong: {self.events}")
        if world.outcome == "finished":
            check(ends, f"it has returned, and told no end: {self.events}")
            check(self.returned is self.last, f"returned {self.returned}, told {self.last}")
        check(self.client.status is anyws.Status.CLOSED, "over, and not closed")
        check(self.client.pending_bytes == 0, "over, and something is to be sent")
        try:
            self.client.send("too late")
        except anyws.ConnectionClosed:
            pass
        else:
            check(False, "over, and something can be sent")
        count = len(self.events)
        await anyio.sleep(0.03)
        check(len(self.events) == count, f"told something when it was over: {self.last}")


@asynccontextmanager
async def _told(
    world: World,
    listeners: Listeners,
    config: Config = QUICK,
    *,
    codes: tuple[int, ...] = (),
    **peer_options: Any,
) -> AsyncIterator[tuple[Heard, Peer]]:
    """Give what a client is told that is still to be run, and its peer.

    codes: with which it may close, beside 1001 for a cancellation.
    """
    async with world.prepared(config, role="client", **peer_options) as (opening, peer):
        heard = Heard(ClientOver([opening], listeners, config))
        yield heard, peer
        await heard.check_order(world)
        del heard.client
    if peer.close is not None:
        allowed = {*codes, 1001} if world.struck else {*codes}
        check(peer.close.code in allowed, f"closed with {peer.close.code}")


# --- Whole conversations ---


@scenario()
async def events_of_a_connection(world: World) -> None:
    """Opened, a message, a pong, and an end of our own; listeners are sync and async."""

    async def on_message(event: Message) -> None:
        await anyio.sleep(0.01)
        event.client.ping()

    def on_pong(event: Pong) -> None:
        event.client.close(3000, "enough")

    listeners = {Opened: lambda e: e.client.send("hello"), Message: on_message, Pong: on_pong}
    async with _told(world, listeners, codes=(3000,)) as (heard, peer):
        peer.replies[b"hello"] = peer.frame(TEXT, b"hello yourself")
        await world.attack(heard.run)
        expected = [Opened, Message, Pong, Closed]
        if world.outcome == "finished":
            check(heard.kinds == expected, f"told {heard.kinds}")
            check(world.struck or heard.last.code == 3000, f"ended with {heard.last}")
            check(peer.messages == [b"hello"], "what was sent has not arrived")
        check(heard.kinds == expected[: len(heard.kinds)], f"told {heard.kinds}")


@scenario()
async def events_until_the_peer_closes(world: World) -> None:
    """What waits to be sent then is given up."""

    def on_opened(event: Opened) -> None:
        for _ in range(3):
            event.client.send(bytes(100_000))

    async with _told(world, {Opened: on_opened}, codes=(3001,)) as (heard, peer):

        async def talk() -> None:
            await peer.open.wait()
            await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(3)))
            await peer.send_close(3001)

        async with anyio.create_task_group() as tg:
            tg.start_soon(talk)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        if world.outcome == "finished":
            check(heard.kinds == [Opened, Message, Message, Message, Closed], f"{heard.kinds}")
            check(heard.last.code == 3001, f"ended with {heard.last}")
        check(heard.messages == ["0", "1", "2"][: len(heard.messages)], f"{heard.messages}")


@scenario(kinds=SOME_KINDS)
async def events_and_a_peer_that_leaves_without_a_word(world: World) -> None:
    async with _told(world, {}) as (heard, peer):

        async def leave() -> None:
            await peer.open.wait()
            await anyio.sleep(0.01)
            await anyio.aclose_forcefully(peer.stream)

        async with anyio.create_task_group() as tg:
            tg.start_soon(leave)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        if world.outcome == "finished":
            check(heard.kinds == [Opened, Closed], f"told {heard.kinds}")
            check(not heard.last.clean and heard.last.code == 1006, f"ended with {heard.last}")


@scenario(kinds=(TCP, TLS))
async def events_of_one_client_and_two_connections(world: World) -> None:
    """Found by its URL, and opened again when the first connection has ended."""
    listener, _, context = await world.listener()

    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    client = Client(
        f"{'wss' if context else 'ws'}://localhost:{port}/",
        {Opened: lambda e: e.client.send("hello"), Message: lambda e: e.client.close()},
        ssl_context=client_tls() if context else None,
        config=QUICK,
    )
    first, second = Heard(client), Heard(client)
    client.remove_listener(Event, second.events.append)

    async def operation() -> None:
        await first.run()
        client.remove_listener(Event, first.events.append)
        client.add_listener(Event, second.events.append)
        await second.run()

    async with anyws.open_server(echo, listeners=[listener], ssl_context=context, config=QUICK):
        await world.attack(operation)
        for heard in (first, second):
            if heard.returned is not None:
                check(heard.kinds == [Opened, Message, Closed], f"told {heard.kinds}")
                check(heard.returned is heard.last, "returned another end")
        if world.outcome == "finished":
            check(second.returned is not None, "the second connection told no end")
        check(client.status is anyws.Status.CLOSED, "over, and not closed")
        if first.returned is None:
            await first.check_order(world)


# --- What keeps a connection from opening ---


@scenario(kinds=SOME_KINDS)
async def events_of_a_refused_handshake(world: World) -> None:
    response = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nmembers"
    async with _told(world, {}, response=response) as (heard, _):
        await world.attack(heard.run)
        if world.outcome == "finished":
            check(heard.kinds == [Failed], f"told {heard.kinds}")
            check(heard.last.response.body == b"members", f"failed with {heard.last}")


@scenario(kinds=SOME_KINDS)
async def events_of_a_silent_handshake(world: World) -> None:
    async def on_failed(event: Failed) -> None:
        await anyio.sleep(0.01)

    config = replace(QUICK, handshake_timeout=0.1)
    async with _told(world, {Failed: on_failed}, config, silent=True) as (heard, _):
        await world.attack(heard.run)
        if world.outcome == "finished":
            check(heard.kinds == [Failed], f"told {heard.kinds}")
            check(isinstance(heard.last.error, anyws.HandshakeTimeout), f"{heard.last}")


@scenario(kinds=SOME_KINDS)
async def events_and_closed_while_connecting(world: World) -> None:
    async with _told(world, {}, silent=True) as (heard, _):

        async def close() -> None:
            await anyio.sleep(0.02)
            heard.client.close()

        async with anyio.create_task_group() as tg:
            tg.start_soon(close)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        if world.outcome == "finished":
            check(heard.kinds == [Closed], f"told {heard.kinds}")


@scenario(kinds=(TCP,))
async def events_where_nobody_listens(world: World) -> None:
    listener, _, _ = await world.listener()
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    heard = Heard(Client(f"ws://localhost:{port}/", config=QUICK))
    await world.attack(heard.run)
    if world.outcome == "finished":
        check(heard.kinds == [Failed], f"told {heard.kinds}")
        check(isinstance(heard.last.error, OSError), f"failed with {heard.last}")
    await heard.check_order(world)


# --- Listeners ---


@scenario(kinds=SOME_KINDS)
async def events_and_listeners_that_raise(world: World) -> None:
    """Nothing else is changed by that: not what the others are told, nor the connection."""

    def on_opened(event: Opened) -> None:
        event.client.send("hello")
        raise ValueError("of no importance")

    async def on_message(event: Message) -> None:
        event.client.close(3000)
        await anyio.sleep(0.01)
        raise ValueError("of no importance")

    def on_closed(event: Closed) -> None:
        raise ValueError("of no importance")

    listeners = {Opened: on_opened, Message: on_message, Closed: on_closed}
    async with _told(world, listeners, codes=(3000,)) as (heard, peer):
        peer.replies[b"hello"] = peer.frame(TEXT, b"hello yourself")
        await world.attack(heard.run)
        if world.outcome == "finished":
            check(heard.kinds == [Opened, Message, Closed], f"told {heard.kinds}")
            check(world.struck or heard.last.clean, f"ended with {heard.last}")


class Interrupt(BaseException):
    """What ends a program."""


@scenario(kinds=SOME_KINDS)
async def events_and_a_listener_that_ends_the_program(world: World) -> None:
    """It comes out as itself, and the connection is closed as for a cancellation."""
    interrupt = Interrupt()

    async def on_message(event: Message) -> None:
        await anyio.sleep(0.01)
        raise interrupt

    listeners = {Opened: lambda event: event.client.send("hello"), Message: on_message}
    caught = []
    async with _told(world, listeners, codes=(1001,)) as (heard, peer):
        peer.replies[b"hello"] = peer.frame(TEXT, b"hello yourself")

        async def operation() -> None:
            try:
                await heard.run()
            except Interrupt as error:
                caught.append(error)

        await world.attack(operation)
        if world.outcome == "finished":
            check(caught == [interrupt], "it did not come out")
            # Listeners behind that one are not called, and there is no end to tell.
            check(heard.kinds == [Opened], f"told {heard.kinds}")
            world.outcome = "interrupted"
    check(world.struck or peer.close is not None, "no Close was sent")


@scenario(kinds=SOME_KINDS)
async def events_and_a_slow_listener(world: World) -> None:
    """Its inbox is full, and the peer is held up; then each message is told once, in order."""
    config = replace(QUICK, inbox_size=1)
    calls: list[int] = []  # how many listeners were called at a time
    running = 0
    cancelled_at = 0  # which call

    async def on_message(event: Message) -> None:
        nonlocal running, cancelled_at
        running += 1
        calls.append(running)
        try:
            await anyio.sleep(0.005)
        except anyio.get_cancelled_exc_class():
            cancelled_at = len(calls)
            raise
        finally:
            running -= 1

    async with _told(world, {Message: on_message}, config, codes=(1000,)) as (heard, peer):

        async def talk() -> None:
            await peer.open.wait()
            await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(8)))
            await peer.send_close(1000)

        async with anyio.create_task_group() as tg:
            tg.start_soon(talk)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        expected = [str(n) for n in range(8)]
        check(heard.messages == expected[: len(heard.messages)], f"told {heard.messages}")
        check(set(calls) <= {1}, "two listeners at once")
        check(not running, "a listener goes on")
        if cancelled_at:
            check(world.outcome == "cancelled", "a listener was cancelled, and nothing else")
            check(len(calls) == cancelled_at, "a listener was cancelled, and the next one called")
        if world.outcome == "finished":
            check(heard.messages == expected, f"told {heard.messages}")
            check(heard.last.code == 1000, f"ended with {heard.last}")


@scenario(kinds=SOME_KINDS)
async def events_and_a_slow_listener_that_closes(world: World) -> None:
    """What waits then is not told any more, and who waited for room goes on."""
    config = replace(QUICK, inbox_size=1)

    async def on_message(event: Message) -> None:
        await anyio.sleep(0.02)
        event.client.close(3000)

    async with _told(world, {Message: on_message}, config, codes=(3000,)) as (heard, peer):

        async def talk() -> None:
            await peer.open.wait()
            await peer.send_raw(b"".join(peer.frame(TEXT, b"%d" % n) for n in range(8)))

        async with anyio.create_task_group() as tg:
            tg.start_soon(talk)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        check(heard.messages in ([], ["0"]), f"told {heard.messages}")
        if world.outcome == "finished":
            check(heard.kinds == [Opened, Message, Closed], f"told {heard.kinds}")


# --- Closing behind what waits to be sent ---


async def _close_behind_messages(world: World, *, stalled_for: float) -> None:
    sizes = [100_000] * 4

    def on_opened(event: Opened) -> None:
        for size in sizes:
            event.client.send(bytes(size))
        event.client.close(3000)

    arrives = stalled_for < QUICK.close_timeout
    # What is to arrive has time for it, however busy the machine.
    config = replace(QUICK, close_timeout=2.0) if arrives else QUICK
    async with _told(world, {Opened: on_opened}, config, codes=(3000,)) as (heard, peer):
        peer.stall()

        async def resume() -> None:
            await anyio.sleep(stalled_for)
            peer.resume()

        async with anyio.create_task_group() as tg:
            tg.start_soon(resume)
            begun = anyio.current_time()
            await world.attack(heard.run)
            ended = anyio.current_time()
            tg.cancel_scope.cancel()
        check(world.struck or heard.kinds == [Opened, Closed], f"told {heard.kinds}")
        if world.struck:
            return
        if arrives:
            await peer.until(lambda: peer.close is not None)
            check([len(one) for one in peer.messages] == sizes, "not all of them arrived")
            check(heard.last.clean, f"ended with {heard.last}")
        else:
            check(not heard.last.clean, f"nobody read it: {heard.last}")
            bound = QUICK.close_timeout + SLACK if world.setting.virtual else GUARD
            check(ended - begun <= bound, f"given up after {ended - begun:.3f} s")


@scenario(kinds=SOME_KINDS)
async def events_and_a_close_behind_messages(world: World) -> None:
    await _close_behind_messages(world, stalled_for=0.05)


@scenario(kinds=(MEMORY, TCP))
async def events_and_a_close_behind_messages_that_nobody_reads(world: World) -> None:
    await _close_behind_messages(world, stalled_for=5)


@scenario(kinds=(MEMORY, TCP))
async def events_and_somebody_who_sends_at_every_turn(world: World) -> None:
    """What is sent arrives in order, or is refused; nothing of it waits when all is over."""
    async with _told(world, {}, codes=(3000,)) as (heard, peer):

        async def send() -> None:
            await peer.open.wait()
            # Turns, and no time: a run that is cancelled counts as open for a few of them.
            for number in range(15):
                await anyio.lowlevel.checkpoint()
                if heard.client.is_open:
                    heard.client.send(str(number))
            heard.client.close(3000)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await world.attack(heard.run)
            tg.cancel_scope.cancel()
        numbers = [int(message) for message in peer.messages]
        check(numbers == sorted(set(numbers)), f"arrived: {numbers}")
        if not world.struck:
            check(numbers[-1:] == [14], f"arrived: {numbers}")


# --- The background thread ---


@scenario(kinds=SOME_KINDS, backends=LOOPS_OF_ASYNCIO)
async def events_from_the_background(world: World) -> None:
    """The coroutine of its thread is run here, on our loop; clients are polled, one comes late."""
    loop = background.Background()
    listeners = {Opened: lambda e: e.client.send("hello"), Message: lambda e: e.client.close(3000)}
    openings = world.prepared(role="client"), world.prepared(role="client")
    async with openings[0] as (first, peer), openings[1] as (second, other_peer):
        clients = [ClientOver([one], listeners, polled=True) for one in (first, second)]
        heard = [Heard(client) for client in clients]
        for one in (peer, other_peer):
            one.replies[b"hello"] = one.frame(TEXT, b"hello yourself")

        async def begin_the_other() -> None:
            await anyio.sleep(0.005)
            _begin(clients[1], loop)

        async def poll() -> None:
            while True:
                for client in clients:
                    client.poll()
                await anyio.sleep(0.005)

        _begin(clients[0], loop)
        async with anyio.create_task_group() as tg:
            tg.start_soon(poll)
            tg.start_soon(begin_the_other)
            await world.attack(loop._serve)
            await anyio.sleep(0.02)
            tg.cancel_scope.cancel()
        await _cancel_what_was_not_begun(loop)
        check(not loop._runs, "the loop has ended, and holds a connection")
        for one in heard:
            if world.outcome == "finished":
                check(one.kinds == [Opened, Message, Closed], f"told {one.kinds}")
                one.returned = one.last
            await one.check_order(world)
            del one.client
        clients.clear()


def _begin(client: Client, loop: background.Background) -> None:
    """What `Client.open` does, but for the thread."""
    with client._lock, background._lock:
        client._run = client._new_run(client._inbox)
        loop.take(client._run, None)


async def _cancel_what_was_not_begun(loop: background.Background) -> None:
    """The loop ends with the interpreter alone; what it had taken on by then is nobody's."""
    while loop._new:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await loop._own(loop._new.popleft())

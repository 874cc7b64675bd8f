"""`broadcast`: one message to many connections, and what becomes of a peer that is slow."""

from __future__ import annotations

import gc
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from connections import connected, every_kind, every_network, served
from streams import CLOSE, GUARD, PING, PONG, TEXT, client_of_raw, server_of_raw

import anyws
from anyws import Backlog, Close, Config, Deflate, Role, WebSocket, broadcast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KIB = 1024
# A peer that reads nothing is found out by nothing but what waits for it.
PATIENT = Config(close_timeout=5, cancel_grace=0.2, ping_interval=None, write_timeout=None)
SMALL = Backlog(max_bytes=10_000)
SKIP = Backlog(max_bytes=10_000, close_code=None)

both_roles = pytest.mark.parametrize(
    "role", [pytest.param(client_of_raw, id="client"), pytest.param(server_of_raw, id="server")]
)


@asynccontextmanager
async def crowd(
    kind: str, count: int, **options: Any
) -> AsyncIterator[tuple[list[WebSocket], list[WebSocket]]]:
    """Give so many connections' ends: the server's, and the clients'."""
    ours: list[WebSocket] = []
    theirs: list[WebSocket] = []
    released = anyio.Event()

    async def handler(ws: WebSocket) -> None:
        ours.append(ws)
        await released.wait()

    with anyio.fail_after(GUARD):
        async with served(kind, handler, **options) as connect, AsyncExitStack() as stack:
            for number in range(count):
                theirs.append(await stack.enter_async_context(connect()))
                while len(ours) <= number:
                    await anyio.sleep(0.001)
            try:
                yield ours, theirs
            finally:
                released.set()


async def everything(ws: WebSocket) -> list[str | bytes]:
    """Receive until the connection ends, however it does."""
    messages = []
    try:
        async for message in ws:
            messages.append(message)
    except anyws.ConnectionClosed:
        pass
    return messages


# --- To everybody ---


@every_kind
async def test_everybody_gets_the_message(kind):
    async with crowd(kind, 5) as (ours, theirs):
        result = broadcast(ours, "hello")
        assert result.sent == tuple(ours)
        assert result.skipped == result.dropped == result.closed == ()
        assert [await ws.receive() for ws in theirs] == ["hello"] * 5
        broadcast(ours, b"\x00\xff")
        assert [await ws.receive() for ws in theirs] == [b"\x00\xff"] * 5


@every_kind
async def test_clients_may_broadcast_too(kind):
    async with crowd(kind, 3) as (ours, theirs):
        broadcast(theirs, "hello" * 100)
        assert [await ws.receive() for ws in ours] == ["hello" * 100] * 3


@every_kind
async def test_it_is_in_line_with_what_is_sent_otherwise(kind):
    async with crowd(kind, 2) as (ours, theirs):
        async with anyio.create_task_group() as tg:
            heard: list[list[str | bytes]] = [[], []]

            async def listen(number: int) -> None:
                for _ in range(400):
                    heard[number].append(await theirs[number].receive())

            tg.start_soon(listen, 0)
            tg.start_soon(listen, 1)
            for number in range(200):
                broadcast(ours, f"{number} to all " + "x" * 500)
                for ws in ours:
                    await ws.send(f"{number} to one " + "x" * 500)
        said = [
            f"{number} to {whom} " + "x" * 500 for number in range(200) for whom in ("all", "one")
        ]
        assert heard == [said, said]


@every_kind
async def test_large_messages_arrive_whole(kind):
    messages = [bytes([number]) * 700_000 for number in range(3)]
    async with crowd(kind, 3) as (ours, theirs):
        async with anyio.create_task_group() as tg:
            heard: dict[int, list[Any]] = {}

            async def listen(number: int) -> None:
                heard[number] = [await theirs[number].receive() for _ in messages]

            for number in range(3):
                tg.start_soon(listen, number)
            for message in messages:
                result = broadcast(ours, message, compress=False, backlog=Backlog(max_bytes=2**22))
                assert len(result.sent) == 3
        assert all(heard[number] == messages for number in range(3))


@pytest.mark.parametrize(
    "deflate",
    [None, Deflate(), Deflate(context_takeover=False), Deflate(window_bits=15, threshold=1)],
    ids=["plain", "compressed", "without takeover", "large window"],
)
async def test_it_mixes_with_messages_of_the_connection_s_own_whatever_is_compressed(deflate):
    config = Config(compression=deflate, cancel_grace=0.2)
    words = "lorem ipsum dolor sit amet, consetetur sadipscing elitr " * 5
    async with connected(server_config=config) as (client, server):
        said = []
        for number in range(50):
            said.append(f"{number} {words}")
            if number % 3:
                broadcast([server], said[-1])
            else:
                await server.send(said[-1])
        heard = []
        async with anyio.create_task_group() as tg:

            async def listen() -> None:
                for _ in said:
                    heard.append(await client.receive())

            tg.start_soon(listen)
        assert heard == said


async def test_what_is_not_open_is_told_apart():
    async with crowd("memory", 3) as (ours, theirs):
        await theirs[0].close()
        await ours[0].wait_closed()
        await ours[1].send_eof()
        result = broadcast(set(ours), "hello")
        assert result.sent == (ours[2],)
        assert set(result.closed) == set(ours[:2])


async def test_nobody_is_a_crowd_too():
    assert broadcast([], "hello").sent == ()


async def test_what_cannot_be_sent_is_sent_to_nobody():
    async with crowd("memory", 2) as (ours, theirs):
        with pytest.raises(TypeError, match="a message must be str"):
            broadcast(ours, 5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="lone surrogate"):
            broadcast(ours, "\ud800")
        with pytest.raises(TypeError, match="backlog must be a Backlog"):
            broadcast(ours, "x", backlog=10)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"broadcast takes connections \(WebSocket\), not str"):
            broadcast([*ours, "ws"], "x")  # type: ignore[list-item]
        broadcast(ours, "hello")
        assert [await ws.receive() for ws in theirs] == ["hello"] * 2


async def test_a_message_that_can_be_altered_is_copied():
    message = bytearray(b"hello")
    async with server_of_raw(PATIENT) as (ws, peer):
        peer.stall()
        broadcast([ws], message)
        message[:] = b"HELLO"
        peer.resume()
        assert (await peer.next_frame()).payload == b"hello"


async def test_nothing_is_kept_of_a_connection():
    async with crowd("memory", 1) as (ours, theirs):
        result = broadcast(ours, "hello")
        await theirs[0].receive()
        gone = weakref.ref(ours[0])
    del result, ours, theirs
    gc.collect()
    assert gone() is None


# --- A peer that is slow ---


@both_roles
@pytest.mark.parametrize("inline", [False, True])
async def test_a_peer_that_falls_behind_is_dropped_and_gets_all_that_was_sent(role, inline):
    """Whole messages in order, then the Close."""
    async with role(PATIENT, inline=inline) as (ws, peer):
        peer.stall()
        sent = 0
        while (result := broadcast([ws], f"{sent} ".ljust(KIB), backlog=SMALL)).sent:
            sent += 1
            await anyio.lowlevel.checkpoint()
            assert sent < 100
        assert result.dropped == (ws,)
        # What the stream has is not in the backlog.
        assert 10 <= sent <= 10 + 64 + 2
        assert broadcast([ws], "x").closed == (ws,)
        peer.resume()
        *messages, close = [await peer.next_frame() for _ in range(sent + 1)]
        assert [one.payload for one in messages] == [
            f"{number} ".ljust(KIB).encode() for number in range(sent)
        ]
        assert (close.opcode, close.code, close.reason) == (CLOSE, 1013, "too far behind")
        peer.leave()
        closure = await ws.wait_closed()
    assert closure.sent == Close(1013, "too far behind")


async def test_one_that_never_reads_again_is_cut_after_the_time_for_closing():
    config = Config(close_timeout=0.2, cancel_grace=0, ping_interval=None)
    async with server_of_raw(config) as (ws, peer):
        peer.stall()
        while not broadcast([ws], "x" * KIB, backlog=SMALL).dropped:
            await anyio.lowlevel.checkpoint()
        closure = await ws.wait_closed()
        assert not closure.clean
        assert ws._transport.backlog == 0


@every_network
async def test_over_the_network_the_slow_are_dropped_and_the_others_get_everything(kind):
    message = "x" * (16 * KIB)
    backlog = Backlog(max_bytes=256 * KIB, close_code=1008)
    async with crowd(kind, 3, config=PATIENT) as (ours, theirs):
        slow, *healthy = theirs
        heard: dict[int, int] = {}
        sent = 0
        behind: WebSocket | None = None

        async def listen(number: int) -> None:
            while True:
                heard[number] = int((await healthy[number].receive()).partition(" ")[0])

        async with anyio.create_task_group() as tg:
            tg.start_soon(listen, 0)
            tg.start_soon(listen, 1)
            while behind is None:
                result = broadcast(ours, f"{sent} {message}", compress=False, backlog=backlog)
                behind = result.dropped[0] if result.dropped else None
                assert len(result.sent) == 3 - len(result.dropped)
                while [*heard.values()] != [sent, sent]:
                    await anyio.sleep(0)
                sent += 1
                assert sent < 4000
            tg.cancel_scope.cancel()
        assert behind is ours[0]
        got = await everything(slow)
        # Not the last one, for which it was dropped.
        assert [one.partition(" ")[0] for one in got] == [str(n) for n in range(sent - 1)]
        assert slow.closure.received == Close(1008, "too far behind")


@both_roles
@pytest.mark.parametrize("inline", [False, True])
async def test_one_that_is_skipped_is_served_again_once_it_has_caught_up(role, inline):
    """With hysteresis: not between the two bounds."""
    async with role(PATIENT, inline=inline) as (ws, peer):
        peer.stall()

        def say(number: int) -> bool:
            result = broadcast([ws], f"{number} ".ljust(KIB), backlog=SKIP)
            assert bool(result.sent) is not bool(result.skipped)
            return bool(result.sent)

        sent = []
        number = 0
        while say(number):
            sent.append(number)
            number += 1
            await anyio.lowlevel.checkpoint()
        waiting = ws._transport.backlog
        assert 10_000 <= waiting <= 10_000 + 2 * KIB
        # A little room is not enough.
        assert not say(1000)
        assert ws._transport.backlog == waiting
        peer.resume()
        heard = [int((await peer.next_frame()).payload) for _ in sent]
        assert heard == sent
        await anyio.wait_all_tasks_blocked()
        assert ws._transport.backlog == 0
        assert say(2000)
        assert int((await peer.next_frame()).payload) == 2000


async def test_between_the_bounds_a_skipped_one_stays_skipped():
    backlog = Backlog(max_bytes=256 * KIB, resume_bytes=100 * KIB, close_code=None)
    async with server_of_raw(PATIENT, capacity=KIB) as (ws, peer):
        while not broadcast([ws], "x" * KIB, backlog=backlog).skipped:
            await anyio.lowlevel.checkpoint()
        skipped_at = []
        while (waiting := ws._transport.backlog) > backlog.resume_at:
            skipped_at.append(waiting)
            assert broadcast([ws], "x", backlog=backlog).skipped == (ws,)
            await peer.next_frame()
        assert broadcast([ws], "x", backlog=backlog).sent == (ws,)
        # It went through all that lies between.
        assert len({*skipped_at}) > 2
        assert min(skipped_at) < backlog.max_bytes / 1.5
        ws.abort()


async def test_one_message_may_be_larger_than_the_bound():
    async with server_of_raw(PATIENT) as (ws, peer):
        for size in (20_000, 50_000):
            assert broadcast([ws], "x" * size, backlog=SMALL).sent == (ws,)
            assert len((await peer.next_frame()).payload) == size


@every_network
async def test_a_send_of_its_own_that_is_under_way_is_not_held_against_a_peer(kind):
    """And the broadcast comes behind it."""
    large = bytes(900_000)
    async with crowd(kind, 1, config=PATIENT) as ([ws], [client]):
        async with anyio.create_task_group() as tg:
            for _ in range(10):
                tg.start_soon(ws.send, large)
            await anyio.wait_all_tasks_blocked()
            for number in range(5):
                assert broadcast([ws], f"{number}", backlog=SMALL).sent == (ws,)
            heard = [await client.receive() for _ in range(15)]
        assert [one for one in heard if one != large] == [f"{number}" for number in range(5)]
        assert heard.count(large) == 10


@both_roles
@pytest.mark.parametrize("inline", [False, True])
async def test_pings_of_a_slow_peer_are_answered_between_what_waits_for_it(role, inline):
    """A line that is never empty must not make us look dead."""
    async with role(PATIENT, inline=inline, capacity=4 * KIB) as (ws, peer):
        for number in range(60):
            broadcast([ws], f"{number} ".ljust(KIB), backlog=Backlog(max_bytes=2**20))
            await anyio.lowlevel.checkpoint()
        peer.send(PING, b"there?")
        with anyio.move_on_after(0.05):
            await ws.receive()
        before = 0
        while (one := await peer.next_frame()).opcode == TEXT:
            before += 1
            broadcast([ws], "more".ljust(KIB), backlog=Backlog(max_bytes=2**20))
            assert before < 150
        assert (one.opcode, one.payload) == (PONG, b"there?")
        ws.abort()


@every_network
async def test_a_ping_is_answered_although_the_line_is_never_empty(kind):
    piece = b"x" * (64 * KIB)
    backlog = Backlog(max_bytes=2**30)
    async with crowd(kind, 1, config=PATIENT) as ([ws], [client]):

        async def fill() -> None:
            # The system's buffers grow meanwhile.
            while ws._transport.backlog < 2**22:
                broadcast([ws], piece, compress=False, backlog=backlog)
                await anyio.sleep(0)

        await fill()
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.ping)
            taken = 0
            while client.latency is None:
                await client.receive()
                taken += 1
                assert ws._transport.backlog > 0
                await fill()
                assert taken < 1000
        ws.abort()
        client.abort()


# --- What is counted and traced ---


@every_kind
async def test_what_is_broadcast_is_counted_and_traced_like_what_is_sent(kind):
    events: list[anyws.TraceEvent] = []
    config = Config(trace=events.append, compression=None)
    async with crowd(kind, 2, config=config) as (ours, theirs):
        await ours[0].send("one")
        broadcast(ours, "all")
        async with ours[1].open_message() as message:
            await message.send("o")
            broadcast(ours, "again")  # for the second, behind what it is in the middle of
            await message.send("ne")
        heard = [[await ws.receive() for _ in range(3)] for ws in theirs]
        assert heard == [["one", "all", "again"], ["all", "one", "again"]]
        for ws in ours:
            assert (ws.counters.messages_sent, ws.counters.bytes_sent) == (3, 11)
    told: dict[int, list[int]] = {}
    for event in events:
        if event.kind == "sent" and event.role is Role.SERVER and event.opcode == 1:
            told.setdefault(event.connection, []).append(event.length)
    assert sorted(told.values()) == [[3, 1, 5], [3, 3, 5]]


# --- A message in fragments ---


@every_kind
async def test_a_broadcast_waits_behind_a_message_in_fragments(kind):
    async with connected(kind) as (client, server):
        async with anyio.create_task_group() as tg:
            async with server.open_message() as message:
                await message.send("half a mess")
                assert broadcast([server], "for all").sent == (server,)
                tg.start_soon(server.send, "late")
                await anyio.wait_all_tasks_blocked()
                assert broadcast([server], "for all, too").sent == (server,)
                await message.send("age")
            heard = [await client.receive() for _ in range(4)]
        assert heard == ["half a message", "for all", "for all, too", "late"]


async def test_compressed_fragments_and_broadcasts_keep_their_contexts_apart():
    words = "lorem ipsum dolor sit amet " * 20
    async with connected(config=Config(), server_config=Config(cancel_grace=0.2)) as (
        client,
        server,
    ):
        for _ in range(3):
            async with server.open_message() as message:
                await message.send(words)
                broadcast([server], words + "1")
                await message.send(words)
            await server.send(words)
            assert [await client.receive() for _ in range(3)] == [words * 2, words + "1", words]


async def test_what_waits_behind_fragments_counts_as_backlog():
    async with connected() as (client, server):
        kept = 0
        with pytest.raises(anyws.ClosedByUs):
            async with server.open_message() as message:
                await message.send("endless")
                while broadcast([server], "x" * KIB, backlog=SMALL).sent:
                    kept += 1
                await message.send("more")
        assert kept == 10
        with pytest.raises(anyws.ClosedWithError) as caught:
            await client.receive()
        assert caught.value.closure.received == Close(1013, "too far behind")


async def test_a_message_that_is_left_unfinished_takes_the_broadcasts_behind_it_along():
    async with connected() as (client, server):
        with pytest.raises(LookupError):
            async with server.open_message() as message:
                await message.send("half")
                broadcast([server], "for all")
                raise LookupError
        with pytest.raises(anyws.ClosedWithError) as caught:
            await client.receive()
        assert caught.value.closure.received.code == 1011


async def test_a_message_of_no_fragments_lets_the_broadcasts_through():
    async with connected() as (client, server):
        async with server.open_message():
            broadcast([server], "for all")
        assert await client.receive() == "for all"


# --- Closing behind it ---


@every_kind
async def test_a_close_goes_out_behind_what_was_broadcast(kind):
    async with crowd(kind, 1, config=PATIENT) as ([ws], [client]):
        async with anyio.create_task_group() as tg:
            heard: list[str | bytes] = []

            async def listen() -> None:
                heard.extend(await everything(client))

            for number in range(200):
                broadcast([ws], f"{number} ".ljust(4 * KIB), compress=False)
            tg.start_soon(listen)
            closure = await ws.close(4000)
        assert closure.clean
        assert [int(one) for one in heard] == list(range(200))


@every_network
async def test_a_peer_that_has_left_is_no_error_of_the_broadcast(kind):
    async with crowd(kind, 2) as (ours, theirs):
        theirs[0].abort()
        await theirs[0].wait_closed()
        for _ in range(200):
            result = broadcast(ours, "x" * KIB)
            assert ours[1] in result.sent
            await anyio.sleep(0)
            await theirs[1].receive()
            if result.closed:
                break
        assert result.closed == (ours[0],)


async def test_the_result_is_a_value():
    async with crowd("memory", 1) as (ours, _):
        result = broadcast(ours, "x")
        assert result == anyws.BroadcastResult((ours[0],), (), (), ())
        with pytest.raises(AttributeError):
            result.sent = ()  # type: ignore[misc]

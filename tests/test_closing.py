"""The closing handshake: who sends which Close when, and what each end knows afterwards."""

from __future__ import annotations

import anyio
import pytest
from connections import QUICK, against_raw, connected, every_kind, served
from streams import CLOSE, PING, PONG, TEXT, client_of_raw, close_frame, frame, server_of_raw

import anyws
from anyws import Close, CloseCode, Closure, Config, Role, Status, WebSocket

pytestmark = pytest.mark.timeout(30)

# For a handshake that is to be over in time; it takes no longer for it.
SLOW = Config(cancel_grace=10)


def code_for(error: BaseException | None, role: Role) -> int:
    if error is None:
        return 1000
    return 1011 if role is Role.SERVER else 1001


# --- How the block is left ---


@against_raw
async def test_returning_closes_with_1000_and_waits_for_the_answer(against) -> None:
    async with against() as (ws, peer):
        await ws.send("last words")
    assert [(f.opcode, f.payload[:2]) for f in peer.wire] == [
        (TEXT, b"la"),
        (CLOSE, (1000).to_bytes(2, "big")),
    ]
    assert ws.closure == Closure(
        Close(1000), Close(1000), "ours", True, "this end closed the connection with 1000 (normal)"
    )
    assert ws.status is Status.CLOSED
    assert peer.torn == b""


@against_raw
async def test_an_exception_leaves_the_block_as_itself(against) -> None:
    """H6, H7. The same object, with its cause and its context."""
    cause, context = KeyError("cause"), IndexError("context")
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with against() as (ws, peer):
            try:
                raise context
            except IndexError:
                raise error from cause
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is context
    assert peer.wire[-1].code == code_for(error, ws.role)
    assert ws.closure.clean


@against_raw
async def test_an_exception_without_a_context_gets_none(against) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):
        async with against() as (ws, peer):
            peer.stays = True
            peer.end()
            await anyio.sleep(0.01)
            raise error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert ws.status is Status.CLOSED


@against_raw
async def test_a_group_that_the_body_raises_stays_that_group(against) -> None:
    """H7."""
    group = ExceptionGroup("mine", [ValueError("a"), KeyError("b")])
    with pytest.raises(ExceptionGroup) as caught:
        async with against():
            raise group
    assert caught.value is group
    assert len(group.exceptions) == 2


@against_raw
async def test_the_connections_own_error_leaves_the_block_without_a_group(against) -> None:
    """H7, H8."""
    with pytest.raises(anyws.ConnectionBroken) as caught:
        async with against() as (ws, peer):
            peer.end()
            await ws.receive()
    assert caught.value.closure == ws.closure
    assert not ws.closure.clean


@against_raw
async def test_a_cancelled_block_closes_with_1001(against) -> None:
    """H5."""
    with anyio.CancelScope() as scope:
        async with against() as (ws, peer):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert peer.wire[-1].code == 1001
    assert ws.closure.sent == Close(1001)
    assert ws.closure.clean


@every_kind
@pytest.mark.parametrize(
    ("how", "code"), [("returns", 1000), ("raises", 1001), ("is cancelled", 1001)]
)
async def test_the_server_sees_how_the_clients_block_ended(kind: str, how: str, code: int) -> None:
    closures = []

    async def handler(ws: WebSocket) -> None:
        closures.append(await ws.wait_closed())

    with anyio.fail_after(10):
        async with served(kind, handler, config=SLOW) as connect:
            with anyio.CancelScope() as scope:
                try:
                    async with connect(config=SLOW) as ws:
                        if how == "raises":
                            raise KeyError
                        if how == "is cancelled":
                            scope.cancel()
                            await anyio.sleep_forever()
                except KeyError:
                    assert how == "raises"
            assert scope.cancelled_caught == (how == "is cancelled")
            assert ws.status is Status.CLOSED
            assert ws.closure == Closure(Close(code), Close(code), "ours", True, ws.closure.cause)
    assert [(c.received.code, c.sent.code, c.first, c.clean) for c in closures] == [
        (code, code, "theirs", True)
    ]


@every_kind
@pytest.mark.parametrize(("how", "code"), [("returns", 1000), ("raises", 1011)])
async def test_the_client_sees_how_the_handler_ended(kind: str, how: str, code: int) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.send("hello")
        if how == "raises":
            raise KeyError

    with anyio.fail_after(10):
        async with served(kind, handler, config=SLOW) as connect, connect() as ws:
            assert await ws.receive() == "hello"
            closure = await ws.wait_closed()
    assert closure == Closure(Close(code), Close(code), "theirs", True, closure.cause)
    assert str(code) in closure.cause


# --- close() ---


@every_kind
async def test_close_says_how_the_connection_ended_and_so_does_the_other_end(kind: str) -> None:
    async with connected(kind) as (client, server):
        for one, other in [(client, server)]:
            closure = await one.close(3333, "all done €")
            assert closure == one.closure
            assert closure.sent == Close(3333, "all done €")
            assert closure.received == Close(3333)
            assert (closure.first, closure.clean) == ("ours", True)
            theirs = await other.wait_closed()
            assert theirs.received == Close(3333, "all done €")
            assert (theirs.first, theirs.clean) == ("theirs", True)
            assert (theirs.code, theirs.reason) == (3333, "all done €")
            assert await one.close(4000, "again") == closure
            assert await other.close() == theirs
            for ws, error in [(one, anyws.ClosedByUs), (other, anyws.ClosedWithError)]:
                for call in (ws.receive, ws.ping, lambda ws=ws: ws.send("x")):
                    with pytest.raises(error) as caught:
                        await call()
                    assert caught.value.closure == ws.closure


async def test_a_server_may_close_first_too() -> None:
    """R-80."""
    async with connected("tcp") as (client, server):
        with anyio.fail_after(5):
            closure = await server.close(1012)
            assert closure.clean
            assert (await client.wait_closed()).received == Close(1012)


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (999, "", ValueError),
        (1004, "", ValueError),
        (1005, "", ValueError),
        (1006, "", ValueError),
        (1015, "", ValueError),
        (1016, "", ValueError),
        (2999, "", ValueError),
        (5000, "", ValueError),
        (70000, "", ValueError),
        (-1, "", ValueError),
        (1000.0, "", TypeError),
        (True, "", TypeError),
        (None, "", TypeError),
        (1000, "x" * 124, ValueError),
        (1000, "€" * 42, ValueError),
        (1000, "\ud800", ValueError),
        (1000, b"bytes", TypeError),
    ],
)
async def test_what_no_close_can_carry_is_refused_before_anything_is_sent(
    code, reason, error
) -> None:
    """R-77, R-98, W23."""
    async with client_of_raw() as (ws, peer):
        with pytest.raises(error):
            await ws.close(code, reason)
        assert ws.is_open
        await ws.send("usable")
        assert [f.opcode for f in peer.wire] == [TEXT]


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1009, 1011, 1014, 3000, 4999])
async def test_codes_and_reasons_at_their_bounds_are_sent(code: int) -> None:
    async with server_of_raw() as (ws, peer):
        peer.send_close(code)
        peer.end()
        await ws.close(code, "x" * 123)
        close = peer.wire[-1]
        assert close.code == code


async def test_a_reason_of_123_bytes_goes_out_whole() -> None:
    async with server_of_raw(QUICK) as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(ws.close, CloseCode.GOING_AWAY, "€" * 41)
        assert (await peer.next_close()).reason == "€" * 41
        peer.leave()


async def test_only_a_client_misses_an_extension() -> None:
    """R-99."""
    async with server_of_raw() as (ws, peer):
        with pytest.raises(ValueError, match="clients only"):
            await ws.close(1010)
    async with client_of_raw(QUICK) as (ws, peer), anyio.create_task_group() as tg:
        tg.start_soon(ws.close, 1010)
        assert (await peer.next_close()).code == 1010
        peer.leave()


@against_raw
async def test_many_may_close_at_once_and_all_return_the_same(against) -> None:
    """H23, R-88."""
    async with against() as (ws, peer):
        closures = []

        async def close(code: int) -> None:
            closures.append(await ws.close(code))

        async def receive() -> None:
            with pytest.raises(anyws.ClosedByUs):
                await ws.receive()

        async with anyio.create_task_group() as tg:
            tg.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            for code in range(4000, 4010):
                tg.start_soon(close, code)
            tg.start_soon(ws.aclose)
            tg.start_soon(ws.wait_closed)
            await anyio.wait_all_tasks_blocked()
            peer.leave()
        assert len(closures) == 10
        assert set(closures) == {ws.closure}
        assert len([f for f in peer.wire if f.opcode == CLOSE]) == 1


@against_raw
async def test_both_ends_may_close_at_the_same_time(against) -> None:
    """R-81: no further frame, and each reports the other's code."""
    async with against() as (ws, peer):
        peer.send_close(4001)
        with anyio.fail_after(5):
            # Nothing was read yet.
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.close, 4002)
                await anyio.wait_all_tasks_blocked()
                peer.end()
        assert ws.closure.received == Close(4001)
        assert len([f for f in peer.wire if f.opcode == CLOSE]) == 1


async def test_a_server_closes_the_stream_first_and_a_client_waits_for_that() -> None:
    """R-80."""
    async with server_of_raw() as (ws, peer):
        peer.send_close()
        with anyio.fail_after(5):
            await ws.wait_closed()
    async with client_of_raw(Config(close_timeout=5)) as (ws, peer):
        peer.send_close()
        while ws.closure is None:
            await anyio.sleep(0.001)
        with anyio.move_on_after(0.1) as scope:
            await ws.wait_closed()
        assert scope.cancelled_caught
        assert ws.closure.clean
        assert ws.status is Status.CLOSING
        peer.end()
        with anyio.fail_after(2):
            await ws.wait_closed()


@against_raw
async def test_what_comes_after_our_close_is_dropped_even_with_a_full_inbox(against) -> None:
    """R-101, V5."""
    async with against(Config(inbox_size=2, close_timeout=5)) as (ws, peer):
        for _ in range(10):
            peer.send(TEXT, b"x" * 1000)
        await anyio.wait_all_tasks_blocked()
        for _ in range(1000):
            peer.send(TEXT, b"x" * 1000)
        peer.send(PING, b"not answered")
        peer.send_close(4000)
        peer.end()
        with anyio.fail_after(4):
            closure = await ws.close()
        assert closure.clean
        assert [f.opcode for f in peer.wire] == [CLOSE]
        with pytest.raises(anyws.ClosedByUs):
            await ws.receive()


@against_raw
async def test_a_close_without_a_code_is_answered_by_one_without(against) -> None:
    """R-79, R-86."""
    async with against() as (ws, peer):
        peer.push(frame(CLOSE, mask=not peer.is_server))
        assert (await peer.next_close()).payload == b""
        with pytest.raises(anyws.ClosedByPeer) as caught:
            await ws.receive()
        assert caught.value.closure.code == 1005
        peer.end()


@against_raw
async def test_the_peers_close_is_noticed_and_answered_while_nobody_receives(against) -> None:
    """R-79. Pings too. R-64, R-65."""
    async with against() as (ws, peer):
        peer.send(PING, b"1")
        with anyio.fail_after(5):
            assert (await peer.next_frame()).opcode == PONG
            peer.send_close(4000, "reason")
            close = await peer.next_close()
        assert (close.code, close.reason) == (4000, "")
        assert not ws.is_open


@against_raw
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes.fromhex("8380"), 1002),
        (bytes.fromhex("c180"), 1002),
        (bytes.fromhex("0980"), 1002),
        (bytes.fromhex("8080"), 1002),
        (bytes.fromhex("8181") + b"\0\0\0\0\xff", 1007),
        (bytes.fromhex("888100000000ff"), 1002),
        (bytes.fromhex("82ff4000000000000000"), 1009),
    ],
    ids=["opcode", "rsv", "ping fin", "continuation", "utf8", "close", "size"],
)
async def test_a_violation_is_answered_with_its_code_and_ends_the_connection(
    against, data: bytes, code: int
) -> None:
    """R-83, R-84, W18, W19, V2, V31."""
    async with against() as (ws, peer):
        if peer.is_server:
            # Unmasked.
            size = data[1] & 0x7F
            at = {126: 4, 127: 10}.get(size, 2)
            data = data[:1] + bytes([data[1] & 0x7F]) + data[2:at] + data[at + 4 :]
        peer.send(TEXT, b"before")
        peer.push(data + b"\0" * 20)
        assert await ws.receive() == "before"
        with anyio.fail_after(5), pytest.raises(anyws.ConnectionBroken) as caught:
            await ws.receive()
        closure = caught.value.closure
        assert (closure.sent.code, closure.received, closure.clean) == (code, None, False)
        assert closure.first == "ours"
        assert str(code) in closure.cause
        assert (await peer.next_close()).code == code
        with pytest.raises(anyws.ConnectionBroken) as again:
            await ws.send("x")
        assert again.value is not caught.value
        peer.push(close_frame(code, mask=not peer.is_server))
        peer.end()
        await ws.wait_closed()
        assert ws.closure == closure


@against_raw
async def test_a_lost_stream_is_no_close(against) -> None:
    """R-85, R-87."""
    async with against() as (ws, peer):
        peer.send(TEXT, b"before")
        peer.push(frame(TEXT, b"never whole", mask=not peer.is_server)[:-2])
        peer.end()
        assert await ws.receive() == "before"
        with pytest.raises(anyws.ConnectionBroken) as caught:
            await ws.receive()
        closure = caught.value.closure
        assert (closure.code, closure.first, closure.clean) == (1006, None, False)
        assert "without a Close" in closure.cause
        with pytest.raises(anyws.ConnectionBroken):
            await ws.ping()


@against_raw
async def test_an_error_of_the_stream_is_the_cause_of_ours(against) -> None:
    async with against() as (ws, peer):
        error = anyio.BrokenResourceError("cable")
        peer.other.fail_receive(error, call=0)
        peer.stream.outgoing.notify()
        with pytest.raises(anyws.ConnectionBroken, match="cable") as caught:
            await ws.receive()
        assert caught.value.__cause__ is error

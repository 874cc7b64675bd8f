"""Every timer of a connection, in time that costs nothing."""

from __future__ import annotations

import anyio
import pytest
from streams import CLOSE, PING, TEXT, client_of_raw, server_of_raw
from virtual_time import run_in_virtual_time

import anyws
from anyws import Config, Status

pytestmark = [
    pytest.mark.timeout(30),
    pytest.mark.parametrize("backend", ["asyncio", "trio"]),
    pytest.mark.parametrize("role", ["client", "server"]),
]


def against(role: str, config: Config, **options):
    return {"client": client_of_raw, "server": server_of_raw}[role](config, guard=None, **options)


def config(**values) -> Config:
    return Config(**{"ping_interval": None, "write_timeout": None, **values})


class Watch:
    """How long something took."""

    def __init__(self) -> None:
        self.start = anyio.current_time()

    def __repr__(self) -> str:
        return f"{self.passed} s"

    @property
    def passed(self) -> float:
        return anyio.current_time() - self.start

    def shows(self, low: float, high: float | None = None) -> bool:
        return low - 0.001 <= self.passed <= (low if high is None else high) + 0.01


# --- close_timeout ---


def test_a_peer_that_never_answers_is_cut_off_at_the_close_timeout(backend: str, role: str) -> None:
    """V37."""

    async def main() -> None:
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
            watch = Watch()
            closure = await ws.close()
            assert watch.shows(7), watch
            assert not closure.clean
            assert (closure.sent.code, closure.received, closure.first) == (1000, None, "ours")
            assert "in time" in closure.cause
            assert peer.other.closed

    run_in_virtual_time(backend, main)


def test_returning_waits_for_the_close_timeout_at_most(backend: str, role: str) -> None:
    async def main() -> None:
        watch = Watch()
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
        assert watch.shows(7), watch
        assert ws.status is Status.CLOSED

    run_in_virtual_time(backend, main)


def test_data_after_our_close_does_not_extend_the_close_timeout(backend: str, role: str) -> None:
    """V37."""

    async def main() -> None:
        async with (
            anyio.create_task_group() as tg,
            against(role, config(close_timeout=7, inbox_size=1)) as (ws, peer),
        ):
            peer.stays = True

            async def chatter() -> None:
                while True:
                    peer.send(TEXT, b"x" * 1000)
                    await anyio.sleep(0.5)

            tg.start_soon(chatter)
            watch = Watch()
            await ws.close()
            assert watch.shows(7), watch
            tg.cancel_scope.cancel()

    run_in_virtual_time(backend, main)


def test_a_write_in_front_of_the_close_does_not_extend_it(backend: str, role: str) -> None:
    """P2. The blocked sender is told, and so is the one behind it."""

    async def main() -> None:
        async with against(role, config(close_timeout=7), capacity=1000) as (ws, peer):
            peer.stays = True
            errors = []

            async def send() -> None:
                with pytest.raises(anyws.ClosedByUs) as caught:
                    await ws.send("x" * 1_000_000, compress=False)
                errors.append(caught.value)

            async with anyio.create_task_group() as tg:
                tg.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                watch = Watch()
                await ws.close()
                assert watch.shows(7), watch
            assert len(errors) == 2
            assert peer.other.closed

    run_in_virtual_time(backend, main)


def test_closing_the_stream_is_a_part_of_the_close_timeout(backend: str, role: str) -> None:
    """The peer answers, and keeps the stream; or closing it takes for ever."""

    async def main() -> None:
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
            peer.other.hangs_on_close = True
            watch = Watch()
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.close)
                await anyio.sleep(3)
                peer.send_close()
            assert watch.shows(3, 7), watch
            assert ws.closure.clean
            assert ws.status is Status.CLOSED

    run_in_virtual_time(backend, main)


def test_a_peer_that_closes_and_keeps_the_stream_is_cut_off_too(backend: str, role: str) -> None:
    """V37. Also where nobody here closes."""

    async def main() -> None:
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
            peer.send_close()
            watch = Watch()
            await ws.wait_closed()
            assert watch.shows(7 if role == "client" else 0), watch
            assert ws.closure.clean
            assert ws.closure.first == "theirs"

    run_in_virtual_time(backend, main)


def test_without_a_close_timeout_the_peer_has_all_the_time(backend: str, role: str) -> None:
    async def main() -> None:
        async with against(role, config(close_timeout=None)) as (ws, peer):
            async with anyio.create_task_group() as tg:
                tg.start_soon(ws.close)
                await anyio.sleep(100_000)
                assert ws.status is Status.CLOSING
                peer.leave()
            assert ws.closure.clean

    run_in_virtual_time(backend, main)


def test_send_eof_delivers_until_the_close_timeout_from_that_moment(
    backend: str, role: str
) -> None:
    async def main() -> None:
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
            watch = Watch()
            await ws.send_eof()
            await anyio.sleep(4)
            peer.send(TEXT, b"late")
            assert await ws.receive() == "late"
            with pytest.raises(anyws.ConnectionClosed):
                await ws.receive()
            assert watch.shows(7), watch

    run_in_virtual_time(backend, main)


def test_leaving_after_send_eof_grants_no_second_close_timeout(backend: str, role: str) -> None:
    async def main() -> None:
        async with against(role, config(close_timeout=7)) as (ws, peer):
            peer.stays = True
            watch = Watch()
            await ws.send_eof()
            await anyio.sleep(4)
            peer.send(TEXT, b"dropped")
        assert watch.shows(7), watch

    run_in_virtual_time(backend, main)


# --- cancel_grace ---


@pytest.mark.parametrize("grace", [0, 0.5, 3])
@pytest.mark.parametrize("how", ["raises", "is cancelled"])
def test_a_block_that_fails_costs_a_cancel_grace_at_most(
    backend: str, role: str, how: str, grace: float
) -> None:
    """P10, H4, H5."""

    async def main() -> None:
        with anyio.CancelScope() as scope:
            error = ValueError("mine")
            try:
                async with against(role, config(cancel_grace=grace)) as (ws, peer):
                    peer.stays = True
                    watch = Watch()
                    if how == "raises":
                        raise error
                    scope.cancel()
                    await anyio.sleep_forever()
            except ValueError as raised:
                assert raised is error  # noqa: PT017
        assert scope.cancelled_caught == (how == "is cancelled")
        assert watch.shows(grace), watch
        assert peer.other.closed
        assert ws.status is Status.CLOSED
        if grace:
            code = 1011 if (role, how) == ("server", "raises") else 1001
            assert [f.code for f in peer.wire] == [code]
        assert peer.torn == b""

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("timeout", [0, 0.5, 2])
@pytest.mark.parametrize("how", ["raises", "is cancelled"])
def test_a_block_that_fails_costs_no_more_than_one_that_returns(
    backend: str, role: str, how: str, timeout: float
) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            try:
                async with against(role, config(cancel_grace=9, close_timeout=timeout)) as (
                    _,
                    peer,
                ):
                    peer.stays = True
                    watch = Watch()
                    if how == "raises":
                        raise ValueError
                    scope.cancel()
                    await anyio.sleep_forever()
            except ValueError:
                pass
        assert watch.shows(timeout), watch
        assert peer.other.closed

    run_in_virtual_time(backend, main)


def test_a_grace_with_a_blocked_write_in_front_is_no_longer(backend: str, role: str) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with (
                anyio.create_task_group() as tg,
                against(role, config(cancel_grace=2), capacity=1000) as (ws, peer),
            ):
                peer.stays = True
                tg.start_soon(ws.send, "x" * 100_000)
                await anyio.wait_all_tasks_blocked()
                watch = Watch()
                scope.cancel()
                await anyio.sleep_forever()
        assert watch.shows(2), watch
        assert peer.wire == []

    run_in_virtual_time(backend, main)


def test_a_deadline_during_the_closing_handshake_costs_nothing_more(
    backend: str, role: str
) -> None:
    """H4: the body has returned, and the peer is silent."""

    async def main() -> None:
        watch = Watch()
        with anyio.move_on_after(5) as scope:
            async with against(role, config(close_timeout=60)) as (ws, peer):
                peer.stays = True
        assert scope.cancelled_caught
        assert watch.shows(5, 5.1), watch
        assert ws.status is Status.CLOSED

    run_in_virtual_time(backend, main)


def test_a_deadline_during_the_grace_after_an_exception_costs_nothing_more(
    backend: str, role: str
) -> None:
    """P11: the body has raised, and the closing handshake is running."""

    async def main() -> None:
        watch = Watch()
        with anyio.move_on_after(5), pytest.raises(ValueError, match="mine"):
            async with against(role, config(cancel_grace=60)) as (_, peer):
                peer.stays = True
                raise ValueError("mine")
        assert watch.shows(5, 5.1), watch

    run_in_virtual_time(backend, main)


def test_a_deadline_that_finds_the_body_running_costs_one_grace(backend: str, role: str) -> None:
    """P11, and its note."""

    async def main() -> None:
        watch = Watch()
        with anyio.move_on_after(5) as scope:
            async with against(role, config(cancel_grace=2)) as (_, peer):
                peer.stays = True
                await anyio.sleep(60)
        assert scope.cancelled_caught
        assert watch.shows(7), watch

    run_in_virtual_time(backend, main)


@pytest.mark.parametrize("method", ["close", "aclose"])
def test_a_close_in_a_cancelled_scope_tries_once_and_does_not_wait(
    backend: str, role: str, method: str
) -> None:
    async def main() -> None:
        async with against(role, config()) as (ws, peer):
            peer.stays = True
            watch = Watch()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await getattr(ws, method)()
            assert scope.cancelled_caught
            assert watch.shows(0), watch
            await ws.wait_closed()
            assert watch.shows(0, 0.1), watch
            assert [f.code for f in peer.wire] == [1000]

    run_in_virtual_time(backend, main)


def test_a_forced_close_behind_a_blocked_write_cuts_at_once(backend: str, role: str) -> None:
    async def main() -> None:
        async with against(role, config(), capacity=1000) as (ws, peer):
            async with anyio.create_task_group() as tg:

                async def send() -> None:
                    with pytest.raises(anyws.ClosedByUs):
                        await ws.send("x" * 100_000)

                tg.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                watch = Watch()
                await anyio.aclose_forcefully(ws)
                assert watch.shows(0), watch
                await ws.wait_closed()
                assert watch.shows(0, 0.1), watch
            assert peer.other.closed

    run_in_virtual_time(backend, main)


def test_a_close_that_is_cancelled_closes_the_stream_at_once(backend: str, role: str) -> None:
    async def main() -> None:
        async with against(role, config(close_timeout=60)) as (ws, peer):
            peer.stays = True
            watch = Watch()
            with anyio.move_on_after(3) as scope:
                await ws.close(4000)
            assert scope.cancelled_caught
            closure = await ws.wait_closed()
            assert watch.shows(3, 3.1), watch
            assert closure.sent.code == 4000
            assert not closure.clean

    run_in_virtual_time(backend, main)


# --- write_timeout ---


def test_a_write_of_which_the_peer_takes_nothing_breaks_the_connection(
    backend: str, role: str
) -> None:
    """P4, V6, H18."""

    async def main() -> None:
        stalling = config(write_timeout=9, cancel_grace=0)
        async with against(role, stalling, capacity=70_000) as (ws, _peer):
            watch = Watch()
            with pytest.raises(anyws.ConnectionBroken, match="stalled"):
                await ws.send("x" * 500_000, compress=False)
            assert watch.shows(9), watch
            assert ws.status is not Status.OPEN
            with pytest.raises(anyws.ConnectionBroken, match="stalled"):
                await ws.receive()

    run_in_virtual_time(backend, main)


def test_a_write_that_gets_on_slowly_does_not_break_it(backend: str, role: str) -> None:
    async def main() -> None:
        slow = config(write_timeout=9)
        async with against(role, slow, capacity=65_536) as (ws, peer):

            async def take() -> None:
                while True:
                    await anyio.sleep(8)
                    await peer.stream.receive(65_536)

            async with anyio.create_task_group() as tg:
                tg.start_soon(take)
                watch = Watch()
                await ws.send("x" * 500_000, compress=False)
                assert watch.passed > 40
                tg.cancel_scope.cancel()
            assert ws.is_open
            peer.resume()

    run_in_virtual_time(backend, main)


def test_idle_time_is_no_stall(backend: str, role: str) -> None:
    async def main() -> None:
        async with against(role, config(write_timeout=9)) as (ws, peer):
            for _ in range(5):
                await ws.send("x")
                await anyio.sleep(30)
            assert ws.is_open
            assert [f.opcode for f in peer.wire] == [TEXT] * 5

    run_in_virtual_time(backend, main)


def test_an_idle_connection_does_nothing_at_all(backend: str, role: str) -> None:
    """H33."""

    async def main() -> None:
        async with against(role, config(inbox_size=1)) as (ws, peer):
            peer.send(PING, b"x")
            peer.send(TEXT, b"x")
            await anyio.sleep(1)
            receives = peer.other.receives
            await anyio.sleep(1_000_000)
            assert peer.other.receives == receives
            assert ws.is_open
            assert CLOSE not in [f.opcode for f in peer.wire]

    run_in_virtual_time(backend, main)

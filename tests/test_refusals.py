"""How a server refuses a client: that it is told so, and may take its time over what it is told."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketListener, SocketStream
from bars import raw
from drains import CONFIG, Stage, deadline, every_end, idle, run
from streams import GUARD, URL, request_bytes
from virtual_time import run_in_virtual_time

import anyws
from anyws._accept import WaysOut, accept
from anyws._config import LINGER
from anyws._policy import Policy
from anyws._transports.sockets import AcceptedSocket, AcceptedStream
from anyws.testing import memory_stream_pair

if TYPE_CHECKING:
    from streams import RawPeer

    from anyws._transports.sockets import Accepted

pytestmark = pytest.mark.timeout(30)
both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@both_backends
@pytest.mark.parametrize("seconds", [0.2, 5, 20])
def test_the_body_of_a_refusal_may_take_the_time_of_the_handshake(
    backend: str, seconds: float
) -> None:
    """As long as the client goes on reading it."""
    body = "x" * 10_000
    sizes: list[int] = []

    async def read_slowly(stage: Stage) -> None:
        stream = stage.listener.connect()
        stream.incoming.capacity = 100
        await stream.send(request_bytes())
        received = b""
        with pytest.raises(anyio.EndOfStream):
            while True:
                await anyio.sleep(seconds / 100)
                received += await stream.receive(100)
        sizes.append(len(received.partition(b"\r\n\r\n")[2]))
        stage.note("read")
        await stream.aclose()

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve():
            await begin()
            stage.task_group.start_soon(read_slowly, stage)
            await anyio.sleep(60)

    config = replace(CONFIG, handshake_timeout=10)
    refuse = anyws.Reject(403, body)
    run(backend, way, idle, lambda _: None, config=config, on_request=lambda _: refuse)
    if seconds < 10:
        assert sizes == [len(body)]
    else:
        # What it had not read by then; the rest was never sent.
        assert len(body) / 3 < sizes[0] < len(body) * 2 / 3


@both_backends
@every_end
def test_a_refusal_that_nobody_reads_does_not_hold_up_the_end(backend: str, end: str) -> None:
    def prepare(stage: Stage) -> None:
        stage.client(reads=False).stream.incoming.capacity = 100

    refuse = anyws.Reject(403, "x" * 10_000)
    stage = run(backend, end, idle, prepare, on_request=lambda _: refuse)
    # A second to read it in, and another to leave: whatever the handshake might have taken.
    assert stage.when("over")[0] <= min(deadline(end), 2 * LINGER)


@both_backends
def test_without_a_timeout_for_the_handshake_a_refusal_is_not_for_ever(backend: str) -> None:
    def prepare(stage: Stage) -> None:
        client = stage.client(reads=False)
        client.stream.incoming.capacity = 100
        # When the server has begun to end, this one is gone.
        stage.task_group.start_soon(note_end, stage, client)

    async def note_end(stage: Stage, client: RawPeer) -> None:
        while not client.stream.incoming.ended:
            await anyio.sleep(0.1)
        stage.note("let go")

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve():
            await begin()
            await anyio.sleep(60)

    refuse = anyws.Reject(403, "x" * 10_000)
    config = replace(CONFIG, handshake_timeout=None)
    stage = run(backend, way, idle, prepare, config=config, on_request=lambda _: refuse)
    assert stage.when("let go")[0] <= 2 * LINGER


@both_backends
def test_a_hook_that_fails_as_its_time_ends_has_failed(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On Trio, what it raises is in one group with the cancellations of its tasks."""

    async def fail_late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("the database is gone")

    async def ask(request: anyws.Request) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(fail_late)
            tg.start_soon(anyio.sleep_forever)

    async def way(stage: Stage, begin: Any, serve: Any) -> None:
        async with serve() as server:
            await begin()
            await anyio.sleep(20)
            assert server.totals.refused == 1

    config = replace(CONFIG, handshake_timeout=10)
    stage = run(backend, way, idle, lambda s: s.client(), config=config, on_request=ask)
    assert [what for what, _ in stage.clients[0].seen] == ["500", "end"]
    assert "the database is gone" in caplog.text
    assert "anyws failed" not in caplog.text


async def test_a_client_that_leaves_while_it_is_judged_is_lost_in_its_handshake() -> None:
    near, far = memory_stream_pair()
    released: list[bool] = []

    async def judge(request: anyws.Request) -> None:
        request.on_end(lambda: released.append(True))
        await far.aclose()

    await far.send(request_bytes())
    with pytest.raises(anyws.HandshakeInvalid, match="lost during the opening handshake"):
        await anyws.wrap_server_stream(near, on_request=judge).__aenter__()
    assert released == [True]


async def accepted_of(sock: socket.socket, backend: str) -> Accepted:
    """Take a socket as a server does that has just accepted it."""
    if backend == "trio":
        return AcceptedStream(await SocketStream.from_socket(sock))
    return AcceptedSocket(sock, sock.getpeername())


@pytest.mark.parametrize("turns", range(8))
async def test_a_client_is_told_at_whichever_turn_its_handshake_is_refused(
    turns: int, anyio_backend_name: str
) -> None:
    """The first ones find a socket that is just becoming a stream."""
    policy = Policy.make(lambda _: None, None, "*", None)
    ways_out = WaysOut()

    async def serve(accepted: Accepted) -> None:
        with pytest.raises(anyws.HandshakeRejected, match="503"):
            await accept(accepted, policy, CONFIG, ways_out=ways_out)

    with raw.listen() as listening, anyio.fail_after(GUARD):
        with raw.connect(listening.getsockname()[1]) as near:
            far = raw.accept(listening)
            far.setblocking(False)
            near.setblocking(False)
            async with anyio.create_task_group() as tg:
                tg.start_soon(serve, await accepted_of(far, anyio_backend_name))
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                ways_out.refuse()
                await anyio.wait_readable(near)
                assert near.recv(1000).startswith(b"HTTP/1.1 503 ")
                near.close()


@both_backends
@pytest.mark.parametrize("seconds", [1.5 * LINGER, 3 * LINGER])
def test_what_a_small_window_holds_up_of_a_refusal_arrives_too(
    backend: str, seconds: float
) -> None:
    """Over sockets: sent is what the system has taken, not what waits for that in the program.

    In real time, as they take theirs.
    """
    body = "x" * 60_000
    received = bytearray()

    async def read_slowly(port: int) -> None:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        near.connect((raw.HOST, port))
        near.setblocking(False)
        with near:
            near.send(request_bytes())
            piece = b"none yet"
            while piece:
                # Not by a stream, which might read ahead.
                await anyio.sleep(seconds / 60)
                await anyio.wait_readable(near)
                piece = near.recv(1000)
                received.extend(piece)

    async def main() -> None:
        listening = raw.listen()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        listening.setblocking(False)
        port = listening.getsockname()[1]
        async with anyws.open_server(
            lambda ws: ws.aclose(),
            listeners=[await SocketListener.from_socket(listening)],
            config=replace(CONFIG, handshake_timeout=10),
            on_request=lambda _: anyws.Reject(403, body),
        ):
            await read_slowly(port)
        assert received.endswith(b"\r\n\r\n" + body.encode())

    anyio.run(main, backend=backend)


@both_backends
@pytest.mark.parametrize("role", ["complete", "late"])
def test_a_client_reads_the_body_of_a_refusal_for_as_long_as_its_handshake_may_take(
    backend: str, role: str
) -> None:
    async def main() -> None:
        near, far = memory_stream_pair()

        async def refuse() -> None:
            await far.receive()
            size = 80 if role == "complete" else 200
            await far.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(80):
                await anyio.sleep(0.1)
                await far.send(b"x")

        async with anyio.create_task_group() as tg:
            tg.start_soon(refuse)
            start = anyio.current_time()
            with pytest.raises(anyws.HandshakeRejected) as caught:
                config = replace(CONFIG, handshake_timeout=10)
                async with anyws.wrap_client_stream(near, URL, config=config):
                    pass
            assert caught.value.response.body == b"x" * 80
            passed = anyio.current_time() - start
            assert passed == pytest.approx(8 if role == "complete" else 10, abs=0.1)

    run_in_virtual_time(backend, main)

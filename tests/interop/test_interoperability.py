"""Every case, with every peer, both ways: each test is one case in one cell of the matrix."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from interop import matrix
from interop.cases import ENDS, REFUSALS, THEIR_REFUSALS, THEY_CLOSE, Case, they_echo
from interop.peers.base import HOST, MIB, PATIENCE, PeerThread, Refusal, Setup

import anyws

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from interop.matrix import Row

    Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

CASES = {case.name: case for case in ENDS}
REFUSAL = Refusal(418, {"X-Reason": "tea only"}, "we do not serve coffee, nor any other café\n")


def cells(kind: set[str]) -> list[Any]:
    return [
        pytest.param(row, name, id=f"{row}-{name}")
        for row in matrix.ROWS
        for name in row.names
        if name in kind
    ]


@pytest.fixture
def column(anyio_backend: tuple[str, dict[str, Any]]) -> str:
    name, options = anyio_backend
    return "uvloop" if options.get("use_uvloop") else name


@pytest.fixture
def goes_into_the_matrix(
    row: Row, name: str, column: str, record_property: Callable[[str, object], None]
) -> None:
    record_property("interop", (str(row), column, name))


@pytest.fixture(autouse=True)
def nothing_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No case is one that our end complains about in its log."""
    yield
    loud = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not [r.getMessage() for r in loud if r.name.startswith("anyws")]


@pytest.fixture
def setup(row: Row, tls_contexts: Contexts) -> Setup:
    server, client = tls_contexts if row.tls else (None, None)
    return Setup(server_ssl=server, client_ssl=client, compression=row.compression)


@pytest.fixture
def peer_thread(row: Row, peer_threads: dict[str, PeerThread]) -> PeerThread:
    return peer_threads[row.peer.name]


def config(setup: Setup) -> anyws.Config:
    return anyws.Config(compression=anyws.Deflate() if setup.compression else None)


def check(ws: anyws.WebSocket, setup: Setup) -> None:
    """Compare what was agreed on with what was to be: the same is done at the other end."""
    assert ws.extensions == (("permessage-deflate",) if setup.compression else ())
    assert "no_context_takeover" not in ws.response.headers.get("Sec-WebSocket-Extensions", "")
    assert ws.subprotocol == next((name for name in setup.offered if name in setup.known), None)


@pytest.mark.usefixtures("goes_into_the_matrix")
@pytest.mark.parametrize(("row", "name"), cells(set(CASES)))
async def test_both_ends_understand_each_other(
    row: Row, name: str, setup: Setup, peer_thread: PeerThread
) -> None:
    case = CASES[name]
    ws, seen = await run(case, row, replace(setup, **case.setup), peer_thread)
    case.ending.check(row.peer, ws.closure, seen)


async def run(
    case: Case, row: Row, setup: Setup, peer_thread: PeerThread
) -> tuple[anyws.WebSocket, anyws.Close | None]:
    """Return our connection, closed, and how they saw it end."""
    way_in = as_client if row.role == "server" else as_server
    with anyio.fail_after(PATIENCE):
        ws, seen = await way_in(case, setup, peer_thread)
    assert ws.status is anyws.Status.CLOSED
    return ws, seen


async def as_client(
    case: Case, setup: Setup, peer_thread: PeerThread
) -> tuple[anyws.WebSocket, anyws.Close | None]:
    async with (
        peer_thread.serving(setup, case.theirs) as server,
        anyws.open_websocket(
            setup.url(server.port),
            ssl_context=setup.client_ssl,
            subprotocols=setup.offered,
            config=config(setup),
        ) as ws,
    ):
        check(ws, setup)
        await case.ours(ws)
    return ws, server.saw


async def as_server(
    case: Case, setup: Setup, peer_thread: PeerThread
) -> tuple[anyws.WebSocket, anyws.Close | None]:
    outcome: Future[anyws.WebSocket] = Future()
    ended = anyio.Event()

    async def handler(ws: anyws.WebSocket) -> None:
        try:
            check(ws, setup)
            await case.ours(ws)
        except Exception as error:  # noqa: BLE001 - raised below
            outcome.set_exception(error)
        else:
            outcome.set_result(ws)
        finally:
            ended.set()

    handlers: Any = dict.fromkeys(setup.known, handler) or handler
    async with anyws.open_server(
        handlers, host=HOST, port=0, ssl_context=setup.server_ssl, config=config(setup)
    ) as server:
        try:
            seen = await peer_thread.connecting(setup, server.port, case.theirs)
        except Exception as error:
            if outcome.done() and outcome.exception() is not None:
                error.add_note(f"and our handler: {outcome.exception()!r}")
            raise
        # A server that is left closes what is open: only the case may do that.
        await ended.wait()
    return outcome.result(0), seen


@pytest.mark.usefixtures("goes_into_the_matrix")
@pytest.mark.parametrize(("row", "name"), cells(set(REFUSALS)))
async def test_a_server_of_theirs_refuses_us(
    row: Row, name: str, setup: Setup, peer_thread: PeerThread
) -> None:
    setup = replace(setup, refusal=REFUSAL)
    with anyio.fail_after(PATIENCE):
        async with peer_thread.serving(setup, None) as server:
            with pytest.raises(anyws.HandshakeRejected) as caught:
                async with anyws.open_websocket(
                    setup.url(server.port), ssl_context=setup.client_ssl, config=config(setup)
                ):
                    pytest.fail("it was let in")
    response = caught.value.response
    if name == "we see the body":
        assert response.text == REFUSAL.body
    else:
        assert response.status == REFUSAL.status
        assert response.headers["x-reason"] == REFUSAL.headers["X-Reason"]


@pytest.mark.usefixtures("goes_into_the_matrix")
@pytest.mark.parametrize(("row", "name"), cells(set(THEIR_REFUSALS)))
async def test_a_server_of_ours_refuses_them(
    row: Row, name: str, setup: Setup, peer_thread: PeerThread
) -> None:
    async def handler(ws: anyws.WebSocket) -> None:
        pytest.fail("it was let in")

    def refuse(request: anyws.Request) -> anyws.Reject:
        assert REFUSAL.body is not None
        return anyws.Reject(REFUSAL.status, REFUSAL.body, REFUSAL.headers)

    with anyio.fail_after(PATIENCE):
        async with anyws.open_server(
            handler,
            host=HOST,
            port=0,
            ssl_context=setup.server_ssl,
            on_request=refuse,
            config=config(setup),
        ) as server:
            seen = await peer_thread.call(row.peer.be_refused, setup, server.port)
    if name == "they see the body":
        assert seen.body == REFUSAL.body
    else:
        assert seen.status == REFUSAL.status
        headers = {name.lower(): value for name, value in seen.headers.items()}
        assert headers["x-reason"] == REFUSAL.headers["X-Reason"]


async def we_send_too_much(ws: anyws.WebSocket) -> None:
    try:
        # More than all the buffers on the way hold: they stop reading, or read it for nothing.
        await ws.send(bytes(16 * MIB), compress=False)
    except anyws.ConnectionClosed:
        pass
    with pytest.raises(anyws.ConnectionClosed):
        await ws.receive()


@pytest.mark.parametrize(
    "row",
    # The other one stops reading, and leaves it there.
    [pytest.param(row, id=str(row)) for row in matrix.ROWS if row.peer.backend == "asyncio"],
)
async def test_what_they_close_with_while_we_send_is_the_reason(
    row: Row, column: str, setup: Setup, peer_thread: PeerThread
) -> None:
    setup = replace(setup, max_size=64 * 1024)
    case = Case("too big", we_send_too_much, they_echo, THEY_CLOSE)
    ws, _ = await run(case, row, setup, peer_thread)
    assert ws.closure is not None
    # When a write fails, asyncio's transports forget what was not read yet, and AnyIO's TLS ends.
    strict = column == "trio" and not row.tls
    if ws.closure.received is None and not strict:
        assert "lost" in ws.closure.cause
    else:
        assert ws.closure.code == anyws.CloseCode.MESSAGE_TOO_BIG
        assert ws.closure.first == "theirs"


def test_the_documentation_has_the_cases_that_there_are() -> None:
    page = Path(__file__).parents[2] / "docs" / "interoperability.md"
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    table = {(row[0].split()[0], *row[1:4]): row[4:] for row in rows[2:]}
    for row in matrix.ROWS:
        name, *rest = row.cells
        total = f"{len(row.names)}/{len(row.names)}" if row.possible else "not possible"
        assert table.pop((name.split()[0], *rest)) == [total] * len(matrix.COLUMNS)
    assert not table

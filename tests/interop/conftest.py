"""The other ends' threads, TLS for both ends, and the matrix at the end of the run."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import trustme
from anyio.from_thread import start_blocking_portal

pytest.register_assert_rewrite("interop.cases", "interop.peers")

from interop import matrix  # noqa: E402 - after it is known that asserts are rewritten
from interop.peers import PEERS  # noqa: E402
from interop.peers.base import HOST, PeerThread  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """One for servers, one for clients that trust them."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture(scope="session")
def peer_threads() -> Iterator[dict[str, PeerThread]]:
    with ExitStack() as stack:
        yield {
            peer.name: PeerThread(peer, stack.enter_context(start_blocking_portal(peer.backend)))
            for peer in PEERS
        }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran: set[tuple[str, str, str]] = set()
    spoiled: set[tuple[str, str, str]] = set()
    called: set[tuple[str, str, str]] = set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            cell = dict(getattr(report, "user_properties", ())).get("interop")
            if cell is None:
                continue
            ran.add(cell)
            if report.when == "call" and report.passed:
                called.add(cell)
            elif not report.passed:
                spoiled.add(cell)  # also by its setup or teardown
    if not ran:
        return
    write = terminalreporter.write_line
    terminalreporter.section("interoperability: cases passed / cases", "=")
    for line in matrix.markdown(_by_cell(called - spoiled), _by_cell(ran)):
        write(line)
    write("")
    for line in matrix.notes():
        write(f"not possible: {line}")


def _by_cell(cases: set[tuple[str, str, str]]) -> Counter[tuple[str, str]]:
    return Counter((row, column) for row, column, _ in cases)

"""The other ends' threads, and TLS for both ends."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import trustme
from anyio.from_thread import start_blocking_portal

pytest.register_assert_rewrite("interop.cases", "interop.peers")

from interop.peers import PEERS  # noqa: E402 - after it is known that asserts are rewritten
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

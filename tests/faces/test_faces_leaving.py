"""What leaving a connection by an exception may take, on the faces whose block owns it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest
from sync.peers import RawServer

import anyws
import anyws.sync
from anyws import Config

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(40)

LONG = 100.0


def left_by_an_error(url: str, config: Config) -> None:
    with anyws.sync.open_websocket(url, config=config):
        raise ValueError("mine")


def left_by_an_error_in_a_loop(url: str, config: Config, backend: str) -> None:
    async def leave() -> None:
        async with anyws.open_websocket(url, config=config):
            raise ValueError("mine")

    anyio.run(leave, backend=backend)


WAYS: dict[str, Callable[[str, Config], None]] = {
    "sync": left_by_an_error,
    "asyncio": lambda url, config: left_by_an_error_in_a_loop(url, config, "asyncio"),
    "trio": lambda url, config: left_by_an_error_in_a_loop(url, config, "trio"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("grace", "timeout"), [(LONG, 0.2), (0.2, LONG), (0.2, None), (LONG, 0)])
def test_of_the_grace_and_the_close_timeout_the_smaller_holds(
    way: str, grace: float, timeout: float | None
) -> None:
    """The peer says nothing any more."""
    config = Config(cancel_grace=grace, close_timeout=timeout)
    with RawServer() as server:
        began = time.monotonic()
        with pytest.raises(ValueError, match="mine"):
            WAYS[way](server.url, config)
        peer = server.peer()
        assert time.monotonic() - began < 10
        peer.close()

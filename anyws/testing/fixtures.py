"""Fixtures for pytest, to be used with AnyIO's plugin. In a ``conftest.py``::

    pytest_plugins = ["anyws.testing.fixtures"]

`websocket_pair` is `open_websocket_pair`, on whatever backend the test runs::

    async def test_my_protocol(websocket_pair):
        client, server = websocket_pair

`virtual_time_backend` is for tests with timeouts. Where it takes the place of ``anyio_backend``,
in a module or a class, tests run on asyncio and, where it is installed, on Trio, in virtual time::

    @pytest.fixture(scope="module")
    def anyio_backend(virtual_time_backend):
        return virtual_time_backend
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from . import open_websocket_pair, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .._websocket import WebSocket

__all__ = ["virtual_time_backend", "websocket_pair"]


@pytest.fixture(scope="module", params=["asyncio", *(["trio"] if find_spec("trio") else [])])
def virtual_time_backend(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
    """An ``anyio_backend`` in virtual time; see `anyws.testing.virtual_time`."""
    return virtual_time(request.param)


@pytest.fixture
async def websocket_pair(anyio_backend: Any) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Both ends of a connection in memory, the client's first."""
    async with open_websocket_pair() as pair:
        yield pair

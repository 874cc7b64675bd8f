"""What every test of several faces gets: the faces, and a look at what is left."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from leftovers import sockets, threads, threads_beside

pytest.register_assert_rewrite(
    *("faces.drivers", "callbacks.clients", "bars.peers", "bars.raw", "sync.peers")
)

from faces.drivers import FACES, SERVERS, Face, ServerFace  # noqa: E402 - after that is known

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no thread and no socket that was not there before."""
    threads_before, sockets_before = threads(), sockets()
    yield
    late = threads_beside(threads_before, within=0)
    # A client that was dropped may be what keeps its thread.
    gc.collect()
    assert not threads_beside(threads_before, within=5)
    if late:
        gc.collect()  # what they have left
    assert sockets() <= sockets_before


@pytest.fixture(params=[pytest.param(face, id=face.name) for face in FACES])
def face(request: pytest.FixtureRequest) -> Face:
    """A client's: async on either backend, blocking, or with callbacks."""
    return request.param


@pytest.fixture(params=[pytest.param(face, id=face.name) for face in SERVERS])
def server_face(request: pytest.FixtureRequest) -> ServerFace:
    """A server's: async on either backend, or blocking."""
    return request.param

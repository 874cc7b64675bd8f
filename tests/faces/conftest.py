"""What every test of several faces gets: the faces, and a look at what is left."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("faces.drivers", "callbacks.clients", "bars.peers", "bars.raw")

from faces.drivers import FACES, SERVERS, Face, ServerFace  # noqa: E402 - after that is known
from sync.conftest import _sockets  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test: no thread and no socket that was not there before."""
    threads, sockets = _threads(), _sockets()
    yield
    gc.collect()
    for thread in _threads() - threads:
        thread.join(1)
    assert not _threads() - threads
    assert _sockets() <= sockets


def _threads() -> set[threading.Thread]:
    # Trio keeps threads for its next program.
    return {one for one in threading.enumerate() if not one.name.startswith("Trio thread")}


@pytest.fixture(params=[pytest.param(face, id=face.name) for face in FACES])
def face(request: pytest.FixtureRequest) -> Face:
    """A client's: async on either backend, blocking, or with callbacks."""
    return request.param


@pytest.fixture(params=[pytest.param(face, id=face.name) for face in SERVERS])
def server_face(request: pytest.FixtureRequest) -> ServerFace:
    """A server's: async on either backend, or blocking."""
    return request.param

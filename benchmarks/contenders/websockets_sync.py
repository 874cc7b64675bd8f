"""websockets with blocking calls: a server has a thread for each connection."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from websockets.sync.client import connect as open_connection
from websockets.sync.server import serve as open_server

from ..target import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..target import Mode, Target


def _compression(mode: Mode) -> str | None:
    return "deflate" if mode.compression else None


def _echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


def serve(mode: Mode, started: Callable[[int], None]) -> None:
    with open_server(
        _echo, HOST, 0, ssl=mode.server_context, compression=_compression(mode)
    ) as server:
        started(server.socket.getsockname()[1])
        server.serve_forever()


@contextmanager
def connect(target: Target) -> Iterator[Any]:
    mode = target.mode
    with open_connection(
        target.url, ssl=mode.client_context, compression=_compression(mode), proxy=None
    ) as ws:
        yield ws.send, ws.recv

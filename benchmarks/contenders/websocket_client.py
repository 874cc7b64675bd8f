"""websocket-client: blocking, and a client alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import websocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..target import Target


@contextmanager
def connect(target: Target) -> Iterator[Any]:
    context = target.mode.client_context
    ws = websocket.create_connection(
        target.url, sslopt=None if context is None else {"context": context}
    )
    try:
        yield ws.send_binary, ws.recv
    finally:
        ws.close()

"""anyws without an event loop: `anyws.sync`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyws
import anyws.sync

from .lane import Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..target import Target

_share = Share()
share = _share.report


@contextmanager
def connect(target: Target) -> Iterator[Any]:
    mode = target.mode
    config = anyws.Config() if mode.compression else anyws.Config(compression=None)
    with anyws.sync.open_websocket(
        target.url, ssl_context=mode.client_context, config=config
    ) as ws:
        try:
            yield ws.send, ws.receive
        finally:
            _share.add(ws)

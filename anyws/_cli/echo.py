"""`anyws echo`: something to connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import CancelScope, sleep_forever

from .._asked import receive_signals
from .._server import open_server
from .telling import announce, complain, reason_of

if TYPE_CHECKING:
    import argparse

    from .._websocket import WebSocket

__all__ = ["echo"]


async def echo(options: argparse.Namespace) -> int:
    try:
        with CancelScope() as scope, receive_signals() as signals:
            async with open_server(_send_back, host=options.host, port=options.port) as server:
                announce(f"echo server at {server.url}, until Ctrl-C")
                await anext(signals)
                # The short way out: Close 1001, and a second for the clients to answer.
                scope.cancel()
                await sleep_forever()
    except ValueError as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"cannot listen at {options.host}, port {options.port}: {reason_of(error)}")
    return 0


async def _send_back(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)

"""An echo server without limits, for Autobahn: python echo_server.py [--backend NAME] [--port N]

It says "listening on port N" and runs until it is stopped.
"""

from __future__ import annotations

import argparse
import threading

import anyio
from backends import BACKENDS, run

import anyws
import anyws.sync

# Category 9 sends messages of 16 MiB and messages of 65,536 fragments, and a keepalive ping of
# ours would be a frame that no case expects.
CONFIG = anyws.Config(max_message_size=64 * 2**20, max_fragments=None, ping_interval=None)


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with anyws.open_server(echo, host="127.0.0.1", port=port, config=CONFIG) as server:
        print(f"listening on port {server.port}", flush=True)
        await anyio.sleep_forever()


def echo_blocking(ws: anyws.sync.WebSocket) -> None:
    for message in ws:
        ws.send(message)


def main_blocking(port: int) -> None:
    with anyws.sync.open_server(
        echo_blocking, host="127.0.0.1", port=port, config=CONFIG
    ) as server:
        print(f"listening on port {server.port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.backend == "blocking":
        main_blocking(options.port)
    else:
        run(options.backend, main, options.port)

"""An echo server without limits, for Autobahn: python echo_server.py [--backend trio] [--port N]

It says "listening on port N" and runs until it is stopped.
"""

from __future__ import annotations

import argparse

import anyio

import anyws

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    anyio.run(main, options.port, backend=options.backend)

"""A server that sends every message back.

python examples/echo_server.py [PORT]
"""

import sys

import anyio

import anyws


async def echo(ws: anyws.WebSocket) -> None:
    # Ends when the client closes; the connection is closed when the handler ends.
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with anyws.open_server(echo, host="127.0.0.1", port=port) as server:
        print(f"serving at {server.url}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    try:
        anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except KeyboardInterrupt:
        print("bye")

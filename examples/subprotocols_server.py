"""A server that chooses the handler by the subprotocol that the client offers.

python examples/subprotocols_server.py [PORT]
anyws connect ws://127.0.0.1:8080/ --subprotocol echo-uppercase
"""

import sys

import anyio

import anyws


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echo_uppercase(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message.upper())


async def goodbye(ws: anyws.WebSocket) -> None:
    # For clients that offer neither of the two, or nothing. To refuse them, leave default= out.
    await ws.send("goodbye strange client")


async def main(port: int) -> None:
    handlers = {"echo": echo, "echo-uppercase": echo_uppercase}
    async with anyws.open_server(handlers, default=goodbye, host="127.0.0.1", port=port) as server:
        print(f"serving at {server.url}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    try:
        anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except KeyboardInterrupt:
        print("bye")

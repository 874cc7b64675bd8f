"""A client that sends a few messages and prints what comes back.

python examples/echo_client.py [URL]
"""

import sys

import anyio

import anyws


async def main(url: str) -> None:
    async with anyws.open_websocket(url) as ws:
        await ws.send("hello")  # a str is a text message
        print(await ws.receive())
        await ws.send(b"\x00\xff")  # bytes are a binary one
        print(await ws.receive())
        await ws.send_json({"answer": 42})
        print(await ws.receive_json())
        print(f"ping: {await ws.ping():.6f} s")
    # Leaving the block has closed the connection; this tells how it went.
    print(ws.closure)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/")

"""A client in a plain asyncio program: nothing of AnyIO in sight.

python examples/client_asyncio.py [URL]
"""

import asyncio
import sys

import anyws


async def produce(ws: anyws.WebSocket) -> None:
    for number in range(3):
        await ws.send(f"message {number}")


async def consume(ws: anyws.WebSocket) -> None:
    for _ in range(3):
        print(await ws.receive())


async def main(url: str) -> None:
    async with asyncio.timeout(10), anyws.open_websocket(url) as ws:
        # Any task may use the connection. One that has to end before it goes inside the block.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consume(ws))
            tasks.create_task(produce(ws))
        # A message is never lost to a timeout: the next receive gets it.
        try:
            async with asyncio.timeout(0.01):
                await ws.receive()
        except TimeoutError:
            print("nothing came")
        await ws.send("still usable")
        print(await ws.receive())
    print(ws.closure)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/"))

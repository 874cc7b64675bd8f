"""A client in a plain Trio program, with nurseries and cancel scopes of Trio's own.

python examples/client_trio.py [URL]
"""

import sys

import anyio
import trio

import anyws


async def produce(ws: anyws.WebSocket) -> None:
    for number in range(3):
        await ws.send(f"message {number}")


async def consume(ws: anyws.WebSocket) -> None:
    for _ in range(3):
        print(await ws.receive())


async def main(url: str) -> None:
    with trio.fail_after(10):
        async with anyws.open_websocket(url) as ws:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume, ws)
                nursery.start_soon(produce, ws)
            # A message is never lost to a timeout: the next receive gets it.
            with trio.move_on_after(0.01) as scope:
                await ws.receive()
            if scope.cancelled_caught:
                print("nothing came")
        print(ws.closure)

        # A connection that outlives the function that opened it needs an owner: a task group of
        # AnyIO's, which works in every Trio program.
        async with anyio.create_task_group() as task_group:
            ws = await anyws.connect_websocket(task_group, url)
            await ws.send("from the task group")
            print(await ws.receive())
            await ws.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/")

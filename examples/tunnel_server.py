"""The far end of a tunnel: each WebSocket is one TCP connection to a service.

python examples/tunnel_server.py HOST PORT [PORT-TO-SERVE-ON]

HOST and PORT are the service's: a database, SSH, or whatever else is not to be reached directly.
`tunnel_client.py` is the near end.
"""

import sys
from functools import partial

import anyio
from anyio.abc import ByteStream

import anyws

# What a stream raises where one end is gone: then there is nobody to tell.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


async def carry(host: str, port: int, ws: anyws.WebSocket) -> None:
    try:
        service = await anyio.connect_tcp(host, port)
    except OSError:
        await ws.close(anyws.CloseCode.TRY_AGAIN_LATER, "the service cannot be reached")
        return
    async with service:
        if not await join(anyws.WebSocketByteStream(ws), service):
            # What the service has said must not look complete.
            await ws.close(anyws.CloseCode.INTERNAL_ERROR, "the service was lost")


async def join(one: ByteStream, other: ByteStream) -> bool:
    """Carry bytes both ways, until either end has no more; tell whether that was in order."""
    in_order = True
    async with anyio.create_task_group() as task_group:

        async def copy(source: ByteStream, sink: ByteStream) -> None:
            nonlocal in_order
            try:
                async for data in source:
                    try:
                        await sink.send(data)
                    except GONE:
                        # What it had said before may still be on its way, to the other copy.
                        return
            except GONE:
                in_order = False
            # A WebSocket has no end of one half: the end of one is the end of both.
            task_group.cancel_scope.cancel()

        task_group.start_soon(copy, one, other)
        task_group.start_soon(copy, other, one)
    return in_order


async def main(host: str, port: int, own_port: int) -> None:
    handlers = {"binary": partial(carry, host, port)}
    async with anyws.open_server(handlers, host="127.0.0.1", port=own_port) as server:
        print(f"serving at {server.url}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    try:
        anyio.run(
            main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 8080
        )
    except KeyboardInterrupt:
        print("bye")

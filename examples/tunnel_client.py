"""The near end of a tunnel: each TCP connection to it goes through a WebSocket of its own.

python examples/tunnel_client.py URL [PORT]

URL is that of `tunnel_server.py`, which connects to the service. So a program that knows nothing
of WebSocket reaches the service at 127.0.0.1:PORT.
"""

import socket
import struct
import sys

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

import anyws

# What a stream raises where one end is gone: then there is nobody to tell.
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


async def carry(url: str, program: SocketStream) -> None:
    async with program:
        try:
            async with anyws.open_websocket(url, subprotocols=["binary"]) as ws:
                in_order = await join(anyws.WebSocketByteStream(ws), program)
            if not in_order:
                # What the service has said must not look complete: so closing is a reset.
                sock = program.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (anyws.HandshakeError, OSError) as error:
            print(f"no tunnel: {error}", flush=True)


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


async def main(url: str, port: int) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener:
        port = listener.extra(SocketAttribute.local_port)
        print(f"listening at 127.0.0.1:{port}", flush=True)
        await listener.serve(lambda program: carry(url, program))


if __name__ == "__main__":
    try:
        anyio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8081)
    except KeyboardInterrupt:
        print("bye")

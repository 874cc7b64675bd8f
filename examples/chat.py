"""A chat server: what one client sends, all get.

python examples/chat.py [PORT]
anyws connect "ws://127.0.0.1:8080/?name=Ada"
"""

import sys

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

import anyws

# Lines that may wait for a client before it is too slow to take part.
BACKLOG = 100


class Room:
    """Who is in the chat.

    Nothing here waits, so no task ever sees a broadcast half done, and a client that does not
    read holds nobody up: its lines wait in an outbox of its own.
    """

    def __init__(self) -> None:
        self._outboxes: dict[anyws.WebSocket, MemoryObjectSendStream[str]] = {}

    def join(self, ws: anyws.WebSocket) -> MemoryObjectReceiveStream[str]:
        self._outboxes[ws], lines = anyio.create_memory_object_stream[str](BACKLOG)
        return lines

    def leave(self, ws: anyws.WebSocket) -> None:
        # The end of the outbox: its writer ends, once it has sent what is in there.
        if outbox := self._outboxes.pop(ws, None):
            outbox.close()

    def broadcast(self, line: str) -> None:
        for ws, outbox in list(self._outboxes.items()):
            try:
                outbox.send_nowait(line)
            except anyio.WouldBlock:
                self.leave(ws)


room = Room()


async def chat(ws: anyws.WebSocket) -> None:
    name = ws.request.query.get("name", ["somebody"])[0]
    async with room.join(ws) as lines, anyio.create_task_group() as task_group:
        task_group.start_soon(write_lines, ws, lines)
        room.broadcast(f"* {name} joins")
        try:
            async for message in ws:
                if isinstance(message, str):
                    room.broadcast(f"{name}: {message}")
        finally:
            room.leave(ws)
            room.broadcast(f"* {name} leaves")


async def write_lines(ws: anyws.WebSocket, lines: MemoryObjectReceiveStream[str]) -> None:
    async for line in lines:
        await ws.send(line)
    # Also the way out for who was too slow; where the client has closed, this does nothing.
    await ws.close(anyws.CloseCode.TRY_AGAIN_LATER, "too slow")


async def main(port: int) -> None:
    async with anyws.open_server(chat, host="127.0.0.1", port=port) as server:
        print(f"serving at {server.url}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    try:
        anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except KeyboardInterrupt:
        print("bye")

"""A server in threads, without an event loop: a handler for each subprotocol, and one for strangers.

python examples/sync_server.py [PORT]
python examples/sync_client.py
python examples/polled_client.py
"""

import sys
import time

import anyws.sync


# Each connection has a thread, in which its handler may wait. What it has is what a client has.
def echo(ws: anyws.sync.WebSocket) -> None:
    # Ends when the client closes; the connection is closed when the handler ends.
    for message in ws:
        ws.send(message)


def echo_uppercase(ws: anyws.sync.WebSocket) -> None:
    for message in ws:
        ws.send(message.upper())


def goodbye(ws: anyws.sync.WebSocket) -> None:
    ws.send("goodbye strange client")


def main(port: int) -> None:
    handlers = {"echo": echo, "echo-uppercase": echo_uppercase}
    with anyws.sync.open_server(handlers, default=goodbye, host="127.0.0.1", port=port) as server:
        print(f"serving at {server.url}", flush=True)
        # anyws.sync.serve(...) is all of this but for the line above.
        while True:
            time.sleep(1)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except KeyboardInterrupt:
        print("bye")

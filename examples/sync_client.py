"""A client that waits, without an event loop: it talks to every handler of sync_server.py.

python examples/sync_client.py [URL]
"""

import sys

import anyws.sync

# Seconds for an answer.
PATIENCE = 10


def talk(url: str, subprotocol: str) -> None:
    with anyws.sync.open_websocket(url, subprotocols=[subprotocol]) as ws:
        for message in ("Hello", b"bytes"):
            ws.send(message)
            print(f"{subprotocol}: {ws.receive(PATIENCE)!r}")
        # A message is never lost to a timeout: the next receive gets it.
        try:
            ws.receive(timeout=0.01)
        except TimeoutError:
            print(f"{subprotocol}: nothing more")
        # Leaving the block would close as well; this tells how it went.
        tell_end(subprotocol, ws.close())


def listen(url: str) -> None:
    # Who offers no subprotocol is a stranger: the server speaks, and closes, which ends the loop.
    with anyws.sync.open_websocket(url) as ws:
        for message in ws:
            print(f"stranger: {message!r}")
        tell_end("stranger", ws.close())


def tell_end(name: str, closure: anyws.Closure) -> None:
    cleanly = "cleanly" if closure.clean else "not cleanly"
    print(f"{name}: closed with {closure.code}, {cleanly}")


def main(url: str) -> None:
    talk(url, "echo")
    talk(url, "echo-uppercase")
    listen(url)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/")
    except (anyws.WebSocketError, OSError) as error:
        # Nobody listens there, or no WebSocket server; no answer in time; a connection that broke.
        sys.exit(f"no conversation: {error}")
    except KeyboardInterrupt:
        print("bye")

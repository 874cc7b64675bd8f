"""Clients that never wait: one to each handler of sync_server.py, all in one loop and one thread.

python examples/polled_client.py [URL]
"""

import sys
import time

from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened


class Conversation:
    """One client, and what is done when something happens to it."""

    def __init__(self, url: str, name: str, subprotocols: tuple[str, ...]) -> None:
        self.name = name
        self.end: Closed | Failed | None = None
        self.client = Client(url, self.on_event, subprotocols=subprotocols, polled=True)
        self.client.open()

    def on_event(self, event: Event) -> None:
        match event:
            case Opened(subprotocol=str()):
                self.client.send("Hello")
            case Opened():
                pass  # a stranger: the server speaks
            case Message(data=data):
                print(f"{self.name}: {data!r}")
                self.client.close()
            case Closed():
                cleanly = "cleanly" if event.clean else "not cleanly"
                print(f"{self.name}: closed with {event.code}, {cleanly}")
                self.end = event
            case Failed():
                print(f"{self.name}: {event.what}", file=sys.stderr)
                self.end = event


def main(url: str) -> int:
    conversations = [
        Conversation(url, "echo", ("echo",)),
        Conversation(url, "echo-uppercase", ("echo-uppercase",)),
        Conversation(url, "stranger", ()),
    ]
    try:
        while any(conversation.end is None for conversation in conversations):
            # Listeners are called here, and nowhere else.
            for conversation in conversations:
                conversation.client.poll()
            # Whatever else the program has to do; this one does nothing.
            time.sleep(0.01)
    finally:
        for conversation in conversations:
            conversation.client.close()
    return any(isinstance(conversation.end, Failed) for conversation in conversations)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/"))
    except KeyboardInterrupt:
        print("bye")

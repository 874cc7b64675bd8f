"""A script for the desktop: it makes a client, opens it, sends, asks for the status, and closes.

python examples/desktop_script.py [URL [MESSAGE]]

It waits for one answer; a server such as echo_server.py gives it. Events are told in a thread of
the library's, so the script has its own to itself.
"""

import sys
import threading

from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened


class Script:
    def __init__(self, url: str, message: str) -> None:
        self.message = message
        self.failure = ""
        self.is_over = threading.Event()
        self.client = Client(url, self.on_event)
        self.tell_status("made")

    def on_event(self, event: Event) -> None:
        match event:
            case Opened():
                self.tell_status("opened")
                self.client.send(self.message)
            case Message(data=data):
                print(f"received: {data!r}")
                self.client.close(1000, "that was all")
            case Closed():
                self.tell_status(f"closed, {event.closure.cause}")
                self.is_over.set()
            case Failed():
                self.failure = f"failed: {event.what}"
                self.is_over.set()

    def tell_status(self, what: str) -> None:
        print(f"{what}; the status is {self.client.status.value}", flush=True)

    def main(self) -> None:
        try:
            self.client.open()
            self.wait()
        except KeyboardInterrupt:
            self.client.close()
            self.wait()
            print("bye")

    def wait(self) -> None:
        # In pieces: on Windows, Ctrl-C does not interrupt a wait without an end.
        while not self.is_over.wait(0.5):
            pass


if __name__ == "__main__":
    script = Script(
        sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/",
        sys.argv[2] if len(sys.argv) > 2 else "hello",
    )
    script.main()
    sys.exit(script.failure or 0)

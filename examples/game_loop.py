"""A game, in the manner of pygame but without a window: everything happens once per frame.

python examples/game_loop.py [URL]

A ball flies across the field, and the game is won when the server has seen it at the far end. Any
server that sends back what it gets will do, such as echo_server.py.
"""

import sys
import time

import anyws
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened

FRAMES_PER_SECOND = 60
WIDTH = 40


class Clock:
    """Does what `pygame.time.Clock` does."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def tick(self, frames_per_second: int) -> None:
        """Wait until it is time for the next frame."""
        self._next = max(self._next + 1 / frames_per_second, time.monotonic())
        time.sleep(max(self._next - time.monotonic(), 0))


class Game:
    def __init__(self, url: str) -> None:
        self.running = True
        self.failed = False
        self.ball = 0
        self.client = Client(
            url,
            self.on_event,
            headers={"X-Player": "Ada"},
            # Seconds to connect; and how many messages may come between two frames.
            config=anyws.Config(handshake_timeout=3, inbox_size=256),
            polled=True,
        )

    def on_event(self, event: Event) -> None:
        # Called by poll, in the thread of everything else: no locks.
        match event:
            case Opened():
                print(f"connected, status {event.response.status}")
                self.send("hello")
            case Message(data=data):
                self.on_message(data)
            case Closed():
                print(f"disconnected: {event.closure.cause}")
                self.running = False
            case Failed():
                print(f"no connection: {event.what}", file=sys.stderr)
                self.running = False
                self.failed = True

    def on_message(self, message: str | bytes) -> None:
        if message == f"ball {WIDTH}":
            print("won")
            # The loop goes on until Closed: the server has been told then.
            self.client.close()
        elif message == "hello":
            print("the server says hello")

    def main(self) -> None:
        clock = Clock()
        self.client.open()
        try:
            while self.running:
                self.client.poll()
                # Here pygame's own events would be handled.
                self.update()
                # Here the frame would be drawn.
                clock.tick(FRAMES_PER_SECOND)
        finally:
            # However the game ends, Ctrl-C included; closed already, this does nothing.
            self.client.close()

    def update(self) -> None:
        if self.client.is_open and self.ball < WIDTH:
            self.ball += 1
            self.send(f"ball {self.ball}")

    def send(self, message: str) -> None:
        try:
            self.client.send(message)
        except anyws.ConnectionClosed:
            pass  # by the server, just now: one of the next frames gets Closed


if __name__ == "__main__":
    game = Game(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/")
    try:
        game.main()
    except KeyboardInterrupt:
        print("bye")
    sys.exit(game.failed)

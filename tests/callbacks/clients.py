"""Servers to connect to, and listeners that remember."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyws.sync
from anyws import Config
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

E = TypeVar("E", bound=Event)

# Seconds that no wait may take: what hangs says where.
GUARD = 15

QUICK = Config(cancel_grace=0.2, close_timeout=2.0, drain_timeout=0.2)


class Heard:
    """A listener that remembers its events, and the threads that it was called in."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[threading.Thread] = set()
        self.told: list[type[Event]] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self.threads.add(threading.current_thread())
            self._changed.notify_all()

    def kinds_only(self, event: Event) -> None:
        """Remember of what kind it was, and nothing that refers to the client."""
        self.told.append(type(event))

    def wait_for(self, kind: type[E], number: int = 1) -> E:
        """Return the latest of so many events of a kind, as soon as it is there."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.of(kind)) >= number, GUARD)
            found = self.of(kind)
            assert len(found) >= number, f"{len(found)} of {kind}: {self.events}"
            return found[number - 1]

    def wait_for_end(self, number: int = 1) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: len(self.ends) >= number, GUARD)
            assert len(self.ends) >= number, self.events
            return self.ends[number - 1]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ends(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, (Closed, Failed))]

    @property
    def messages(self) -> list[str | bytes]:
        return [event.data for event in self.of(Message)]

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]


def echo(ws: anyws.sync.WebSocket) -> None:
    for message in ws:
        ws.send(message)


class Peer:
    """A handler that hands its connection to the test, and holds it until the test lets go."""

    def __init__(self) -> None:
        self.websocket: anyws.sync.WebSocket | None = None
        self._arrived = threading.Event()
        self._released = threading.Event()

    def __call__(self, ws: anyws.sync.WebSocket) -> None:
        self.websocket = ws
        self._arrived.set()
        self._released.wait(GUARD)

    def wait(self) -> anyws.sync.WebSocket:
        assert self._arrived.wait(GUARD)
        assert self.websocket is not None
        self._arrived.clear()
        return self.websocket

    def release(self) -> None:
        self._released.set()


@contextmanager
def served(handler: Any = echo, **options: Any) -> Iterator[str]:
    """Serve on loopback, in threads, and give the URL."""
    options.setdefault("config", QUICK)
    with anyws.sync.open_server(handler, host="127.0.0.1", port=0, **options) as server:
        yield server.url


@contextmanager
def peered(**options: Any) -> Iterator[tuple[str, Peer]]:
    """Serve with a `Peer`, and give it with the URL."""
    peer = Peer()
    with served(peer, **options) as url:
        try:
            yield url, peer
        finally:
            peer.release()


@contextmanager
def opened(
    url: str, *listeners: Callable[[Any], object], peer: Peer | None = None, **options: Any
) -> Iterator[Any]:
    """Give an open client and what it has heard; it is closed at the end, and the peer let go."""
    heard = Heard()
    client = Client(url, heard, **{"config": QUICK, **options})
    for listener in listeners:
        client.add_listener(Event, listener)
    client.open()
    try:
        heard.wait_for(Opened)
        yield client, heard
    finally:
        client.close()
        if peer is not None:
            peer.release()
    heard.wait_for_end()


@contextmanager
def silent_server() -> Iterator[str]:
    """Take connections, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


def wait_until(condition: Callable[[], object]) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def poll_to_the_end(client: Client) -> int:
    """Poll until there is nothing to come; give the number of events."""
    number = 0
    while delivered := client.poll(None):
        number += delivered
    return number


def threads_of_ours() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name in {"anyws callbacks", "anyws listeners"}
    ]

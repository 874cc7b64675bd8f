"""Requests and answers by hand, of any kind, to a server and a client of any face."""

from __future__ import annotations

import base64
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bars import raw
from callbacks.clients import GUARD

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

__all__ = ["Answer", "answer_of", "answered_by", "asked", "basic", "until_it_leaves", "upgrade"]

UPGRADE = (
    *("Upgrade: websocket", "Connection: Upgrade"),
    *(f"Sec-WebSocket-Key: {raw.KEY}", "Sec-WebSocket-Version: 13"),
)


class Answer:
    """A response, to the end of the stream; of a 101, the head."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1]) if first else None
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }


def upgrade(path: str = "/", *lines: str, host: str | None = "localhost") -> bytes:
    """The request of a WebSocket's client, with these lines as well."""
    hosts = () if host is None else (f"Host: {host}",)
    head = [f"GET {path} HTTP/1.1", *hosts, *UPGRADE, *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def asked(server: Any, request: bytes) -> Answer:
    """Ask on a connection of its own."""
    with raw.connect(server.port) as sock:
        sock.sendall(request)
        return answer_of(sock)


def answer_of(sock: socket.socket) -> Answer:
    data = b""
    while chunk := sock.recv(4096):
        data += chunk
        if data.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" in data:
            break
    return Answer(data)


def basic(credentials: bytes) -> str:
    return f"Authorization: Basic {base64.b64encode(credentials).decode()}"


@contextmanager
def answered_by(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Give the authority of a server that does this with its one client's socket, and hangs up.

    A client may have given up before it came: nobody is waited for when the block ends.
    """
    is_over = threading.Event()

    def accept() -> None:
        while not is_over.is_set():
            try:
                sock = raw.accept(listening)
            except TimeoutError:
                continue
            with sock:
                serve(sock)
            return

    with raw.listen() as listening:
        # Not all systems wake a thread that accepts when its socket is closed or shut down.
        listening.settimeout(0.05)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"{raw.HOST}:{listening.getsockname()[1]}"
        finally:
            is_over.set()
            thread.join(GUARD)


def until_it_leaves(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass

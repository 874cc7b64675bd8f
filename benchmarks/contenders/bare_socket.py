"""A blocking socket and messages of a known size: the least that a blocking client can cost."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..wire import hello
from .sockets import open_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..target import Target


@contextmanager
def connect(target: Target) -> Iterator[Any]:
    size = target.size
    with open_socket(target) as sock:
        sock.sendall(hello(size))
        kept = bytearray()

        def receive() -> bytes:
            if not kept:
                data = sock.recv(65536)
                if len(data) == size:
                    return data
                kept.extend(data)
            while len(kept) < size:
                data = sock.recv(65536)
                if not data:
                    raise EOFError("the server left")
                kept.extend(data)
            message = bytes(kept[:size])
            del kept[:size]
            return message

        yield sock.sendall, receive

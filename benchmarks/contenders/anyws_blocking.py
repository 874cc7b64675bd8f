"""anyws's protocol over a blocking socket, as a bare loop: what a synchronous face can cost."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anyws import Close, Config, Role
from anyws._protocol.deflate import PerMessageDeflate
from anyws._protocol.handshake_client import ClientHandshake
from anyws._protocol.protocol import Protocol
from anyws._protocol.url import parse_url

from .lane import Share
from .sockets import open_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from ..target import Target

_share = Share()
share = _share.report


@contextmanager
def connect(target: Target) -> Iterator[Any]:
    config = Config() if target.mode.compression else Config(compression=None)
    with open_socket(target) as sock:
        protocol = _shake_hands(sock, target.url, config)
        parse, inbox = protocol.parse, protocol.inbox

        def send(message: str | bytes) -> None:
            sock.sendall(protocol.encode(message))

        def receive() -> str | bytes:
            while not inbox.messages:
                if not protocol.has_unparsed:
                    _read(sock, protocol)
                parse()
                if protocol.replies:
                    sock.sendall(protocol.take_replies())
            return inbox.take()

        yield send, receive
        _share.add(protocol)
        sock.sendall(_close(protocol))
        while not protocol.finished:
            _read(sock, protocol)
            parse()


def _shake_hands(sock: socket.socket, url: str, config: Config) -> Protocol:
    handshake = ClientHandshake(parse_url(url), compression=config.compression)
    sock.sendall(handshake.request_bytes())
    while handshake.receive_data(sock.recv(65536)) is None:
        pass
    deflate = None
    if handshake.deflate is not None and config.compression is not None:
        deflate = PerMessageDeflate(handshake.deflate, config.compression, config.max_message_size)
    protocol = Protocol(Role.CLIENT, config, deflate)
    protocol.receive_data(handshake.trailing_data)
    return protocol


def _read(sock: socket.socket, protocol: Protocol) -> None:
    data = sock.recv(65536)
    if not data:
        raise EOFError("the server left")
    protocol.receive_data(data)


def _close(protocol: Protocol) -> bytes:
    protocol.close(Close(1000))
    return protocol.take_replies()

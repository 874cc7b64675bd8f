"""A blocking socket to the load, with TLS where the mode asks for it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ..target import HOST

if TYPE_CHECKING:
    from ..target import Target

__all__ = ["open_socket"]


def open_socket(target: Target) -> socket.socket:
    sock = socket.create_connection((HOST, target.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = target.mode.client_context
    return sock if context is None else context.wrap_socket(sock, server_hostname=HOST)

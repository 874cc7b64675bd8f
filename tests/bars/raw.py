"""The opening handshake by hand, over blocking sockets: the standard library and nothing else."""

from __future__ import annotations

import base64
import hashlib
import socket

HOST = "127.0.0.1"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Seconds after which a socket that nothing happens on gives up: no peer outlives its test for long.
GUARD = 30


def listen() -> socket.socket:
    listening = socket.create_server((HOST, 0))
    listening.settimeout(GUARD)
    return listening


def connect(port: int) -> socket.socket:
    raw = socket.create_connection((HOST, port), GUARD)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw


def accept(listening: socket.socket) -> socket.socket:
    raw, _ = listening.accept()
    raw.settimeout(GUARD)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw


def ask(raw: socket.socket, *lines: str) -> tuple[str, bytes]:
    """Be the client: return the head of the answer, and what came behind it (RFC 6455, 4.1)."""
    request = [
        "GET / HTTP/1.1",
        f"Host: {HOST}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *lines,
    ]
    raw.sendall("\r\n".join([*request, "", ""]).encode())
    head, rest = _read_head(raw)
    assert head.startswith("HTTP/1.1 101 "), head
    return head, rest


def answer(raw: socket.socket, *lines: str) -> tuple[str, bytes]:
    """Be the server: return the head of the request, and what came behind it (section 4.2)."""
    head, rest = _read_head(raw)
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    digest = hashlib.sha1((fields["Sec-WebSocket-Key"] + _GUID).encode()).digest()
    response = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
        *lines,
    ]
    raw.sendall("\r\n".join([*response, "", ""]).encode())
    return head, rest


def _read_head(raw: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = raw.recv(4096)
        assert chunk, data
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest

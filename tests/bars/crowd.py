"""Many peers of one server, as a program: in a process of its own it shares no GIL with what it tests.

    python -m bars.crowd PORT HEALTHY SILENT MESSAGES SIZE

It connects HEALTHY peers that read all they get, and SILENT ones that never read, which say so in
their request; and one more, over which it tells how many messages every healthy peer has got by
now. What they get has to be numbered text messages, all of them, in order, byte for byte. It ends
by itself, and then prints what it has seen, in JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time

from bars import raw as opening

SILENT = "X-Peer: silent"
CONTROL = "X-Peer: control"
MASK = bytes(4)  # a payload masked with it is what it was
# Seconds without a byte for anybody, after which nothing more will come.
PATIENCE = 15


def text_of(number: int, size: int) -> str:
    return f"{number} ".ljust(size, "x")


def frame_of(number: int, size: int) -> bytes:
    payload = text_of(number, size).encode()
    assert 126 <= size < 1 << 16
    return b"\x81\x7e" + size.to_bytes(2, "big") + payload


def connect_silent(port: int) -> socket.socket:
    raw = socket.socket()
    # Before it connects, so that it is never larger.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(opening.GUARD)
    raw.connect((opening.HOST, port))
    return raw


def main(port: int, healthy: int, silent: int, messages: int, size: int) -> None:
    expected = b"".join(frame_of(number, size) for number in range(messages))
    step = len(expected) // messages
    control = opening.connect(port)
    opening.ask(control, CONTROL)
    quiet = []
    for _ in range(silent):
        raw = connect_silent(port)
        opening.ask(raw, SILENT)
        quiet.append(raw)
    selector = selectors.DefaultSelector()
    positions: dict[socket.socket, int] = {}
    for _ in range(healthy):
        raw = opening.connect(port)
        opening.ask(raw)
        raw.setblocking(False)
        selector.register(raw, selectors.EVENT_READ)
        positions[raw] = 0
    tell(control, 0)
    told = 0
    wrong = 0
    while min(positions.values()) < len(expected):
        ready = selector.select(PATIENCE)
        if not ready:
            break
        for key, _ in ready:
            raw = key.fileobj
            assert isinstance(raw, socket.socket)
            chunk = raw.recv(1 << 16)
            position = positions[raw]
            positions[raw] = position + len(chunk)
            if not chunk or expected[position : position + len(chunk)] != chunk:
                wrong += 1
                selector.unregister(raw)
        done = min(positions.values()) // step
        if done > told:
            told = done
            tell(control, told)
    complete = sum(position == len(expected) for position in positions.values())
    sys.stdout.write(json.dumps({"complete": complete, "wrong": wrong}) + "\n")
    sys.stdout.flush()
    # The silent ones stay until the end of the test, which ends the process.
    time.sleep(opening.GUARD)
    os._exit(0)


def tell(control: socket.socket, number: int) -> None:
    payload = str(number).encode()
    control.sendall(bytes([0x81, 0x80 | len(payload)]) + MASK + payload)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Peers that are a load, as a program: in a process of its own it shares no GIL with what it tests.

    python -m bars.loads pings|empties|messages SECONDS [PORT]

With a port it connects as a client; without, it is a server, and prints its port first. It ends by
itself, and then prints what it has done, in JSON.

pings:
    Pings of 125 bytes, as many as go; never reads.
empties:
    Empty text messages, as many as go; never reads.
messages:
    Numbered text messages of 1000 bytes, as many as go. Reads, answers pings and the Close.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from bars import raw as opening

if TYPE_CHECKING:
    import socket

PING_BYTES = 125
MESSAGE_BYTES = 1000
# Seconds that a write may take before it counts as held back.
PATIENCE = 0.25
MASK = bytes(4)  # a payload masked with it is what it was


class Load:
    def __init__(self, raw: socket.socket, seconds: float, *, is_server: bool) -> None:
        self.raw = raw
        self.masked = not is_server
        self.deadline = time.monotonic() + seconds
        self.sent = 0  # bytes
        self.longest_wait = 0.0
        self.error: str | None = None
        self.done = False
        self._lock = threading.Lock()  # frames go out one after the other

    def frame(self, opcode: int, payload: bytes) -> bytes:
        size = len(payload)
        assert size < 1 << 16
        length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        if self.masked:
            length = bytes([length[0] | 0x80]) + length[1:] + MASK
        return bytes([0x80 | opcode]) + length + payload

    @property
    def over(self) -> bool:
        return self.done or time.monotonic() >= self.deadline

    def push(self, data: bytes, *, whole: bool = False) -> None:
        """Write `data`: the whole of it, or as much as goes before the time is over."""
        start = time.monotonic()
        rest = memoryview(data)
        while rest and (whole or not self.over):
            try:
                size = self.raw.send(rest)
            except TimeoutError:
                if time.monotonic() - start > opening.GUARD:
                    raise
                size = 0
            rest = rest[size:]
            self.sent += size
            now = time.monotonic()
            self.longest_wait = max(self.longest_wait, now - start)
            start = now if size else start

    def repeat(self, data: bytes) -> None:
        while not self.over:
            self.push(data)

    def pings(self) -> None:
        self.repeat(self.frame(9, bytes(PING_BYTES)) * 500)

    def empties(self) -> None:
        self.repeat(self.frame(1, b"") * 10_000)

    def messages(self) -> None:
        reader = threading.Thread(target=self._answer, daemon=True)
        reader.start()
        number = 0
        while not self.over:
            with self._lock:
                if not self.done:
                    text = b"%d" % number
                    self.push(self.frame(1, text.ljust(MESSAGE_BYTES)), whole=True)
            number += 1
        reader.join(opening.GUARD)

    def _answer(self) -> None:
        """Answer pings and the Close, until that."""
        data = b""
        while True:
            try:
                chunk = self.raw.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                chunk = b""
            if not chunk:
                self.done = True
                return
            data += chunk
            # What comes is control frames: short ones.
            while len(data) >= 2:
                key_bytes = 4 if data[1] & 0x80 else 0
                size = 2 + key_bytes + (data[1] & 0x7F)
                if len(data) < size:
                    break
                key = data[2 : 2 + key_bytes] or bytes(4)
                payload = bytes(b ^ key[i % 4] for i, b in enumerate(data[2 + key_bytes : size]))
                opcode = data[0] & 0xF
                data = data[size:]
                if opcode == 8:
                    self.done = True
                if opcode in {8, 9}:
                    with self._lock:
                        self.push(self.frame({8: 8, 9: 10}[opcode], payload), whole=True)
                if opcode == 8:
                    return


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(what: str, seconds: str, port: str | None = None) -> None:
    if port is None:
        with opening.listen() as listening:
            say(str(listening.getsockname()[1]))
            raw = opening.accept(listening)
        opening.answer(raw)
    else:
        raw = opening.connect(int(port))
        opening.ask(raw)
    load = Load(raw, float(seconds), is_server=port is None)
    raw.settimeout(PATIENCE)
    try:
        getattr(load, what)()
    except OSError as error:
        load.error = repr(error)
    result: dict[str, Any] = {
        "sent": load.sent,
        "longest_wait": load.longest_wait,
        "error": load.error,
    }
    say(json.dumps(result))
    # The socket goes with the process, whatever a thread is doing with it.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

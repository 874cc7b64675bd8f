"""`anyws serve` in a process of its own, for the tests of it: what to serve, and what it says."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from programs import ANYWS, started

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

BACKENDS = ("asyncio", "trio") if sys.platform == "win32" else ("asyncio", "uvloop", "trio")
PATIENCE = 30

PROGRAM = """
import os

import anyio
import anyws


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def shout(ws):
    async for message in ws:
        await ws.send(message.upper())


async def who(ws):
    await ws.send(str(os.getpid()))
    await ws.receive()


async def stuck(ws):
    await ws.send(str(os.getpid()))
    await anyio.sleep_forever()


async def saving(ws):
    await ws.send(str(os.getpid()))
    await ws.wait_closed()
    await anyio.sleep(1)
    print("saved", flush=True)


def judge(request):
    if request.path == "/health":
        return anyws.Response(200, body=b"ok\\n")
    return None


async def room(ws):
    await ws.send(f"{ws.request.user} in {ws.request.path_parameters['room']}")
    await ws.receive()


class Rooms:
    handlers = {"echo": echo, "shout": shout}


routes = anyws.Routes({"/": echo, "/rooms/{room}": room, "/loud": {"shout": shout}})
hooks = [judge, anyws.BasicAuth({"ada": "s3cret"})]
bare = anyws.Routes({"/": echo})
number = 5
config = anyws.Config(max_message_size=10)
"""


class Running:
    """The command, and what it has logged so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def url(self) -> str:
        """Wait until it serves."""
        line = self.line()
        found = re.match(r"serving at (wss?://127\.0\.0\.1:\d+/)", line)
        assert found is not None, (line, self.log)
        return found[1]

    def end(self) -> int:
        """Wait for its end, and return its exit code; then the log is whole."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return code

    def errors(self) -> list[str]:
        return [line for line in self.log if " INFO " not in line]


@contextmanager
def serving(directory: Path, *arguments: object) -> Iterator[Running]:
    """Run `anyws serve` where the program is `app.py`, and end it with the block."""
    (directory / "app.py").write_text(PROGRAM)
    with started(*ANYWS, "serve", *arguments, cwd=directory) as process:
        running = Running(process)
        try:
            yield running
        finally:
            # It is the supervisor that is killed; its workers go with it.
            process.kill()
            running.end()

"""The process under test: one contender, in one role, on one backend.

    python -m benchmarks.subject ROLE CONTENDER BACKEND CERTIFICATES

A server listens once for each mode and prints the ports; a client prints that it is ready. A
client then does a job for each line on its standard input, and prints when it is done. SIGTERM
makes either print what it knows of the lane, and end. Nothing here reads a clock: the load does,
that of this process.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from .contenders import BY_NAME
from .target import Job, Mode

MODES = ("plain", "deflate", "tls")


def main(role: str, name: str, backend: str, certificates: str) -> None:
    contender = BY_NAME[name]
    module = importlib.import_module(f"benchmarks.contenders.{contender.modules[backend]}")
    signal.signal(signal.SIGTERM, partial(_finish, module))
    modes = [
        Mode(mode, Path(certificates))
        for mode in MODES
        if mode == "plain" or mode in contender.skills
    ]
    if role == "server":
        _SERVERS[backend](module, modes)
    else:
        _say(ready=True)
        for line in sys.stdin:
            _CLIENTS[backend](module, Job.from_line(json.loads(line), Path(certificates)))
            _say(done=True)


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def _finish(module: Any, *_: object) -> None:
    share = getattr(module, "share", None)
    _say(share=None if share is None else share())
    os._exit(0)


class _Ports:
    """Tells the ports once all of them are known."""

    def __init__(self, modes: list[Mode]) -> None:
        self._left = len(modes)
        self._ports: dict[str, int] = {}

    def started(self, mode: Mode, port: int) -> None:
        self._ports[mode.name] = port
        self._left -= 1
        if not self._left:
            _say(ports=self._ports)


# --- asyncio and uvloop ---


def _run_asyncio(backend: str, main: Any, *args: object) -> None:
    factory = None
    if backend == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(*args))


async def _serve_asyncio(module: Any, modes: list[Mode]) -> None:
    ports = _Ports(modes)
    await asyncio.gather(*(module.serve(mode, partial(ports.started, mode)) for mode in modes))


async def _client_asyncio(module: Any, job: Job) -> None:
    if job.workload.kind == "exchange":
        one = partial(_exchange_on_new, module, job)
        await asyncio.gather(*(one() for _ in range(job.workload.connections)))
    else:
        await _open_async(module, job, asyncio.Event)


# --- trio ---


def _run_trio(main: Any, *args: object) -> None:
    import trio

    trio.run(main, *args)


async def _serve_trio(module: Any, modes: list[Mode]) -> None:
    import trio

    ports = _Ports(modes)
    async with trio.open_nursery() as nursery:
        for mode in modes:
            nursery.start_soon(module.serve, mode, partial(ports.started, mode))


async def _client_trio(module: Any, job: Job) -> None:
    import trio

    if job.workload.kind == "exchange":
        async with trio.open_nursery() as nursery:
            for _ in range(job.workload.connections):
                nursery.start_soon(_exchange_on_new, module, job)
    else:
        await _open_async(module, job, trio.Event)


# --- Both ---


async def _exchange_on_new(module: Any, job: Job) -> None:
    async with module.connect(job.target) as connection:
        await getattr(module, "exchange", exchange)(connection, job)


async def exchange(connection: Any, job: Job) -> None:
    """Send and receive, window by window, as a program would."""
    send, receive = connection
    messages = job.messages()
    window = range(job.workload.depth)
    for _ in range(job.repeat):
        for _ in window:
            await send(next(messages))
        for _ in window:
            await receive()


async def _open_async(module: Any, job: Job, event: Any) -> None:
    if job.workload.kind == "churn":
        for _ in range(job.repeat):
            async with module.connect(job.target):
                pass
        return
    async with AsyncExitStack() as stack:
        for _ in range(job.repeat):
            await stack.enter_async_context(module.connect(job.target))
        await event().wait()  # until this process is ended


# --- Blocking ---


def _serve_blocking(module: Any, modes: list[Mode]) -> None:
    ports = _Ports(modes)
    for mode in modes:
        arguments = (mode, partial(ports.started, mode))
        threading.Thread(target=module.serve, args=arguments, daemon=True).start()
    threading.Event().wait()


def _client_blocking(module: Any, job: Job) -> None:
    if job.workload.kind == "exchange":
        one = partial(_exchange_on_new_blocking, module, job)
        threads = [threading.Thread(target=one) for _ in range(job.workload.connections - 1)]
        for thread in threads:
            thread.start()
        one()
        for thread in threads:
            thread.join()
    elif job.workload.kind == "churn":
        for _ in range(job.repeat):
            with module.connect(job.target):
                pass
    else:
        with ExitStack() as stack:
            for _ in range(job.repeat):
                stack.enter_context(module.connect(job.target))
            threading.Event().wait()


def _exchange_on_new_blocking(module: Any, job: Job) -> None:
    with module.connect(job.target) as (send, receive):
        messages = job.messages()
        window = range(job.workload.depth)
        for _ in range(job.repeat):
            for _ in window:
                send(next(messages))
            for _ in window:
                receive()


_SERVERS: dict[str, Any] = {
    "asyncio": partial(_run_asyncio, "asyncio", _serve_asyncio),
    "uvloop": partial(_run_asyncio, "uvloop", _serve_asyncio),
    "trio": partial(_run_trio, _serve_trio),
    "blocking": _serve_blocking,
}
_CLIENTS: dict[str, Any] = {
    "asyncio": partial(_run_asyncio, "asyncio", _client_asyncio),
    "uvloop": partial(_run_asyncio, "uvloop", _client_asyncio),
    "trio": partial(_run_trio, _client_trio),
    "blocking": _client_blocking,
}

if __name__ == "__main__":
    main(*sys.argv[1:])

"""Counting what a scheduler does, and striking at a chosen step.

Three sources of steps. A *turn* is each time the scheduler runs something: on trio a step of a
task, on asyncio and uvloop a callback, which is how tasks are run there. A *call* is each beginning
and end of a call of the stream under the connection. An *await* is each time that a task comes to
an `await` in the package, be it one that need not wait. The count runs while an `Stepper.armed` block is
open; when it reaches `strike_at`, `strike` is called there and then, between two things that the
scheduler runs, or within the call.
"""

from __future__ import annotations

import ast
import asyncio
import math
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import anyio
import trio
import uvloop
from anyio.abc import ByteStream
from trio.testing import MockClock

import anyws
from anyws.testing import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

TURN, CALL, AWAIT = "turn", "call", "await"

PACKAGE = str(Path(anyws.__file__).parent)


class Stepper:
    def __init__(self, source: str, strike_at: int | None) -> None:
        self.source = source
        self.strike_at = strike_at
        self.count = 0
        self.turns = 0  # all there ever were, whatever is counted
        self.struck_at: float | None = None  # the time of the strike
        self.awaiting: tuple[str, int] | None = None  # at the latest step of that source
        self._strike: Callable[[], None] | None = None

    @contextmanager
    def armed(self, strike: Callable[[], None]) -> Iterator[None]:
        self._strike = strike
        try:
            yield
        finally:
            self._strike = None

    def turn(self) -> None:
        self.turns += 1
        if self.source == TURN:
            self._step()

    def call(self) -> None:
        if self.source == CALL:
            self._step()

    @contextmanager
    def watching_awaits(self) -> Iterator[None]:
        """Count them within the block, if they are to be: it slows everything down."""
        if self.source != AWAIT:
            yield
            return
        sys.settrace(self._trace_call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _trace_call(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._trace_line if frame.f_code in _awaits_by_code() else None

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_lineno in _awaits_by_code()[frame.f_code]:
            self.awaiting = (frame.f_code.co_filename, frame.f_lineno)
            self._step()
        return self._trace_line

    def _step(self) -> None:
        strike = self._strike
        if strike is None:
            return
        if self.count == self.strike_at:
            self._strike = None
            self.struck_at = anyio.current_time()
            strike()
        self.count += 1


@cache
def awaits_of_the_package() -> dict[tuple[str, int], tuple[int, str]]:
    """Every `await`, `async with` and `async for`: its first line -> its last line, its words."""
    found = {}
    for path in sorted(Path(PACKAGE).rglob("*.py")):
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.Await):
                last = node.end_lineno
            elif isinstance(node, ast.AsyncWith):
                last = node.items[-1].context_expr.end_lineno
            elif isinstance(node, ast.AsyncFor):
                last = node.iter.end_lineno
            else:
                continue
            found[str(path), node.lineno] = (last or node.lineno, lines[node.lineno - 1].strip())
    return found


@cache
def _awaits_by_code() -> dict[CodeType, set[int]]:
    """The coroutine functions of the package, and the lines of theirs that await."""
    awaits = awaits_of_the_package()
    found: dict[CodeType, set[int]] = {}
    for path in {path for path, _ in awaits}:
        lines = {line for name, line in awaits if name == path}
        codes = [compile(Path(path).read_text(), path, "exec", dont_inherit=True)]
        while codes:
            code = codes.pop()
            codes += [const for const in code.co_consts if isinstance(const, CodeType)]
            if own := lines & {line for _, _, line in code.co_lines() if line is not None}:
                found[code] = own
    return found


class _Instrument(trio.abc.Instrument):
    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._stepper.turn()


def _stepping(loop_class: Any) -> Any:
    class SteppingLoop(loop_class):
        stepper: Stepper

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_soon(self._turn, callback, args, context=context)

        def _turn(self, callback: Any, args: Any) -> None:
            self.stepper.turn()
            callback(*args)

    return SteppingLoop


_LOOPS = {
    ("asyncio", True): _stepping(VirtualTimeLoop),
    ("asyncio", False): _stepping(asyncio.SelectorEventLoop),
    ("uvloop", False): _stepping(uvloop.Loop),
}


def backend_with(stepper: Stepper, backend: str, *, virtual: bool) -> dict[str, Any]:
    """Arguments for `anyio.run`: this backend, with its scheduler watched."""
    if backend == "trio":
        options: dict[str, Any] = {"instruments": [_Instrument(stepper)]}
        if virtual:
            options["clock"] = MockClock(autojump_threshold=0)
        return {"backend": "trio", "backend_options": options}

    def make_loop() -> Any:
        loop = _LOOPS[backend, virtual]()
        loop.stepper = stepper
        return loop

    return {"backend": "asyncio", "backend_options": {"loop_factory": make_loop}}


class WatchedStream(ByteStream):
    """A stream whose calls are steps, and which keeps what was sent on it."""

    def __init__(self, stream: ByteStream, stepper: Stepper) -> None:
        self.stream = stream
        self.closed = False
        self._stepper = stepper

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes

    async def send(self, item: bytes) -> None:
        self._stepper.call()
        await self.stream.send(item)
        self._stepper.call()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._stepper.call()
        data = await self.stream.receive(max_bytes)
        self._stepper.call()
        return data

    async def send_eof(self) -> None:
        self._stepper.call()
        await self.stream.send_eof()
        self._stepper.call()

    async def aclose(self) -> None:
        self._stepper.call()
        try:
            await self.stream.aclose()
        finally:
            self.closed = True
        self._stepper.call()


def tasks() -> set[object]:
    """Every task of the running loop."""
    try:
        return set(asyncio.all_tasks())
    except RuntimeError:
        return set(_descendants(trio.lowlevel.current_root_task()))


def _descendants(task: Any) -> Iterator[Any]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _descendants(child)


def timers() -> int:
    """How many timers are set; always 0 on uvloop, which does not tell."""
    try:
        loop: Any = asyncio.get_running_loop()
    except RuntimeError:
        statistics = trio.lowlevel.current_statistics()
        return int(statistics.seconds_to_next_deadline < math.inf)
    return sum(not handle.cancelled() for handle in getattr(loop, "_scheduled", ()))


def suspended_at(package: str) -> set[tuple[str, int]]:
    """Where, in the files of a package, tasks stand still: file and line of each await."""
    found = set()
    for task in tasks():
        coro = task.get_coro() if isinstance(task, asyncio.Task) else task.coro  # type: ignore[attr-defined]
        while coro is not None:
            frame = _attribute(coro, "frame")
            if frame is not None and frame.f_code.co_filename.startswith(package):
                found.add((frame.f_code.co_filename, frame.f_lineno))
            coro = _attribute(coro, "await") or _attribute(coro, "yieldfrom")
    return found


def _attribute(coro: Any, name: str) -> Any:
    for prefix in ("cr", "gi", "ag"):
        value = getattr(coro, f"{prefix}_{name}", None)
        if value is not None:
            return value
    return None

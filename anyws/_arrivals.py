"""What a listener that encrypts does with its streams before it hands them over.

A listener of AnyIO's starts a task for each stream, and a `TLSListener` does the handshake of TLS in
it first, for which it gives a client half a minute. Until then the server knows of no client that
it could refuse, and would wait in the end for whoever never goes on. So each of these tasks has a
scope of its own, and the server cancels those that are left when it sends its clients away, or,
where it retires and refuses nobody, when it cuts off whoever is left. With the stream the server
takes over the task: what becomes of that is for `_served.py` to say.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from anyio import CancelScope, Event, get_current_task
from anyio.abc import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from anyio import TaskHandle

__all__ = ["Arrivals"]

T = TypeVar("T")


class Arrivals(TaskGroup):
    """A task group as a listener gets it: another's, in which `cut_off` ends what it has begun."""

    def __init__(self, task_group: TaskGroup) -> None:
        self.cancel_scope = task_group.cancel_scope
        self._task_group = task_group
        self._scopes: dict[int, CancelScope] = {}  # of the tasks with these numbers
        self._is_over = False
        self._all_gone = Event()  # of the current wait

    @property
    def any_left(self) -> bool:
        """Whether there is a task that the listener has begun and not handed over."""
        return bool(self._scopes)

    async def wait_until_gone(self) -> None:
        """Wait until there is no such task."""
        while self._scopes:
            if self._all_gone.is_set():
                self._all_gone = Event()
            await self._all_gone.wait()

    def handing_over(
        self, handler: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Return the handler for the listener: from its call on, a task is not cut off any more."""

        @wraps(handler)  # it names the task
        def take_over(stream: object) -> Coroutine[Any, Any, None]:
            self._forget(get_current_task().id)
            return handler(stream)

        return take_over

    def cut_off(self) -> None:
        """Cancel what the listener has begun and not handed over, and what it will begin."""
        self._is_over = True
        for scope in self._scopes.values():
            scope.cancel()

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> TaskHandle[Any]:
        return self._task_group.create_task(self._run(coro), name=name, context=context)

    async def _run(self, coro: Coroutine[Any, Any, object]) -> None:
        task = get_current_task().id
        with CancelScope() as scope:
            self._scopes[task] = scope
            if self._is_over:
                scope.cancel()
            try:
                await coro
            finally:
                self._forget(task)

    def _forget(self, task: int) -> None:
        self._scopes.pop(task, None)
        if not self._scopes:
            self._all_gone.set()

    def start(
        self, func: Callable[..., Coroutine[Any, Any, Any]], *args: object, **options: Any
    ) -> Coroutine[Any, Any, Any]:
        return self._task_group.start(func, *args, **options)

    async def __aenter__(self) -> NoReturn:
        raise RuntimeError("the task group of a server is entered already")

    async def __aexit__(self, *exc_info: object) -> NoReturn:
        raise RuntimeError("the task group of a server is left by the server")

"""What a listener does with its streams before it hands them over.

A listener of AnyIO's starts a task for each stream, and a composite one does its own part in it
first: that for TLS does the handshake, and gives it half a minute. Until then the server knows of
no client that it could refuse, and would wait in the end for whoever never goes on. So each of
these tasks has a scope of its own, and the server cancels them when it sends its clients away, or,
where it retires and refuses nobody, when it cuts off whoever is left. One in which a client is
served already does not notice: that is shielded (`_served.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from anyio import CancelScope, Event
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
        self._scopes: set[CancelScope] = set()
        self._is_over = False
        self._all_gone = Event()  # of the current wait

    @property
    def any_left(self) -> bool:
        """Whether a task that it has begun goes on, a client served in it or not."""
        return bool(self._scopes)

    async def wait_until_gone(self) -> None:
        """Wait until there is no such task."""
        while self._scopes:
            if self._all_gone.is_set():
                self._all_gone = Event()
            await self._all_gone.wait()

    def cut_off(self) -> None:
        """Cancel what listeners have begun, and what they will."""
        self._is_over = True
        for scope in self._scopes:
            scope.cancel()

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> TaskHandle[Any]:
        return self._task_group.create_task(self._run(coro), name=name, context=context)

    async def _run(self, coro: Coroutine[Any, Any, object]) -> None:
        with CancelScope() as scope:
            self._scopes.add(scope)
            if self._is_over:
                scope.cancel()
            try:
                await coro
            finally:
                self._scopes.remove(scope)
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

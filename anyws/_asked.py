"""How a server is asked for its end: by signals, or by whoever has started its process.

Whoever asks first is heard, and the server is closed in order. Asked again by somebody who means
it, as by a second signal, it hurries: whoever is left is cut off. A supervisor that passes on what
a signal has said already does not ask again.
"""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from anyio import Event, create_task_group, move_on_after, open_signal_receiver, sleep_forever

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._server import Server

__all__ = ["SAME_WISH", "Asked", "close_when_asked", "nothing", "receive_signals"]

# Seconds after the first signal in which another one says the same. It may be sent to a process and
# to its group, or by a terminal and passed on by a parent.
SAME_WISH: Final = 0.25
# Seconds more for one that came within them, and is told of late: the event loop was kept busy.
_LATE: Final = 0.01


class Asked:
    """What one server is asked for.

    has_cut:
        Whether somebody was cut off, because of hurry.
    """

    def __init__(self, server: Server) -> None:
        self.has_cut = False
        self._server = server
        self._retire = False
        self._asked = Event()

    def end(self, *, retire: bool = False) -> None:
        """Have the server closed; or retired, where another process goes on accepting."""
        if not self._asked.is_set():
            self._retire = retire
            self._asked.set()

    def hurry(self) -> None:
        """Have it closed without waiting for anybody."""
        self.end()
        self.has_cut |= self._server._hurry()

    async def listen_to(self, signals: AsyncIterator[object]) -> None:
        """Take the first signal for an end, and a later one for hurry, until cancelled."""
        await anext(signals)
        self.end()
        for seconds in (SAME_WISH, _LATE):
            with move_on_after(seconds):
                async for _ in signals:
                    pass
        async for _ in signals:
            self.hurry()

    async def close_server(self) -> None:
        """Wait until somebody asks, and close the server as asked."""
        await self._asked.wait()
        await (self._server.retire() if self._retire else self._server.aclose())


async def close_when_asked(server: Server, signals: AsyncIterator[object]) -> Asked:
    """Close a server as the signals ask for it; return what they have asked."""
    asked = Asked(server)
    async with create_task_group() as task_group:
        task_group.start_soon(asked.listen_to, signals)
        await asked.close_server()
        task_group.cancel_scope.cancel()
    return asked


# Held by `receive_signals`: a process has one set of signal handlers.
_handlers = threading.Lock()


@contextmanager
def receive_signals() -> Iterator[AsyncIterator[object]]:
    """Take over SIGTERM and SIGINT, and give those that come.

    Raises RuntimeError outside the main thread, which alone gets signals, and where they are taken
    over already: the one before would wait for them in vain.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals can be handled in the main thread of a program only")
    if not _handlers.acquire(blocking=False):
        raise RuntimeError(
            "another server of this program handles its signals already: end the others by "
            "cancelling them, or with Server.aclose()"
        )
    with ExitStack() as stack:
        stack.callback(_handlers.release)
        signals: AsyncIterator[object] = nothing()
        try:
            signals = stack.enter_context(open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        except NotImplementedError:
            pass  # asyncio on Windows: there Ctrl-C cancels the main task
        yield signals


async def nothing() -> AsyncIterator[object]:
    """Give nothing, for ever."""
    await sleep_forever()
    yield None

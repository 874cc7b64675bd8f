"""Ways for events to get from the inbox to the listeners."""

from __future__ import annotations

import logging
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._inbox import Inbox

__all__ = ["Delivery", "Waker"]

_logger = logging.getLogger("anyws.client")

# Events that one client may deliver before it is somebody else's turn.
TURN = 16


class Waker:
    """For a client that is polled: wakes the thread that waits for an event."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._is_waiting = False
        # What is written in C: an interrupt within leaves it as it was.
        self._woken: SimpleQueue[None] = SimpleQueue()

    def ask(self) -> None:
        if self._is_waiting:
            self._woken.put(None)

    def wait(self, timeout: float) -> None:
        """Return when there is an event, or perhaps was one, or when the time is over."""
        self._is_waiting = True
        # Behind the flag, so that nothing that comes is overlooked.
        if not self._inbox:
            try:
                self._woken.get(timeout=timeout)
            except Empty:
                pass
        self._is_waiting = False


class Delivery:
    """In the background, by workers, or by what the program dispatches with.

    The claim is held from the moment when a delivery is asked for until nothing is left to
    deliver, by one thread after another. What the program is given to dispatch has it when it is
    called the first time, unless dispatching has failed before.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._claim = threading.Lock()
        # Puts this in line for a worker; the latest background thread's.
        self.line_up: Callable[[Delivery], None] = _nowhere

    def ask(self) -> None:
        """See to it that what is in the inbox gets delivered; on the loop's thread."""
        if self._claim.acquire(blocking=False):
            self.line_up(self)

    def take_turn(self) -> None:
        """Deliver now, in a worker's thread, or have it done elsewhere."""
        client = self._inbox.client()
        if client is None:
            self._inbox.drop_all()
            self._release()
        elif client._dispatch is None:
            self._deliver()
        else:
            self._dispatch(client._dispatch)

    def _dispatch(self, dispatch: Callable[[Callable[[], None]], object]) -> None:
        once = threading.Lock()

        def deliver() -> None:
            if once.acquire(blocking=False):
                self._deliver()

        waiting = len(self._inbox)
        try:
            dispatch(deliver)
        except Exception as error:
            # It may have called that before, or may yet.
            is_ours = once.acquire(blocking=False)
            _logger.error("dispatching events failed", exc_info=error)
            if is_ours:
                self._claim.release()
                # What waits is delivered with what comes next, if that can be dispatched; and that
                # may have come meanwhile.
                if len(self._inbox) > waiting:
                    self.ask()

    def _deliver(self) -> None:
        try:
            client = self._inbox.client()
            if client is None:
                self._inbox.drop_all()
            else:
                self._inbox.deliver(client, TURN)
        finally:
            self._release()

    def _release(self) -> None:
        self._claim.release()
        # Also for what came after the last look.
        if self._inbox:
            self.ask()


def _nowhere(delivery: Delivery) -> None:
    pass

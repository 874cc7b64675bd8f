"""The thread of a server that accepts from its listening sockets, and closes them at its end."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from .._transports.blocking_stream import network_may_fail

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Acceptor", "wait_for"]

Take: TypeAlias = "Callable[[socket.socket, object], None]"

_logger = logging.getLogger("anyws.server")

# Seconds until accepting is tried again where the system has run out of something.
_ACCEPT_PAUSE = 0.1
# Seconds that a thread may take to start.
_START_PATIENCE = 1.0


def wait_for(thread: threading.Thread) -> None:
    """Wait for a thread that is about to end, if it was started, or is about to be."""
    deadline = time.monotonic() + _START_PATIENCE
    while thread in threading.enumerate() and (left := deadline - time.monotonic()) > 0:
        try:
            thread.join(left)
        except RuntimeError:
            time.sleep(0.001)  # not yet; or never, where an interrupt came in the middle


class Acceptor:
    """thread: the one that accepts, once it was made; addresses: those of the sockets."""

    def __init__(self) -> None:
        self.addresses: list[Any] = []
        self.thread: threading.Thread | None = None
        self._alarm: socket.socket  # what is written to it wakes the thread

    def start(self, sockets: list[socket.socket], take: Take) -> None:
        """Accept from these sockets, and close them in the end, or where this fails.

        take:
            Called with each socket that was accepted, and its address, in the thread.
        """
        ours = list(sockets)
        try:
            self._alarm, alarmed = socket.socketpair()
            ours += self._alarm, alarmed
            self.addresses = [sock.getsockname() for sock in sockets]
            for sock in sockets:
                sock.setblocking(False)
            # No process waits for it at its end.
            self.thread = threading.Thread(
                target=self._accept,
                args=(sockets, alarmed, take),
                name="anyws acceptor",
                daemon=True,
            )
            self.thread.start()
        except BaseException:
            self._undo_start(ours)
            raise

    def _undo_start(self, ours: list[socket.socket]) -> None:
        """Leave nothing of a start that failed, or that an interrupt hit, behind its end perhaps."""
        thread, self.thread = self.thread, None
        if thread is not None:
            self._alarm.close()
            wait_for(thread)
        for sock in ours:
            sock.close()

    def wake(self) -> None:
        """Have the thread close its sockets and end."""
        if self.thread is not None:
            with network_may_fail():
                self._alarm.send(b"\0")

    def stop(self) -> None:
        """Have it end, and wait for that."""
        self.wake()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    # --- In the thread ---

    def _accept(self, sockets: list[socket.socket], alarmed: socket.socket, take: Take) -> None:
        with selectors.DefaultSelector() as selector:
            try:
                for sock in (*sockets, alarmed):
                    selector.register(sock, selectors.EVENT_READ)
            except ValueError:
                return  # they were closed before this had begun
            while True:
                ready: list[Any] = [key.fileobj for key, _ in selector.select()]
                if alarmed in ready:
                    break
                for sock in ready:
                    _accept_one(sock, take)
        for sock in (*sockets, alarmed, self._alarm):
            sock.close()


def _accept_one(listening: socket.socket, take: Take) -> None:
    try:
        sock, address = listening.accept()
    except BlockingIOError:
        return  # it has left
    except OSError as error:
        _logger.warning("accepting a connection failed, trying again: %s", error)
        time.sleep(_ACCEPT_PAUSE)
        return
    take(sock, address)

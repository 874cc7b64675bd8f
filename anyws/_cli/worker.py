"""A worker of `anyws serve --workers`: a process that a supervisor starts, and nobody else.

    python -m anyws._cli.worker CONTROL SOCKET[,SOCKET...] ARGUMENT...

The numbers are file descriptors; the arguments are those of the supervisor. It is a new
interpreter, so that what it serves is what stands in the files now.

Once it serves it learns from the control that the supervisor has gone, and closes in order. Until
then it is in the program's hands, which may take its time to be imported, or never end: meanwhile a
thread looks at the control, and ends the process. Else what nobody accepts from would be kept open,
and a new supervisor would find the port in use.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from .arguments import parse
from .serve import serve_program

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]


def main() -> int:
    _, control, sockets, *arguments = sys.argv
    # It asks the supervisor for something, however many processes it is sent to.
    signal.signal(signal.SIGHUP, lambda *_: None)
    # What the program imports may look at them.
    sys.argv = ["anyws", *arguments]
    numbers = [int(number) for number in (control, *sockets.split(","))]
    for number in numbers:
        # What the program starts itself is not to keep them.
        os.set_inheritable(number, False)
    own, *listening = [socket.socket(fileno=number) for number in numbers]
    own.setblocking(False)
    try:
        with _ending_with(own) as bell:

            def handed_over() -> list[socket.socket]:
                bell.close()
                return listening

            return serve_program(parse(arguments), handed_over, own)
    except KeyboardInterrupt:
        return 1
    finally:
        for sock in (own, *listening):
            sock.close()


@contextmanager
def _ending_with(control: socket.socket) -> Iterator[socket.socket]:
    """End this process when the supervisor does, until the socket is closed that this gives."""
    bell, heard = socket.socketpair()
    with bell:
        Thread(target=_watch, args=(control, heard), daemon=True).start()
        yield bell


def _watch(control: socket.socket, heard: socket.socket) -> None:
    # Signals are the main thread's: that one knows when to hold them back.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with heard, selectors.DefaultSelector() as selector:
        for sock in (control, heard):
            selector.register(sock, selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in selector.select()]
    # What is said to a worker that does not serve yet is that it is to go.
    if control in ready:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())

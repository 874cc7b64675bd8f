"""A worker of `anyws serve --workers`: a process that a supervisor starts, and nobody else.

    python -m anyws._cli.worker CONTROL SOCKET[,SOCKET...] ARGUMENT...

The numbers are file descriptors; the arguments are those of the supervisor. It is a new
interpreter, so that what it serves is what stands in the files now.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from .arguments import parse
from .serve import serve_program

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
        return serve_program(parse(arguments), lambda: listening, own)
    except KeyboardInterrupt:
        return 1
    finally:
        for sock in (own, *listening):
            sock.close()


if __name__ == "__main__":
    sys.exit(main())

"""From arguments to an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from functools import partial
from typing import TYPE_CHECKING

import anyio

from .._demo import demo
from .arguments import parse
from .connect import connect
from .echo import echo
from .serve import run_here, serve_here
from .supervisor import supervise
from .telling import INTERRUPTED, complain, fill_standard_streams, reason_of, stop_printing

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["main"]

# What a backend is installed with.
_EXTRAS = {"trio": "trio", "uvloop": "fast"}

# What only writing to a file or a terminal ends with.
_UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process by default; return its exit code."""
    fill_standard_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(given)
    if not _is_installed(options.backend):
        extra = _EXTRAS[options.backend]
        return complain(
            f"the backend {options.backend!r} is not installed: "
            f"python -m pip install 'anyio-websocket[{extra}]'"
        )
    # What a peer sent may not fit the terminal's encoding.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = INTERRUPTED
    try:
        if options.command != "serve":
            code = run_here(partial(_COMMANDS[options.command], options), options.backend)
        elif options.workers is None:
            code = serve_here(options)
        else:
            code = supervise(options, given)
    # Groups, since it may hit a task of ours, or one of AnyIO's.
    except* KeyboardInterrupt:
        pass
    except* BrokenPipeError:
        stop_printing()
        code = 1
    except* OSError as errors:
        code = _complain_of_output(errors)
    return code


def _complain_of_output(errors: ExceptionGroup[OSError]) -> int:
    first: BaseException = errors
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    if not isinstance(first, OSError) or first.errno not in _UNWRITTEN:
        raise errors
    stop_printing()
    return complain(f"cannot write to standard output: {reason_of(first)}")


def _is_installed(backend: str) -> bool:
    if backend != "uvloop":
        return backend in anyio.get_available_backends()
    try:
        importlib.import_module("uvloop")
    except ImportError:
        return False
    return True


async def _demo(options: argparse.Namespace) -> int:
    return await demo(options.backend)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Coroutine[None, None, int]]] = {
    "demo": _demo,
    "echo": echo,
    "connect": connect,
}

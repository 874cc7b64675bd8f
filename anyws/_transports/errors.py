"""What a stream raises, and what of it may be kept.

An exception keeps the frames that it came through, and those refer to the connection. Where it is
kept, as the reason of the end or by a frame of the stream's own, the connection would live until a
garbage collection. So what a stream raised is relieved of its traceback where it is caught. What
the program itself was handling meanwhile, and which is then the context of it, stays as it is.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

from anyio import BrokenResourceError, ClosedResourceError

if TYPE_CHECKING:
    from socket import gaierror

__all__ = ["STREAM_ERRORS", "explain_lookup", "forget_frames", "is_tls_verdict", "note_failure"]

# What AnyIO's streams raise when they break; TLS adds its own, which are OSErrors.
STREAM_ERRORS: Final = (BrokenResourceError, ClosedResourceError, OSError)

# TLS that was cut off is the network's failure, not TLS's.
_TLS_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

_logger = logging.getLogger("anyws.protocol")


def note_failure(error: Exception, handled: BaseException | None = None) -> None:
    """Take note of what a stream failed with: its frames are forgotten.

    handled:
        What `sys.exception` gave before the stream was called.
    """
    if not isinstance(error, STREAM_ERRORS):
        _logger.warning("a stream raised what AnyIO's do not", exc_info=error)
    forget_frames(error, handled)


def forget_frames(error: BaseException, handled: BaseException | None = None) -> None:
    """Drop the tracebacks of an exception, and of those that it came from, but for `handled`."""
    pending: list[BaseException | None] = [error]
    seen = {id(handled)}
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            pending += [one.__cause__, one.__context__]


def is_tls_verdict(error: BaseException | None) -> bool:
    """Whether that is TLS's verdict on the other end, or of the other end's on us, not its loss."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, _TLS_CUT)


def explain_lookup(error: gaierror, host: str | None) -> None:
    """Have an error of the system's resolver name the host."""
    error.strerror = f"the host {host} was not found: {error.strerror}"

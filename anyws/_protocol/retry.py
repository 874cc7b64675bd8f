"""What a client does when it has no connection: whether it tries again, and when.

Nothing in here knows the time or rolls dice: both are given.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from .._errors import (
    HandshakeInvalid,
    HandshakeRejected,
    HandshakeTimeout,
    ProxyError,
    WebSocketError,
)

if TYPE_CHECKING:
    from .._config import Backoff
    from .http import Headers, Response

__all__ = ["is_transient", "is_transient_status", "next_delay", "retry_after"]


def is_transient(
    error: Exception, *, network: tuple[type[Exception], ...], is_tls_failure: bool
) -> bool:
    """Whether another attempt may succeed where this one failed, with nothing changed.

    network:
        What connecting, and the streams, raise when they fail.
    is_tls_failure:
        The error is TLS's verdict on the other end, not the loss of it.
    """
    if isinstance(error, HandshakeRejected):
        return is_transient_status(error.response.status)
    if isinstance(error, HandshakeInvalid):
        # A server that goes away in the middle of its answer may be about to come back.
        return error.cut_short
    if isinstance(error, HandshakeTimeout):
        return True
    if isinstance(error, ProxyError):
        return error.transient
    if isinstance(error, WebSocketError) or is_tls_failure:
        return False
    return isinstance(error, network)


def is_transient_status(status: int) -> bool:
    """Whether a server that refuses with this HTTP status may accept the same request later."""
    # RFC 6585, section 4, for 429; the other 4xx say that the request is at fault.
    return status == 429 or 500 <= status <= 599


def next_delay(backoff: Backoff, attempt: int, chance: float, told: float | None = None) -> float:
    """Return the seconds to wait before an attempt.

    attempt:
        Which one it is since the last stable connection, counted from 1.
    chance:
        A random number, at least 0 and below 1.
    told:
        The seconds that the server asked for, if it did.
    """
    if attempt <= 1:
        # RFC 6455, section 7.2.3: random, from nothing on.
        delay = min(backoff.first_delay, backoff.max_delay) * chance
    else:
        delay = _bound(backoff, attempt) * (1 - backoff.jitter * chance)
    if told is None or backoff.max_retry_after == 0:
        return delay
    if backoff.max_retry_after is not None:
        told = min(told, backoff.max_retry_after)
    # Everybody may have been told the same.
    return max(delay, told + backoff.first_delay * chance)


def _bound(backoff: Backoff, attempt: int) -> float:
    steps = attempt - 1
    # Compared as logarithms: the power itself outgrows a float.
    if backoff.max_delay <= backoff.first_delay:
        return backoff.max_delay
    if steps * math.log(backoff.factor) >= math.log(backoff.max_delay / backoff.first_delay):
        return backoff.max_delay
    return backoff.first_delay * backoff.factor**steps


def retry_after(response: Response, now: float) -> float | None:
    """Return how many seconds from now a server wants to be left alone (RFC 9110, 10.2.3).

    ``None`` where it does not say, or nothing that can be understood. A date is measured against
    the response's own `Date`, where it has one: the clocks of the two ends need not agree.

    now:
        Seconds since 1970, UTC.
    """
    for value in response.headers.get_all("Retry-After"):
        if value.isascii() and value.isdigit():
            # A number of any length; the largest are infinite.
            return float(value)
        when = _seconds_of(value)
        if when is not None:
            return max(when - _date_of(response.headers, now), 0.0)
    return None


def _date_of(headers: Headers, otherwise: float) -> float:
    for value in headers.get_all("Date"):
        date = _seconds_of(value)
        if date is not None:
            return date
    return otherwise


def _seconds_of(value: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date, in any of the forms of RFC 9110, 5.6.7."""
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return (date - _EPOCH).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

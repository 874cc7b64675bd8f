"""What a stream raises is told apart, and what is kept of it leads nowhere."""

from __future__ import annotations

import logging

import anyio
import pytest

from anyws._transports.errors import forget_frames, note_failure


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        try:
            raise cause or KeyError("handled")
        except Exception as handled:  # noqa: BLE001 - likewise
            raise error from (handled if cause else None)
    except Exception as caught:  # noqa: BLE001 - it is what is asked for
        return caught


def test_an_error_loses_its_frames_and_so_does_what_it_came_from() -> None:
    """T10: they refer to the connection, which refers to the error."""
    error = raised(anyio.BrokenResourceError(), OSError("gone"))
    note_failure(error)
    assert error.__traceback__ is None
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.__traceback__ is None


def test_what_was_handled_before_keeps_its_frames() -> None:
    error = raised(OSError("gone"))
    handled = error.__context__
    note_failure(error, handled)
    assert error.__traceback__ is None
    assert handled is not None
    assert handled.__traceback__ is not None


def test_a_circle_of_contexts_is_walked_once() -> None:
    first, second = raised(OSError("a")), raised(OSError("b"))
    first.__context__, second.__context__ = second, first
    forget_frames(first)
    assert first.__traceback__ is None
    assert second.__traceback__ is None


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (anyio.BrokenResourceError(), 0),
        (anyio.ClosedResourceError(), 0),
        (ConnectionResetError(), 0),
        (RuntimeError("unheard of"), 1),
    ],
)
def test_what_streams_do_not_raise_is_logged(
    error: Exception, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="anyws.protocol"):
        note_failure(raised(error))
    assert len(caplog.records) == lines

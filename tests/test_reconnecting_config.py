"""`Backoff` and `Backlog`: their defaults, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest

from anyws import Backlog, Backoff

NUMBERS = [field.name for field in dataclasses.fields(Backoff)]


def test_the_defaults_are_those_of_the_documentation():
    assert dataclasses.asdict(Backoff()) == {
        "first_delay": 5.0,
        "factor": 2.0,
        "max_delay": 60.0,
        "jitter": 0.5,
        "stable_after": 30.0,
        "max_retry_after": 3600.0,
    }
    assert dataclasses.asdict(Backlog()) == {
        "max_bytes": 2**20,
        "resume_bytes": None,
        "close_code": 1013,
    }


@pytest.mark.parametrize("kind", [Backoff, Backlog])
def test_every_field_is_documented(kind):
    for field in dataclasses.fields(kind):
        assert f"\n{field.name}:\n" in inspect.cleandoc(kind.__doc__ or "")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_backoff_is_made_of_finite_numbers(name):
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be"):
            Backoff(**{name: bad})
    for wrong in ("1", True, [1]):
        with pytest.raises(TypeError, match=f"{name} must be a number"):
            Backoff(**{name: wrong})


def test_what_a_server_asks_for_may_be_unbounded_and_nothing_else():
    assert Backoff(max_retry_after=None).max_retry_after is None
    with pytest.raises(TypeError, match="max_delay must be a number"):
        Backoff(max_delay=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "bad"), [("factor", 0.5), ("jitter", 1.1), ("first_delay", 0)])
def test_a_backoff_has_to_back_off(name, bad):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Backoff(**{name: bad})


def test_the_bound_of_a_backlog_is_a_number_of_bytes():
    for bad in (0, -1):
        with pytest.raises(ValueError, match="max_bytes must be at least 1"):
            Backlog(max_bytes=bad)
    with pytest.raises(TypeError, match="max_bytes must be an int"):
        Backlog(max_bytes=1.5)  # type: ignore[arg-type]


def test_a_peer_resumes_below_the_bound():
    assert Backlog(max_bytes=1000).resume_at == 500
    assert Backlog(max_bytes=1000, resume_bytes=0).resume_at == 0
    with pytest.raises(ValueError, match="resume_bytes must be from 0 to 999"):
        Backlog(max_bytes=1000, resume_bytes=1000)


def test_a_peer_that_is_behind_is_closed_with_a_code_that_may_be_sent():
    assert Backlog(close_code=1008).close_code == 1008
    assert Backlog(close_code=None).close_code is None
    for bad in (1006, 1010, 999):
        with pytest.raises(ValueError, match="close code"):
            Backlog(close_code=bad)

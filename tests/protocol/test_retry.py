"""What a client does without a connection: whether it tries again, and when (anyws/_protocol/retry.py)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws import (
    Backoff,
    HandshakeInvalid,
    HandshakeRejected,
    HandshakeTimeout,
    InvalidURL,
    ProxyError,
    Response,
    TooManyRedirects,
)
from anyws._protocol.retry import is_transient, is_transient_status, next_delay, retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


class Lost(Exception):
    """What stands for a failure of the network."""


def verdict(error: Exception, *, is_tls_failure: bool = False) -> bool:
    return is_transient(error, network=(OSError, Lost), is_tls_failure=is_tls_failure)


# --- Whether ---


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError("no route"), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (Lost(), True),
        (HandshakeTimeout("late"), True),
        (HandshakeInvalid("gone", cut_short=True), True),
        (HandshakeInvalid("not HTTP"), False),
        (ProxyError("it could not reach the server", transient=True), True),
        (ProxyError("it wants a password"), False),
        (TooManyRedirects(Response(302)), False),
        (InvalidURL("wss:"), False),
        (ValueError("a bad header"), False),
        (RuntimeError("a bug"), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(error, transient):
    assert verdict(error) is transient


def test_what_tls_does_not_accept_is_not_tried_again_although_it_is_an_oserror():
    assert not verdict(OSError("certificate verify failed"), is_tls_failure=True)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_a_server_that_is_busy_or_broken_is_asked_again(status):
    assert is_transient_status(status)
    assert verdict(HandshakeRejected(Response(status)))


@pytest.mark.parametrize("status", [200, 301, 302, 400, 401, 403, 404, 407, 426, 428, 430, 600])
def test_a_server_that_means_it_is_not_asked_again(status):
    assert not is_transient_status(status)
    assert not verdict(HandshakeRejected(Response(status)))


# --- When ---


@pytest.mark.parametrize(("chance", "delay"), [(0, 0), (0.25, 1.25), (0.5, 2.5)])
def test_the_first_delay_is_random_from_nothing_on(chance, delay):
    """R-89."""
    assert next_delay(Backoff(), 1, chance) == delay


def test_later_delays_grow_up_to_a_bound():
    """R-89."""
    delays = [next_delay(Backoff(jitter=0), attempt, 0.5) for attempt in range(2, 8)]
    assert delays == [10, 20, 40, 60, 60, 60]


def test_a_part_of_each_later_delay_is_random():
    assert next_delay(Backoff(), 3, 0) == 20
    assert next_delay(Backoff(), 3, 0.5) == 15
    assert 10 < next_delay(Backoff(), 3, 0.9999) < 10.01


@given(
    attempt=st.integers(1, 10**9),
    chance=st.floats(0, 1, exclude_max=True),
    backoff=st.builds(
        Backoff,
        first_delay=st.floats(1e-3, 1e6),
        factor=st.floats(1, 1e300),
        max_delay=st.floats(0, 1e6),
        jitter=st.floats(0, 1),
    ),
)
def test_a_delay_is_never_above_its_bound_nor_below_zero(attempt, chance, backoff):
    assert 0 <= next_delay(backoff, attempt, chance) <= backoff.max_delay


@given(
    attempt=st.integers(1, 100),
    chance=st.floats(0, 1, exclude_max=True),
    told=st.floats(0, allow_infinity=True, allow_nan=False),
)
def test_a_server_is_left_alone_for_as_long_as_it_asks_up_to_a_bound(attempt, chance, told):
    backoff = Backoff()
    delay = next_delay(backoff, attempt, chance, told)
    assert delay >= min(told, 3600)
    assert delay >= next_delay(backoff, attempt, chance)
    assert delay <= 3600 + 5


def test_not_everybody_comes_at_the_very_moment_that_all_were_told():
    assert {next_delay(Backoff(), 1, chance, 30) for chance in (0, 0.5)} == {30, 32.5}


def test_what_a_server_asks_for_may_be_ignored_or_not_be_bounded():
    assert next_delay(Backoff(max_retry_after=0), 1, 0.5, 30) == 2.5
    assert next_delay(Backoff(max_retry_after=None), 1, 0, 1e6) == 1e6


# --- Retry-After ---


def told(*values: str, date: str | None = None, now: float = NOW) -> float | None:
    headers = [("Retry-After", value) for value in values]
    headers += [] if date is None else [("Date", date)]
    return retry_after(Response(503, headers), now)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("120", 120), ("007", 7)])
def test_retry_after_in_seconds(value, seconds):
    assert told(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:50:37 GMT",
        "Sunday, 06-Nov-94 08:50:37 GMT",
        "Sun Nov  6 08:50:37 1994",
    ],
)
def test_retry_after_as_a_date_in_each_of_its_three_forms(value):
    """RFC 9110, section 5.6.7."""
    assert told(value) == 60


def test_a_date_is_measured_against_the_servers_own():
    date = "Sun, 06 Nov 1994 08:50:30 GMT"
    assert told("Sun, 06 Nov 1994 08:50:37 GMT", date=date, now=0) == 7
    assert told("Sun, 06 Nov 1994 08:50:37 GMT", date="yesterday") == 60


def test_a_date_that_has_passed_asks_for_nothing():
    assert told("Sun, 06 Nov 1994 08:49:00 GMT") == 0


@pytest.mark.parametrize(
    "value", ["", "-1", "1.5", "soon", "٣", "²", "Sun, 99 Nov 1994 08:50:37 GMT", "1e3", "0x10"]
)
def test_what_is_neither_says_nothing(value):
    assert told(value.encode().decode("latin-1")) is None


def test_without_the_header_nothing_is_said():
    assert told() is None


def test_of_several_lines_the_first_that_makes_sense_counts():
    assert told("soon", "5", "7") == 5


def test_a_number_of_any_length_is_one():
    assert told("9" * 9000) == math.inf


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")))
def test_whatever_the_header_says_it_is_seconds_or_nothing(value):
    seconds = told(value.strip())
    assert seconds is None or seconds >= 0

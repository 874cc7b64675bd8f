"""Every limit and timeout: its default, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import TYPE_CHECKING

import pytest

from anyws._config import UNLIMITED_INBOX_BYTES, Config, Deflate

if TYPE_CHECKING:
    from anyws import TraceEvent

SIZES = ["max_message_size", "max_frame_size", "max_fragments", "inbox_size", "max_connections"]
TIMES = [
    *("handshake_timeout", "close_timeout", "cancel_grace", "drain_timeout"),
    *("write_timeout", "ping_interval", "ping_timeout"),
]
PINGS = ["ping_interval", "ping_timeout"]


def test_the_defaults_are_those_of_the_documentation() -> None:
    """R-105."""
    assert dataclasses.asdict(Config()) == {
        "max_message_size": 1024 * 1024,
        "max_frame_size": None,
        "max_fragments": 4096,
        "inbox_size": 16,
        "handshake_timeout": 10.0,
        "close_timeout": 10.0,
        "cancel_grace": 1.0,
        "drain_timeout": 10.0,
        "write_timeout": 20.0,
        "ping_interval": 20.0,
        "ping_timeout": 20.0,
        "compression": {
            "level": 6,
            "window_bits": 12,
            "mem_level": 5,
            "threshold": 64,
            "context_takeover": True,
            "peer_context_takeover": True,
            "peer_window_bits": None,
        },
        "max_connections": None,
        "trace": None,
        "max_redirects": 0,
    }


def test_every_field_is_documented_and_known_here() -> None:
    for kind in (Config, Deflate):
        for field in dataclasses.fields(kind):
            assert f"\n{field.name}:\n" in inspect.cleandoc(kind.__doc__ or "")
    known = {*SIZES, *TIMES, "compression", "trace", "max_redirects"}
    assert {field.name for field in dataclasses.fields(Config)} == known


def test_redirects_are_a_number_from_none_to_ten() -> None:
    """V26."""
    for value in (0, 1, 10):
        assert Config(max_redirects=value).max_redirects == value
    for bad in (-1, 11):
        with pytest.raises(ValueError, match=f"max_redirects must be from 0 to 10, not {bad}"):
            Config(max_redirects=bad)
    for other in (None, True, 1.0):
        with pytest.raises(TypeError, match="max_redirects must be an int"):
            Config(max_redirects=other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SIZES)
def test_a_size_is_a_positive_int_or_off(name: str) -> None:
    for value in (1, 10**12, None):
        assert getattr(Config(**{name: value}), name) == value
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not {bad}"):
            Config(**{name: bad})
    for wrong in (1.0, "1", True):
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            Config(**{name: wrong})


@pytest.mark.parametrize("name", TIMES)
def test_a_time_is_a_number_of_seconds(name: str) -> None:
    for value in (1, 0.001, math.inf):
        assert getattr(Config(**{name: value}), name) == value
    for bad in (-1, -0.001, math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"{name} must be a positive number of seconds"):
            Config(**{name: bad})
    for wrong in ("1", True, [1]):
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
            Config(**{name: wrong})


@pytest.mark.parametrize("name", TIMES)
def test_every_timer_but_the_grace_can_be_turned_off_with_none(name: str) -> None:
    if name == "cancel_grace":
        with pytest.raises(TypeError, match="0 turns it off"):
            Config(cancel_grace=None)  # type: ignore[arg-type]
    else:
        assert getattr(Config(**{name: None}), name) is None


@pytest.mark.parametrize("name", TIMES)
def test_zero_seconds_are_taken_except_for_pings_without_a_pause(name: str) -> None:
    if name in PINGS:
        with pytest.raises(ValueError, match=f"{name} must be a positive"):
            Config(**{name: 0})
    else:
        assert getattr(Config(**{name: 0}), name) == 0


def test_compression_is_a_deflate_or_none() -> None:
    assert Config(compression=None).compression is None
    assert Config(compression=Deflate(level=1)).compression == Deflate(level=1)
    for wrong in (True, "deflate", {}):
        with pytest.raises(TypeError, match="compression must be a Deflate or None"):
            Config(compression=wrong)  # type: ignore[arg-type]


def test_a_trace_is_a_function_or_none() -> None:
    events: list[TraceEvent] = []
    assert Config(trace=events.append).trace == events.append
    for wrong in (True, "print", [print]):
        with pytest.raises(TypeError, match="trace must be a function of a TraceEvent"):
            Config(trace=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("level", 0, 9),
        ("window_bits", 9, 15),
        ("mem_level", 1, 9),
        ("peer_window_bits", 9, 15),
    ],
)
def test_the_numbers_of_deflate_are_those_that_zlib_takes(name: str, low: int, high: int) -> None:
    """D-24."""
    for value in (low, high):
        assert getattr(Deflate(**{name: value}), name) == value
    for bad in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{name} must be from {low} to {high}, not {bad}"):
            Deflate(**{name: bad})
    for wrong in (True, "9", 9.0):
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            Deflate(**{name: wrong})


def test_the_threshold_of_compression_may_be_any_size() -> None:
    assert Deflate(threshold=0).threshold == 0
    assert Deflate(threshold=10**9).threshold == 10**9
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        Deflate(threshold=-1)
    assert Deflate(peer_window_bits=None).peer_window_bits is None


def test_the_inbox_holds_as_many_bytes_as_one_message_may_have() -> None:
    assert Config().inbox_bytes == 1024 * 1024
    assert Config(max_message_size=7).inbox_bytes == 7
    assert Config(max_message_size=None).inbox_bytes == UNLIMITED_INBOX_BYTES


def test_a_config_cannot_be_changed_and_equal_ones_are_equal() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().inbox_size = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Deflate().level = 3  # type: ignore[misc]
    assert len({Config(), Config()}) == 1
    assert dataclasses.replace(Config(), inbox_size=2) == Config(inbox_size=2)

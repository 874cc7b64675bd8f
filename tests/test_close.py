"""Close codes, Closes and closures."""

from __future__ import annotations

import dataclasses
import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import (
    MAX_REASON_BYTES,
    Close,
    CloseCode,
    Closure,
    Role,
    check_close,
    is_wire_code,
)

# RFC 6455, section 7.4, and the IANA registry.
ON_THE_WIRE = [
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
    *(3000, 3001, 3999, 4000, 4999),
]
NEVER = [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535, 70000]


class OtherCode(enum.IntEnum):
    OURS = 4001


@pytest.mark.parametrize("code", ON_THE_WIRE)
def test_a_registered_code_may_be_sent(code: int) -> None:
    """R-90, R-91, R-92, V35."""
    assert is_wire_code(code)
    assert check_close(code, "why", Role.CLIENT) == Close(code, "why")


@pytest.mark.parametrize("code", NEVER)
@pytest.mark.parametrize("role", Role)
def test_a_code_that_no_frame_carries_is_refused(code: int, role: Role) -> None:
    """R-93, R-94, R-95, R-96, R-97, R-98, W23, V35."""
    assert not is_wire_code(code)
    with pytest.raises(ValueError, match=f"close code {code} cannot be sent"):
        check_close(code, "", role)


@given(st.integers(-10, 70000))
def test_codes_are_those_of_the_table(code: int) -> None:
    """R-90, R-97, R-98."""
    allowed = code in range(3000, 5000) or code in ON_THE_WIRE
    assert is_wire_code(code) is allowed


def test_1010_is_sent_by_clients_only() -> None:
    """R-99."""
    assert check_close(1010, "", Role.CLIENT) == Close(1010)
    with pytest.raises(ValueError, match="1010 is sent by clients only"):
        check_close(1010, "", Role.SERVER)


@pytest.mark.parametrize("reason", ["", "x" * 123, "é" * 61, "😀" * 30 + "abc"])
def test_a_reason_of_up_to_123_bytes_is_taken(reason: str) -> None:
    """R-77."""
    assert MAX_REASON_BYTES == 123
    assert check_close(1000, reason, Role.SERVER).reason == reason


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62, "😀" * 31, "x" * 100_000])
def test_a_longer_reason_is_refused_and_not_cut(reason: str) -> None:
    """R-77."""
    with pytest.raises(ValueError, match=f"is {len(reason.encode())} bytes of UTF-8.* holds 123"):
        check_close(1000, reason, Role.SERVER)


def test_a_reason_with_a_lone_surrogate_is_refused() -> None:
    """R-77."""
    with pytest.raises(ValueError, match="not valid text") as info:
        check_close(1000, "\ud800", Role.SERVER)
    assert type(info.value) is ValueError


@pytest.mark.parametrize("code", [None, 1000.0, "1000", b"1000", True])
def test_a_code_is_an_int(code: object) -> None:
    with pytest.raises(TypeError, match="close code must be an int"):
        check_close(code, "", Role.CLIENT)


@pytest.mark.parametrize("reason", [None, b"why", 5])
def test_a_reason_is_a_str(reason: object) -> None:
    with pytest.raises(TypeError, match="close reason must be a str"):
        check_close(1000, reason, Role.CLIENT)


@pytest.mark.parametrize("code", [CloseCode.GOING_AWAY, OtherCode.OURS])
def test_a_code_from_any_enumeration_becomes_a_plain_int(code: int) -> None:
    assert type(check_close(code, "", Role.CLIENT).code) is int


def test_a_close_prints_with_what_its_code_means() -> None:
    assert str(Close(1000)) == "1000 (normal)"
    assert str(Close(1005)) == "1005 (no status received)"
    assert str(Close(4321, "bye")) == "4321 (application) 'bye'"
    assert str(Close(3000)) == "3000 (application)"
    assert str(Close(2500)) == "2500 (unknown)"


@given(st.text())
def test_a_printed_close_has_no_control_characters(reason: str) -> None:
    """R-78, V24, W28."""
    assert str(Close(1000, reason)).isprintable()


def test_a_closures_code_and_reason_are_those_of_the_peer() -> None:
    """R-85, R-86."""
    ours, theirs = Close(1000, "ours"), Close(4000, "theirs")
    both = Closure(ours, theirs, "ours", True, "")
    assert (both.code, both.reason) == (4000, "theirs")
    assert Closure(ours, None, "ours", False, "").code == CloseCode.ABNORMAL_CLOSURE
    assert Closure(ours, None, "ours", False, "").reason == ""
    assert Closure(ours, Close(1005), "ours", True, "").code == CloseCode.NO_STATUS_RECEIVED


def test_values_do_not_change() -> None:
    for value, field in ((Close(1000), "code"), (Closure(None, None, None, False, ""), "cause")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, "other")
        assert value == dataclasses.replace(value)
        assert len({value, dataclasses.replace(value)}) == 1

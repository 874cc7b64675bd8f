"""The head of a frame, from every byte that it can have."""

from __future__ import annotations

import pytest
from frames import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, frame, head, xor
from hypothesis import given
from hypothesis import strategies as st

from anyws._close import Role
from anyws._protocol import frames as wire
from anyws._protocol.frames import Head, peek, unmask_control

ROLES = [Role.CLIENT, Role.SERVER]
DATA = [CONTINUATION, TEXT, BINARY]
CONTROL = [CLOSE, PING, PONG]


def look(data: bytes, role: Role, *, compression: bool = False) -> Head:
    found = peek(bytearray(data), role, compression=compression)
    assert found is not None
    return found


def masked(role: Role) -> bool:
    """Whether what arrives at this end has to be masked."""
    return role is Role.SERVER


def test_the_opcodes_are_those_of_the_rfc() -> None:
    names = ["CONTINUATION", "TEXT", "BINARY", "CLOSE", "PING", "PONG"]
    assert [getattr(wire, name) for name in names] == [0, 1, 2, 8, 9, 10]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 2**31, 2**53, 2**63 - 1])
def test_a_head_tells_its_size_and_the_length_of_the_payload(role: Role, length: int) -> None:
    """R-50, R-52, V31."""
    mask = masked(role)
    data = head(BINARY, length, mask=mask)
    assert look(data, role) == Head(len(data), length, BINARY, True, False, True)
    assert look(data + b"more", role) == look(data, role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("length", [0, 125, 126, 65536])
@pytest.mark.parametrize("mask", [False, True])
def test_a_head_that_is_not_complete_is_none_at_every_cut(
    role: Role, length: int, mask: bool
) -> None:
    data = head(TEXT, length, mask=mask)
    for cut in range(len(data)):
        assert peek(bytearray(data[:cut]), role, compression=False) is None
    assert look(data, role).length == length


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("mask", [False, True])
def test_a_server_takes_masked_frames_only_and_a_client_none(role: Role, mask: bool) -> None:
    """R-44, R-45, R-46, R-47, V22."""
    for opcode in DATA + CONTROL:
        for length in (0, 5, 125):
            assert look(head(opcode, length, mask=mask), role).plain is (mask is masked(role))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("opcode", range(16))
def test_a_reserved_bit_is_plain_only_as_rsv1_of_a_compressed_messages_first_frame(
    role: Role, compression: bool, opcode: int
) -> None:
    """R-48, R-49, D-12, V33."""
    for rsv in range(8):
        for fin in (False, True):
            found = look(
                head(opcode, 3, fin=fin, rsv=rsv, mask=masked(role)), role, compression=compression
            )
            bits = rsv == 0 or (rsv == 4 and compression and opcode in {TEXT, BINARY})
            known = opcode in DATA or (opcode in CONTROL and fin)
            assert found.plain is (bits and known)
            assert found.rsv1 is (rsv >= 4)
            assert found.fin is fin
            assert found.opcode == opcode


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_are_whole_and_at_most_125_bytes(role: Role) -> None:
    """R-55, R-56."""
    mask = masked(role)
    for opcode in CONTROL:
        assert look(head(opcode, 125, mask=mask), role).plain
        assert not look(head(opcode, 126, mask=mask), role).plain
        assert not look(head(opcode, 65536, mask=mask), role).plain
        assert not look(head(opcode, 0, fin=False, mask=mask), role).plain
        assert look(head(opcode, 0, mask=mask), role).is_control
    for opcode in DATA:
        assert look(head(opcode, 126, fin=False, mask=mask), role).plain
        assert not look(head(opcode, 0, mask=mask), role).is_control


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("form", "length", "plain"),
    [
        (126, 0, False),
        (126, 125, False),
        (126, 126, True),
        (126, 65535, True),
        (127, 0, False),
        (127, 125, False),
        (127, 126, False),
        (127, 65535, False),
        (127, 65536, True),
        (127, 2**31 - 1, True),
        (127, 2**32, True),
        (127, 2**63 - 1, True),
        (127, 2**63, False),
        (127, 2**64 - 1, False),
    ],
)
def test_a_length_takes_the_fewest_bytes_and_has_no_sign(
    role: Role, form: int, length: int, plain: bool
) -> None:
    """R-50, R-51, V31."""
    found = look(head(BINARY, length, mask=masked(role), form=form), role)
    assert (found.plain, found.length) == (plain, length)


@given(st.binary(max_size=20), st.sampled_from(ROLES), st.booleans())
def test_any_bytes_have_a_head_or_not_yet_and_more_bytes_do_not_change_it(
    data: bytes, role: Role, compression: bool
) -> None:
    """V31."""
    whole = peek(bytearray(data), role, compression=compression)
    for cut in range(len(data)):
        part = peek(bytearray(data[:cut]), role, compression=compression)
        assert part == (whole if whole is not None and cut >= whole.size else None)
    assert whole is None or 2 <= whole.size <= 14


@given(st.binary(max_size=125), st.none() | st.binary(min_size=4, max_size=4))
def test_the_payload_of_a_control_frame_is_unmasked_byte_by_byte(
    payload: bytes, key: bytes | None
) -> None:
    """R-53, R-75."""
    data = frame(PING, payload, mask=key or False)
    role = Role.SERVER if key else Role.CLIENT
    for whole in (data, bytearray(data)):
        assert unmask_control(whole, look(data, role)) == payload


def test_the_key_is_used_in_turn_from_its_first_byte() -> None:
    """R-53."""
    assert xor(b"\x00\x00\x00\x00\x00", MASK) == MASK + MASK[:1]
    # RFC 6455, section 5.7: "a single-frame masked text message", here as a ping.
    data = bytes.fromhex("8985 37fa213d 7f9f4d5158")
    assert unmask_control(data, look(data, Role.SERVER)) == b"Hello"

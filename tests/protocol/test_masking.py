"""Masks, compared with the slow and obvious way; keys that nobody gets twice."""

from __future__ import annotations

import array
import os
import subprocess
import sys
from threading import Barrier, Thread
from typing import TYPE_CHECKING

import pytest
from frames import xor
from hypothesis import given
from hypothesis import strategies as st
from twins import TWINS, functions

from anyws._protocol import masking
from anyws._protocol.masking import new_key

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = b"\x12\x9a\xe7\x0f"
KEYS = st.binary(min_size=4, max_size=4)
# Around the sizes at which the way of doing it changes, and what is left over.
SIZES = [*range(34), *range(60, 70), *range(636, 645), 4096, 4099, 65537]


@pytest.fixture(params=TWINS)
def mask(request: pytest.FixtureRequest) -> Callable[..., bytes]:
    return functions(request.param).mask


def test_a_mask_is_each_byte_xor_the_key_s_byte_in_turn(mask: Callable[..., bytes]) -> None:
    """RFC 6455, section 5.3."""
    for size in SIZES:
        data = os.urandom(size)
        assert mask(data, KEY) == xor(data, KEY), size


def test_every_byte_of_data_meets_every_byte_of_a_key(mask: Callable[..., bytes]) -> None:
    data = bytes(range(256)) * 3
    for byte in range(256):
        key = bytes([byte, byte ^ 0xFF, 0, byte])
        assert mask(data, key) == xor(data, key)


@pytest.mark.parametrize("twin", TWINS)
@given(data=st.binary(max_size=2000), key=KEYS)
def test_masking_twice_changes_nothing(twin: str, data: bytes, key: bytes) -> None:
    mask = functions(twin).mask
    assert mask(data, key) == xor(data, key)
    assert mask(mask(data, key), key) == data


@pytest.mark.parametrize("size", [0, 1, 7, 100, 1000])
def test_all_that_holds_bytes_is_masked_to_bytes(mask: Callable[..., bytes], size: int) -> None:
    data = os.urandom(size)
    wide = memoryview(array.array("I", data * 4))
    for form in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))):
        masked = mask(form, KEY)
        assert type(masked) is bytes
        assert masked == xor(data, KEY)
    assert mask(wide, KEY) == xor(data * 4, KEY)
    assert mask(data, bytearray(KEY)) == xor(data, KEY)


def test_what_was_masked_can_be_resized_again(mask: Callable[..., bytes]) -> None:
    data, key = bytearray(100), bytearray(KEY)
    mask(data, key)
    mask(memoryview(data), key)
    data.append(0)
    key.append(0)


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde", b"abcdefgh"])
def test_a_key_of_another_size_is_refused(mask: Callable[..., bytes], key: bytes) -> None:
    for data in (b"", b"data", bytes(1000)):
        with pytest.raises(ValueError, match="four bytes"):
            mask(data, key)


@pytest.mark.parametrize("arguments", [(), (b"data",), (b"data", KEY, 1), ("text", KEY), (b"", 1)])
def test_other_arguments_are_a_type_error(
    mask: Callable[..., bytes], arguments: tuple[object, ...]
) -> None:
    with pytest.raises(TypeError):
        mask(*arguments)


# --- Keys ---


def test_keys_are_four_bytes_however_many_are_asked_for() -> None:
    assert {(type(key), len(key)) for key in (new_key() for _ in range(3000))} == {(bytes, 4)}


def test_all_bits_of_keys_vary() -> None:
    # Each bit the same in 200 keys: once in 2 ** 194 runs.
    numbers = [int.from_bytes(new_key()) for _ in range(200)]
    always, ever = 0xFFFFFFFF, 0
    for number in numbers:
        always &= number
        ever |= number
    assert (always, ever) == (0, 0xFFFFFFFF)


def test_a_key_handed_out_is_kept_nowhere() -> None:
    key = new_key()
    assert not any(kept is key for kept in masking._keys)


def test_no_key_is_handed_to_two_threads() -> None:
    # By identity: two keys may be equal by chance, and once in a while will be.
    keys: list[list[bytes]] = [[] for _ in range(8)]
    barrier = Barrier(len(keys))

    def take(mine: list[bytes]) -> None:
        barrier.wait()
        mine += [new_key() for _ in range(4000)]

    threads = [Thread(target=take, args=(mine,)) for mine in keys]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    taken = [key for mine in keys for key in mine]
    assert len(taken) == 8 * 4000
    assert len({id(key) for key in taken}) == len(taken)


FORK = """
import os
from anyws._protocol.masking import new_key

new_key()  # so that there are more to hand out
reading, writing = os.pipe()
for _ in range(2):
    if not os.fork():
        os.write(writing, b"".join(new_key() for _ in range(32)))
        os._exit(0)
    os.wait()
print((b"".join(new_key() for _ in range(32)) + os.read(reading, 256)).hex())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_no_key_is_repeated_in_a_child_process() -> None:
    command = [sys.executable, "-P", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    keys = bytes.fromhex(done.stdout)
    # 96 keys at random: two are equal once in a million runs.
    assert len(keys) == 96 * 4
    assert len({keys[i : i + 4] for i in range(0, len(keys), 4)}) == 96

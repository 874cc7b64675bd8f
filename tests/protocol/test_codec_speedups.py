"""The functions in C do what those in Python do, whatever they are given, and keep no memory."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import PURE, functions
from wire import payloads, wires

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = st.binary(min_size=4, max_size=4)
LIMITS = st.one_of(st.integers(-2, 20), st.sampled_from([125, 126, 512, 4096, 65535, 1 << 40]))


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What is returned, its types included, or the kind of error."""
    try:
        result = function(*arguments)
    except (ValueError, TypeError) as error:
        return type(error)
    return result, types(result)


def types(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [types(item) for item in value]
    return type(value)


@settings(max_examples=400)
@given(
    data=wires(),
    form=st.sampled_from([bytes, bytearray]),
    start=st.one_of(st.just(0), st.integers(-3, 70000)),
    masked=st.booleans(),
    limits=st.tuples(LIMITS, LIMITS),
    bounds=st.tuples(LIMITS, LIMITS),
)
def test_read_frames_is_the_same(
    data: bytes,
    form: type[bytes | bytearray],
    start: int,
    masked: bool,
    limits: tuple[int, int],
    bounds: tuple[int, int],
) -> None:
    for rules in ((*limits, *bounds), (-1, -1, 1 << 40, 1 << 40)):
        arguments = form(data), start, masked, *rules
        expected = outcome(PURE.read_frames, *arguments)
        assert outcome(functions("c").read_frames, *arguments) == expected


@given(prefix=st.binary(max_size=20), data=wires(), masked=st.booleans())
def test_read_frames_is_the_same_behind_anything(prefix: bytes, data: bytes, masked: bool) -> None:
    arguments = (prefix + data, len(prefix), masked, -1, -1, 1 << 40, 1 << 40)
    messages, end, taken = PURE.read_frames(*arguments)
    assert functions("c").read_frames(*arguments) == (messages, end, taken)
    # Where it stands has no say in what is read.
    alone = functions("c").read_frames(data, 0, *arguments[2:])
    assert alone == (messages, end - len(prefix), taken)


@given(data=st.binary(max_size=64), masked=st.booleans(), compressed_limit=st.integers(-2, 64))
def test_read_frames_raises_nothing_for_any_bytes(
    data: bytes, masked: bool, compressed_limit: int
) -> None:
    arguments = (data, 0, masked, -1, compressed_limit, 100, 1000)
    messages, end, taken = functions("c").read_frames(*arguments)
    assert (messages, end, taken) == PURE.read_frames(*arguments)
    assert 0 <= taken <= end <= len(data)


@given(first=st.integers(-2, 258), payload=payloads, key=st.none() | st.binary(max_size=5))
def test_build_frame_is_the_same(first: int, payload: bytes, key: bytes | None) -> None:
    expected = outcome(PURE.build_frame, first, payload, key)
    assert outcome(functions("c").build_frame, first, payload, key) == expected


@given(data=payloads, key=st.binary(max_size=5) | KEYS)
def test_mask_is_the_same(data: bytes, key: bytes) -> None:
    assert outcome(functions("c").mask, data, key) == outcome(PURE.mask, data, key)


@given(payload=payloads, opcode=st.sampled_from([1, 2]), key=st.none() | KEYS)
def test_what_was_built_is_read(payload: bytes, opcode: int, key: bytes | None) -> None:
    c = functions("c")
    built = c.build_frame(0xC0 | opcode, payload, key)
    rules = (key is not None, -1, -1, 1, 1 << 40)
    assert c.read_frames(built, 0, *rules) == ([(opcode, payload)], len(built), len(payload))


KEY = b"\x12\x9a\xe7\x0f"
BAD_TEXT = b"\x81\x80" + KEY + b"\x81\x81" + KEY + b"\xff"


def ways_through() -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Calls that go every way, each with a result that takes memory."""
    c = functions("c")
    rules = (True, -1, -1, 100, 1 << 40)
    frames = [
        c.build_frame(first, payload, KEY)
        for first in (0x81, 0x82, 0xC1)
        for payload in (b"x" * 32, b"x" * 5000, "\N{SNOWMAN}".encode() * 2000)
    ]
    return [
        *(
            (c.read_frames, (form(data), 0, *rules))
            for data in frames
            for form in (bytes, bytearray)
        ),
        (c.read_frames, (bytearray(BAD_TEXT), 0, *rules)),
        (c.read_frames, (c.build_frame(0x81, b"\xff" * 5000, KEY), 0, *rules)),
        (c.read_frames, (b"", -1, *rules)),
        (c.read_frames, ("text", 0, *rules)),
        (c.build_frame, (0x82, bytearray(300), bytearray(KEY))),
        (c.build_frame, (0x82, "text", KEY)),
        (c.mask, (bytearray(300), bytearray(KEY))),
        (c.mask, (b"data", b"key")),
    ]


def held_by(arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments but for numbers, and what is in a list among them."""
    found = [thing for thing in arguments if not isinstance(thing, int)]
    return [*found, *(item for thing in found if isinstance(thing, list) for item in thing)]


def test_no_call_keeps_memory() -> None:
    calls = ways_through()

    def run(times: int) -> int:
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(times):
            for function, arguments in calls:
                outcome(function, *arguments)
        gc.collect()
        return sys.getallocatedblocks() - before

    run(20)
    # A block that one of the calls forgets is forgotten 500 times.
    assert run(500) < 250


def test_no_call_keeps_a_reference_to_its_arguments() -> None:
    calls = ways_through()
    things = [thing for _, arguments in calls for thing in held_by(arguments)]
    before = [sys.getrefcount(thing) for thing in things]
    for function, arguments in calls:
        for _ in range(3):
            outcome(function, *arguments)
    shared = {id(KEY), id(None)}
    after = [sys.getrefcount(thing) for thing in things]
    assert [
        thing
        for thing, old, new in zip(things, before, after, strict=True)
        if old != new and id(thing) not in shared
    ] == []


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    testcapi = pytest.importorskip("_testcapi", reason="this Python was built without _testcapi")
    for function, arguments in ways_through():
        reached = False
        for allocations in range(30):
            # The next so many are served, and then none.
            testcapi.set_nomemory(allocations)
            try:
                function(*arguments)
            except MemoryError:
                reached = True
            except (ValueError, TypeError):
                pass
            finally:
                testcapi.remove_mem_hooks()
        assert reached, (function, arguments)
        for thing in held_by(arguments):
            if isinstance(thing, bytearray):
                thing.append(0)  # which a buffer that was not released would forbid

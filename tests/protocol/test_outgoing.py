"""What a program may send."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._protocol.outgoing import (
    as_binary,
    as_json,
    as_message,
    as_text,
    check_fragment,
    parse_json,
)


class Text(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


@pytest.mark.parametrize("text", ["", "a", "é€😀", "\x00", "\ufffe", Text("sub")])
def test_text_is_sent_as_it_is(text: str) -> None:
    assert as_message(text) is text
    assert as_text(text) is text
    assert as_text(text, "replace") is text


@pytest.mark.parametrize("data", [b"", b"\xff", Octets(b"sub")])
def test_bytes_are_sent_as_they_are_and_not_copied(data: bytes) -> None:
    """R-70."""
    assert as_message(data) is data
    assert as_binary(data) is data


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_can_change_is_copied(kind: type) -> None:
    data = bytearray(b"before")
    item = data if kind is bytearray else memoryview(data)
    message = as_message(item)
    data[0:1] = b"X"
    assert message == b"before"
    assert type(message) is bytes


def test_a_view_of_bytes_is_sent_whatever_its_layout() -> None:
    assert as_binary(memoryview(b"abcdef")[::2]) == b"ace"
    assert as_binary(memoryview(b"abcdef")[::-1]) == b"fedcba"
    assert as_binary(memoryview(array("b", [1, -1]))) == b"\x01\xff"
    assert as_binary(memoryview(b"abcd").cast("B", shape=[2, 2])) == b"abcd"
    assert as_binary(memoryview(b"ab").cast("c")) == b"ab"


@pytest.mark.parametrize("form", ["H", "I", "d"])
def test_a_view_of_larger_items_is_refused_with_what_to_do(form: str) -> None:
    """V30."""
    view = memoryview(array(form, [1, 2, 3]))
    for function in (as_message, as_binary, as_text):
        with pytest.raises(TypeError, match=r'send view\.cast\("B"\) for its bytes'):
            function(view)
    assert len(as_binary(view.cast("B"))) == view.nbytes


@pytest.mark.parametrize("item", [None, 5, 1.5, [b"a"], {"a": 1}, object(), array("b", [1]), str])
def test_anything_else_is_refused_by_the_name_of_its_type(item: object) -> None:
    """V30."""
    for function in (as_message, as_binary, as_text):
        with pytest.raises(TypeError, match="must be str, bytes, bytearray or memoryview") as info:
            function(item)
        assert type(item).__qualname__ in str(info.value)


@pytest.mark.parametrize(
    ("text", "index"), [("\ud800", 0), ("ok \udfff", 3), ("é\udc80é", 1), (Text("\ud83d"), 0)]
)
def test_a_lone_surrogate_is_the_callers_mistake(text: str, index: int) -> None:
    """R-68, W24."""
    for function in (as_message, as_text, as_binary):
        with pytest.raises(ValueError, match=f"lone surrogate.* at index {index}") as info:
            function(text)
        # What is wrong is said in ASCII: it may go to a log that cannot encode it either.
        assert str(info.value).isascii()
        assert type(info.value) is ValueError
        assert info.value.__cause__ is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_may_be_sent_as_text_where_they_are_utf8(kind: type) -> None:
    assert as_text(kind("é€".encode())) == "é€"
    with pytest.raises(ValueError, match="not UTF-8: invalid start byte at 1") as info:
        as_text(kind(b"a\xff"))
    assert type(info.value) is ValueError
    assert as_text(kind(b"a\xff"), "replace") == "a\ufffd"


def test_there_are_two_ways_to_treat_bad_utf8() -> None:
    for errors in ("ignore", "surrogateescape", ""):
        with pytest.raises(ValueError, match="errors must be 'strict' or 'replace'"):
            as_text(b"a", errors)


@given(st.text(st.characters(exclude_categories=())))
def test_text_may_be_sent_if_and_only_if_it_can_be_encoded(text: str) -> None:
    """W24."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="lone surrogate"):
            as_text(text)
    else:
        assert as_text(text) == text
        assert as_binary(text) == encoded
        assert as_text(encoded) == text


@pytest.mark.parametrize("fragment", ["text", b"binary"])
def test_a_fragment_is_of_the_type_of_those_before_it(fragment: str | bytes) -> None:
    check_fragment(fragment, None)
    check_fragment(fragment, type(fragment))


@pytest.mark.parametrize(
    ("fragment", "kind", "words"),
    [
        ("text", bytes, "the message is binary, and this fragment is text"),
        (b"binary", str, "the message is text, and this fragment is binary"),
    ],
)
def test_a_fragment_of_the_other_type_is_refused(
    fragment: str | bytes, kind: type[str] | type[bytes], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        check_fragment(fragment, kind)


@pytest.mark.parametrize("data", [None, 1, "é", [1, {"a": "b"}], {}])
def test_json_goes_there_and_back(data: object) -> None:
    text = as_json(data)
    assert parse_json(text) == data
    assert parse_json(text.encode()) == data
    assert ", " not in text


@pytest.mark.parametrize("data", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_not_sent(data: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json({"number": data})


def test_what_has_no_form_in_json_is_not_sent() -> None:
    with pytest.raises(TypeError, match="set"):
        as_json({1, 2})


@pytest.mark.parametrize("message", ["", "{", b"\xff", "NaN", "[-Infinity]", "[" * 100_000])
def test_what_is_no_json_is_refused(message: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting|decode"):
        parse_json(message)

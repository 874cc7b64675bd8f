"""One HTTP head, within its bounds."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._config import MAX_HEAD_BYTES, MAX_HEAD_LINES
from anyws._protocol.head import HeadError, HeadReader, NotHTTP, read_request, read_response

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def cut(chunks, prefix=b""):
    reader = HeadReader(prefix)
    for number, chunk in enumerate(chunks):
        head = reader.feed(chunk)
        if head is not None:
            return head, reader.rest + b"".join(chunks[number + 1 :])
    return None


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def verdict(chunks, prefix=b""):
    try:
        return cut(chunks, prefix)
    except HeadError as error:
        return type(error), error.status, type(error) is HeadError and str(error)


def test_a_head_ends_at_its_empty_line_and_what_follows_is_kept():
    """R-27. W13."""
    assert cut([HEAD]) == (HEAD, b"")
    assert cut([HEAD + b"\x81\x00\r\n\r\n"]) == (HEAD, b"\x81\x00\r\n\r\n")
    assert cut(one_by_one(HEAD + b"rest")) == (HEAD, b"rest")
    assert cut([HEAD[:-1]]) is None


def test_a_reader_tells_how_much_has_arrived():
    reader = HeadReader()
    assert reader.size == 0
    assert reader.feed(b"") is None
    assert reader.feed(b"GET") is None
    assert reader.size == 3


def padded(size):
    return b"GET / HTTP/1.1\r\nX: " + b"x" * (size - 23) + b"\r\n\r\n"


def test_a_head_of_16_kib_is_read_and_a_longer_one_is_not():
    """R-34. W10."""
    assert len(padded(MAX_HEAD_BYTES)) == MAX_HEAD_BYTES
    assert cut([padded(MAX_HEAD_BYTES) + b"rest"]) == (padded(MAX_HEAD_BYTES), b"rest")
    for data in (padded(MAX_HEAD_BYTES + 1), padded(1_000_000), padded(MAX_HEAD_BYTES)[:-1] + b"x"):
        with pytest.raises(HeadError, match="longer") as caught:
            cut([data])
        assert caught.value.status == 431


def lines(count):
    return b"GET / HTTP/1.1\r\n" + b"a:\r\n" * count + b"\r\n"


def test_a_head_of_128_header_lines_is_read_and_one_of_more_is_not():
    """R-34. W10."""
    assert cut([lines(MAX_HEAD_LINES)]) == (lines(MAX_HEAD_LINES), b"")
    for data in (lines(MAX_HEAD_LINES + 1), lines(200_000)):
        with pytest.raises(HeadError, match="more than 128") as caught:
            cut([data])
        assert caught.value.status == 431


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"GET / HTTP/1.1\n\n", "CR LF"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "CR LF"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "CR LF"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "whitespace"),
        (b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", "whitespace"),
        (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", "control"),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "control"),
        (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", "control"),
        (b"GET / HTTP/1.1\r\nX:" + b" " * 16_000 + b"\x0b\r\n\r\n", "control"),
    ],
)
def test_what_h11_would_forgive_or_stumble_over_does_not_get_to_it(head, words):
    """R-34. V25."""
    with pytest.raises(HeadError, match=words) as caught:
        cut([head])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01", b"\x15", b"\0", b" GET", b"\r\n", b"\n", b"\xff"]
)
def test_what_is_no_http_is_known_by_its_first_byte(data):
    """R-34."""
    with pytest.raises(NotHTTP) as caught:
        cut([data])
    assert caught.value.beginning == data
    assert caught.value.is_tls == (data[0] in (0x15, 0x16))


@pytest.mark.parametrize("data", [b"SSH-2.0\n", b"HTTP/2", b"h", b"\x15"])
def test_what_does_not_begin_with_its_prefix_is_no_http(data):
    """R-24."""
    with pytest.raises(NotHTTP):
        cut([data], b"HTTP/1.")
    assert cut([b"HTTP/"], b"HTTP/1.") is None


@given(
    st.lists(
        st.sampled_from(
            [b"GET / HTTP/1.1", b"a: b", b"\r\n", b"\n", b"\r", b" ", b"\0", b"x" * 4000]
        ),
        max_size=20,
    ),
    st.data(),
)
def test_any_chunking_gives_the_same_verdict(parts, data):
    """R-34."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    chunks = [whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert verdict(chunks) == verdict([whole])


def test_h11_reads_the_head():
    request = read_request(h11.Connection(h11.SERVER), HEAD)
    assert (request.method, request.target) == (b"GET", b"/")
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    assert read_response(connection, b"HTTP/1.1 404 No\r\n\r\n").status_code == 404


def test_what_h11_refuses_is_an_error_that_does_not_show_the_line():
    """R-34."""
    with pytest.raises(HeadError, match=r"^illegal header line$"):
        read_request(h11.Connection(h11.SERVER), b"GET / HTTP/1.1\r\nCookie : hunter2\r\n\r\n")

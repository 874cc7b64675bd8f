"""Headers, request, response and refusal as values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._protocol.http import (
    Headers,
    Reject,
    Request,
    Response,
    check_not_reserved,
    make_headers,
    reason_phrase,
    text_response,
)

HEADERS = Headers([("Host", "a"), ("X-One", "1"), ("cookie", "secret"), ("x-one", "2")])


def test_headers_are_a_mapping_that_ignores_case_and_joins_lines():
    assert HEADERS["x-ONE"] == "1, 2"
    assert HEADERS.get("absent") is None
    assert list(HEADERS) == ["Host", "X-One", "cookie"]
    assert len(HEADERS) == 3
    assert "HOST" in HEADERS
    assert "absent" not in HEADERS
    assert 1 not in HEADERS
    with pytest.raises(KeyError):
        HEADERS["absent"]


def test_headers_keep_the_lines_of_the_wire():
    assert HEADERS.raw == (("Host", "a"), ("X-One", "1"), ("cookie", "secret"), ("x-one", "2"))
    assert HEADERS.get_all("X-ONE") == ["1", "2"]
    assert HEADERS.get_all("absent") == []
    HEADERS.get_all("x-one").clear()
    assert HEADERS.get_all("x-one") == ["1", "2"]


def test_headers_are_equal_when_their_lines_are_whatever_the_case_of_names():
    assert Headers({"A": "b"}) == Headers([("a", "b")])
    assert hash(Headers({"A": "b"})) == hash(Headers([("a", "b")]))
    assert Headers({"A": "b"}) != Headers({"A": "B"})
    assert Headers() != {}


@pytest.mark.parametrize("name", ["Authorization", "cookie", "SET-COOKIE", "Proxy-Authorization"])
def test_the_repr_of_headers_hides_secrets(name):
    text = repr(Headers([(name, "hunter2"), ("Host", "a")]))
    assert text == f"Headers([({name!r}, '***'), ('Host', 'a')])"


def test_headers_of_a_peer_may_hold_any_byte():
    headers = Headers.decode([(b"X", b"\xff\x01")])
    assert headers["x"] == "\xff\x01"
    assert headers.encode() == [(b"X", b"\xff\x01")]
    with pytest.raises(ValueError, match="control character"):
        make_headers(headers)


def test_headers_come_from_mappings_pairs_and_nothing():
    assert make_headers(None) == Headers() == make_headers({}) == make_headers([])
    assert make_headers({"A": "b\tc é"}).raw == (("A", "b\tc é"),)
    assert make_headers(pair for pair in [["A", ""]]).raw == (("A", ""),)
    assert make_headers(HEADERS) == HEADERS


def test_headers_come_from_one_string_of_lines():
    lines = (("X-One", "1: a"), ("X-Two", ""), ("x-one", "2"))
    text = "X-One: 1: a\r\nX-Two:\r\nx-one: \t2 "
    assert make_headers(text).raw == make_headers(text + "\r\n").raw == lines
    assert make_headers("").raw == ()


@pytest.mark.parametrize(
    "text", ["A", "\r\n", "A: b\r\n\r\nC: d", "A: b\nC: d", "A: b\rC: d", "A : b", " A: b", ": b"]
)
def test_a_string_that_is_no_header_lines_is_a_value_error(text):
    """A line break of another kind would be one for some servers, and none for others."""
    with pytest.raises(ValueError, match="header"):
        make_headers(text)


@pytest.mark.parametrize(
    "headers", [b"A: b", 1, [("A",)], [("A", "b", "c")], ["Ab"], [(b"A", "b")], {"A": b"b"}]
)
def test_what_is_no_headers_is_a_type_error(headers):
    with pytest.raises(TypeError, match="header"):
        make_headers(headers)
    with pytest.raises(TypeError, match="header"):
        make_headers({"A": ["b"]})


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nB", "A\n", "A\0", "é"])
def test_the_name_of_a_header_is_a_token(name):
    """V23."""
    with pytest.raises(ValueError, match="is not the name of a header"):
        make_headers({name: "b"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hunter2\r\nB: c", "CR, LF or NUL"),
        ("hunter2\n", "CR, LF or NUL"),
        ("hunter2\r", "CR, LF or NUL"),
        ("hunter2\0", "CR, LF or NUL"),
        ("hunter2\x7f", "control"),
        (" hunter2", "whitespace"),
        ("hunter2\t", "whitespace"),
        ("hunter2€", "Latin-1"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_by_the_name_of_its_header(value, words):
    """V23."""
    with pytest.raises(ValueError, match=words) as caught:
        make_headers({"X-Token": value})
    assert "X-Token" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("host", "follows from the URL"),
        ("UPGRADE", "the handshake sets it"),
        ("Connection", "the handshake sets it"),
        ("sec-websocket-key", "the handshake sets it"),
        ("Sec-WebSocket-Protocol", "subprotocols"),
        ("Sec-WebSocket-Extensions", "compression"),
        ("Sec-WebSocket-Other", "belong to the protocol"),
        ("Content-Length", "no body"),
        ("Transfer-Encoding", "no body"),
    ],
)
def test_headers_of_the_handshake_are_reserved_and_the_error_says_what_to_use(name, words):
    """V23."""
    with pytest.raises(ValueError, match=words) as caught:
        check_not_reserved(Headers({"X": "y", name: "1"}))
    assert name in str(caught.value)
    check_not_reserved(Headers({"Origin": "null", "X": "y"}))


@pytest.mark.parametrize(
    ("target", "raw_path", "path", "query_string"),
    [
        ("/", "/", "/", ""),
        ("/a%20b/%C3%BC?c=d?e", "/a%20b/%C3%BC", "/a b/ü", "c=d?e"),
        ("/a%2Fb%FF", "/a%2Fb%FF", "/a/b\ufffd", ""),
        ("//evil.com/a", "//evil.com/a", "//evil.com/a", ""),
        ("/a://b", "/a://b", "/a://b", ""),
        ("http://host/a/b?c", "/a/b", "/a/b", "c"),
        ("http://host", "/", "/", ""),
        ("http://host?c=://d", "/", "/", "c=://d"),
        ("*", "*", "*", ""),
    ],
)
def test_a_request_has_a_path_and_a_query(target, raw_path, path, query_string):
    """R-8. V18: the path never comes from the Host header."""
    request = Request("GET", target, Headers({"Host": "evil/path"}))
    assert (request.raw_path, request.path) == (raw_path, path)
    assert request.query_string == query_string


def test_the_query_gives_every_value_of_a_name():
    request = Request("GET", "/?a=1&a=%20+2&b&c=%ff", Headers())
    assert request.query == {"a": ["1", "  2"], "b": [""], "c": ["\ufffd"]}
    assert Request("GET", "/", Headers()).query == {}


def test_a_request_has_host_origin_and_subprotocols():
    """R-35. R-42."""
    headers = [
        ("Host", "a:1"),
        ("Origin", "null"),
        ("Sec-WebSocket-Protocol", "b, c"),
        ("Sec-WebSocket-Protocol", "d"),
    ]
    request = Request("GET", "/", Headers(headers))
    assert (request.host, request.origin, request.subprotocols) == ("a:1", "null", ("b", "c", "d"))
    request = Request("GET", "/", Headers())
    assert (request.host, request.origin, request.subprotocols) == ("", None, ())
    assert Request("GET", "/", Headers({"Sec-WebSocket-Protocol": "a b"})).subprotocols == ()


def test_a_request_can_be_given_the_address_of_its_client():
    request = dataclasses.replace(Request("GET", "/", Headers()), remote_address=("::1", 1))
    assert request.remote_address == ("::1", 1)


def test_the_repr_of_a_request_shows_no_query_and_no_secret():
    request = Request("GET", "/a?token=hunter2", Headers({"Host": "b", "X-Token": "hunter2"}))
    assert repr(request) == "<Request GET /a host='b'>"


@pytest.mark.parametrize(
    ("response", "line"),
    [
        (Response(403, body=b"no entry\n"), "403 Forbidden: 'no entry'"),
        (Response(403), "403 Forbidden"),
        (Response(599), "599"),
        (Response(599, body=b"x"), "599: 'x'"),
        (Response(400, body=b"a\r\nb\x1b"), r"400 Bad Request: 'a\r\nb\x1b'"),
        (Response(400, body=b"x" * 5000), "400 Bad Request: " + repr("x" * 80) + "..."),
        (Response(400, body="€".encode() * 500), "400 Bad Request: " + repr("€" * 80) + "..."),
        (Response(400, body=b"\x00\x01"), "400 Bad Request (body: 2 bytes)"),
        (Response(400, body=b"a\xffb"), "400 Bad Request (body: 3 bytes)"),
        (Response(400, body=b" \n"), "400 Bad Request (body: 2 bytes)"),
    ],
)
def test_a_response_is_described_in_one_short_line(response, line):
    assert response.describe() == line
    assert repr(response) == f"<Response {line}>"


def test_a_response_has_its_body_as_text():
    assert Response(400, body="grüße".encode() + b"\xff").text == "grüße\ufffd"


def test_a_response_takes_headers_in_any_form():
    assert Response(200, {"A": "b"}).headers == Headers({"a": "b"})
    assert Response(200).headers == Headers()
    with pytest.raises(ValueError, match="LF"):
        Response(200, {"A": "b\n"})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"status": "200"}, TypeError),
        ({"status": True}, TypeError),
        ({"status": 99}, ValueError),
        ({"status": 1000}, ValueError),
        ({"status": 200, "body": "text"}, TypeError),
    ],
)
def test_a_response_that_cannot_be_one_is_refused(arguments, error):
    with pytest.raises(error, match=r"status|body|HTTP"):
        Response(**arguments)


def test_reason_phrases_are_the_registered_ones():
    assert reason_phrase(426) == "Upgrade Required"
    assert reason_phrase(599) == ""


def test_a_text_response_names_its_type_unless_told_or_empty():
    assert text_response(400, "é").headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text_response(400, "é").body == "é".encode()
    assert text_response(400, "").headers == Headers()
    given = text_response(400, "{}", {"content-type": "application/json"})
    assert given.headers.get_all("Content-Type") == ["application/json"]


def test_a_refusal_is_403_unless_told():
    """R-36."""
    assert Reject().response == Response(403)
    assert str(Reject()) == "403 Forbidden"


def test_a_refusal_carries_text_or_bytes():
    """R-38."""
    reject = Reject(404, "no such room", {"X": "y"})
    assert reject.response.status == 404
    assert reject.response.body == b"no such room"
    assert reject.response.headers["X"] == "y"
    assert Reject(200, b"\x00").response == Response(200, Headers(), b"\x00")
    with pytest.raises(Reject, match="no such room"):
        raise reject


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((101,), ValueError),
        ((100,), ValueError),
        ((199,), ValueError),
        ((600,), ValueError),
        (("403",), TypeError),
        ((403, 1), TypeError),
        ((403, "\ud800"), ValueError),
        ((403, "", {"A": "b\r\nC: d"}), ValueError),
        ((403, b"", {"A\n": "b"}), ValueError),
        ((403, "", b"A: b"), TypeError),
    ],
)
def test_a_refusal_that_cannot_be_sent_is_an_error_where_it_is_made(arguments, error):
    """V23."""
    with pytest.raises(error):
        Reject(*arguments)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_header_that_can_be_sent_or_a_value_error(name, value):
    """V23."""
    try:
        headers = make_headers({name: value})
    except ValueError:
        return
    (line,) = headers.encode()
    assert not set(b"\r\n\0") & {*line[0], *line[1]}
    assert Headers.decode([line]) == headers


def test_headers_do_not_change_with_the_list_they_came_from():
    pairs = [("A", "b")]
    headers = make_headers(pairs)
    pairs.clear()
    assert headers.raw == (("A", "b"),)

"""The server's half of the opening handshake (RFC 6455, section 4.2)."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyws._config import MAX_HEAD_BYTES, MAX_HEAD_LINES, Deflate
from anyws._errors import HandshakeInvalid
from anyws._protocol.handshake_server import BadRequest, ServerHandshake
from anyws._protocol.http import Headers, Reject, Response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
LINES = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request_bytes(start="GET /chat?a=b HTTP/1.1", *more, **lines):
    """Write a request: `lines` replace those of a valid one (`None` leaves out), `more` follow."""
    given_lines = {name.replace("_", "-"): value for name, value in lines.items()}
    head = [start, *(f"{n}: {v}" for n, v in (LINES | given_lines).items() if v is not None)]
    return "\r\n".join([*head, *more, "", ""]).encode("latin-1")


def handshake(data, compression=None):
    server = ServerHandshake(compression)
    assert server.receive_data(data) is not None
    return server


def refusal(data):
    server = ServerHandshake(Deflate())
    with pytest.raises(BadRequest) as caught:
        server.receive_data(data)
    assert server.request is None
    answer = server.reject(caught.value.response)
    return caught.value, parse(answer)


def parse(answer, method="GET"):
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a"), ("Upgrade", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    event = client.next_event()
    body = b""
    if event.status_code != 101:
        while isinstance(part := client.next_event(), h11.Data):
            body += part.data
        assert isinstance(part, h11.EndOfMessage)
        assert client.trailing_data == (b"", False)
        assert b"Connection: close" in answer
    return Response(event.status_code, Headers.decode(event.headers.raw_items()), body)


def test_a_valid_request_is_returned_whole():
    """R-28. R-29. R-30. R-31. R-32. R-33."""
    server = ServerHandshake(None)
    request = server.receive_data(request_bytes())
    assert request is server.request
    assert (request.method, request.target, request.host) == ("GET", "/chat?a=b", "example.com")
    assert request.headers.raw == tuple(LINES.items())
    assert request.origin is None


def test_a_request_byte_by_byte_is_none_until_it_is_complete():
    """R-28."""
    server = ServerHandshake(None)
    data = request_bytes()
    for i in range(len(data) - 1):
        assert server.receive_data(data[i : i + 1]) is None
    assert server.receive_data(data[-1:]) is not None


def test_the_101_of_the_rfc():
    """R-41. R-39: no subprotocol, no header. R-40."""
    server = handshake(request_bytes(Sec_WebSocket_Protocol="chat"), Deflate())
    assert server.accept() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
        b"\r\n"
    )
    assert server.deflate is None


def test_a_101_names_the_chosen_subprotocol_and_the_headers_asked_for():
    """R-39."""
    server = handshake(request_bytes(Sec_WebSocket_Protocol="chat, superchat"))
    answer = parse(server.accept("superchat", [("Set-Cookie", "a"), ("Set-Cookie", "é")]))
    assert answer.headers["Sec-WebSocket-Protocol"] == "superchat"
    assert answer.headers.get_all("Set-Cookie") == ["a", "é"]


@pytest.mark.parametrize("subprotocol", ["", "Chat", "chat, superchat", "other"])
def test_a_subprotocol_that_was_not_offered_cannot_be_chosen(subprotocol):
    """R-39."""
    server = handshake(request_bytes(Sec_WebSocket_Protocol="chat, superchat"))
    with pytest.raises(ValueError, match="not offered"):
        server.accept(subprotocol)
    assert parse(server.accept("chat")).status == 101


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Accept": "x"},
        {"Upgrade": "x"},
        {"connection": "x"},
        {"Content-Length": "1"},
        {"A": "b\r\nC: d"},
        {"A\n": "b"},
    ],
)
def test_headers_that_do_not_belong_into_a_101_are_refused(headers):
    """R-41. V23."""
    server = handshake(request_bytes())
    with pytest.raises(ValueError, match=r"header"):
        server.accept(headers=headers)
    assert parse(server.accept()).status == 101


def test_nothing_is_accepted_before_there_is_a_request():
    """R-34."""
    with pytest.raises(RuntimeError, match="no request"):
        ServerHandshake(None).accept()


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", True),
        ("x-unknown; a=b, permessage-deflate; client_max_window_bits", True),
        ("permessage-deflate; unknown, permessage-deflate", True),
        ('permessage-deflate; client_max_window_bits="10"', True),
        ("permessage-deflate; client_max_window_bits=99", False),
        ("permessage-deflate; unknown", False),
        ("x-unknown", False),
    ],
)
def test_offers_of_extensions_are_considered_in_turn_and_bad_ones_declined(offer, answer):
    """R-40. R-103. R-104."""
    server = handshake(request_bytes(Sec_WebSocket_Extensions=offer), Deflate())
    response = parse(server.accept())
    assert ("Sec-WebSocket-Extensions" in response.headers) is answer
    assert (server.deflate is not None) is answer
    if answer:
        assert response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")


def test_no_extension_is_accepted_when_compression_is_off():
    """R-40."""
    server = handshake(request_bytes(Sec_WebSocket_Extensions="permessage-deflate"))
    assert "Sec-WebSocket-Extensions" not in parse(server.accept()).headers
    assert server.deflate is None


@pytest.mark.parametrize(
    ("start", "more", "lines"),
    [
        ("GET / HTTP/1.1", (), {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"}),
        ("GET / HTTP/1.1", (), {"Upgrade": "h2c/1, websocket"}),
        ("GET / HTTP/1.1", ("Connection: keep-alive", "Upgrade: h2c"), {}),
        ("GET / HTTP/1.1", ("connection: close",), {}),
        ("GET / HTTP/1.1", ("Content-Length: 0",), {}),
        ("GET / HTTP/1.1", ("Origin: null", "Cookie: é", "Expect: 100-continue"), {}),
        ("GET http://example.com/a HTTP/1.1", (), {}),
        ("GET WSS://EXAMPLE.com:443/a HTTP/1.1", (), {}),
        ("GET http://[::1]:80?a HTTP/1.1", (), {"Host": "[0::1]"}),
        ("GET //a/b HTTP/1.1", (), {}),
        ("GET / HTTP/1.1", (), {"Host": "[::1]:8000"}),
        ("GET / HTTP/1.1", (), {"Sec_WebSocket_Key": f"  {KEY}\t"}),
    ],
)
def test_the_many_forms_of_a_valid_request_are_all_accepted(start, more, lines):
    """R-28. R-30. R-31."""
    server = handshake(request_bytes(start, *more, **lines))
    assert parse(server.accept()).headers["Sec-WebSocket-Accept"].encode() == ACCEPT


def test_repeated_lines_of_a_list_are_one_list():
    """R-42. W12."""
    more = [
        "Sec-WebSocket-Protocol: a",
        "Sec-WebSocket-Protocol: b, c",
        "Sec-WebSocket-Extensions: x-unknown",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ]
    server = handshake(request_bytes("GET / HTTP/1.1", *more), Deflate())
    assert server.request.subprotocols == ("a", "b", "c")
    server.accept("c")
    assert server.deflate is not None


@pytest.mark.parametrize(
    ("status", "start", "more", "lines"),
    [
        pytest.param(405, "POST / HTTP/1.1", (), {}, id="R-28 POST"),
        pytest.param(405, "get / HTTP/1.1", (), {}, id="R-28 get"),
        pytest.param(405, "CONNECT a:1 HTTP/1.1", (), {}, id="R-28 CONNECT"),
        pytest.param(405, "OPTIONS * HTTP/1.1", (), {}, id="R-28 OPTIONS"),
        pytest.param(505, "GET / HTTP/1.0", (), {}, id="R-28 HTTP/1.0"),
        pytest.param(505, "GET / HTTP/1.0", (), {"Host": None}, id="R-28 HTTP/1.0 without Host"),
        pytest.param(505, "GET / HTTP/2.0", (), {}, id="R-28 HTTP/2.0"),
        pytest.param(400, "GET / HTTP/11", (), {}, id="R-34 version"),
        pytest.param(400, "GET /", (), {}, id="R-34 no version"),
        pytest.param(400, "GET  / HTTP/1.1", (), {}, id="R-34 two spaces"),
        pytest.param(400, "GET /a b HTTP/1.1", (), {}, id="R-34 space in target"),
        pytest.param(400, "GET /\xfc HTTP/1.1", (), {}, id="R-34 target not ASCII"),
        pytest.param(400, "G(T / HTTP/1.1", (), {}, id="R-34 method"),
        pytest.param(400, "GET /#a HTTP/1.1", (), {}, id="R-34 fragment"),
        pytest.param(400, "GET * HTTP/1.1", (), {}, id="R-34 asterisk"),
        pytest.param(400, "GET example.com:80 HTTP/1.1", (), {}, id="R-34 authority"),
        pytest.param(400, "GET ftp://example.com/ HTTP/1.1", (), {}, id="R-34 ftp"),
        pytest.param(400, "GET http://evil.com/ HTTP/1.1", (), {}, id="R-29 two hosts"),
        pytest.param(400, "GET http://example.com:81/ HTTP/1.1", (), {}, id="R-29 two ports"),
        pytest.param(400, "GET http://a@example.com/ HTTP/1.1", (), {}, id="R-29 user info"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Host": None}, id="R-29 no Host"),
        pytest.param(400, "GET / HTTP/1.1", ("host: example.com",), {}, id="R-29 two Hosts"),
        *(
            pytest.param(400, "GET / HTTP/1.1", (), {"Host": host}, id=f"R-29 Host {host!r}")
            for host in ["", "a b", "a/../b", "a@b", "u:p@b", "[::1", "a:", "a:x", "\xfc", "a,b"]
        ),
        pytest.param(400, "GET / HTTP/1.0", (), {"Host": "a b"}, id="R-29 Host in HTTP/1.0"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Upgrade": None}, id="R-30 none"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Upgrade": ""}, id="R-30 empty"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Upgrade": "h2c"}, id="R-30 other"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Upgrade": "notwebsocket"}, id="R-30 longer"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Upgrade": "web socket"}, id="R-30 malformed"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Upgrade": "websocket\xfc"}, id="R-30 W9"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Upgrade": "websocket, a/b/c"}, id="R-30 slashes"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Connection": None}, id="R-31 none"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Connection": "close"}, id="R-31 close"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Connection": "notupgrade"}, id="R-31 longer"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Connection": "a upgrade"}, id="R-31 malformed"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Connection": "upgrade, \xff"}, id="R-31 W9"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Key": None}, id="R-32 none"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Key": ""}, id="R-32 empty"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Key": KEY[:-1]}, id="R-32 short"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Key": "\xff" * 24}, id="R-32 W9"),
        pytest.param(400, "GET / HTTP/1.1", (f"sec-websocket-key: {KEY}",), {}, id="R-32 twice"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": None}, id="R-33 none"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": ""}, id="R-33 empty"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "x"}, id="R-33 word"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "13, 8"}, id="R-33 list"),
        pytest.param(400, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "\xb2"}, id="R-33 W9"),
        pytest.param(400, "GET / HTTP/1.1", ("Sec-WebSocket-Version: 13",), {}, id="R-33 twice"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "8"}, id="R-33 8"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "0"}, id="R-33 0"),
        pytest.param(426, "GET / HTTP/1.1", (), {"Sec_WebSocket_Version": "255"}, id="R-33 255"),
        pytest.param(400, "GET / HTTP/1.1", ("Content-Length: 5",), {}, id="R-34 body"),
        pytest.param(400, "GET / HTTP/1.1", ("Content-Length: -1",), {}, id="R-34 length"),
        pytest.param(400, "GET / HTTP/1.1", ("Content-Length: 0, 1",), {}, id="R-34 lengths"),
        pytest.param(400, "GET / HTTP/1.1", ("Transfer-Encoding: chunked",), {}, id="R-34 chunked"),
        pytest.param(400, "GET / HTTP/1.1", ("Transfer-Encoding: gzip",), {}, id="R-34 gzip"),
        pytest.param(400, "GET / HTTP/1.1", ("Origin: a", "Origin: a"), {}, id="R-34 Origins"),
        pytest.param(400, "GET / HTTP/1.1", ("X : a",), {}, id="R-34 space before colon"),
        pytest.param(400, "GET / HTTP/1.1", (" folded",), {}, id="R-34 obs-fold"),
        pytest.param(400, "GET / HTTP/1.1", ("X",), {}, id="R-34 no colon"),
        pytest.param(400, "GET / HTTP/1.1", (": a",), {}, id="R-34 no name"),
        pytest.param(400, "GET / HTTP/1.1", ("X: a\nY: b",), {}, id="R-34 bare LF"),
        pytest.param(400, "GET / HTTP/1.1", ("X: a\rY: b",), {}, id="R-34 bare CR"),
        pytest.param(400, "GET / HTTP/1.1", ("X: a\0",), {}, id="R-34 NUL"),
        *(
            pytest.param(
                400, "GET / HTTP/1.1", (f"Sec-WebSocket-Protocol: {v}",), {}, id=f"R-34 {v!r:.20}"
            )
            for v in ["", ",", "a b", "a, a", "a;b", "a\xfc", '"a"', "b" + " " * 9000 + "x"]
        ),
        *(
            pytest.param(
                400,
                "GET / HTTP/1.1",
                (f"Sec-WebSocket-Extensions: {v}",),
                {},
                id=f"R-103 {v!r:.20}",
            )
            for v in [
                "",
                ",",
                "a b",
                "a; b=",
                'a; b="c',
                'a; b="c,d"',
                "a\xfc",
                'a; b="' + r"\c" * 4000,
            ]
        ),
    ],
)
def test_a_request_that_is_not_valid_is_refused_with_its_status(status, start, more, lines):
    """R-28. R-29. R-30. R-31. R-32. R-33. R-34. R-103. V25: and nothing follows it."""
    error, answer = refusal(request_bytes(start, *more, **lines))
    assert answer.status == status == error.response.status
    assert answer.text == f"{error}\n"
    assert str(error).isprintable()


def test_a_wrong_version_is_told_the_right_one():
    """R-33."""
    _, answer = refusal(request_bytes(Sec_WebSocket_Version="8"))
    assert (answer.status, answer.headers["Sec-WebSocket-Version"]) == (426, "13")


def test_a_wrong_method_is_told_the_right_one():
    """R-28."""
    _, answer = refusal(request_bytes("POST / HTTP/1.1"))
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_a_plain_http_request_is_told_what_this_server_is():
    """R-30."""
    error, answer = refusal(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    assert answer.headers["Connection"] == "close, Upgrade"
    assert answer.text.startswith("this is a WebSocket server")
    assert error.request.path == "/health"


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (request_bytes("POST /a HTTP/1.1"), True),
        (request_bytes("GET /a HTTP/1.0", Host=None), True),
        (request_bytes("GET /a HTTP/1.1", Sec_WebSocket_Key="x"), True),
        (request_bytes("GET /a HTTP/1.1", Sec_WebSocket_Extensions=""), True),
        (request_bytes("GET /a HTTP/1.1", Host="a b"), False),
        (request_bytes("GET /a HTTP/1.1", "Host: a"), False),
        (request_bytes("GET /a", Host="a"), False),
        (b"\x16\x03\x01", False),
    ],
)
def test_a_refused_request_can_be_answered_otherwise_where_it_is_valid_http(data, known):
    """R-34. R-38."""
    error, _ = refusal(data)
    assert (error.request is not None) is known
    assert not known or error.request.path == "/a"


def test_a_message_does_not_show_the_line_that_is_wrong():
    error, answer = refusal(request_bytes("GET / HTTP/1.1", "Authorization : hunter2"))
    assert "hunter2" not in str(error) + answer.text
    error, answer = refusal(request_bytes(Sec_WebSocket_Protocol="bearer hunter2"))
    assert "hunter2" not in str(error) + answer.text


def test_tls_on_a_plain_port_is_named():
    """R-34."""
    error, answer = refusal(b"\x16\x03\x01\x02\x00\x01")
    assert "TLS" in str(error)
    assert answer.status == 400
    assert "not HTTP" in str(refusal(b"\x00\x01")[0])


@pytest.mark.parametrize(
    "data",
    [
        request_bytes("GET / HTTP/1.1", "X: " + "x" * MAX_HEAD_BYTES),
        request_bytes("GET / HTTP/1.1", "X: " + "x" * 1_000_000),
        b"GET /" + b"x" * MAX_HEAD_BYTES,
        request_bytes("GET / HTTP/1.1", *["X: y"] * MAX_HEAD_LINES),
        request_bytes("GET / HTTP/1.1", *["X: y"] * 200_000),
    ],
)
def test_a_head_beyond_its_bounds_is_431(data):
    """R-34. W10. W15."""
    error, answer = refusal(data)
    assert answer.status == 431
    assert error.request is None


def test_frames_behind_the_request_are_kept():
    """R-27. W13."""
    server = handshake(request_bytes() + b"\x81\x00")
    assert server.receive_data(b"\x82\x00") is server.request
    server.accept()
    assert server.trailing_data == b"\x81\x00\x82\x00"
    server = ServerHandshake(None)
    for byte in request_bytes() + b"\x81\x00":
        server.receive_data(bytes([byte]))
    assert server.trailing_data == b"\x81\x00"


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "without a request"), (b"GET", "middle"), (request_bytes(), "before its request")],
)
def test_a_client_that_leaves_early_is_an_error_that_says_when(data, words):
    """R-34. R-43."""
    server = ServerHandshake(None)
    server.receive_data(data)
    with pytest.raises(HandshakeInvalid, match=words):
        server.receive_eof()


def test_a_refusal_frames_itself_and_ends_the_connection():
    """R-36. R-38. V25."""
    server = handshake(request_bytes())
    headers = {
        "Content-Length": "1000",
        "Transfer-Encoding": "chunked",
        "Connection": "keep-alive",
        "Keep-Alive": "timeout=5",
        "Upgrade": "h2c",
        "X-Kept": "é",
    }
    answer = server.reject(Reject(403, "no entry", headers).response)
    assert answer == (
        b"HTTP/1.1 403 Forbidden\r\n"
        b"X-Kept: \xe9\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 8\r\n"
        b"\r\n"
        b"no entry"
    )


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_gets_none(status):
    """R-38."""
    answer = handshake(request_bytes()).reject(Response(status, Headers(), b"body"))
    assert b"Content-Length" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_an_answer_to_head_has_the_length_of_its_body_only():
    """R-28."""
    server = ServerHandshake(None)
    with pytest.raises(BadRequest) as caught:
        server.receive_data(request_bytes("HEAD / HTTP/1.1"))
    answer = server.reject(caught.value.response)
    response = parse(answer, "HEAD")
    assert (response.status, response.body) == (405, b"")
    assert f"Content-Length: {len(caught.value.response.body)}".encode() in answer


def test_a_health_check_may_get_200_and_an_unknown_status_has_no_words():
    """R-38."""
    server = ServerHandshake(None)
    assert parse(server.reject(Reject(200, "fine").response)).body == b"fine"
    assert server.reject(Response(599)).startswith(b"HTTP/1.1 599 \r\n")


def test_a_refusal_can_be_made_in_any_state():
    """R-43."""
    server = ServerHandshake(None)
    assert parse(server.reject(Response(503))).status == 503
    server.receive_data(request_bytes()[:20])
    assert parse(server.reject(Response(503))).status == 503
    server.receive_data(request_bytes()[20:])
    server.accept()
    assert parse(server.reject(Response(503))).status == 503


def test_what_cannot_be_a_refusal_is_a_value_error():
    """V23."""
    server = handshake(request_bytes())
    for response in (Response(101), Response(100), Response(400, Headers.decode([(b"A", b"\1")]))):
        with pytest.raises(ValueError, match=r"not refused|control"):
            server.reject(response)


def outcome(chunks):
    server = ServerHandshake(Deflate())
    try:
        for chunk in chunks:
            server.receive_data(chunk)
    except BadRequest as error:
        answer = server.reject(error.response)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505"))
        return error.response.status, error.request
    if server.request is None:
        return None
    return server.request, server.trailing_data, server.accept(), server.deflate


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


VALID = request_bytes(
    "GET /chat HTTP/1.1",
    "Origin: https://example.com",
    "Sec-WebSocket-Protocol: a, b",
    'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits="10"',
)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_bad_request_or_not_enough_however_they_arrive(data):
    """R-34. W9."""
    assert outcome([data]) == outcome(one_by_one(data))


@given(
    st.integers(0, len(VALID)), st.integers(0, 12), st.binary(max_size=12), st.binary(max_size=4)
)
@example(0, 0, b"", b"\x81\x00")
def test_a_mutated_request_has_one_outcome_however_it_arrives(position, cut, piece, behind):
    """R-27. R-34. W9."""
    data = VALID[:position] + piece + VALID[position + cut :] + behind
    assert outcome([data]) == outcome(one_by_one(data))


@given(
    st.sampled_from([*LINES, "Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]),
    st.binary(max_size=20),
)
def test_any_value_of_a_structural_header_is_judged(name, value):
    """R-34. W9."""
    lines = LINES | {name: value.decode("latin-1")}
    head = "\r\n".join(["GET / HTTP/1.1", *(f"{n}: {v}" for n, v in lines.items()), "", ""])
    data = head.encode("latin-1")
    assert outcome([data]) == outcome(one_by_one(data))

"""The client's half of the opening handshake (RFC 6455, section 4.1)."""

from __future__ import annotations

import base64

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyws._config import (
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INTERIM_RESPONSES,
    MAX_REJECTION_BODY,
    Deflate,
)
from anyws._errors import HandshakeInvalid, HandshakeRejected
from anyws._protocol.fields import accept_key, is_key
from anyws._protocol.handshake_client import USER_AGENT, ClientHandshake
from anyws._protocol.handshake_server import ServerHandshake
from anyws._protocol.http import Reject
from anyws._protocol.url import URL, parse_url

ADDRESS = parse_url("ws://example.com:8000/chat?a=b")


def client(url=ADDRESS, **options):
    return ClientHandshake(url, **{"compression": None, **options})


def answer(handshake, *more, start="HTTP/1.1 101 Switching Protocols", **lines):
    """Write a 101: `lines` replace those of a valid one (`None` leaves out), `more` follow."""
    valid = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_key(handshake.request.headers["Sec-WebSocket-Key"]),
    }
    given_lines = {name.replace("_", "-"): value for name, value in lines.items()}
    head = [start, *(f"{n}: {v}" for n, v in (valid | given_lines).items() if v is not None)]
    return "\r\n".join([*head, *more, "", ""]).encode("latin-1")


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def feed(handshake, chunks):
    for chunk in chunks:
        assert handshake.receive_data(chunk) is None


def rejection(data, handshake=None):
    handshake = handshake or client()
    with pytest.raises(HandshakeRejected) as caught:
        handshake.receive_data(data)
    return caught.value.response


def test_the_request_is_that_of_the_rfc():
    """R-7. R-8. R-9. R-10. R-11. R-12. R-13. R-14."""
    handshake = client()
    key = handshake.request.headers["Sec-WebSocket-Key"]
    assert is_key(key)
    assert handshake.request_bytes() == (
        b"GET /chat?a=b HTTP/1.1\r\n"
        b"Host: example.com:8000\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: " + key.encode() + b"\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"User-Agent: " + USER_AGENT.encode() + b"\r\n"
        b"\r\n"
    )
    assert handshake.request_bytes() == handshake.request_bytes()


def test_each_handshake_has_a_key_of_its_own():
    """R-12."""
    assert len({client().request.headers["Sec-WebSocket-Key"] for _ in range(50)}) == 50


def test_a_request_can_have_origin_subprotocols_compression_and_headers():
    """R-13. R-15. R-16."""
    handshake = client(
        origin="https://example.com",
        subprotocols=["b", "a"],
        compression=Deflate(),
        headers=[("X", "1"), ("X", "é"), ("User-Agent", "mine")],
    )
    headers = handshake.request.headers
    assert headers["Origin"] == "https://example.com"
    assert headers["Sec-WebSocket-Protocol"] == "b, a"
    assert headers["Sec-WebSocket-Extensions"] == "permessage-deflate; client_max_window_bits"
    assert headers.get_all("X") == ["1", "é"]
    assert headers.get_all("User-Agent") == ["mine"]
    assert b"X: \xe9\r\n" in handshake.request_bytes()


def test_user_info_becomes_basic_authorization_unless_the_caller_gave_one():
    """R-1."""
    url = parse_url("ws://ann:%C3%BC@example.com")
    authorization = client(url).request.headers["Authorization"]
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == "ann:ü"
    assert client(parse_url("ws://ann@a")).request.headers["Authorization"] == "Basic YW5uOg=="
    mine = client(url, headers={"authorization": "Bearer x"}).request.headers
    assert mine.get_all("Authorization") == ["Bearer x"]
    assert "Authorization" not in client().request.headers


def test_origin_can_be_given_among_the_headers_but_only_once():
    """R-13."""
    assert client(headers={"Origin": "null"}).request.origin == "null"
    with pytest.raises(ValueError, match="Origin"):
        client(headers={"Origin": "null"}, origin="null")
    with pytest.raises(ValueError, match="Origin"):
        client(headers=[("Origin", "null"), ("origin", "null")])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"headers": {"host": "a"}}, ValueError, "'host'.*URL"),
        ({"headers": {"Upgrade": "a"}}, ValueError, "'Upgrade'.*handshake"),
        ({"headers": {"Connection": "close"}}, ValueError, "'Connection'"),
        ({"headers": {"sec-websocket-key": "a"}}, ValueError, "'sec-websocket-key'"),
        ({"headers": {"Sec-WebSocket-Protocol": "a"}}, ValueError, "subprotocols"),
        ({"headers": {"Sec-WebSocket-Extensions": "a"}}, ValueError, "compression"),
        ({"headers": {"Content-Length": "1"}}, ValueError, "body"),
        ({"headers": {"A": "b\r\nC: d"}}, ValueError, "header A"),
        ({"headers": {"A\r\nB": "c"}}, ValueError, "name of a header"),
        ({"headers": {"User-Agent": "a\n"}}, ValueError, "User-Agent"),
        ({"headers": "A"}, ValueError, "headers"),
        ({"headers": b"A: b"}, TypeError, "headers"),
        ({"origin": "a\0"}, ValueError, "Origin"),
        ({"origin": b"null"}, TypeError, "Origin"),
        ({"subprotocols": "chat"}, TypeError, "sequence"),
        ({"subprotocols": {"chat"}}, TypeError, "sequence"),
        ({"subprotocols": [b"chat"]}, TypeError, "bytes"),
        ({"subprotocols": ["a", "a"]}, ValueError, "twice"),
        ({"subprotocols": [""]}, ValueError, "token"),
        ({"subprotocols": ["a,b"]}, ValueError, "token"),
        ({"subprotocols": ["a b"]}, ValueError, "token"),
        ({"subprotocols": ["a\r\nb"]}, ValueError, "token"),
        ({"subprotocols": ["\xfc"]}, ValueError, "token"),
        ({"url": URL(False, "a\r\nb", 80, "/")}, ValueError, "Host"),
        ({"url": URL(False, "a", 80, "/ b")}, ValueError, "cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_an_error_before_there_is_a_request(options, error, words):
    """R-1. R-15. V23. W16."""
    with pytest.raises(error, match=words):
        client(**options)


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ((), {}),
        ((), {"Upgrade": "WebSocket", "Connection": "keep-alive, UPGRADE"}),
        (("Connection: keep-alive",), {}),
        (("Content-Length: 5", "X: \xfc\1"), {}),
    ],
)
def test_a_valid_101_opens(more, lines):
    """R-19. R-20. R-24."""
    handshake = client()
    response = handshake.receive_data(answer(handshake, *more, **lines))
    assert response.status == 101
    assert response.headers["Sec-WebSocket-Accept"]
    assert (handshake.subprotocol, handshake.deflate, handshake.rejected) == (None, None, None)
    assert handshake.trailing_data == b""


def test_whitespace_around_the_accept_key_does_not_count():
    """R-21."""
    handshake = client()
    key = accept_key(handshake.request.headers["Sec-WebSocket-Key"])
    assert handshake.receive_data(answer(handshake, Sec_WebSocket_Accept=f" \t{key} \t"))


def test_frames_behind_the_101_are_kept_in_one_segment_and_byte_by_byte():
    """R-27."""
    handshake = client()
    assert handshake.receive_data(answer(handshake) + b"\x81\x00\r\n\r\n")
    assert handshake.trailing_data == b"\x81\x00\r\n\r\n"
    handshake = client()
    data = answer(handshake)
    assert [handshake.receive_data(byte) for byte in one_by_one(data[:-1])] == [None] * (
        len(data) - 1
    )
    response = handshake.receive_data(data[-1:])
    assert handshake.receive_data(b"\x81") is response
    assert handshake.receive_data(b"\x00") is response
    assert handshake.trailing_data == b"\x81\x00"


def test_a_chosen_subprotocol_and_compression_are_known_after_the_101():
    """R-22. R-23."""
    handshake = client(subprotocols=["a", "b"], compression=Deflate())
    handshake.receive_data(
        answer(
            handshake,
            Sec_WebSocket_Protocol="b",
            Sec_WebSocket_Extensions='permessage-deflate; client_max_window_bits="10"',
        )
    )
    assert handshake.subprotocol == "b"
    assert handshake.deflate is not None


@pytest.mark.parametrize(
    ("more", "lines", "words"),
    [
        pytest.param((), {"Upgrade": None}, "Upgrade header is missing", id="R-19 missing"),
        pytest.param((), {"Upgrade": "h2c"}, "Upgrade header is 'h2c'", id="R-19 other"),
        pytest.param((), {"Upgrade": "websocket, h2c"}, "'websocket, h2c'", id="R-19 list"),
        pytest.param(("Upgrade: websocket",), {}, "'websocket, websocket'", id="R-19 twice"),
        pytest.param((), {"Upgrade": "w\xebbsocket"}, "Upgrade", id="R-19 not ASCII"),
        pytest.param((), {"Connection": None}, "Connection header is missing", id="R-20 missing"),
        pytest.param((), {"Connection": "close"}, "Connection header is 'close'", id="R-20 other"),
        pytest.param((), {"Connection": "notupgrade"}, "notupgrade", id="R-20 longer"),
        pytest.param((), {"Connection": "\xff, upgrade"}, "Connection", id="R-20 malformed"),
        pytest.param(
            (), {"Sec_WebSocket_Accept": None}, "Accept header is missing", id="R-21 none"
        ),
        pytest.param((), {"Sec_WebSocket_Accept": ""}, "Accept header is ''", id="R-21 empty"),
        pytest.param((), {"Sec_WebSocket_Accept": "x" * 999}, r"'x{80}'\.\.\.,", id="R-21 wrong"),
        pytest.param((), {"Sec_WebSocket_Accept": "\xff"}, "Accept", id="R-21 not ASCII"),
        pytest.param(("Sec-WebSocket-Accept: x",), {}, "Accept header is '", id="R-25 Accept"),
        pytest.param((), {"Sec_WebSocket_Protocol": "c"}, "'c', and 'a, b' was", id="R-23 other"),
        pytest.param((), {"Sec_WebSocket_Protocol": "A"}, "'A', and", id="R-23 case"),
        pytest.param((), {"Sec_WebSocket_Protocol": ""}, "'', and", id="R-23 empty"),
        pytest.param((), {"Sec_WebSocket_Protocol": "a, b"}, "'a, b', and", id="R-23 list"),
        pytest.param(("Sec-WebSocket-Protocol: a",) * 2, {}, "several", id="R-25 Protocol"),
        pytest.param((), {"Sec_WebSocket_Extensions": "x"}, "'x', and only", id="R-22 other"),
        pytest.param(
            (), {"Sec_WebSocket_Extensions": "permessage-deflate, x"}, "and only", id="R-22 two"
        ),
        pytest.param(
            (),
            {"Sec_WebSocket_Extensions": "permessage-deflate, permessage-deflate"},
            "once",
            id="R-22 twice",
        ),
        pytest.param(
            (),
            {"Sec_WebSocket_Extensions": "permessage-deflate; what"},
            "'permessage-deflate; what': .*unknown",
            id="R-24 parameter",
        ),
        pytest.param((), {"Sec_WebSocket_Extensions": "a b"}, "'a b': it is|param", id="R-103"),
        pytest.param((), {"Sec_WebSocket_Extensions": ""}, "it is empty", id="R-103 empty"),
        pytest.param((), {"Sec_WebSocket_Extensions": "\xff"}, "not a list", id="R-103 not ASCII"),
        pytest.param(
            ("Sec-WebSocket-Extensions: permessage-deflate",) * 2, {}, "several", id="R-25 Ext."
        ),
        pytest.param((), {"start": "HTTP/1.0 101 x"}, "HTTP/1.0", id="R-24 HTTP/1.0"),
    ],
)
def test_a_101_that_breaks_the_rfc_is_invalid_and_the_message_says_where(more, lines, words):
    """R-19. R-20. R-21. R-22. R-23. R-24. R-25. R-103."""
    handshake = client(subprotocols=["a", "b"], compression=Deflate())
    with pytest.raises(HandshakeInvalid, match=words):
        handshake.receive_data(answer(handshake, *more, **lines))
    assert handshake.rejected is None


def test_the_accept_key_is_compared_with_its_case():
    """R-21."""
    handshake = client()
    key = accept_key(handshake.request.headers["Sec-WebSocket-Key"]).swapcase()
    with pytest.raises(HandshakeInvalid, match="Accept"):
        handshake.receive_data(answer(handshake, Sec_WebSocket_Accept=key))


def test_nothing_that_was_not_offered_can_be_chosen():
    """R-22. R-23: also when nothing was."""
    handshake = client()
    with pytest.raises(HandshakeInvalid, match="'a', and 'no subprotocol' was offered"):
        handshake.receive_data(answer(handshake, Sec_WebSocket_Protocol="a"))
    handshake = client()
    with pytest.raises(HandshakeInvalid, match="none was offered"):
        handshake.receive_data(answer(handshake, Sec_WebSocket_Extensions="permessage-deflate"))


def test_interim_responses_are_skipped_up_to_a_bound():
    """R-18. W14."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    handshake = client()
    data = interim * (MAX_INTERIM_RESPONSES // 2)
    assert handshake.receive_data(data + answer(handshake) + b"rest").status == 101
    assert handshake.trailing_data == b"rest"
    with pytest.raises(HandshakeInvalid, match="more than 16 interim"):
        client().receive_data(data + interim)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"'SSH-2.0-OpenSSH_9.6\\r\\n'.*WebSocket server\?"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS.*wss://"),
        (b"\x16\x03\x01", "TLS"),
        (b"HTTP/2.0 200\r\n\r\n", "not HTTP"),
        (b"\x00" * 10_000, r"\.\.\.,"),
        (b"\r\nHTTP/1.1 101\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 x01\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 000\r\n\r\n", "status"),
        (b"HTTP/1.1 200 OK\nA: b\n\n", "CR LF"),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "illegal header line"),
        (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "whitespace"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES, "longer than"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_HEAD_LINES + 1), "more than 128"),
    ],
)
def test_an_answer_that_is_no_http_is_invalid_and_the_message_says_what_it_is(data, words):
    """R-24. W10."""
    for chunks in ([data], [data[:1], data[1:]]):
        handshake = client()
        with pytest.raises(HandshakeInvalid, match=words if chunks == [data] else None):
            feed(handshake, chunks)
        assert handshake.rejected is None


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nno entry", 403, b"no entry"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno entry", 403, b"no"),
        (b"HTTP/1.1 401 x\r\nContent-Length: 0\r\n\r\n", 401, b""),
        (b"HTTP/1.1 204 x\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
        (
            b"HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3;a=b\r\nno \r\n5\r\nentry\r\n0\r\nTrailer: a\r\n\r\n",
            302,
            b"no entry",
        ),
        (
            b"HTTP/1.1 426 x\r\nSec-WebSocket-Version: 8\r\nContent-Length: 1\r\n\r\n.",
            426,
            b".",
        ),
        (b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX", 500, b"ok"),
        (b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 500, b""),
        (b"HTTP/1.1 100 x\r\n\r\nHTTP/1.0 503 x\r\nContent-Length: 1\r\n\r\n.", 503, b"."),
    ],
)
def test_another_status_is_a_rejection_with_its_body(data, status, body):
    """R-18. R-26."""
    for chunks in ([data], one_by_one(data)):
        handshake = client()
        with pytest.raises(HandshakeRejected) as caught:
            feed(handshake, chunks)
        assert (caught.value.response.status, caught.value.response.body) == (status, body)


def test_a_body_without_a_length_ends_with_the_stream():
    """R-18."""
    handshake = client()
    handshake.receive_data(b"HTTP/1.1 502 Bad Gateway\r\nX: y\r\n\r\nno ")
    assert handshake.rejected.body == b"no "
    handshake.receive_data(b"entry")
    with pytest.raises(HandshakeRejected, match="502 Bad Gateway: 'no entry'") as caught:
        handshake.receive_eof()
    assert caught.value.response.headers["x"] == "y"


def test_a_body_that_the_end_of_the_stream_cuts_short_is_still_a_rejection():
    """R-18."""
    handshake = client()
    assert handshake.receive_data(b"HTTP/1.1 403 x\r\nContent-Length: 9\r\n\r\nno") is None
    with pytest.raises(HandshakeRejected) as caught:
        handshake.receive_eof()
    assert caught.value.response.body == b"no"


@pytest.mark.parametrize(
    "framing", [b"", b"Content-Length: 10000000\r\n", b"Transfer-Encoding: chunked\r\n"]
)
@pytest.mark.parametrize("size", [1000, 10_000_000])
def test_a_body_without_end_is_cut_at_its_bound(framing, size):
    """R-18. V8."""
    handshake = client()
    handshake.receive_data(b"HTTP/1.1 400 x\r\n" + framing + b"\r\n")
    if b"chunked" in framing:
        handshake.receive_data(b"FFFFFFF\r\n")
    # One piece more would be beyond the bound.
    pieces = MAX_REJECTION_BODY // size + 1
    with pytest.raises(HandshakeRejected) as caught:
        feed(handshake, [b"x" * size] * pieces)
    assert len(caught.value.response.body) == MAX_REJECTION_BODY


@pytest.mark.parametrize(
    "tail", [b"1;" + b"x" * 1_000_000, b"0\r\n" + b"a: b\r\n" * 100_000, b"1" * 100_000]
)
def test_chunked_framing_without_end_is_cut_too(tail):
    """R-18. V8."""
    data = b"HTTP/1.1 400 x\r\nTransfer-Encoding: chunked\r\n\r\n" + tail
    assert rejection(data).status == 400


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 2", "middle"),
        (b"HTTP/1.1 100 x\r\n\r\n", "without an answer"),
        (None, "right after its 101"),
    ],
)
def test_a_server_that_leaves_early_is_invalid_and_the_message_says_when(data, words):
    """R-24."""
    handshake = client()
    handshake.receive_data(answer(handshake) if data is None else data)
    with pytest.raises(HandshakeInvalid, match=words):
        handshake.receive_eof()


def test_our_own_server_opens_and_refuses():
    """R-41."""
    handshake = client(subprotocols=["a", "b"], compression=Deflate(), origin="null")
    server = ServerHandshake(Deflate())
    request = server.receive_data(handshake.request_bytes())
    assert request == handshake.request
    assert handshake.receive_data(server.accept("b", {"X": "y"})).headers["X"] == "y"
    assert handshake.subprotocol == "b"
    assert handshake.deflate is not None
    assert server.deflate is not None
    refused = client()
    server = ServerHandshake(None)
    server.receive_data(refused.request_bytes())
    answered = rejection(server.reject(Reject(404, "no such room").response), refused)
    assert answered.describe() == "404 Not Found: 'no such room'"


def outcome(handshake, chunks):
    try:
        for chunk in chunks:
            response = handshake.receive_data(chunk)
        if response is not None:
            return response, handshake.trailing_data, handshake.deflate, handshake.subprotocol
        handshake.receive_eof()
    except HandshakeRejected as error:
        return error.response
    except HandshakeInvalid:
        return HandshakeInvalid


HANDSHAKE = client(subprotocols=["a"], compression=Deflate())
VALID = answer(
    HANDSHAKE,
    Sec_WebSocket_Protocol="a",
    Sec_WebSocket_Extensions='permessage-deflate; client_max_window_bits="10"',
)
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n5\r\nentry\r\n"
    b"0\r\nTrailer: a\r\n\r\n"
)


def outcomes(data):
    """What comes of these bytes at once and one by one, apart from the random keys."""
    found = []
    for cut in (lambda whole: [whole], one_by_one):
        handshake = client(subprotocols=["a"], compression=Deflate())
        theirs, ours = (
            accept_key(each.request.headers["Sec-WebSocket-Key"]) for each in (HANDSHAKE, handshake)
        )
        whole = data.replace(theirs.encode(), ours.encode())
        result = outcome(handshake, cut(whole) or [b""])
        if isinstance(result, tuple):
            response, *rest = result
            result = (response.status, [x for x in response.headers.raw if x[1] != ours], *rest)
        found.append(result)
    return found


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 403 x\r\n"]))
def test_random_bytes_are_invalid_or_a_rejection_however_they_arrive(data, prefix):
    """R-24."""
    whole, dribbled = outcomes(prefix + data)
    assert whole == dribbled


@given(
    st.sampled_from([VALID, REFUSED]),
    st.integers(0, len(VALID)),
    st.integers(0, 12),
    st.binary(max_size=12),
    st.binary(max_size=4),
)
@example(VALID, 0, 0, b"", b"\x81\x00")
@example(REFUSED, 0, 0, b"", b"\x81\x00")
def test_a_mutated_answer_has_one_outcome_however_it_arrives(data, position, cut, piece, behind):
    """R-24. R-27."""
    whole, dribbled = outcomes(data[:position] + piece + data[position + cut :] + behind)
    assert whole == dribbled


def test_our_request_is_one_to_h11():
    """R-7."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(client(subprotocols=["a"], compression=Deflate()).request_bytes())
    assert server.next_event().http_version == b"1.1"
    assert isinstance(server.next_event(), h11.EndOfMessage)

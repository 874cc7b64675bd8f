"""The WebSocket URL (RFC 6455, section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._errors import InvalidURL
from anyws._protocol.url import URL, encode_host, parse_url


def test_a_plain_url_has_the_default_port_and_an_empty_path_becomes_a_slash():
    """R-8."""
    assert parse_url("ws://example.com") == URL(False, "example.com", 80, "/")
    assert parse_url("wss://example.com") == URL(True, "example.com", 443, "/")


@pytest.mark.parametrize(
    ("tail", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a=1", "/?a=1"),
        ("/chat?", "/chat?"),
        ("/chat?a=1&b=%20?c", "/chat?a=1&b=%20?c"),
        ("/%zz/a;b=c/'{|}^`\"<>", "/%zz/a;b=c/'{|}^`\"<>"),
        ("/grüße?ü=€", "/gr%C3%BC%C3%9Fe?%C3%BC=%E2%82%AC"),
        ("/a@b:c//d", "/a@b:c//d"),
    ],
)
def test_the_target_is_path_and_query_as_written_with_what_is_not_ascii_encoded(tail, target):
    """R-8."""
    assert parse_url(f"ws://example.com{tail}").target == target


@pytest.mark.parametrize(
    ("url", "host", "port", "header", "authority"),
    [
        ("ws://example.com", "example.com", 80, "example.com", "example.com:80"),
        ("ws://example.com:80", "example.com", 80, "example.com", "example.com:80"),
        ("ws://example.com:", "example.com", 80, "example.com", "example.com:80"),
        ("ws://example.com:443", "example.com", 443, "example.com:443", "example.com:443"),
        ("wss://example.com:443", "example.com", 443, "example.com", "example.com:443"),
        ("wss://example.com:80", "example.com", 80, "example.com:80", "example.com:80"),
        ("WSS://EXAMPLE.com.", "example.com.", 443, "example.com.", "example.com.:443"),
        ("ws://[::1]:8000", "::1", 8000, "[::1]:8000", "[::1]:8000"),
        ("ws://[2001:DB8::0:1]", "2001:db8::1", 80, "[2001:db8::1]", "[2001:db8::1]:80"),
        ("ws://[fe80::1%25eth0]:8000", "fe80::1%eth0", 8000, "[fe80::1]:8000", "[fe80::1]:8000"),
        ("ws://[::1]:", "::1", 80, "[::1]", "[::1]:80"),
        ("ws://127.0.0.1:65535", "127.0.0.1", 65535, "127.0.0.1:65535", "127.0.0.1:65535"),
        ("ws://bücher.example", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", None),
        ("ws://BÜCHER。example:81", "xn--bcher-kva.example", 81, None, None),
        ("ws://my_host", "my_host", 80, "my_host", "my_host:80"),
    ],
)
def test_the_host_header_has_brackets_and_a_port_only_where_they_belong(
    url, host, port, header, authority
):
    """R-9."""
    parsed = parse_url(url)
    assert (parsed.host, parsed.port) == (host, port)
    assert header is None or parsed.host_header == header
    assert authority is None or parsed.authority == authority


def test_a_port_given_beside_the_url_takes_the_place_of_its_own():
    assert parse_url("ws://example.com:1/", port=8000).host_header == "example.com:8000"
    assert parse_url("wss://example.com:1/", port=443).host_header == "example.com"


@pytest.mark.parametrize(
    ("port", "error"),
    [(0, ValueError), (-1, ValueError), (65536, ValueError), ("80", TypeError), (True, TypeError)],
)
def test_a_port_that_is_none_is_refused(port, error):
    """R-1."""
    with pytest.raises(error, match="port"):
        parse_url("ws://example.com", port=port)


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("ws://example.com", None, None),
        ("ws://@example.com", None, None),
        ("ws://ann@example.com", "ann", None),
        ("ws://ann:@example.com", "ann", ""),
        ("ws://:pw@example.com", "", "pw"),
        ("ws://ann:p%40:%C3%BC@example.com", "ann", "p@:ü"),
        ("ws://änn:ü@example.com", "änn", "ü"),
    ],
)
def test_the_user_info_is_taken_apart_and_decoded(url, username, password):
    """R-1."""
    parsed = parse_url(url)
    assert (parsed.username, parsed.password, parsed.host) == (username, password, "example.com")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com", "use ws://"),
        ("HTTPS://example.com", "use wss://"),
        ("ftp://example.com", "'ftp'"),
        ("example.com/chat", "begin with"),
        ("//example.com/chat", "begin with"),
        ("", "begin with"),
        ("ws:example.com", "begin with"),
        ("1ws://example.com", "begin with"),
        ("ws://example.com/#", "fragment"),
        ("ws://example.com/a#b", "fragment"),
        ("ws://example.com?a#b", "fragment"),
        ("ws://", "no host"),
        ("ws:///chat", "no host"),
        ("ws://:80/", "no host"),
        ("ws://ann@/", "no host"),
        ("ws://?a", "no host"),
        ("ws://example.com:0", "port"),
        ("ws://example.com:65536", "port"),
        ("ws://example.com:http", "port"),
        ("ws://example.com:-1", "port"),
        ("ws://example.com:+1", "port"),
        ("ws://example.com:1_0", "port"),
        ("ws://example.com:٣", "port"),
        ("ws://example.com:" + "9" * 5000, "too long"),
        ("ws://example.com:000080", "port"),
        ("ws://::1/", "brackets"),
        ("ws://[::1/", "IPv6"),
        ("ws://[]/", "IPv6"),
        ("ws://[::1]x/", "between"),
        ("ws://[::g]/", "IPv6"),
        ("ws://[fe80::1%eth0]/", "IPv6"),
        ("ws://[fe80::1%25]/", "zone"),
        ("ws://[fe80::1%25a!b]/", "zone"),
        ("ws://[fe80::1%25a/", "zone"),
        ("ws://[fe80::1]%25a]/", "zone"),
        ("ws://[v1.a]/", "IPv6"),
        ("ws://" + "a" * 64 + ".example", "host"),
        ("ws://" + "a." * 127 + "a", "host"),
        ("ws://" + "ü" * 60 + ".example", "internationalized"),
        ("ws://" + "ü" * 100_000, "host"),
        ("ws://ü..example", "internationalized"),
        ("ws://a..b", "host"),
        ("ws://.", "host"),
        ("ws://exa%6dple.com", "host"),
        ("ws://exa\\mple.com", "host"),
        ("ws://good.com\\@evil.com:x", "port"),
        ("ws://a,b", "host"),
        ("ws://evil℀.com", "host"),
        ("ws://ab\ud800.example", "host"),
        ("ws://example.com/\ud800", "surrogate"),
        ("ws://a@b@example.com", "%40"),
        ("ws://a%3Ab:c@example.com", "user name"),
        ("ws://a%0A:c@example.com", "user name"),
        ("ws://a:c%00@example.com", "user name"),
        ("ws://a:%FF@example.com", "user name"),
        ("ws://a:\ud800@example.com", "user name"),
    ],
)
def test_what_is_no_websocket_url_is_refused_and_the_message_says_why(url, words):
    """R-1."""
    with pytest.raises(InvalidURL, match=words.replace("[", r"\[")):
        parse_url(url)


@pytest.mark.parametrize("character", ["\r", "\n", "\0", " ", "\t", "\x1f", "\x7f"])
@pytest.mark.parametrize(
    "url", ["ws://a{}b/", "ws://u{}:p@a/", "ws://a/p{}", "ws://a/?q{}", "{}ws://a"]
)
def test_control_characters_and_spaces_are_refused_wherever_they_stand(url, character):
    """R-1. V23."""
    with pytest.raises(InvalidURL, match="control character"):
        parse_url(url.format(character))


@pytest.mark.parametrize("url", [None, b"ws://example.com", 1])
def test_what_is_no_str_is_a_type_error(url):
    """R-1."""
    with pytest.raises(TypeError, match="must be a str"):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@example.com",
        "u:hunter2://example.com",
        "ws://u:hunter2@example.com:x",
        "ws://u:hunter2/x@example.com",
        "ws://u:hunter2@exa mple.com",
        "ws://u:hunter2@example.com#x",
        "ws://u:hunter2@@example.com",
        "ws://u:hunter2%FF@example.com",
        "ws://u:hunter2@ü..example",
        "ws://u:hunter2@",
    ],
)
def test_no_message_shows_the_password(url):
    """R-1."""
    with pytest.raises(InvalidURL) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)


def test_logs_and_reprs_show_neither_query_nor_user_info():
    url = parse_url("wss://ann:hunter2@example.com:8000/chat?token=hunter2")
    assert url.safe == "wss://example.com:8000/chat"
    assert repr(url) == "<URL wss://example.com:8000/chat>"
    assert parse_url("ws://[::1]").safe == "ws://[::1]/"


def test_a_host_in_ascii_is_not_encoded():
    assert encode_host("exa_mple") == "exa_mple"


@given(st.text(max_size=40), st.sampled_from(["", "ws://", "wss://a", "ws://[", "ws://u:p@h:1/"]))
def test_any_text_is_a_url_or_an_error_of_ours(text, prefix):
    """R-1."""
    try:
        url = parse_url(prefix + text)
    except InvalidURL:
        return
    assert url.host.isascii()
    assert url.target.isascii()
    assert url.target.startswith("/")
    assert not set(url.target + url.host_header) & set("\r\n\0 #")
    assert 1 <= url.port <= 65535

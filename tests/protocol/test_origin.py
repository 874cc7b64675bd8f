"""Which pages may open a WebSocket."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anyws._protocol.http import Headers, Request
from anyws._protocol.origin import (
    check_host,
    check_hosts_argument,
    check_origin,
    check_origins_argument,
)


def from_page(origin, host="good.com"):
    return Request("GET", "/", Headers.decode([(b"Host", host.encode("latin-1")), *origin]))


def allowed(origin, host="good.com", origins=None):
    lines = [(b"Origin", origin.encode("latin-1"))]
    return check_origin(from_page(lines, host), check_origins_argument(origins))


def test_a_request_without_an_origin_is_not_a_browser_s_and_is_allowed():
    """R-35."""
    assert check_origin(from_page([]), None)
    assert check_origin(from_page([]), ("https://other.com",))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://good.com", "good.com"),
        ("http://good.com", "good.com"),
        ("HTTPS://GOOD.COM", "good.com"),
        ("https://good.com", "GOOD.com"),
        ("https://good.com:443", "good.com"),
        ("https://good.com", "good.com:443"),
        ("http://good.com", "good.com:80"),
        ("http://good.com:8000", "good.com:8000"),
        ("http://[::1]:8000", "[0::1]:8000"),
        ("http://127.0.0.1", "127.0.0.1"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_page_of_the_same_host_is_allowed(origin, host):
    """R-36. V16."""
    assert allowed(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.com", "good.com"),
        ("https://good.com.evil.com", "good.com"),
        ("https://evilgood.com", "good.com"),
        ("https://sub.good.com", "good.com"),
        ("https://good.com:evil", "good.com"),
        ("https://good.com:", "good.com"),
        ("https://good.com.", "good.com"),
        ("https://good.com", "good.com."),
        ("https://good.com:80", "good.com"),
        ("https://good.com:8443", "good.com"),
        ("https://good.com", "good.com:80"),
        ("https://good.com", "good.com:8443"),
        ("http://good.com", "good.com:443"),
        ("https://good.com/", "good.com"),
        ("https://good.com/path", "good.com"),
        ("https://user@good.com", "good.com"),
        ("https://good.com@evil.com", "good.com"),
        ("https://good.com\\@evil.com", "good.com"),
        ("https://good.com https://evil.com", "good.com"),
        ("https://good.com, https://good.com", "good.com"),
        ("https://", "good.com"),
        ("https:good.com", "good.com"),
        ("//good.com", "good.com"),
        ("good.com", "good.com"),
        ("", "good.com"),
        ("null", "good.com"),
        ("null", "null"),
        ("file://", "good.com"),
        ("ftp://good.com", "good.com"),
        ("chrome-extension://good.com", "good.com"),
        ("https://b\xfccher.example", "xn--bcher-kva.example"),
        ("https://good.com\xad", "good.com"),
        ("https://good.com", ""),
        ("https://good.com", "good.com/x"),
        ("http://127.0.0.1:evil.com", "127.0.0.1"),
        ("https://" + "\xfc" * 10_000, "good.com"),
    ],
)
def test_any_other_page_is_not(origin, host):
    """R-36. V17."""
    assert not allowed(origin, host)


@pytest.mark.parametrize(
    ("origin", "origins"),
    [
        ("https://other.com", ["https://other.com"]),
        ("https://other.com:443", ["https://OTHER.com"]),
        ("https://other.com", ["https://a.com", "https://other.com:443"]),
        ("http://other.com:8000", {"http://other.com:8000"}),
        ("https://xn--bcher-kva.example", ["https://bücher.example"]),
        ("null", ["null"]),
        ("file://", ["file://"]),
        ("chrome-extension://abc", ["chrome-extension://abc"]),
        ("https://a.other.com", [re.compile(r"https://[a-z]+\.other\.com")]),
        ("https://good.com", ["https://other.com"]),
        ("https://good.com", []),
        ("null", "*"),
        ("whatever", "*"),
    ],
)
def test_origins_widen_what_is_allowed(origin, origins):
    """R-36."""
    assert allowed(origin, origins=origins)


@pytest.mark.parametrize(
    ("origin", "origins"),
    [
        ("https://other.com.evil.com", ["https://other.com"]),
        ("http://other.com", ["https://other.com"]),
        ("https://other.com:8000", ["https://other.com"]),
        ("https://other.com/", ["https://other.com"]),
        ("https://b\xfccher.example", ["https://bücher.example"]),
        ("null", ["https://other.com"]),
        ("NULL", ["null"]),
        ("null", ["file://"]),
        ("https://a.other.com.evil.com", [re.compile(r"https://[a-z]+\.other\.com")]),
        ("https://a.other.com\x01", [re.compile(r"https://[a-z]+\.other\.com")]),
        ("xhttps://a.other.com", [re.compile(r"https://[a-z]+\.other\.com")]),
    ],
)
def test_origins_match_as_a_whole(origin, origins):
    """R-36. V17."""
    assert not allowed(origin, origins=origins)


@pytest.mark.parametrize(
    ("origins", "error", "words"),
    [
        ("https://other.com", TypeError, "collection"),
        ("null", TypeError, "collection"),
        (b"*", TypeError, "collection"),
        (re.compile("a"), TypeError, "collection"),
        (1, TypeError, "collection"),
        (iter(["https://other.com"]), TypeError, "collection"),
        ([None], TypeError, "NoneType"),
        ([b"https://other.com"], TypeError, "bytes"),
        ([re.compile(b"a")], TypeError, "bytes"),
        (["*"], ValueError, "as a whole"),
        (["other.com"], ValueError, "no scheme"),
        (["https://other.com/"], ValueError, "not an origin"),
        (["https://other.com/chat"], ValueError, "not an origin"),
        (["https://*.other.com"], ValueError, "not an origin"),
        (["https://user@other.com"], ValueError, "not an origin"),
        (["https://other.com:port"], ValueError, "port"),
        (["https://ü..com"], ValueError, "internationalized"),
        (["https://"], ValueError, "not an origin"),
        ([""], ValueError, "not an origin"),
    ],
)
def test_origins_that_could_never_match_are_an_error(origins, error, words):
    """R-36."""
    with pytest.raises(error, match=words):
        check_origins_argument(origins)


def test_origins_are_kept_as_they_were_given():
    origins = ["https://other.com"]
    checked = check_origins_argument(origins)
    origins.clear()
    assert checked == ("https://other.com",)
    assert check_origins_argument(None) is None
    assert check_origins_argument("*") == "*"


@given(st.text(st.characters(max_codepoint=255), max_size=30))
@example("\xad")
@example(":443")
def test_any_origin_gets_an_answer(origin):
    """R-36."""
    assert allowed(origin, origins=["https://other.com"]) in (True, False)
    assert not allowed("https://good.com" + origin) or re.fullmatch(":0{0,2}443|", origin)


# --- The Host header ---

HOSTS = [
    *("good.com", "other.com:8000", "plain.com:80", "tls.com:443"),
    *("[::1]", "127.0.0.1", "b\u00fccher.example"),
]
HOSTS_AND_PATTERN = check_hosts_argument([*HOSTS, re.compile(r"[a-z]+\.many\.com(:80)?")])


@pytest.mark.parametrize(
    "host",
    [
        *("good.com", "GOOD.com", "good.com:80", "good.com:8443", "other.com:8000"),
        *("[::1]", "[0:0::1]:99", "127.0.0.1:5", "xn--bcher-kva.example", "a.many.com"),
        "a.many.com:80",
        *("plain.com", "plain.com:80", "tls.com", "tls.com:443"),
    ],
)
def test_a_name_that_the_server_is_known_by_is_allowed(host):
    """V18."""
    assert check_host(host, HOSTS_AND_PATTERN)


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.com", "good.com.evil.com", "evilgood.com", "sub.good.com", "good.com."),
        *("other.com", "other.com:80", "good.com:evil", "good.com@evil.com", "evil.com#good.com"),
        *("a.many.com.evil.com", "x.a.many.com", "a.many.com:8080", "a.many.com\n", "127.0.0.11"),
        *("[::1", "::1", "0x7f.0.0.1"),
        *("plain.com:443", "tls.com:80", "tls.com:8443"),
    ],
)
def test_any_other_name_is_not(host):
    """V18: neither one that begins or ends like it."""
    assert not check_host(host, HOSTS_AND_PATTERN)


@pytest.mark.parametrize(
    ("hosts", "error", "why"),
    [
        ("good.com", TypeError, "must be a collection, not str"),
        (5, TypeError, "must be a collection, not int"),
        ([], ValueError, "nobody could be served"),
        (["https://good.com"], ValueError, "is not a host"),
        (["*.good.com"], ValueError, "is not a host"),
        (["good.com/"], ValueError, "is not a host"),
        ([re.compile(b"x")], TypeError, "must be a str or a compiled pattern"),
        ([b"good.com"], TypeError, "must be a str or a compiled pattern"),
    ],
)
def test_a_host_that_could_never_match_is_the_caller_s_fault(hosts, error, why):
    with pytest.raises(error, match=why):
        check_hosts_argument(hosts)

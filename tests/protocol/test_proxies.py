"""Proxies: what one is, which one is taken, and what its answers mean."""

from __future__ import annotations

import ssl
from urllib.request import proxy_bypass_environment

import pytest

from anyws._errors import ProxyError
from anyws._protocol import proxies
from anyws._protocol.http import Headers
from anyws._protocol.proxies import (
    ConnectAnswer,
    Proxy,
    as_proxy,
    check_headers,
    check_reachable,
    choose_proxy,
    refused_by_socks,
)
from anyws._protocol.url import parse_url

TARGET = parse_url("wss://example.com/chat?token=hunter3")
PROXY = Proxy("http://me:hunter2@proxy.test:3128")


# --- What one is ---


@pytest.mark.parametrize(
    ("url", "safe", "protocol", "secure", "resolves"),
    [
        ("http://p.test", "http://p.test:80", "http", False, True),
        ("http://p.test:3128/", "http://p.test:3128", "http", False, True),
        ("HTTPS://P.test", "https://p.test:443", "http", True, True),
        ("socks4://p.test", "socks4://p.test:1080", "socks4", False, False),
        ("socks4a://p.test", "socks4a://p.test:1080", "socks4", False, True),
        ("socks5://p.test", "socks5://p.test:1080", "socks5", False, False),
        ("socks5h://p.test:9050", "socks5h://p.test:9050", "socks5", False, True),
        ("socks5h+tls://p.test", "socks5h+tls://p.test:1080", "socks5", True, True),
        ("http://[::1]:3128", "http://[::1]:3128", "http", False, True),
        ("http://[fe80::1%25eth0]:1", "http://[fe80::1]:1", "http", False, True),
    ],
)
def test_a_proxy_is_what_its_url_says(url, safe, protocol, secure, resolves):
    proxy = Proxy(url)
    assert proxy.safe == safe
    assert (proxy.kind.protocol, proxy.kind.secure, proxy.kind.resolves) == (
        protocol,
        secure,
        resolves,
    )
    assert (proxy.username, proxy.password) == (None, None)


@pytest.mark.parametrize(
    ("scheme", "without"),
    [("http", "http"), ("https", "http"), ("socks5h", "socks5h"), ("socks4+tls", "socks4")],
)
def test_a_proxy_knows_its_scheme_without_tls(scheme, without):
    assert Proxy(f"{scheme}://p.test").scheme_without_tls == without


def test_user_name_and_password_are_decoded_and_shown_nowhere():
    """V28."""
    proxy = Proxy("http://me%40home:p%3Aw@proxy.test:3128")
    assert (proxy.username, proxy.password) == ("me@home", "p:w")
    assert repr(proxy) == "<Proxy http://proxy.test:3128>"
    assert str(proxy) == repr(proxy)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("proxy.test:3128", "must begin with one of http://, https://, socks4://"),
        ("ftp://me:hunter2@proxy.test", "not 'ftp'"),
        ("http://", "names no host"),
        ("http://me:hunter2@", "names no host"),
        ("http://me:hunter2@proxy.test/path", "neither path nor query"),
        ("http://me:hunter2@proxy.test?q", "neither path nor query"),
        ("http://me:hunter2@proxy.test:0", "the port"),
        ("http://me:hunter2@pro xy.test", "not a domain name"),
        ("http://me:hunter2%0d%0a@proxy.test", "not text that HTTP can carry"),
        ("http://me:hunter2@x@proxy.test", "must be written %40"),
        ("socks4://me:hunter2@proxy.test", "no password"),
        ("socks5://me:hunter2%C3%A9@proxy.test", "ASCII"),
        (f"socks5://me:hunter2{'x' * 255}@proxy.test", "ASCII, 255 bytes at most"),
        ("socks5://hunter2@proxy.test", "a user name with a password, or neither"),
        ("socks5://:hunter2@proxy.test", "a user name with a password, or neither"),
        ("http://:hunter2@proxy.test", "no user name before it"),
        ("hunter2:://@proxy.test", "must begin with one of"),
        ("me:hunter2://x@proxy.test", "must begin with one of"),
    ],
)
def test_what_is_no_proxy_s_url_is_refused_without_showing_its_password(url, words):
    """V28."""
    with pytest.raises(ValueError, match=words) as caught:
        Proxy(url)
    assert "hunter2" not in f"{caught.value!r}"


def test_a_context_for_tls_is_for_proxies_with_tls():
    context = ssl.create_default_context()
    assert Proxy("https://p.test", ssl_context=context).ssl_context is context
    with pytest.raises(ValueError, match="http:// has none"):
        Proxy("http://p.test", ssl_context=context)


def test_what_a_caller_may_give_for_a_proxy():
    assert as_proxy(PROXY) is PROXY
    assert as_proxy("http://p.test").safe == "http://p.test:80"
    assert as_proxy(True) is True
    assert as_proxy(None) is False
    assert as_proxy(False) is False
    with pytest.raises(TypeError, match="not int"):
        as_proxy(3128)
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        Proxy(b"http://p.test")


def test_what_is_for_the_proxy_does_not_go_to_the_server():
    """V28."""
    check_headers(Headers({"Authorization": "x"}))
    with pytest.raises(ValueError, match="into the proxy's URL"):
        check_headers(Headers({"proxy-authorization": "x"}))


# --- Which one is taken ---


def chosen(url: str, **environment: str) -> str | None:
    no_proxy = environment.pop("no", "")

    def is_bypassed(host: str) -> object:
        return proxy_bypass_environment(host, {"no": no_proxy})

    proxy = choose_proxy(parse_url(url), environment, is_bypassed)
    return None if proxy is None else proxy.safe


A, B, C, D = (f"http://{letter}.test:1" for letter in "abcd")


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("wss://x.test/", {}, None),
        ("wss://x.test/", {"https": A}, A),
        ("wss://x.test/", {"http": A}, None),
        ("wss://x.test/", {"all": A}, A),
        ("wss://x.test/", {"all": A, "https": B}, B),
        ("wss://x.test/", {"https": A, "wss": B}, B),
        ("wss://x.test/", {"https": A, "socks": "socks5://b.test:1"}, "socks5://b.test:1"),
        ("wss://x.test/", {"socks": "http://b.test:1"}, "socks5h://b.test:1"),
        ("ws://x.test/", {"https": A}, A),
        ("ws://x.test/", {"http": A}, A),
        ("ws://x.test/", {"http": A, "https": B}, B),
        ("ws://x.test/", {"http": A, "ws": B}, B),
        ("ws://x.test/", {"wss": A}, None),
        ("ws://x.test/", {"all": "socks5h://a.test"}, "socks5h://a.test:1080"),
        ("ws://x.test/", {"http": "a.test:1"}, A),
        ("ws://x.test/", {"http": "a.test:1/"}, A),
        ("ws://x.test/", {"http": "", "all": B}, B),
        ("wss://x.test/", {"https": A, "no": "x.test"}, None),
        ("wss://x.test/", {"https": A, "no": "*"}, None),
        ("wss://y.x.test/", {"https": A, "no": "a.test, .x.test"}, None),
        ("wss://yx.test/", {"https": A, "no": "x.test"}, A),
        ("wss://x.test:444/", {"https": A, "no": "x.test:444"}, None),
        ("wss://x.test:444/", {"https": A, "no": "x.test:443"}, A),
        ("ws://[::1]:81/", {"http": A, "no": "::1"}, None),
        ("ws://[::1]:81/", {"http": A, "no": "[::1]"}, None),
        ("ws://[::2]:81/", {"http": A, "no": "::1"}, A),
        ("ws://127.0.0.1/", {"http": A, "no": "127.0.0.1,localhost"}, None),
    ],
)
def test_the_environment_names_the_proxy(url, environment, expected):
    assert chosen(url, **environment) == expected


@pytest.mark.parametrize("url", ["gopher://me:hunter2@p.test", "me:hunter2://@p.test"])
def test_an_environment_that_names_no_proxy_says_so_and_shows_no_password(url):
    with pytest.raises(ProxyError, match=r"\(https_proxy\) that is none") as caught:
        chosen("wss://x.test/", https=url)
    assert "hunter2" not in str(caught.value)
    assert not caught.value.transient


# --- Answers ---


def answer(data: bytes, chunk: int | None = None) -> bytes | None:
    reader = ConnectAnswer(PROXY, TARGET)
    if chunk is None:
        return reader.receive_data(data)
    given = None
    for start in range(0, len(data), chunk):
        assert given is None
        given = reader.receive_data(data[start : start + chunk])
    return given


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        # Neither means anything here (RFC 9110, section 9.3.6).
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_a_status_of_success_grants_however_it_arrives(head, chunk):
    assert answer(head, chunk) == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "words", "transient"),
    [
        (407, "refuses the credentials that it got: 407 Proxy Authentication Required", False),
        (403, "refused to connect to example.com:443: 403 Forbidden", False),
        (400, "refused to connect", False),
        (302, "refused to connect", False),
        (429, "refused to connect", True),
        (500, "could not connect to example.com:443", True),
        (502, "could not connect to example.com:443: 502 Bad Gateway", True),
        (503, "could not connect", True),
        (504, "could not connect", True),
    ],
)
def test_every_other_status_refuses_and_says_whether_to_try_again(status, words, transient):
    """V28."""
    with pytest.raises(ProxyError, match=words) as caught:
        answer(b"HTTP/1.1 %d X\r\nRetry-After: 5\r\nContent-Length: 99999999\r\n\r\nbody" % status)
    error = caught.value
    assert (error.status, error.transient, error.proxy) == (status, transient, PROXY.safe)
    assert error.response.headers["Retry-After"] == "5"
    assert error.response.body == b""
    assert "hunter" not in f"{error}{error!r}"


def test_a_proxy_that_wants_credentials_and_got_none_is_understood():
    reader = ConnectAnswer(Proxy("http://p.test"), TARGET)
    with pytest.raises(ProxyError, match=r"the proxy http://p\.test:80 asks for some: 407"):
        reader.receive_data(b"HTTP/1.1 407 x\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nX", "sent more than its answer"),
        (b"\x16\x03\x01", "with TLS: does its URL begin with https://"),
        (b"\x05\x00", "with no HTTP"),
        (b"HTTP/2 200\r\n\r\n", "with no HTTP"),
        (b"HTTP/1.1 200 OK\n\n", "CR LF"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20000, "longer than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200, "more than 128 header lines"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "malformed"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17, "does not get to an answer"),
    ],
)
def test_an_answer_that_is_none_is_refused_within_its_bounds(data, words):
    """V28."""
    with pytest.raises(ProxyError, match=words) as caught:
        answer(data)
    assert not caught.value.transient
    assert caught.value.status is None


def test_an_answer_that_is_not_complete_is_waited_for():
    assert answer(b"HTTP/1.1 200 OK\r\n") is None


@pytest.mark.parametrize(
    ("url", "code", "transient"),
    [
        ("socks5://p.test", 1, True),
        ("socks5://p.test", 2, False),
        ("socks5://p.test", 3, True),
        ("socks5://p.test", 4, True),
        ("socks5://p.test", 5, True),
        ("socks5://p.test", 6, True),
        ("socks5://p.test", 7, False),
        ("socks5://p.test", 8, False),
        ("socks5://p.test", None, False),
        ("socks4://p.test", 0x5B, True),
        ("socks4://p.test", 0x5C, False),
        ("socks4://p.test", 0x5D, False),
    ],
)
def test_what_socks_answers_says_whether_to_try_again(url, code, transient):
    error = refused_by_socks(Proxy(url), TARGET, "because", code)
    assert (error.status, error.transient) == (code, transient)
    assert str(error).endswith("did not connect to example.com:443: because")


def test_a_proxy_that_is_not_there_or_leaves_may_be_back():
    gone = proxies.lost(PROXY)
    assert gone.transient
    assert str(gone) == "the proxy http://proxy.test:3128 left without an answer"
    away = proxies.unreachable(PROXY, "Connection refused")
    assert away.transient
    assert str(away).endswith("no way to the proxy http://proxy.test:3128: Connection refused")
    assert not proxies.unreachable(PROXY, "a bad certificate", transient=False).transient


def test_an_answer_that_python_socks_chokes_on_is_the_proxy_s_doing():
    error = proxies.malformed(PROXY)
    assert str(error) == "the answer of the proxy http://proxy.test:3128 is malformed"
    assert (error.proxy, error.transient) == (PROXY.safe, False)


def test_bytes_that_nobody_asked_for_are_refused():
    error = proxies.spoke_early(PROXY)
    assert not error.transient
    assert "sent more than its answer" in str(error)


def test_socks4_has_no_words_for_ipv6():
    check_reachable(Proxy("socks4://p.test"), TARGET)
    check_reachable(Proxy("socks5://p.test"), parse_url("ws://[::1]/"))
    with pytest.raises(ProxyError, match="SOCKS4 knows no IPv6"):
        check_reachable(Proxy("socks4a://p.test"), parse_url("ws://[::1]/"))

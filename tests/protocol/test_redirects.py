"""Redirects: where one leads, and what of the request goes there."""

from __future__ import annotations

import pytest

from anyws._errors import HandshakeRejected, TooManyRedirects
from anyws._protocol.http import Headers, Redirect, Response
from anyws._protocol.redirects import Course, is_redirect, redirected, without_credentials
from anyws._protocol.url import parse_url

SECRETS = [
    ("Authorization", "Bearer a"),
    ("X-Trace", "1"),
    ("Cookie", "a=1"),
    ("COOKIE", "b=2"),
    ("authorization", "Bearer b"),
    ("Proxy-Authorization", "Basic c"),
    ("proxy-authorization", "Basic d"),
    ("Cookie2", "$Version=1"),
    ("Accept-Language", "en"),
]
HARMLESS = (("X-Trace", "1"), ("Accept-Language", "en"))


def refusal(location: str | None = None, status: int = 302) -> HandshakeRejected:
    headers = [] if location is None else [("Location", location)]
    return HandshakeRejected(Response(status, Headers(headers)))


def led(start: str, location: str) -> str:
    return redirected(parse_url(start), refusal(location).response).bare


@pytest.mark.parametrize(
    ("start", "location", "end"),
    [
        # as it is
        ("ws://a.test/x", "ws://b.test/y", "ws://b.test/y"),
        ("wss://a.test/x", "wss://b.test:444/y?z=1", "wss://b.test:444/y?z=1"),
        ("ws://a.test/x", "WSS://B.test/", "wss://b.test/"),
        # as HTTP says it
        ("ws://a.test/x", "http://b.test/y", "ws://b.test/y"),
        ("ws://a.test/x", "https://b.test/y", "wss://b.test/y"),
        ("wss://a.test/x", "HTTPS://b.test/y", "wss://b.test/y"),
        # to be completed
        ("ws://a.test:81/x/y?z", "/w", "ws://a.test:81/w"),
        ("wss://a.test/x/y?z", "w", "wss://a.test/x/w"),
        ("wss://a.test/x/y?z", "../w", "wss://a.test/w"),
        ("wss://a.test/x/y?z", "?w", "wss://a.test/x/y?w"),
        ("wss://a.test/x", "//b.test/w", "wss://b.test/w"),
        ("ws://[::1]:81/x", "/w", "ws://[::1]:81/w"),
        # with what means nothing here
        ("ws://a.test/x", "/y#part", "ws://a.test/y"),
        ("ws://a.test/x", "https://u:p@b.test/", "wss://b.test/"),
        # in characters that a URL has not
        ("ws://a.test/x", "/a b", "ws://a.test/a%20b"),
        ("ws://a.test/x", "/\xc3\xa9", "ws://a.test/%C3%A9"),
    ],
)
def test_a_redirect_leads_where_its_location_says(start, location, end):
    """V26."""
    assert led(start, location) == end


@pytest.mark.parametrize(
    ("start", "location", "words"),
    [
        ("wss://a.test/", "ws://a.test/", "TLS is not given up"),
        ("wss://a.test/", "http://a.test/", "TLS is not given up"),
        ("wss://a.test/", "ws://b.test/", "TLS is not given up"),
        ("ws://a.test/", "file:///etc/passwd", "'file'"),
        ("ws://a.test/", "javascript:alert(1)", "'javascript' is no scheme"),
        ("ws://a.test/", "ftp://b.test/", "'ftp'"),
        ("ws://a.test/", "ws://", "names no host"),
        ("ws://a.test/", "ws://b c.test/", "not a domain name"),
        ("ws://a.test/", "ws://[::1/", "leads nowhere"),
        ("ws://a.test/", "ws://b.test:0/", "the port"),
        ("ws://a.test/", "ws://b.test:99999/", "the port"),
        ("ws://a.test/", "", "no Location of use"),
        ("ws://a.test/", "/" + "x" * 9000, "no Location of use"),
        ("ws://a.test/", None, "has no Location"),
    ],
)
def test_a_redirect_that_leads_nowhere_is_a_refusal_which_says_why(start, location, words):
    """V26."""
    with pytest.raises(HandshakeRejected, match="302 Found") as caught:
        redirected(parse_url(start), refusal(location).response)
    assert words in str(caught.value)
    assert caught.value.response.status == 302


def test_a_redirect_with_two_locations_is_not_followed():
    response = Response(302, Headers([("Location", "/a"), ("location", "/b")]))
    with pytest.raises(HandshakeRejected, match="no Location of use"):
        redirected(parse_url("ws://a.test/"), response)


def test_a_password_in_a_location_is_shown_nowhere():
    with pytest.raises(HandshakeRejected) as caught:
        redirected(parse_url("ws://a.test/"), refusal("gopher://u:hunter2@b.test/").response)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("status", range(300, 310))
def test_five_statuses_are_redirects(status):
    assert is_redirect(Response(status)) is (status in {301, 302, 303, 307, 308})


@pytest.mark.parametrize(
    ("start", "location", "is_same"),
    [
        ("ws://a.test/x", "/y", True),
        ("ws://a.test/x", "ws://A.test:80/y", True),
        ("ws://a.test/x", "http://a.test/y", True),
        ("wss://a.test/x", "https://a.test:443/y", True),
        ("wss://a.test/x", "//a.test/y", True),
        ("ws://a.test/x", "ws://b.test/x", False),
        ("ws://a.test/x", "ws://a.test.b.test/x", False),
        ("ws://a.test/x", "ws://b.a.test/x", False),
        ("ws://a.test/x", "ws://a.test./x", False),
        ("ws://a.test/x", "ws://a.test:81/x", False),
        ("ws://a.test/x", "wss://a.test/x", False),
        ("ws://a.test:443/x", "wss://a.test/x", False),
        ("ws://a.test/x", "ws://a.test@b.test/x", False),
        ("ws://a.test/x", "ws://user:password@a.test:81/x", False),
        ("ws://[::1]/x", "ws://[0:0:0:0:0:0:0:1]:80/x", True),
        ("ws://[fe80::1%25eth0]/x", "/y", True),
    ],
)
def test_credentials_stay_within_their_origin(start, location, is_same):
    """V26: all occurrences, any case; the URL's user information too."""
    url = parse_url(start.replace("://", "://me:secret@"))
    course = Course(url, SECRETS, 1)
    course.follow(refusal(location))
    if is_same:
        assert course.headers.raw == tuple(SECRETS)
        assert (course.url.username, course.url.password) == ("me", "secret")
        assert course.url.host == url.host
    else:
        assert course.headers.raw == HARMLESS
        assert (course.url.username, course.url.password) == (None, None)


def test_credentials_do_not_come_back_with_a_redirect_that_leads_back():
    course = Course(parse_url("ws://me:secret@a.test/"), SECRETS, 2)
    course.follow(refusal("ws://b.test/"))
    course.follow(refusal("ws://a.test/delete-everything"))
    assert course.url.bare == "ws://a.test/delete-everything"
    assert course.headers.raw == HARMLESS
    assert course.url.username is None


def test_what_a_location_says_of_a_user_is_made_up_and_goes_nowhere():
    for location in ("ws://admin:made@a.test/", "ws://admin:made@b.test/"):
        url = redirected(parse_url("ws://a.test/"), refusal(location).response)
        assert url.username is None
        assert url.password is None


def test_without_credentials_nothing_else_is_lost():
    assert without_credentials(Headers(SECRETS)).raw == HARMLESS


def test_a_course_knows_how_it_came_where_it_is():
    course = Course(parse_url("ws://me:secret@a.test/x?q=1"), None, 3)
    course.follow(refusal("/y", 301))
    course.follow(refusal("https://b.test/z?r=2", 308))
    response = course.arrived(Response(101))
    assert [(r.response.status, r.url, r.location) for r in response.redirects] == [
        (301, "ws://a.test/x?q=1", "ws://a.test/y"),
        (308, "ws://a.test/y", "wss://b.test/z?r=2"),
    ]
    assert repr(response.redirects[0]) == "<Redirect 301 from ws://a.test/x to ws://a.test/y>"
    assert isinstance(response.redirects[0], Redirect)


def test_a_course_without_redirects_leaves_the_answer_as_it_is():
    response = Response(101)
    assert Course(parse_url("ws://a.test/"), None, 3).arrived(response) is response


def test_redirects_are_followed_up_to_their_bound():
    """V26."""
    course = Course(parse_url("ws://a.test/0"), None, 3)
    for number in (1, 2, 3):
        course.follow(refusal(f"/{number}"))
    with pytest.raises(TooManyRedirects, match="once more after 3 redirects") as caught:
        course.follow(refusal("/4"))
    assert caught.value.response.status == 302
    assert len(caught.value.response.redirects) == 3
    assert course.url.target == "/3"


def test_one_redirect_is_spoken_of_in_the_singular():
    course = Course(parse_url("ws://a.test/0"), None, 1)
    course.follow(refusal("/1"))
    with pytest.raises(TooManyRedirects, match="once more after one redirect: 302 Found"):
        course.follow(refusal("/2"))


@pytest.mark.parametrize(
    ("max_redirects", "why"),
    [(0, "as Config.max_redirects is 0"), (None, "the stream leads to one server")],
)
def test_redirects_that_are_off_are_refusals_that_say_so(max_redirects, why):
    course = Course(parse_url("ws://a.test/"), None, max_redirects)
    refused = refusal("/y")
    assert not course.is_over_with(refused.response)
    with pytest.raises(HandshakeRejected, match=f"302 Found; redirects are not .*{why}") as caught:
        course.follow(refused)
    assert caught.value.response is refused.response


@pytest.mark.parametrize("max_redirects", [0, None, 1])
def test_another_refusal_says_nothing_of_redirects(max_redirects):
    course = Course(parse_url("ws://a.test/"), None, max_redirects)
    with pytest.raises(HandshakeRejected) as caught:
        course.follow(refusal(None, 403))
    assert str(caught.value) == "the server refused the WebSocket: 403 Forbidden"


def test_what_is_no_redirect_is_a_refusal_that_knows_how_it_was_come_by():
    course = Course(parse_url("ws://a.test/"), None, 2)
    course.follow(refusal("/y"))
    with pytest.raises(HandshakeRejected) as caught:
        course.follow(refusal(None, 403))
    assert caught.value.response.status == 403
    assert [redirect.location for redirect in caught.value.response.redirects] == ["ws://a.test/y"]

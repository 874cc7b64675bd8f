"""What requests, responses and headers hold beside what was on the wire."""

from __future__ import annotations

import pytest

from anyws._protocol.http import Headers, Redirect, Request, Response
from anyws._protocol.notes import call_on_end, note_path_parameters


def request() -> Request:
    return Request("GET", "/rooms/red?token=secret", Headers([("Host", "example.com")]))


def test_of_a_request_nothing_is_noted_at_first():
    one = request()
    assert (dict(one.path_parameters), one.user) == ({}, None)
    assert one.state == {}


def test_hooks_leave_notes_for_one_another_and_the_user_is_among_them():
    one = request()
    one.state["user"] = "ada"
    one.state["seen"] = 3
    note_path_parameters(one, {"room": "red"})
    assert one.user == "ada"
    assert one.state == {"user": "ada", "seen": 3}
    assert dict(one.path_parameters) == {"room": "red"}


def test_what_is_to_be_called_at_the_end_is_called_then():
    one, called = request(), []
    one.on_end(lambda: called.append(1))
    assert called == []
    call_on_end(one)
    assert called == [1]


def test_what_cannot_be_called_at_the_end_is_refused():
    async def later() -> None:
        raise AssertionError("never called")

    with pytest.raises(TypeError, match="callback must be a function, not str"):
        request().on_end("close")
    with pytest.raises(TypeError, match="callback must not be async: nobody waits for it"):
        request().on_end(later)


def test_headers_that_were_checked_can_be_looked_up_and_compared_like_others():
    lines = [("Host", "a"), ("X-One", "1"), ("x-one", "2")]
    headers = Headers.of_checked(lines)
    assert headers == Headers(lines)
    assert headers["X-ONE"] == "1, 2"


def test_a_redirect_is_described_without_what_follows_a_question_mark():
    redirect = Redirect(
        response=Response(302, Headers([("Location", "/b?token=secret")])),
        url="ws://example.com/a?token=secret",
        location="ws://example.com/b?token=secret",
    )
    assert repr(redirect) == "<Redirect 302 from ws://example.com/a to ws://example.com/b>"

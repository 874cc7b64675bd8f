"""What a server notes about a request, and what it calls when it is done with the client."""

from __future__ import annotations

import logging

import pytest

from anyws._protocol.http import Headers, Request
from anyws._protocol.notes import call_on_end, note_path_parameters


def request() -> Request:
    return Request("GET", "/rooms/red", Headers([("Host", "example.com")]))


def test_what_a_path_stands_for_is_told_and_cannot_be_changed():
    one = request()
    note_path_parameters(one, {})
    assert dict(one.path_parameters) == {}
    given = {"room": "red"}
    note_path_parameters(one, given)
    given["room"] = "blue"
    assert dict(one.path_parameters) == {"room": "red"}
    with pytest.raises(TypeError):
        one.path_parameters["room"] = "green"


def test_notes_are_no_part_of_what_a_request_is():
    one, other = request(), request()
    one.state["user"] = "ada"
    assert one == other
    assert (one.user, other.user) == ("ada", None)
    assert "ada" not in repr(one)


def test_callbacks_are_called_once_and_the_latest_first():
    one, called = request(), []
    for number in range(3):
        one.on_end(lambda number=number: called.append(number))
    call_on_end(None)  # there was no request
    assert called == []
    call_on_end(one)
    call_on_end(one)
    assert called == [2, 1, 0]


def test_a_callback_that_comes_too_late_is_called_at_once():
    one, called = request(), []
    call_on_end(one)
    one.on_end(lambda: called.append("late"))
    assert called == ["late"]


def test_a_callback_may_add_another():
    one, called = request(), []
    one.on_end(lambda: one.on_end(lambda: called.append("inner")))
    call_on_end(one)
    assert called == ["inner"]


def test_a_callback_that_fails_is_logged_and_keeps_no_other_from_being_called(caplog):
    one, called = request(), []

    def fail() -> None:
        raise ValueError("no")

    one.on_end(lambda: called.append("first"))
    one.on_end(fail)
    with caplog.at_level(logging.ERROR, "anyws.server"):
        call_on_end(one)
    assert called == ["first"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_what_ends_the_program_does_so_when_all_have_been_called():
    one, called = request(), []

    def leave() -> None:
        raise SystemExit(3)

    one.on_end(lambda: called.append("first"))
    one.on_end(leave)
    with pytest.raises(SystemExit):
        call_on_end(one)
    assert called == ["first"]

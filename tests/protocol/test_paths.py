"""Which of a server's paths a request asks for."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyws._protocol.paths import PathTable, Pattern, split_path


def found(patterns: list[str], path: str) -> tuple[str, dict[str, str]] | None:
    table = PathTable([(Pattern(pattern), pattern) for pattern in patterns])
    return table.find(split_path(path))


# --- What a path means ---


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", ("",)),
        ("/chat", ("chat",)),
        ("/chat/", ("chat", "")),
        ("/a//b", ("a", "", "b")),
        ("//", ("", "")),
        ("/a%20b", ("a b",)),
        ("/caf%C3%A9", ("café",)),
        ("/%61", ("a",)),
        ("/a+b", ("a+b",)),
        ("/100%25", ("100%",)),
        ("/%252e%252e", ("%2e%2e",)),
        ("/.well-known/...", (".well-known", "...")),
        ("/a;b=c:d@e", ("a;b=c:d@e",)),
    ],
)
def test_a_path_is_cut_first_and_decoded_then(path, segments):
    assert split_path(path) == segments


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "does not begin with a slash"),
        ("*", "does not begin with a slash"),
        ("chat", "does not begin with a slash"),
        ("/.", "dot segment"),
        ("/..", "dot segment"),
        ("/a/../b", "dot segment"),
        ("/a/./b", "dot segment"),
        ("/%2e%2E/b", "dot segment"),
        ("/.%2e", "dot segment"),
        ("/a%2Fb", "encoded slash"),
        ("/a%2fb", "encoded slash"),
        ("/..%5c..", "encoded slash"),
        ("/..\\..", "backslash"),
        ("/a\\b%20c", "backslash"),
        ("/a%", "not followed by two"),
        ("/a%4", "not followed by two"),
        ("/a%zz", "not followed by two"),
        ("/%+1", "not followed by two"),
        ("/%ff", "not UTF-8"),
        ("/%c0%ae%c0%ae", "not UTF-8"),
        ("/%ed%a0%80", "not UTF-8"),
        ("/a%00", "control character"),
        ("/a%0d%0aSet-Cookie:x", "control character"),
        ("/a%7f", "control character"),
        ("/%c2%85", "control character"),
    ],
)
def test_what_others_may_read_otherwise_is_refused(path, why):
    """V18: never half understood."""
    with pytest.raises(ValueError, match=why):
        split_path(path)


@given(st.text("/.%25eEfFcC0aA~\\", max_size=30))
def test_any_path_is_refused_or_has_no_dots_slashes_and_controls_in_its_segments(text):
    try:
        segments = split_path("/" + text)
    except ValueError:
        return
    for segment in segments:
        assert "/" not in segment
        assert "\\" not in segment
        assert segment not in {".", ".."}
        assert segment.isprintable() or not segment.isascii()


# --- Patterns ---


@pytest.mark.parametrize(
    ("path", "pattern", "names"),
    [
        ("/", "/", {}),
        ("/chat", "/chat", {}),
        ("/rooms/new", "/rooms/new", {}),
        ("/rooms/tea", "/rooms/{room}", {"room": "tea"}),
        ("/rooms/t%20e%20a", "/rooms/{room}", {"room": "t e a"}),
        ("/rooms/tea/log", "/rooms/{room}/log", {"room": "tea"}),
        ("/a/b/c/d", "/a/{x}/c/{y}", {"x": "b", "y": "d"}),
        ("/files/", "/files/{path...}", {"path": ""}),
        ("/files/a/b%20c/", "/files/{path...}", {"path": "a/b c/"}),
        ("/caf%C3%A9", "/café", {}),
    ],
)
def test_a_path_is_found_with_what_its_names_stand_for(path, pattern, names):
    patterns = ["/rooms/{room}", "/rooms/new", "/rooms/{room}/log", "/", "/chat", "/café"]
    patterns += ["/files/{path...}", "/a/{x}/c/{y}"]
    assert found(patterns, path) == (pattern, names)


@pytest.mark.parametrize(
    "path",
    [
        "/chat/",
        "//chat",
        "/Chat",
        "/rooms",
        "/rooms/",
        "/rooms//log",
        "/rooms/tea/",
        "/files",
        "/x",
    ],
)
def test_a_slash_more_and_another_case_are_another_path(path):
    patterns = ["/chat", "/rooms/{room}", "/rooms/{room}/log", "/files/{path...}"]
    assert found(patterns, path) is None


def test_among_patterns_the_first_that_fits_wins_and_what_has_no_name_wins_over_all():
    patterns = ["/{rest...}", "/a/{x}", "/{x}/b", "/a/c"]
    assert found(patterns, "/a/c") == ("/a/c", {})
    assert found(patterns, "/a/b") == ("/{rest...}", {"rest": "a/b"})
    assert found(patterns[1:], "/a/b") == ("/a/{x}", {"x": "b"})
    assert found(patterns[2:], "/a/b") == ("/{x}/b", {"x": "a"})


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "does not begin with a slash"),
        ("chat", "does not begin with a slash"),
        ("/{}", "is not a name in braces"),
        ("/{a b}", "is not a name in braces"),
        ("/{1}", "is not a name in braces"),
        ("/{...}", "is not a name in braces"),
        ("/x{a}", "a name takes a whole segment"),
        ("/{a}{b}", "a name takes a whole segment"),
        ("/a}", "a name takes a whole segment"),
        ("/{a}/{a}", "has the name a twice"),
        ("/{a}/{a...}", "has the name a twice"),
        ("/{a...}/b", "nothing can follow"),
        ("/a%20b", "write it decoded"),
        ("/a?b", "a path has no query"),
        ("/a#b", "a path has no fragment"),
        ("/a\\b", "no path has a backslash"),
        ("/a/../b", "a segment that no path has"),
        ("/a\n", "a segment that no path has"),
    ],
)
def test_a_pattern_that_could_match_nothing_is_the_caller_s_fault(pattern, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        Pattern(pattern)


def test_a_pattern_is_a_str():
    with pytest.raises(TypeError, match="a path must be a str, not bytes"):
        Pattern(b"/")


@pytest.mark.parametrize(("one", "other"), [("/a", "/a"), ("/{a}", "/{b}"), ("/{a...}", "/{b...}")])
def test_two_patterns_for_the_same_paths_are_the_caller_s_fault(one, other):
    with pytest.raises(ValueError, match="are the same paths"):
        PathTable([(Pattern("/x"), 0), (Pattern(one), 1), (Pattern(other), 2)])


SEGMENT = st.text(min_size=1).filter(
    lambda text: text not in {".", ".."} and not re.search(r"[/\\\x00-\x1f\x7f-\x9f]", text)
)


@given(st.lists(SEGMENT, min_size=1))
def test_whatever_can_be_in_a_path_comes_out_of_it(segments):
    try:
        path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    except UnicodeEncodeError:
        return  # a lone surrogate, which no URL has
    assert split_path(path) == tuple(segments)
    everything = Pattern("/{rest...}")
    assert everything.match(split_path(path)) == {"rest": "/".join(segments)}

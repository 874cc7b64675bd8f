"""Which of a server's paths a request asks for.

What a path means is decided once, here, and on the side of caution: a proxy in front of a server may
have decided otherwise, and what it lets pass by its reading must not be another thing by ours.

* A path is cut at its slashes first, and each segment decoded then (RFC 3986, section 2.4): a slash
  that was sent as ``%2F`` separates nothing. Since others disagree, it is refused; and so is a
  backslash, encoded or not, which others take for a slash and no URL may have as it is.
* Segments are UTF-8. A ``%`` that begins no encoding, bytes that are no UTF-8, and control
  characters are refused.
* ``.`` and ``..``, encoded or not, are refused. Clients take them out of a URL before they ask
  (RFC 3986, section 5.2.4); who has not done so means something else.
* Everything else counts as it stands: ``/chat/`` is not ``/chat``, ``/a//b`` not ``/a/b``, and
  ``/Chat`` not ``/chat``. A WebSocket's client follows no redirect that could tell it otherwise.

A pattern is a path, written decoded, in which ``{name}`` stands for any segment that is not empty,
and at its end ``{name...}`` for all that is left. A path without a name in it wins over patterns;
among those, the first that fits.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from .fields import excerpt

__all__ = ["PathTable", "Pattern", "split_path"]

T = TypeVar("T")

_CONTROL_RE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BROKEN_RE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASHES_RE: Final = re.compile(r"\\|%(?:2[Ff]|5[Cc])")
_NAME_RE: Final = re.compile(r"\{([^{}.]*)(\.\.\.)?\}")
_DOTS: Final = frozenset({".", ".."})


def split_path(raw_path: str) -> tuple[str, ...]:
    """Return the segments of a path as it was sent, decoded; ``/`` has one, which is empty.

    Raises `ValueError`, which says what is wrong: the peer's doing.
    """
    if not raw_path.startswith("/"):
        raise ValueError("it does not begin with a slash")
    return tuple([_decoded(segment) for segment in raw_path[1:].split("/")])


def _decoded(segment: str) -> str:
    if _SLASHES_RE.search(segment):
        raise ValueError("it has an encoded slash, or a backslash")
    if "%" in segment:
        if _BROKEN_RE.search(segment):
            raise ValueError("it has a % that is not followed by two hexadecimal digits")
        try:
            segment = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
    if segment in _DOTS:
        raise ValueError("it has a dot segment")
    if _CONTROL_RE.search(segment):
        raise ValueError("it has a control character")
    return segment


class Pattern:
    """A path, with names in it or without.

    Raises `ValueError` and `TypeError` for what could match no path, or not as it is meant.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a path must be a str, not {type(text).__name__}")
        if not text.startswith("/"):
            raise ValueError(f"{excerpt(text)} is no path: it does not begin with a slash")
        self.text = text
        self.rest: str | None = None  # the name for all that is left
        # What a segment is; None where it has a name, which is in `_names`.
        segments: list[str | None] = []
        names: list[str] = []
        for part in text[1:].split("/"):
            if self.rest is not None:
                raise ValueError(f"{excerpt(text)}: nothing can follow {{{self.rest}...}}")
            name = self._name(part)
            if name is None:
                segments.append(part)
                continue
            if name[0] in names:
                raise ValueError(f"{excerpt(text)} has the name {name[0]} twice")
            names.append(name[0])
            if name[1]:
                self.rest = names.pop()
            else:
                segments.append(None)
        self.segments: tuple[str | None, ...] = tuple(segments)
        self._names = tuple(names)

    def _name(self, part: str) -> tuple[str, bool] | None:
        """Return the name that a segment consists of, and whether it takes the rest."""
        match = _NAME_RE.fullmatch(part)
        if match is not None:
            if not match[1].isidentifier():
                raise ValueError(f"{excerpt(self.text)}: {part} is not a name in braces")
            return match[1], match[2] is not None
        for wrong, why in (
            ("{", "a name takes a whole segment"),
            ("}", "a name takes a whole segment"),
            ("%", "write it decoded"),
            ("?", "a path has no query"),
            ("#", "a path has no fragment"),
            ("\\", "no path has a backslash"),
        ):
            if wrong in part:
                raise ValueError(f"{excerpt(self.text)} has a {wrong}: {why}")
        if part in _DOTS or _CONTROL_RE.search(part):
            raise ValueError(f"{excerpt(self.text)} has a segment that no path has: {part!r}")
        return None

    @property
    def is_literal(self) -> bool:
        """Whether there is no name in it."""
        return self.rest is None and None not in self.segments

    @property
    def shape(self) -> object:
        """The same for two patterns that match the same paths."""
        return self.segments, self.rest is not None

    def match(self, segments: tuple[str, ...]) -> dict[str, str] | None:
        """Return what the names stand for in a path; ``None`` where it is another one."""
        count = len(self.segments)
        if len(segments) <= count if self.rest is not None else len(segments) != count:
            return None
        values = []
        for ours, theirs in zip(self.segments, segments, strict=False):
            if ours is None and theirs:
                values.append(theirs)
            elif ours != theirs:
                return None
        found = dict(zip(self._names, values, strict=True))
        if self.rest is not None:
            found[self.rest] = "/".join(segments[count:])
        return found


class PathTable(Generic[T]):
    """Patterns, and what each stands for. Raises `ValueError` where two match the same paths."""

    def __init__(self, entries: list[tuple[Pattern, T]]) -> None:
        self._exact: dict[tuple[str | None, ...], T] = {}
        self._patterns: list[tuple[Pattern, T]] = []
        shapes: dict[object, Pattern] = {}
        for pattern, value in entries:
            known = shapes.setdefault(pattern.shape, pattern)
            if known is not pattern:
                raise ValueError(
                    f"{excerpt(known.text)} and {excerpt(pattern.text)} are the same paths"
                )
            if pattern.is_literal:
                self._exact[pattern.segments] = value
            else:
                self._patterns.append((pattern, value))

    def find(self, segments: tuple[str, ...]) -> tuple[T, dict[str, str]] | None:
        """Return what stands for a path, and what the names in its pattern stand for."""
        if segments in self._exact:
            return self._exact[segments], {}
        for pattern, value in self._patterns:
            names = pattern.match(segments)
            if names is not None:
                return value, names
        return None

"""Which pages and which names a server answers to: the matrix, the same in each face."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from faces.drivers import Paths
from faces.plain import asked, upgrade

import anyws

if TYPE_CHECKING:
    from faces.drivers import ServerFace

pytestmark = pytest.mark.timeout(60)


def greet(ws: Any) -> None:
    ws.send("hello")


WIDER = ["https://friend.com", "https://ported.com:8443", re.compile(r"https://[a-z]+\.many\.com")]
WITH_NULL = ["null"]

# Host, Origin, origins=, status.
ORIGINS: list[tuple[str, str | None, Any, int]] = [
    # No page, or one of the same host.
    ("good.com", None, None, 101),
    ("good.com", "https://good.com", None, 101),
    ("good.com", "http://good.com", None, 101),
    ("good.com", "HTTPS://GOOD.COM", None, 101),
    ("GOOD.com", "https://good.com", None, 101),
    ("good.com:443", "https://good.com", None, 101),
    ("good.com", "https://good.com:443", None, 101),
    ("good.com:8000", "http://good.com:8000", None, 101),
    ("[::1]:8000", "http://[::1]:8000", None, 101),
    ("xn--bcher-kva.example", "https://xn--bcher-kva.example", None, 101),
    # V16: another site.
    ("good.com", "https://evil.com", None, 403),
    ("good.com", "null", None, 403),
    ("good.com", "file://", None, 403),
    ("good.com", "", None, 403),
    # V17: what begins or ends like it.
    ("good.com", "https://good.com.evil.com", None, 403),
    ("good.com", "https://evilgood.com", None, 403),
    ("good.com", "https://sub.good.com", None, 403),
    ("good.com", "https://good.com.", None, 403),
    ("good.com", "https://good.com:evil.com", None, 403),
    ("127.0.0.1", "http://127.0.0.1:evil.com", None, 403),
    ("good.com", "https://good.com:evil", None, 403),
    ("good.com", "https://good.com:8443", None, 403),
    ("good.com:8000", "http://good.com", None, 403),
    ("good.com", "https://good.com/", None, 403),
    ("good.com", "https://good.com@evil.com", None, 403),
    ("good.com", "https://evil.com#good.com", None, 403),
    ("good.com", "https://evil.com https://good.com", None, 403),
    ("good.com", "good.com", None, 403),
    ("good.com", "//good.com", None, 403),
    ("good.com", "ftp://good.com", None, 403),
    ("b\xfccher.example", "https://b\xfccher.example", None, 400),  # no Host of the DNS
    # Wider.
    ("good.com", "https://friend.com", WIDER, 101),
    ("good.com", "https://friend.com:443", WIDER, 101),
    ("good.com", "http://friend.com", WIDER, 403),
    ("good.com", "https://ported.com:8443", WIDER, 101),
    ("good.com", "https://ported.com", WIDER, 403),
    ("good.com", "https://a.many.com", WIDER, 101),
    ("good.com", "https://a.many.com.evil.com", WIDER, 403),
    ("good.com", "https://a.many.com:8443", WIDER, 403),
    ("good.com", "xhttps://a.many.com", WIDER, 403),
    ("good.com", "https://good.com", WIDER, 101),
    ("good.com", "null", WIDER, 403),
    ("good.com", "null", WITH_NULL, 101),
    ("good.com", "https://evil.com", "*", 101),
    ("good.com", "null", "*", 101),
]


@pytest.mark.parametrize(
    "origins", [None, WIDER, WITH_NULL, "*"], ids=["none", "wider", "null", "*"]
)
def test_a_page_is_served_as_its_origin_says(server_face: ServerFace, origins: Any) -> None:
    """R-36. V16, V17."""
    rows = [row for row in ORIGINS if row[2] is origins]
    assert rows
    with server_face.serving(greet, origins=origins) as server:
        for host, origin, _, status in rows:
            lines = () if origin is None else (f"Origin: {origin}",)
            answer = asked(server, upgrade("/", *lines, host=host))
            assert answer.status == status, (host, origin)


def test_several_origins_are_400_also_where_each_is_allowed(server_face: ServerFace) -> None:
    """V16."""
    with server_face.serving(greet, origins="*") as server:
        for second in ("https://good.com", "https://evil.com"):
            request = upgrade("/", "Origin: https://good.com", f"Origin: {second}", host="good.com")
            assert asked(server, request).status == 400


# Values of Host lines, and the status that a request with them gets.
HOSTS: list[tuple[list[str], int]] = [
    (["good.com"], 101),
    (["good.com:8080"], 101),
    (["[::1]"], 101),
    (["127.0.0.1"], 101),
    ([], 400),
    ([""], 400),
    (["good.com", "good.com"], 400),
    (["good.com", "evil.com"], 400),
    (["good.com, evil.com"], 400),
    (["a b"], 400),
    (["a/../b"], 400),
    (["good.com/path"], 400),
    (["good.com?query"], 400),
    (["good.com#"], 400),
    (["a@b"], 400),
    (["user:pass@good.com"], 400),
    (["[::1"], 400),
    (["::1"], 400),
    (["[::1]x"], 400),
    (["[fe80::1%eth0]"], 400),
    (["good.com:"], 400),
    (["good.com:x"], 400),
    (["good.com:0"], 400),
    (["good.com:65536"], 400),
    (["good..com"], 400),
    (["%67ood.com"], 400),
    (["good.com\\evil.com"], 400),
    (["a" * 300], 400),
]


def test_a_malformed_host_is_400_and_asked_about_to_nobody(server_face: ServerFace) -> None:
    """R-29. V18."""
    shown: list[str] = []
    with server_face.serving(greet, on_request=lambda r: shown.append(r.host)) as server:
        for values, status in HOSTS:
            lines = [f"Host: {value}" for value in values]
            assert asked(server, upgrade("/", *lines, host=None)).status == status, values
    assert shown == [values[0] for values, status in HOSTS if status == 101]


@pytest.mark.parametrize(
    "target", ["/", "/chat?x=y", "http://good.com/chat", "http://good.com:80/chat"]
)
def test_the_path_never_comes_from_the_host(server_face: ServerFace, target: str) -> None:
    """V18."""
    seen: list[str] = []
    with server_face.serving(greet, on_request=lambda r: seen.append(r.path)) as server:
        assert asked(server, upgrade(target, host="good.com")).status == 101
        # Another host in the target than in the header is no way to have both.
        for bad in ("http://evil.com/chat", "http://good.com@evil.com/", "http://good.com:81/"):
            assert asked(server, upgrade(bad, host="good.com")).status == 400
    assert set(seen) <= {"/", "/chat"}


def test_a_server_answers_to_the_names_that_it_is_known_by_and_to_no_other(
    server_face: ServerFace,
) -> None:
    """V18: a page that reaches it under a name of its own has an Origin that agrees with it."""
    known = anyws.AllowedHosts(["good.com", "localhost:8000", re.compile(r"[a-z]+\.many\.com")])
    table = Paths({"/": greet})
    with server_face.serving(table, on_request=known) as server:
        for host, status in [
            *(("good.com", 101), ("GOOD.COM:9", 101), ("localhost:8000", 101)),
            *(("a.many.com", 101), ("localhost", 421), ("127.0.0.1", 421)),
            *(("evil.com", 421), ("good.com.evil.com", 421), ("a.many.com.evil.com", 421)),
        ]:
            answer = asked(server, upgrade("/", f"Origin: http://{host}", host=host))
            assert answer.status == status, host
    assert "good.com" in repr(known)

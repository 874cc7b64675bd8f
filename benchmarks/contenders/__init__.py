"""Who takes part: a table, and one module for each library and way of using it.

A module of an asynchronous contender has

* ``serve(mode, started)``: an echo server at a port of the system's choice, which it reports by
  ``started(port)``, until it is cancelled;
* ``connect(target)``: an asynchronous context manager that opens a client connection and yields
  two asynchronous functions, to send a message and to receive one;

and, where callbacks take their place, an ``exchange(connection, job)`` of its own. A blocking
contender has the same without ``async``. A module may have ``share()``, which tells how many
frames went through the lane and through the engine.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..workloads import Workload

__all__ = ["BACKENDS", "BY_NAME", "CONTENDERS", "ROLES", "Contender", "version"]

BACKENDS = ("asyncio", "uvloop", "trio", "blocking")
ROLES = ("server", "client")
Skill = Literal["websocket", "deflate", "tls", "many"]
_ALL = frozenset({"websocket", "deflate", "tls", "many"})


@dataclass(frozen=True)
class Contender:
    """One way to do it.

    distributions:
        What has to be installed, the library first; a bare socket needs nothing.
    modules:
        The module of each backend, in this package.
    skills:
        What it can do, of what workloads need.
    environment:
        Variables that make a variant of it.
    """

    name: str
    distributions: tuple[str, ...]
    modules: Mapping[str, str]
    roles: tuple[str, ...] = ROLES
    skills: frozenset[str] = _ALL
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def bare(self) -> bool:
        """Whether it speaks no WebSocket at all."""
        return "websocket" not in self.skills

    def missing(self, backend: str) -> list[str]:
        """Return which distributions are not installed."""
        backends = () if backend in ("asyncio", "blocking") else (backend,)
        return [name for name in (*self.distributions, *backends) if version(name) is None]

    def takes_part(self, workload: Workload, role: str, backend: str) -> bool:
        return backend in self.modules and role in self.roles and workload.needs <= self.skills


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _on(module: str, *backends: str) -> dict[str, str]:
    return dict.fromkeys(backends, module)


_LOOPS = ("asyncio", "uvloop")
_ANYWS = {
    "distributions": ("anyio-websocket",),
    "modules": _on("anyws", "asyncio", "uvloop", "trio"),
}

CONTENDERS = [
    Contender("anyws", **_ANYWS),
    Contender("anyws-pure", **_ANYWS, environment={"ANYWS_PURE": "1"}),
    Contender("anyws-plain", **_ANYWS, environment={"ANYWS_WITHOUT": "native"}),
    Contender(
        "anyws-blocking",
        ("anyio-websocket",),
        _on("anyws_blocking", "blocking"),
        roles=("client",),
        skills=_ALL - {"many"},
    ),
    Contender("picows-websockets", ("picows",), _on("picows_websockets", *_LOOPS)),
    Contender("picows", ("picows",), _on("picows", *_LOOPS), skills=_ALL - {"deflate"}),
    Contender("aiohttp", ("aiohttp",), _on("aiohttp", *_LOOPS)),
    Contender(
        "websockets",
        ("websockets",),
        {
            **_on("websockets_asyncio", *_LOOPS),
            "trio": "websockets_trio",
            "blocking": "websockets_sync",
        },
    ),
    Contender(
        "trio-websocket",
        ("trio-websocket",),
        _on("trio_websocket", "trio"),
        skills=_ALL - {"deflate"},
    ),
    Contender(
        "websocket-client",
        ("websocket-client",),
        _on("websocket_client", "blocking"),
        roles=("client",),
        skills=_ALL - {"deflate", "many"},
    ),
    Contender(
        "bare-protocol", (), _on("bare_protocol", *_LOOPS), skills=frozenset({"tls", "many"})
    ),
    Contender(
        "bare-stream",
        (),
        {**_on("bare_stream_asyncio", *_LOOPS), "trio": "bare_stream_trio"},
        skills=frozenset({"tls", "many"}),
    ),
    Contender(
        "bare-socket",
        (),
        _on("bare_socket", "blocking"),
        roles=("client",),
        skills=frozenset({"tls"}),
    ),
]
BY_NAME = {contender.name: contender for contender in CONTENDERS}

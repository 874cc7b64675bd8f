"""What the process under test is told: how to serve, where to connect, what to do there."""

from __future__ import annotations

import itertools
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .workloads import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .workloads import ModeName, Workload

__all__ = ["HOST", "Job", "Mode", "Target"]

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Mode:
    """How connections are made: with compression, with TLS, or with neither."""

    name: ModeName
    certificates: Path

    @property
    def compression(self) -> bool:
        return self.name == "deflate"

    @property
    def tls(self) -> bool:
        return self.name == "tls"

    @cached_property
    def server_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificates / "server.pem", self.certificates / "server.key")
        return context

    @cached_property
    def client_context(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        return ssl.create_default_context(cafile=self.certificates / "authority.pem")


@dataclass(frozen=True)
class Target:
    """Where a client connects to. `size`, of the messages, is for bare connections alone."""

    port: int
    mode: Mode
    size: int

    @property
    def url(self) -> str:
        return f"{'wss' if self.mode.tls else 'ws'}://{HOST}:{self.port}/"


@dataclass(frozen=True)
class Job:
    """What a client is to do: `repeat` windows on each connection, or as many connections."""

    workload: Workload
    target: Target
    repeat: int

    @classmethod
    def from_line(cls, line: dict[str, Any], certificates: Path) -> Job:
        workload = BY_NAME[line["workload"]]
        target = Target(line["port"], Mode(workload.mode, certificates), workload.size)
        return cls(workload, target, line["repeat"])

    def messages(self) -> Iterator[Any]:
        """Yield the messages without end: str where the workload's are text."""
        payloads = self.workload.messages
        return itertools.cycle(
            [payload.decode() for payload in payloads] if self.workload.is_text else payloads
        )

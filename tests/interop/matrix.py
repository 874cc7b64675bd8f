"""The rows and columns of the matrix, which cases a row has, and how it is printed.

A cell is the number of cases that passed, of those that there are: by the table, not by what ran.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from .cases import ENDS, REFUSALS, THEIR_REFUSALS
from .peers import PEERS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from .peers.base import Peer

COLUMNS = ("asyncio", "uvloop", "trio")


@dataclass(frozen=True)
class Row:
    peer: Peer
    role: str  # the peer's
    tls: bool
    compression: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """What the row is called, cell by cell."""
        name = f"{self.peer.name} {version(self.peer.name)}"
        return name, self.role, *("on" if x else "off" for x in (self.tls, self.compression))

    def __str__(self) -> str:
        words = [self.peer.name, self.role, "tls" if self.tls else "tcp"]
        return "-".join([*words, "deflate"] if self.compression else words)

    @property
    def possible(self) -> bool:
        return not (self.compression and self.peer.no_compression)

    def why_not(self, case: str) -> str | None:
        """Return why there is no such case with this peer, `None` where there is."""
        for (role, start), why in self.peer.impossible.items():
            if role in ("", self.role) and case.startswith(start):
                return why
        return None

    @property
    def names(self) -> list[str]:
        """The cases of this row."""
        if not self.possible:
            return []
        refusals = REFUSALS if self.role == "server" else THEIR_REFUSALS
        every = [*(case.name for case in ENDS), *refusals]
        return [name for name in every if self.why_not(name) is None]


ROWS = [
    Row(peer, role, tls, compression)
    for peer, role, compression, tls in itertools.product(
        PEERS, ("client", "server"), (False, True), (False, True)
    )
]


def markdown(passed: Counter[tuple[str, str]], ran: Counter[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of the table; the counters are by row and column."""
    yield f"| peer | it is the | TLS | compression | {' | '.join(COLUMNS)} |"
    yield "|---" * 4 + "|---:" * len(COLUMNS) + "|"
    for row in ROWS:
        cells = list(row.cells)
        for column in COLUMNS:
            key = str(row), column
            if not row.possible:
                cells.append("not possible")
            elif not ran[key]:
                cells.append("not run")
            else:
                cells.append(f"{passed[key]}/{len(row.names)}")
        yield f"| {' | '.join(cells)} |"


def notes() -> Iterator[str]:
    """Yield what is not possible, and why."""
    for peer in PEERS:
        if peer.no_compression:
            yield f"{peer.name}, compression: {peer.no_compression}"
        for (role, start), why in peer.impossible.items():
            yield f"{' as '.join(filter(None, (peer.name, role)))}, “{start} …”: {why}"

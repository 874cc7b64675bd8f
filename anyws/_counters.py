"""What connections and servers have counted: plain values, no behaviour but adding up."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "Tally", "Totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What went over a connection so far: a snapshot, which does not change.

    messages_received, messages_sent:
        Whole messages; of those sent, the ones that were handed to the network, or put in line for
        it by `broadcast`.
    bytes_received, bytes_sent:
        What was in them, in bytes, before compression and after inflating; also in messages that
        are not at their end yet.
    pings_received, pings_sent:
        Pings, keepalive's included.
    latency:
        Seconds that the latest answered ping took; ``None`` before there was one.
    inbox_messages, inbox_bytes:
        The most messages, and the most bytes of them, that ever waited to be received at once. Near
        ``Config.inbox_size`` and ``Config.max_message_size``, the program is slower than the peer.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    pings_received: int
    pings_sent: int
    latency: float | None
    inbox_messages: int
    inbox_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a server has counted over all its clients, open and gone: a snapshot.

    connections:
        Those that are open.
    accepted:
        All that were ever opened.
    refused:
        Clients that got no WebSocket: refused, gone or too slow.
    turned_away:
        Those among them for whom ``Config.max_connections`` left no room.
    answered:
        Requests beside these that ``on_request`` has answered with a status below 400, as those of
        health checks.
    messages_received, messages_sent, bytes_received, bytes_sent, pings_received, pings_sent:
        The sums of what `Counters` has.
    inbox_messages, inbox_bytes:
        The most that any connection had waiting.
    """

    connections: int = 0
    accepted: int = 0
    refused: int = 0
    turned_away: int = 0
    answered: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    pings_received: int = 0
    pings_sent: int = 0
    inbox_messages: int = 0
    inbox_bytes: int = 0


class Tally:
    """What a server keeps to tell its `Totals`. Not for several threads at once."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.turned_away = 0
        self.answered = 0
        self._sums = [0] * len(_SUMMED)
        self._most = [0] * len(_LARGEST)

    def add(self, counters: Counters) -> None:
        """Take in a connection that has ended."""
        self._sums = [a + b for a, b in zip(self._sums, _all(counters, _SUMMED), strict=True)]
        self._most = [max(pair) for pair in zip(self._most, _all(counters, _LARGEST), strict=True)]

    def totals(self, open_now: list[Counters]) -> Totals:
        """Return the sums, those that are open included."""
        sums = [self._sums, *(_all(one, _SUMMED) for one in open_now)]
        most = [self._most, *(_all(one, _LARGEST) for one in open_now)]
        return Totals(
            connections=len(open_now),
            accepted=self.accepted,
            refused=self.refused,
            turned_away=self.turned_away,
            answered=self.answered,
            **dict(zip(_SUMMED, map(sum, zip(*sums, strict=True)), strict=True)),
            **dict(zip(_LARGEST, map(max, zip(*most, strict=True)), strict=True)),
        )


_SUMMED = (
    *("messages_received", "messages_sent", "bytes_received", "bytes_sent"),
    *("pings_received", "pings_sent"),
)
_LARGEST = ("inbox_messages", "inbox_bytes")


def _all(counters: Counters, names: tuple[str, ...]) -> list[int]:
    return [getattr(counters, name) for name in names]

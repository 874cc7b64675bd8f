"""Pings: those that a program waits for, and those that find out whether the peer is alive.

A policy without a clock or a task of its own: whoever has a timer asks `check` when `deadline` is
reached. Liveness is the time since any byte arrived; a ping is only the question that makes a
living peer send one. Silence of our own making is no silence of the peer's: where nothing was read
because the inbox was full, and where the question waits behind a large write of ours that gets on,
the transport calls `heard` in its place.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from anyio import Event

if TYPE_CHECKING:
    from ._config import Config
    from ._protocol.protocol import Protocol

__all__ = ["Keepalive", "Ping"]

# Enough that nobody answers a ping they have not seen, small enough for one segment.
_PAYLOAD_BYTES = 4
# Pings that nobody waits for any more, behind one that somebody waits for.
_MAX_FORGOTTEN = 64


class Ping:
    """A ping on its way; `answered` is set when its pong came or the connection ended."""

    __slots__ = ("answered", "latency", "sent_at")

    def __init__(self, sent_at: float) -> None:
        self.sent_at: float = sent_at
        self.latency: float | None = None
        self.answered: Event = Event()


class Keepalive:
    def __init__(self, protocol: Protocol, config: Config, now: float) -> None:
        self.latency: float | None = None
        self.pings_sent: int = 0
        self.opened_at: float = now
        self.failure: str | None = None
        self.suspects: bool = False
        self._protocol = protocol
        self._interval = config.ping_interval
        self._timeout = config.ping_timeout
        self._heard_at = now
        self._asked_at: float | None = None  # when the unanswered sign of life was asked for
        self._looked_at = now  # when `check` last had something to do
        self._question: Ping | None = None  # the latest ping of our own
        # In the order in which they were sent. One that nobody waits for stays as None behind one
        # that somebody waits for: its pong answers both.
        self._pings: dict[bytes, Ping | None] = {}
        self._now = now

    def heard(self, now: float) -> None:
        """Take note that bytes arrived, or that none could: see the head of this module."""
        self._now = self._heard_at = now
        self._asked_at = None
        self.suspects = False

    @property
    def deadline(self) -> float:
        """When `check` has something to do next, on the clock of `heard`.

        An answer may bring it nearer, by which no timer is disturbed: so while one is awaited,
        `check` looks after each interval.
        """
        if self._interval is None or not self._protocol.sendable:
            return math.inf
        if self._asked_at is None:
            return self._heard_at + self._interval
        look_at = self._looked_at + self._interval
        return look_at if self._timeout is None else min(look_at, self._asked_at + self._timeout)

    def check(self, now: float) -> None:
        """Do what is due: ask for a sign of life, or suspect the peer when none came.

        Whoever has the timer then reads once more, and has us `judge`.
        """
        if now < self.deadline:
            return
        self._looked_at = now
        if self._asked_at is None or self._timeout is None:
            if self._question is not None:
                self.forget(self._question)
            self._asked_at = now
            self._question = self.ping(now)
        elif now >= self._asked_at + self._timeout:
            self.suspects = True

    def judge(self, now: float) -> None:
        """Set `failure` unless a sign of life has come since `check` began to suspect."""
        self.suspects = False
        if self._asked_at is not None:
            self.failure = (
                f"no sign of life from the peer: nothing arrived for {now - self._heard_at:.3g} s, "
                f"not even an answer to the ping sent {now - self._asked_at:.3g} s ago"
            )

    def ping(self, now: float) -> Ping:
        """Put a ping among the replies of the protocol."""
        payload = os.urandom(_PAYLOAD_BYTES)
        while payload in self._pings:
            payload = os.urandom(_PAYLOAD_BYTES)
        self._protocol.ping(payload)
        self.pings_sent += 1
        self._pings[payload] = ping = Ping(now)
        return ping

    def forget(self, ping: Ping) -> None:
        """Nobody waits for this one any more; its pong may still answer those before it."""
        pings = self._pings
        forgotten = []
        for payload, candidate in pings.items():
            if candidate is ping:
                pings[payload] = candidate = None
            if candidate is None:
                forgotten.append(payload)
        if len(forgotten) > _MAX_FORGOTTEN:
            del pings[forgotten[0]]
        while pings and pings[first := next(iter(pings))] is None:
            del pings[first]

    def receive_pong(self, payload: bytes) -> None:
        """Answer the ping with this payload and, as the peer may, those before it.

        RFC 6455, section 5.5.3: of several pings, the latest may be all that is answered.
        Unsolicited pongs mean nothing.
        """
        if payload not in self._pings:
            return
        for candidate in list(self._pings):
            ping = self._pings.pop(candidate)
            if ping is not None:
                self.latency = ping.latency = self._now - ping.sent_at
                ping.answered.set()
            if candidate == payload:
                return

    def end(self) -> None:
        """Release whoever waits: no pong will come."""
        for ping in self._pings.values():
            if ping is not None:
                ping.answered.set()
        self._pings.clear()

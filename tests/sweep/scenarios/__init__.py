"""What is attacked. Each scenario sets something up, attacks once, and judges what came of it.

It is run again and again, struck one step later each time, until it gets through without a strike.
"""

from . import (
    bodies,
    closing,
    events,
    handshakes,
    programs,
    proxies,
    receiving,
    sending,
    servers,
    watching,
)
from ._registry import BACKENDS, SCENARIOS, Scenario

__all__ = [
    "BACKENDS",
    "SCENARIOS",
    "Scenario",
    "bodies",
    "closing",
    "events",
    "handshakes",
    "programs",
    "proxies",
    "receiving",
    "sending",
    "servers",
    "watching",
]

"""What is attacked. Each scenario sets something up, attacks once, and judges what came of it.

It is run again and again, struck one step later each time, until it gets through without a strike.
"""

from . import (
    admission,
    bodies,
    closing,
    crowds,
    events,
    handshakes,
    programs,
    proxies,
    receiving,
    restarts,
    sending,
    servers,
    watching,
)
from ._registry import BACKENDS, SCENARIOS, Scenario

__all__ = [
    "BACKENDS",
    "SCENARIOS",
    "Scenario",
    "admission",
    "bodies",
    "closing",
    "crowds",
    "events",
    "handshakes",
    "programs",
    "proxies",
    "receiving",
    "restarts",
    "sending",
    "servers",
    "watching",
]

"""WebSocket for programs without an event loop: one thread, or several, and calls that wait.

The names are those of `anyws`, and mean the same; what differs is told where it does. No thread is
started for a client: pings are answered while the program is within a call that waits.
"""

from ._client import open_websocket
from ._fragments import FragmentReceiver, FragmentSender
from ._server import Handler, HandlersLike, OnRequest, OnRequests, Server, open_server, serve
from ._websocket import WebSocket

__all__ = [
    "FragmentReceiver",
    "FragmentSender",
    "Handler",
    "HandlersLike",
    "OnRequest",
    "OnRequests",
    "Server",
    "WebSocket",
    "open_server",
    "open_websocket",
    "serve",
]
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("anyws."):
        globals()[_name].__module__ = "anyws.sync"
del _name

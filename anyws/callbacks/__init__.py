"""WebSocket clients for programs with a main loop of their own: windows, games, scripts.

A `Client` is asked to do things by calls that do not wait, and tells what happens by calling
listeners with events. It speaks `anyws.open_websocket` underneath, on an event loop in a thread
that all clients share; nothing of the protocol is written twice.

**Threads.** ``anyws callbacks``, one, with the event loop: it runs from the first connection to the
last, and no code of the program's ever runs in it, but for `Config.trace`. ``anyws listeners``, one
as a rule: it calls listeners, or `dispatch`, and is there only while there are events; for listeners
that block there are more. Clients that are polled need none. And the program's own, which may call anything.

**Who holds what.** The program holds the `Client`, and that its listeners. The loop holds the `Run`
of an open connection, which knows its client weakly. Between the two stand the `Inbox`, events on
their way to the program, and the run's outbox, messages on their way to the network.

**The way of an event**: the run puts it into the inbox and notifies. For a polled client that wakes
`poll` if it waits. Otherwise the `Delivery` takes its claim and stands in line for a worker, who
calls the listeners of up to 16 events, or `dispatch`, which has that done elsewhere. ::

    _client.py       what a program has of it
    _delivery.py     from the inbox to the listeners, in the background
    _background.py   the thread with the event loop
    _workers.py      the threads that call listeners
    _run.py          one connection, from opening to the last event
    _inbox.py        events that wait
    _events.py       events
"""

from ._client import Client
from ._events import Closed, Event, Failed, Listener, Message, Opened, Pong

__all__ = ["Client", "Closed", "Event", "Failed", "Listener", "Message", "Opened", "Pong"]
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("anyws."):
        globals()[_name].__module__ = "anyws.callbacks"
del _name

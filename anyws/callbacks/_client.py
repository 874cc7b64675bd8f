"""The client, as a program has it: what it is asked, and who its listeners are."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import BusyResourceError, create_task_group
from anyio.lowlevel import current_token

from .._client import open_websocket
from .._close import CloseCode, Role, Status, check_close
from .._config import as_config
from .._connection import _only, split_cancellations
from .._protocol.http import make_headers
from .._protocol.outgoing import as_binary, as_message, as_text
from .._protocol.url import parse_url
from ._background import start
from ._delivery import Delivery, Waker
from ._events import EVENTS, Event
from ._inbox import Inbox
from ._run import LEAVING, Run, not_open, seconds_left

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from .._config import Config
    from .._counters import Counters
    from .._protocol.http import HeadersLike
    from .._protocol.proxies import ProxyLike
    from ._events import Closed, Failed, Listener, ListenersLike
    from ._run import Post

__all__ = ["Client"]

E = TypeVar("E", bound=Event)

# Events that one `poll` delivers at most, so that a peer that never pauses cannot hold a frame up.
_MAX_EVENTS_PER_POLL = 256


class Client:
    """A WebSocket connection that tells what happens to it by calling listeners.

    ::

        def on_event(event):
            match event:
                case Opened():
                    event.client.send_text("hello")
                case Message():
                    print(event.data)
                case Closed() | Failed():
                    print(event)

        client = Client("wss://example.com/feed", on_event)
        client.open()

    **Where listeners are called.** In threads of the library's, unless told otherwise; with
    ``polled``, by `poll` in the thread that calls it; with ``dispatch``, wherever that has them
    called. And with `run` in place of `open`, by the task that awaits it.

    **Events.** `Opened`, then `Message` and `Pong` in the order in which they happened, then
    `Closed`; or nothing but `Failed`. Exactly one of these two comes, whatever happens but the
    cancellation of `run`, and nothing after it. After the program has called `close`, only that one
    comes. The listeners of one client are called one at a time. A slow one holds up its own
    connection and no other: what it leaves waiting is bounded (`Config.inbox_size`), and then the
    peer is held up by TCP. A listener that raises is reported in the log, ``anyws.client``, with its
    traceback, and changes nothing else.

    **Threads.** Every method may be called from any thread, from within listeners too. None waits
    for the network but `poll`, and `send` where it is asked to.

    **The end.** Hold on to it: a client that nobody holds any more is closed with 1001, and a
    `ResourceWarning` says so. What is open at the program's end is closed with 1001 as well.

    :param url: ``ws://`` or ``wss://``
    :param listeners: a function that takes every event; or a mapping from classes of events to
        functions. More may be added with `add_listener`
    :param subprotocols: offered to the server, the preferred first
    :param headers: more headers for the request: a mapping, pairs, or one string of lines with
        CRLF between them
    :param origin: the ``Origin`` header, for servers that ask for one
    :param ssl_context: for ``wss://``; default: certificates are verified, TLS 1.2 at least
    :param proxy: the URL of a proxy, or an `anyws.Proxy`; ``None`` for none. Default: the one that
        the environment names
    :param port: instead of the URL's
    :param config: limits, timeouts, compression and redirects; ``handshake_timeout`` is the time for
        connecting, in seconds
    :param polled: have events wait for `poll`
    :param dispatch: a function that takes a function without arguments and has it called
        elsewhere, once: ``loop.call_soon_threadsafe``, the ``emit`` of a Qt signal. It is called in
        a thread of the library's. While what it was given has not been called, nothing is delivered
    :raises ValueError: an argument is wrong, `InvalidURL` for the URL (the caller's fault)
    """

    def __init__(
        self,
        url: str,
        listeners: ListenersLike | None = None,
        *,
        subprotocols: Sequence[str] = (),
        headers: HeadersLike | None = None,
        origin: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: ProxyLike = True,
        port: int | None = None,
        config: Config | None = None,
        polled: bool = False,
        dispatch: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        if polled and dispatch is not None:
            raise ValueError("events are polled or dispatched, not both")
        self._config = as_config(config)
        make = partial(
            open_websocket,
            url,
            headers=make_headers(headers),
            origin=origin,
            ssl_context=ssl_context,
            proxy=proxy,
            port=port,
            config=self._config,
        )
        # Errors in the arguments are the caller's, and raised where the caller stands.
        make(subprotocols=subprotocols)
        self._make = partial(make, subprotocols=tuple(subprotocols))
        self._url = parse_url(url, port)
        self._polled = polled
        self._dispatch = dispatch
        self._lock = threading.RLock()
        self._listeners: list[tuple[type[Event], Listener]] = []
        self._listeners_by_kind: dict[type[Event], list[Listener]] = {}
        self._run: Run | None = None
        self._inbox = Inbox(weakref.ref(self), self._config)
        # Neither refers to the client, which the library must not keep alive.
        self._waker = Waker(self._inbox)
        self._delivery = None if polled else Delivery(self._inbox)
        self._inbox.notify = (self._delivery or self._waker).ask
        self._poller: int | None = None  # the thread that polls
        self._add_all(listeners)

    def __repr__(self) -> str:
        return f"<anyws.callbacks.Client of {self._url.safe}: {self.status.value}>"

    def __del__(self) -> None:
        # May be called by a garbage collection, in any thread, in the middle of anything: no locks.
        run = getattr(self, "_run", None)
        if run is None or run.ended:
            return
        self._inbox.is_dropped = True
        if run.closing is None:
            warnings.warn(
                f"{self!r} was dropped without being closed",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        run.close(LEAVING)

    # --- Listeners ---

    def _add_all(self, listeners: ListenersLike | None) -> None:
        if isinstance(listeners, Mapping):
            for event, listener in listeners.items():
                self.add_listener(event, listener)
        elif listeners is not None:
            self.add_listener(Event, listeners)

    def add_listener(self, event: type[E], listener: Callable[[E], object]) -> None:
        """Have a function called with every event of a class: `Message`, say, or `Event` for all.

        The listeners for an event are called in the order in which they were added; one that was
        added twice, twice. An event whose delivery has begun stays with those it had.

        :raises TypeError: that is no class of events, or no function (the caller's fault)
        """
        if not _is_kind(event):
            raise TypeError(f"listeners are for classes of events, such as Message, not {event!r}")
        if not callable(listener):
            raise TypeError(f"a listener must be a function, not {type(listener).__qualname__}")
        with self._lock:
            self._set_listeners([*self._listeners, (event, listener)])

    def remove_listener(self, event: type[E], listener: Callable[[E], object]) -> None:
        """Take back one `add_listener`.

        :raises ValueError: it was not added for this class (the caller's fault)
        """
        with self._lock:
            remaining = list(self._listeners)
            try:
                remaining.remove((event, listener))
            except ValueError:
                raise ValueError(f"{listener!r} is no listener for {event!r}") from None
            self._set_listeners(remaining)

    def _set_listeners(self, listeners: list[tuple[type[Event], Listener]]) -> None:
        self._listeners_by_kind = {
            kind: [listener for event, listener in listeners if issubclass(kind, event)]
            for kind in EVENTS
        }
        self._listeners = listeners

    def _listeners_for(self, kind: type[Event]) -> list[Listener]:
        """Return those for an event, the last one first, in a list of the caller's own."""
        return self._listeners_by_kind.get(kind, [])[::-1]

    # --- What it is like ---

    @property
    def status(self) -> Status:
        """Where the connection is in its life: connecting, open, closing or closed.

        It is the connection's, not that of the events, which may come later: when `Closed` or
        `Failed` is delivered it is closed, and `open` may be called again.
        """
        run = self._run
        return Status.CLOSED if run is None else run.status

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self.status is Status.OPEN

    @property
    def pending_bytes(self) -> int:
        """How many bytes of messages wait to be handed to the network."""
        run = self._run
        return 0 if run is None else run.pending_bytes

    @property
    def counters(self) -> Counters | None:
        """What went over the connection so far, also when it is closed; ``None`` before it is open.

        Of the connection, not of the events: those of some messages may come later.
        """
        run = self._run
        return None if run is None or run.websocket is None else run.websocket.counters

    # --- Opening ---

    def open(self) -> None:
        """Begin to open the connection, in the background, and return at once.

        `Opened` or `Failed` tells what became of it, after ``Config.handshake_timeout`` at the
        latest. When the connection has ended, it may be called again, for a new one.

        :raises RuntimeError: the connection has not ended yet, or the interpreter is exiting
        :raises TypeError: a listener is async: that is for `run` alone (the caller's fault)

        Interrupted, by Ctrl-C say, it may have begun all the same: `status` tells.
        """
        with self._lock:
            self._check_closed()
            for _, listener in self._listeners:
                if inspect.iscoroutinefunction(listener):
                    raise TypeError(f"the listener {listener!r} is async: use run(), not open()")
            before, self._run = self._run, self._new_run(self._inbox)
            try:
                # Listeners may be called, and use the client, before this returns.
                start(self._run, self._delivery)
            except BaseException:
                if not self._run.is_taken:
                    self._run = before
                raise

    def _check_closed(self) -> None:
        if (status := self.status) is not Status.CLOSED:
            raise RuntimeError(f"the client is {status.value} already: open it when it is closed")

    def _new_run(self, inbox: Inbox) -> Run:
        return Run(self._make(), self._config, inbox)

    async def run(self) -> Closed | Failed:
        """Open the connection, call listeners until it has ended, and return the last event.

        For programs that are async already, in place of `open`: everything runs in the caller's
        event loop, asyncio's or Trio's. Listeners may be async, and are awaited, one at a time.

        Cancelled, the listener that runs is cancelled, and the connection is closed as
        `anyws.open_websocket` does: with 1001 and a short grace. Then no last event comes.

        :raises RuntimeError: the connection has not ended yet; or events are polled or dispatched,
            which goes with `open` (the caller's fault)
        """
        if self._polled or self._dispatch is not None:
            raise RuntimeError("run() calls listeners itself: polled= and dispatch= are for open()")
        with self._lock:
            self._check_closed()
            # What may still be on its way to listeners from an earlier `open` stays apart.
            inbox = Inbox(weakref.ref(self), self._config)
            self._run = run = self._new_run(inbox)
            run.post = _post_to_current_loop()
        try:
            async with create_task_group() as task_group:
                task_group.start_soon(run.run)
                last = await inbox.serve(self)
        except BaseExceptionGroup as group:
            # A listener's SystemExit, say: tasks of ours raise nothing. A cancellation that Trio has
            # beside it does not get lost: whoever is cancelled stays so.
            _, other = split_cancellations(group)
            raise _only(other if isinstance(other, BaseExceptionGroup) else group) from None
        return last

    # --- Polling ---

    def poll(self, timeout: float | None = 0) -> int:
        """Deliver the events that wait, in this thread, and return how many they were.

        For clients made with ``polled=True``. Call it often, once per frame of a game, say: while
        events are not taken, the peer is held up, at `Config.inbox_size` messages. What comes
        while it delivers is delivered as well, up to a bound.

        :param timeout: seconds to wait for the first event where none is there; ``None`` waits
            until one comes, and returns at once where none can come
        :raises RuntimeError: events are not polled (the caller's fault)
        :raises anyio.BusyResourceError: another thread polls (the caller's fault)

        Called from within a listener, it delivers nothing. Interrupted, by Ctrl-C say, nothing is
        lost: the next call goes on with the next listener.
        """
        if not self._polled:
            raise RuntimeError("poll() is for clients made with polled=True")
        me = threading.get_ident()
        is_polling = False
        try:
            with self._lock:
                if self._poller not in {None, me}:
                    raise BusyResourceError("polling")
                if self._poller == me and self._inbox.is_calling:
                    return 0
                is_polling = True
                self._poller = me
            return self._poll(timeout)
        finally:
            if is_polling:
                self._poller = None

    def _poll(self, timeout: float | None) -> int:
        inbox = self._inbox
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (delivered := inbox.deliver(self, _MAX_EVENTS_PER_POLL)):
            left = seconds_left(deadline)
            if left <= 0 or (timeout is None and self.status is Status.CLOSED and not inbox):
                break
            self._waker.wait(left)
        return delivered

    # --- Sending ---

    def send(
        self, message: str | bytes, *, compress: bool | None = None, timeout: float | None = 0
    ) -> None:
        """Put a message in line to be sent: `str` as text, bytes-like as binary; return at once.

        Messages, and a `close` behind them, go out in the order of the calls. Whether one has
        arrived, only the peer can tell.

        :param compress: ``True`` and ``False`` decide; ``None`` leaves it to `Deflate.threshold`
        :param timeout: seconds to wait where 16 MiB or 65,536 messages wait to be sent already, or
            ``None`` for as long as it takes. Not in the thread of `run`, which would wait for itself
        :raises TimeoutError: there was no room in this time (the peer's fault, or the network's);
            nothing is sent
        :raises ConnectionClosed: the connection is not open: not yet, or not any more
        :raises TypeError: the message is of another type (the caller's fault)
        :raises ValueError: the text has a lone surrogate (the caller's fault)
        """
        self._send(as_message(message), compress, timeout)

    def send_text(
        self,
        data: str | bytes,
        *,
        errors: str = "strict",
        compress: bool | None = None,
        timeout: float | None = 0,
    ) -> None:
        """Put a text message in line to be sent; `bytes` are taken for UTF-8.

        :param errors: what becomes of bytes that are not UTF-8: ``"strict"`` raises
            `ValueError`, ``"replace"`` sends U+FFFD in their place

        Otherwise like `send`.
        """
        self._send(as_text(data, errors), compress, timeout)

    def send_bytes(
        self, data: bytes | str, *, compress: bool | None = None, timeout: float | None = 0
    ) -> None:
        """Put a binary message in line to be sent; a `str` is sent as its UTF-8.

        Otherwise like `send`.
        """
        self._send(as_binary(data), compress, timeout)

    def _send(self, data: str | bytes, compress: bool | None, timeout: float | None) -> None:
        self._live_run().send(data, compress, timeout)

    def ping(self) -> None:
        """Send a ping; `Pong` tells when it was answered, and how long that took.

        While one is on its way, the next ones wait for it. The library's own pings
        (``Config.ping_interval``) tell nothing.

        :raises ConnectionClosed: the connection is not open
        """
        self._live_run().ping()

    def _live_run(self) -> Run:
        if self._run is None:
            raise not_open("the connection is not open: nobody has opened it")
        return self._run

    # --- Closing ---

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin to close the connection, behind what waits to be sent, and return at once.

        `Closed` tells when that is done, and how: after ``Config.close_timeout`` at the latest.
        Other events do not come any more. A connection that is not open yet is given up. Where
        there is none, or it is closing already, this does nothing.

        :param code: 1000 to 1003, 1007 to 1014 or 3000 to 4999
        :param reason: at most 123 bytes of UTF-8
        :raises ValueError: the code or the reason cannot be sent (the caller's fault)
        """
        close = check_close(code, reason, Role.CLIENT)
        if self._run is not None:
            self._run.close(close)


def _post_to_current_loop() -> Post:
    # asyncio's loop, or Trio's token.
    loop: Any = current_token().native_token
    call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def post(call: Callable[[], object]) -> None:
        try:
            call_soon(call)
        except RuntimeError:
            pass  # the loop has ended, and with it everything that lived there

    return post


def _is_kind(event: object) -> bool:
    return isinstance(event, type) and issubclass(event, Event)

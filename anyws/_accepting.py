"""What a server accepts from: its listeners, each with a task of its own until they are stopped."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any, TypeAlias

from anyio import CancelScope, Event, sleep, to_thread
from anyio.abc import SocketListener
from anyio.lowlevel import checkpoint
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSListener

from ._arrivals import Arrivals
from ._transports.sockets import AcceptedStream, accept_sockets, socket_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from anyio.abc import ByteStream, Listener, TaskGroup

    from ._listening import Place
    from ._transports.sockets import Accepted

__all__ = ["Accepting", "listen", "listeners_of"]

_logger = logging.getLogger("anyws.server")

# Seconds until accepting is tried again where the system has run out of something.
_ACCEPT_PAUSE = 0.1


async def listen(place: Place) -> list[Listener[Any]]:
    """Return what listens at each address of each host. Raises OSError."""
    await checkpoint()
    addresses: list[Any] = []
    for host in place.hosts:
        addresses += place.known_addresses_of(host) or await to_thread.run_sync(
            place.addresses_of, host, abandon_on_cancel=True
        )
    return await listeners_of(place.listen(addresses))


async def listeners_of(given: Sequence[Listener[Any] | socket.socket]) -> list[Listener[Any]]:
    """Return them, with a listener for each socket; these are closed where that fails."""
    sockets = [one for one in given if isinstance(one, socket.socket)]
    try:
        for sock in sockets:
            # Where others accept from it as well, a client that was there may be gone.
            sock.setblocking(False)
        listeners = [
            await SocketListener.from_socket(one) if isinstance(one, socket.socket) else one
            for one in given
        ]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return [single for one in listeners for single in _single(one)]


def _single(listener: Listener[Any]) -> Iterator[Listener[Any]]:
    """Yield the listeners that one stands for: a name has several addresses."""
    if isinstance(listener, MultiListener):
        for one in listener.listeners:
            yield from _single(one)
    else:
        yield listener


def _is_passing(error: BaseException) -> bool:
    """Whether accepting may succeed later. A composite listener raises groups."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_passing, error.exceptions))
    return isinstance(error, OSError)


Serve: TypeAlias = "Callable[[Accepted], Coroutine[Any, Any, None]]"


class Accepting:
    """The listeners of a server."""

    def __init__(self) -> None:
        self.listeners: tuple[Listener[Any], ...] = ()
        self.goes_on: bool = True
        self.over: Event = Event()  # every listener is closed
        self._scopes: list[CancelScope] = []

    def begin(
        self,
        listeners: Sequence[Listener[Any]],
        task_group: TaskGroup,
        arrivals: Arrivals,
        serve: Serve,
    ) -> None:
        """Accept from these listeners, and close them in the end.

        serve:
            Called for each client, in a task of its own.
        """
        self.listeners = tuple(listeners)
        if not listeners:
            self.over.set()
        for one in listeners:
            group = arrivals if isinstance(one, TLSListener) else task_group
            scope = CancelScope()
            self._scopes.append(scope)
            task_group.start_soon(
                self._accept_from, one, scope, group, serve, name="anyws listener"
            )

    def stop(self) -> None:
        """Have the listeners closed; `over` tells when they are."""
        self.goes_on = False
        for scope in self._scopes:
            scope.cancel()

    async def _accept_from(
        self, listener: Listener[Any], scope: CancelScope, group: TaskGroup, serve: Serve
    ) -> None:
        try:
            with scope:
                await self._accept_until_cancelled(listener, group, serve)
        finally:
            try:
                with CancelScope(shield=True):
                    await listener.aclose()
            except Exception as error:
                _logger.warning("closing %r failed", listener, exc_info=error)
            self._scopes.remove(scope)
            if not self._scopes:
                self.over.set()

    async def _accept_until_cancelled(
        self, listener: Listener[Any], group: TaskGroup, serve: Serve
    ) -> None:
        while True:
            try:
                await _accept(listener, group, serve)
                _logger.error("%r accepts no more connections", listener)
                return
            except Exception as error:
                if not self.goes_on:
                    return
                if not _is_passing(error):
                    _logger.error("accepting from %r has ended", listener, exc_info=error)
                    return
                # Out of file descriptors or memory, or a connection that was gone before it
                # was accepted: no reason to stop.
                _logger.warning("accepting a connection failed, trying again: %s", error)
                await sleep(_ACCEPT_PAUSE)


async def _accept(listener: Listener[Any], group: TaskGroup, serve: Serve) -> None:
    listening = socket_of(listener)
    if listening is None:

        async def serve_stream(stream: ByteStream) -> None:
            await serve(AcceptedStream(stream))

        # It names the task, for whoever looks at those of a program.
        serve_stream.__qualname__ = serve.__qualname__
        serve_stream.__module__ = serve.__module__
        handler = group.handing_over(serve_stream) if isinstance(group, Arrivals) else serve_stream
        await listener.serve(handler, group)
        return
    while True:
        for accepted in await accept_sockets(listening):
            group.start_soon(serve, accepted)

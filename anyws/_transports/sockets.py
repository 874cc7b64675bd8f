"""Where streams and their transports come from: connecting, accepting, and the choice of a kind.

Sockets are connected and accepted here, the same way on every event loop. What is made of one
depends on the loop: on asyncio's a `Link`, for which the loop also does TLS, on Trio a stream of
AnyIO's, whose socket the transport then uses directly. Anything else that carries bytes is served
by the plain transport.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from anyio import (
    BrokenResourceError,
    ConnectionFailed,
    EndOfStream,
    Event,
    aclose_forcefully,
    create_task_group,
    get_cancelled_exc_class,
    getaddrinfo,
    move_on_after,
    wait_readable,
    wait_writable,
)
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from anyio.streams.tls import TLSStream

from .._config import NATIVE
from .._protocol.fields import tls_name
from .asyncio import AsyncioTransport
from .holding import hold_back
from .link import Link
from .stream import StreamTransport

if TYPE_CHECKING:
    import ssl

    from anyio.abc import ByteStream, Listener

    from .._config import Config
    from .._protocol.protocol import Protocol as WebSocketProtocol
    from .base import Liveness, Transport
    from .trio import DirectSocket

__all__ = [
    "Accepted",
    "AcceptedSocket",
    "AcceptedStream",
    "accept_sockets",
    "connect",
    "connect_plainly",
    "connect_to_first",
    "encrypt",
    "make_transport",
    "socket_of",
]

# RFC 8305, section 5: what an address gets before the next one is tried beside it, in seconds.
_HEAD_START = 0.25
# Sockets accepted before other tasks run.
_MAX_ACCEPTED = 64
_IN_PROGRESS = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}


def _is_asyncio() -> bool:
    return get_cancelled_exc_class() is asyncio.CancelledError


def make_transport(
    stream: ByteStream, protocol: WebSocketProtocol, config: Config, liveness: Liveness
) -> Transport:
    """Return the transport for a stream that the opening handshake is done with."""
    if isinstance(stream, Link):
        return AsyncioTransport(stream, protocol, config, liveness)
    return StreamTransport(stream, protocol, config, liveness, _direct_socket(stream))


def _direct_socket(stream: ByteStream) -> DirectSocket | None:
    """Return the socket of a stream that is nothing but that, on Trio."""
    is_socket = isinstance(stream, SocketStream)
    if not (NATIVE and is_socket and _is_anyios(stream)) or _is_asyncio():
        return None
    from .trio import DirectSocket  # there need be none

    return DirectSocket(stream.extra(SocketAttribute.raw_socket))


def _is_anyios(one: object) -> bool:
    """Whether it is as AnyIO made it, and does nothing that we would pass by."""
    return type(one).__module__.startswith("anyio.")


# --- Connecting ---


async def connect(
    host: str, port: int, ssl_context: ssl.SSLContext | None, name: str
) -> ByteStream:
    """Connect over TCP, and with TLS if there is a context for it.

    name:
        What the server is called where TLS fails because it left.

    Raises OSError, of which `anyio.ConnectionFailed` and `ssl.SSLError` are.
    """
    sock = await connect_to_first(await _addresses_of(host, port), f"{host} port {port}")
    if NATIVE and _is_asyncio():
        try:
            return await Link.make(sock, ssl_context, server_hostname=host)
        except ConnectionError:
            if ssl_context is None:
                raise
            raise ConnectionError(f"{name} left during the TLS handshake") from None
    stream: ByteStream = await _plain_stream(sock)
    if ssl_context is None:
        return stream
    return await encrypt(stream, ssl_context, host, name)


async def connect_plainly(host: str, port: int) -> ByteStream:
    """Connect over TCP, for a stream of AnyIO's on every event loop. Raises OSError."""
    return await _plain_stream(
        await connect_to_first(await _addresses_of(host, port), f"{host} port {port}")
    )


async def encrypt(
    stream: ByteStream,
    ssl_context: ssl.SSLContext,
    host: str,
    name: str,
    *,
    standard_compatible: bool = True,
) -> ByteStream:
    """Return a stream with TLS, as its client, over one that is closed on failure.

    name:
        What the server is called where TLS fails because it left.

    Raises OSError, of which `ssl.SSLError` is.
    """
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls_name(host),
            ssl_context=ssl_context,
            standard_compatible=standard_compatible,
        )
    except (BrokenResourceError, EndOfStream) as error:
        # The latter where the end of TLS need not be told of.
        await aclose_forcefully(stream)
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise ConnectionError(f"{name} left during the TLS handshake") from error
    except BaseException:
        await aclose_forcefully(stream)
        raise


async def _plain_stream(sock: socket.socket) -> ByteStream:
    try:
        stream = await SocketStream.from_socket(sock)
    except BaseException:
        sock.close()
        raise
    hold_back(stream)
    return stream


async def connect_to_first(addresses: list[tuple[int, Any]], place: str) -> socket.socket:
    """Connect to the first of these addresses that answers (RFC 8305, "happy eyeballs").

    addresses:
        Of one host, each with its family, in the order of preference.
    place:
        The host, for an error to name.
    """
    errors: list[OSError] = []
    connected: list[socket.socket] = []

    async def attempt(family: int, address: Any, over: Event) -> None:
        try:
            connected.append(await _connect_to(family, address))
        except OSError as error:
            errors.append(error)
        else:
            task_group.cancel_scope.cancel()
        finally:
            over.set()

    try:
        if len(addresses) == 1:
            return await _connect_to(*addresses[0])
        async with create_task_group() as task_group:
            for family, address in addresses:
                over = Event()
                task_group.start_soon(attempt, family, address, over)
                with move_on_after(_HEAD_START):
                    await over.wait()
        if connected:
            return connected.pop(0)
    except OSError as error:
        errors.append(error)
    finally:
        for sock in connected:
            sock.close()
    cause = errors[0] if len(errors) == 1 else ExceptionGroup("each address failed", errors)
    words = "; ".join(dict.fromkeys(str(error.strerror or error) for error in errors))
    raise ConnectionFailed(f"cannot connect to {place}: {words}") from cause


async def _addresses_of(host: str, port: int) -> list[tuple[int, Any]]:
    try:
        # A number needs no looking up, and so no thread.
        infos: Any = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except socket.gaierror:
        infos = await getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return _in_turns([(family, address) for family, *_, address in infos])


def _in_turns(addresses: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the addresses, those of the first one's family and of others in turns."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    ordered = []
    while first or others:
        ordered += first[:1] + others[:1]
        first, others = first[1:], others[1:]
    return ordered


async def _connect_to(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code in _IN_PROGRESS:
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


# --- Accepting ---


class Accepted(Protocol):
    """A client that was accepted, before anything was said."""

    @property
    def remote_address(self) -> object: ...

    async def open(self, ssl_context: ssl.SSLContext | None) -> ByteStream:
        """Return the stream, once TLS is up where there is a context for it."""
        ...

    async def cut(self) -> None:
        """Close by force, whatever `open` has come to."""
        ...


class AcceptedStream:
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    @property
    def remote_address(self) -> object:
        return self._stream.extra(SocketAttribute.remote_address, None)

    async def open(self, ssl_context: ssl.SSLContext | None) -> ByteStream:
        hold_back(self._stream)
        if ssl_context is not None:
            self._stream = await TLSStream.wrap(
                self._stream, server_side=True, ssl_context=ssl_context
            )
        return self._stream

    async def cut(self) -> None:
        await aclose_forcefully(self._stream)


class AcceptedSocket:
    """For asyncio's loops."""

    def __init__(self, sock: socket.socket, address: Any) -> None:
        self.remote_address: object = _without_scope(sock, address)
        self._socket: socket.socket | None = sock
        self._link: Link | None = None
        self._plain: AcceptedStream | None = None

    async def open(self, ssl_context: ssl.SSLContext | None) -> ByteStream:
        # The loop closes it from now on.
        sock, self._socket = self._socket, None
        assert sock is not None
        if not NATIVE:
            self._plain = AcceptedStream(await _plain_stream(sock))
            return await self._plain.open(ssl_context)
        self._link = await Link.make(sock, ssl_context, server_side=True)
        return self._link

    async def cut(self) -> None:
        if self._socket is not None:
            self._socket.close()
        elif self._link is not None:
            await aclose_forcefully(self._link)
        elif self._plain is not None:
            await self._plain.cut()


def _without_scope(sock: socket.socket, address: Any) -> object:
    """Return an address as AnyIO's attributes have it."""
    if sock.family == socket.AF_INET6:
        host, port, _, scope = address
        return (f"{host}%{scope}" if scope else host), port
    return address


def socket_of(listener: Listener[Any]) -> socket.socket | None:
    """Return the socket of a listener that may be accepted from here."""
    # AnyIO's own way loses a client on asyncio, where it is cancelled with one.
    is_ours = isinstance(listener, SocketListener) and _is_anyios(listener)
    if not (is_ours and _is_asyncio()):
        return None
    return listener.extra(SocketAttribute.raw_socket)


async def accept_sockets(listening: socket.socket) -> list[AcceptedSocket]:
    """Wait for clients, and return those that are there.

    Cancelled, none is lost. Raises OSError, as where the system has run out of something.
    """
    accepted: list[AcceptedSocket] = []
    while not accepted:
        await wait_readable(listening)
        try:
            while len(accepted) < _MAX_ACCEPTED:
                sock, address = listening.accept()
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.append(AcceptedSocket(sock, address))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # Those that are here come first; the next call meets it again.
            if not accepted:
                raise
    return accepted

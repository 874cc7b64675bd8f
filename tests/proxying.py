"""Proxies made by hand: they speak HTTP's CONNECT or SOCKS, remember, and misbehave as told."""

from __future__ import annotations

import base64
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import SocketAttribute
from anyio.from_thread import start_blocking_portal
from anyio.streams.tls import TLSListener
from connections import server_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    from anyio.abc import ByteStream, TaskStatus

STREAM_ERRORS = (
    *(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError),
    *(anyio.IncompleteRead, OSError),
)
#: schemes of proxies, and whether the name of the server is looked up by them
RESOLVES = {"http": True, "socks4": False, "socks4a": True, "socks5": False, "socks5h": True}


class FakeProxy:
    """A proxy on loopback.

    credentials:
        User name and password that it asks for. SOCKS4 has only the former.
    names:
        What it knows beside the system's names.
    behave:
        What it does with a stream in place of being a proxy.
    """

    def __init__(
        self,
        scheme: str = "http",
        *,
        secure: bool | ssl.SSLContext = False,
        credentials: tuple[str, str] | None = None,
        names: dict[str, str] | None = None,
        behave: Callable[[ByteStream], Awaitable[object]] | None = None,
    ) -> None:
        self.asked: list[tuple[str, int]] = []
        self.told = bytearray()  # what came before a connection was granted
        self.carried = bytearray()  # what went from clients to servers
        self.port = 0
        self.active = 0  # clients that it has
        self._scheme = scheme
        self._secure = secure
        self._credentials = credentials
        self._names = names or {}
        self._behave = behave
        self._speak = {"http": self._http, "socks4": self._socks4, "socks5": self._socks5}[
            scheme.removesuffix("a").removesuffix("h")
        ]

    def url(self, user: str = "", host: str = "localhost") -> str:
        scheme = self._scheme
        if self._secure:
            scheme = "https" if scheme == "http" else f"{scheme}+tls"
        return f"{scheme}://{user}{'@' if user else ''}{host}:{self.port}"

    async def serve(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = multi.extra(SocketAttribute.local_port)
        listener: Any = multi.listeners[0]
        if self._secure:
            context = server_tls() if self._secure is True else self._secure
            listener = TLSListener(listener, context, standard_compatible=False)
        async with listener:
            task_status.started()
            await listener.serve(self.serve_one)

    async def settle(self) -> None:
        """Take who waits: asyncio loses a client that it takes while it is told to end."""
        for _ in range(20):
            await anyio.sleep(0)

    async def serve_one(self, stream: ByteStream) -> None:
        self.active += 1
        try:
            if self._behave is not None:
                await self._behave(stream)
                return
            place = await self._speak(stream)
            if place is None:
                return
            host, port = place
            async with await anyio.connect_tcp(self._names.get(host, host), port) as server:
                await self._grant(stream)
                await self._relay(stream, server)
        except STREAM_ERRORS:
            pass
        finally:
            self.active -= 1
            await anyio.aclose_forcefully(stream)

    async def _relay(self, client: ByteStream, server: ByteStream) -> None:
        async def carry(source: ByteStream, sink: ByteStream, record: bytearray | None) -> None:
            try:
                while True:
                    data = await source.receive()
                    if record is not None:
                        record += data
                    await sink.send(data)
            except STREAM_ERRORS:
                pass
            tg.cancel_scope.cancel()

        async with anyio.create_task_group() as tg:
            tg.start_soon(carry, client, server, self.carried)
            tg.start_soon(carry, server, client, None)

    async def _read(self, stream: ByteStream, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await stream.receive(size - len(data))
        self.told += data
        return data

    async def _read_until(self, stream: ByteStream, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += await self._read(stream, 1)
        return data.removesuffix(end)

    # --- HTTP ---

    async def _http(self, stream: ByteStream) -> tuple[str, int] | None:
        head = (await self._read_until(stream, b"\r\n\r\n")).decode()
        method, place, _ = head.partition("\r\n")[0].split(" ")
        assert method == "CONNECT"
        host, _, port = place.rpartition(":")
        self.asked.append((host.strip("[]"), int(port)))
        if self._credentials is not None:
            token = base64.b64encode(":".join(self._credentials).encode()).decode()
            if f"\r\nProxy-Authorization: Basic {token}" not in head:
                await stream.send(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                    b'Proxy-Authenticate: Basic realm="x"\r\nContent-Length: 2\r\n\r\nno'
                )
                return None
        self._granted = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 fake\r\n\r\n"
        return self.asked[-1]

    async def _grant(self, stream: ByteStream) -> None:
        await stream.send(self._granted)

    # --- SOCKS ---

    async def _socks4(self, stream: ByteStream) -> tuple[str, int] | None:
        version, command, port, address = struct.unpack("!BBH4s", await self._read(stream, 8))
        assert (version, command) == (4, 1)
        user = (await self._read_until(stream, b"\0")).decode()
        host = socket.inet_ntoa(address)
        if host.startswith("0.0.0."):
            host = (await self._read_until(stream, b"\0")).decode()
        self.asked.append((host, port))
        if self._credentials is not None and user != self._credentials[0]:
            await stream.send(b"\0\x5d" + bytes(6))
            return None
        self._granted = b"\0\x5a" + bytes(6)
        return self.asked[-1]

    async def _socks5(self, stream: ByteStream) -> tuple[str, int] | None:
        _, count = await self._read(stream, 2)
        methods = await self._read(stream, count)
        wanted = 0 if self._credentials is None else 2
        if wanted not in methods:
            await stream.send(b"\x05\xff")
            return None
        await stream.send(bytes([5, wanted]))
        if wanted:
            _, size = await self._read(stream, 2)
            user = (await self._read(stream, size)).decode()
            [size] = await self._read(stream, 1)
            password = (await self._read(stream, size)).decode()
            is_right = (user, password) == self._credentials
            await stream.send(bytes([1, not is_right]))
            if not is_right:
                return None
        _, _, _, kind = await self._read(stream, 4)
        if kind == 3:
            [size] = await self._read(stream, 1)
            host = (await self._read(stream, size)).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, await self._read(stream, size))
        [port] = struct.unpack("!H", await self._read(stream, 2))
        self.asked.append((host, port))
        self._granted = b"\x05\0\0\x01" + bytes(6)
        return self.asked[-1]


@contextmanager
def running(scheme: str = "http", **options: Any) -> Iterator[FakeProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FakeProxy(scheme, **options)
    with start_blocking_portal() as portal:
        future, _ = portal.start_task(proxy.serve)
        try:
            yield proxy
        finally:
            portal.call(proxy.settle)
            future.cancel()


def saying(answer: bytes, *, reads: int = 1) -> Callable[[ByteStream], Awaitable[object]]:
    """What a proxy does that answers with this, and stays until the client goes."""

    async def behave(stream: ByteStream) -> None:
        for _ in range(reads):
            await stream.receive()
        await stream.send(answer)
        while True:
            await stream.receive()

    return behave


async def leave(stream: ByteStream) -> None:
    await stream.receive()


async def stay(stream: ByteStream) -> None:
    await anyio.sleep_forever()

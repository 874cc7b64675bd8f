"""What a scenario of the sweep has at hand: streams, a peer by hand, the attack, and the oracles."""

from __future__ import annotations

import asyncio
import socket
import types
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream
from connections import client_tls, server_tls
from steps import PACKAGE, Stepper, WatchedStream, suspended_at, tasks, timers
from streams import (
    CLOSE,
    CONT,
    PING,
    PONG,
    URL,
    SocketLike,
    close_frame,
    frame,
    request_bytes,
    split_frames,
)

import anyws
from anyws import Config, WebSocket
from anyws._protocol.fields import accept_key
from anyws._transports.link import Link
from anyws.testing import MemoryListener, MemoryStream, memory_stream_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator

    from anyio.abc import ByteStream, Listener
    from streams import Frame

# Short, since over real sockets and on uvloop time is real.
QUICK = Config(
    handshake_timeout=5.0,
    close_timeout=0.3,
    cancel_grace=0.15,
    drain_timeout=0.2,
    write_timeout=2.0,
    ping_interval=None,
)
# Seconds, virtual or real, in which everything must be over.
GUARD = 20.0
# How long a cancelled block may take: its grace, one last attempt, a stream that closes slowly.
SLACK = 0.15
STREAM_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

MEMORY, SOCKET_LIKE, TCP, TLS = "memory", "socket-like", "tcp", "tls"
# Sockets as they are, which the native transports take; the others are watched call by call.
NATIVE, NATIVE_TLS = "native", "native tls"
KINDS = (MEMORY, SOCKET_LIKE, TCP, TLS, NATIVE, NATIVE_TLS)
CANCEL, NATIVE, RAISE = "cancel", "native", "raise"


class Violation(AssertionError):
    """A promise was broken."""


class InjectedError(Exception):
    """What the body of a connection raises."""


def check(fact: object, words: str) -> None:
    if not fact:
        raise Violation(words)


@dataclass
class Setting:
    """Where and how a scenario is run."""

    backend: str
    kind: str
    how: str
    source: str
    role: str = ""

    @property
    def virtual(self) -> bool:
        return self.kind in {MEMORY, SOCKET_LIKE} and self.backend != "uvloop"


class Peer:
    """The other end, by hand: it reads what comes, answers a Close and pings, and keeps the log."""

    def __init__(self, stream: ByteStream, *, is_server: bool) -> None:
        self.stream = stream
        self.is_server = is_server
        self.answers_close = True
        self.replies: dict[bytes, bytes] = {}  # payload of a frame -> the bytes that answer it
        self.log = bytearray()  # what came behind the handshake
        self.response = b""
        self.open = anyio.Event()
        self.ended = anyio.Event()
        self.reset = False
        self._flowing = anyio.Event()
        self._flowing.set()
        self._sending = anyio.Lock()
        self._changed = anyio.Event()
        self._answered = 0
        self._eof_sent = False

    @property
    def frames(self) -> list[Frame]:
        return split_frames(bytes(self.log))[0]

    @property
    def messages(self) -> list[bytes]:
        """The payloads of the messages that came whole."""
        found, parts = [], []
        for one in self.frames:
            if one.opcode < CLOSE:
                parts.append(one.payload)
                if one.fin:
                    found.append(b"".join(parts))
                    parts = []
        return found

    @property
    def close(self) -> Frame | None:
        return next((one for one in self.frames if one.opcode == CLOSE), None)

    @property
    def has_been_sent_a_close(self) -> bool:
        """Over streams in memory: whether there is one on the wire, be it read or not."""
        assert isinstance(self.stream, MemoryStream)
        _, _, sent = bytes(self.stream.incoming.log).partition(b"\r\n\r\n")
        return any(one.opcode == CLOSE for one in split_frames(sent)[0])

    def stall(self) -> None:
        self._flowing = anyio.Event()

    def resume(self) -> None:
        self._flowing.set()

    async def run(self, *, silent: bool = False, response: bytes | None = None) -> None:
        """Be the peer until the stream ends; `silent`: read, and never answer the handshake."""
        try:
            rest = await self._shake_hands(silent=silent, response=response)
            if rest is not None:
                self.open.set()
                await self._read(rest)
        except anyio.EndOfStream:
            pass
        except STREAM_ERRORS:
            self.reset = True
        finally:
            self.ended.set()
            self._note()
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(self.stream)

    async def _shake_hands(self, *, silent: bool, response: bytes | None) -> bytes | None:
        data = b""
        if not self.is_server:
            await self.stream.send(request_bytes())
        while b"\r\n\r\n" not in data or silent:
            data += await self.stream.receive()
        head, _, rest = data.partition(b"\r\n\r\n")
        if not self.is_server:
            self.response = data
            return rest if head.startswith(b"HTTP/1.1 101") else None
        if response is None:
            lines = head.decode("latin-1").split("\r\n")[1:]
            key = dict(line.split(": ", 1) for line in lines)["Sec-WebSocket-Key"]
            response = (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n"
            ).encode()
        await self.stream.send(response)
        return rest

    async def _read(self, data: bytes) -> None:
        while True:
            self.log += data
            self._note()
            for one in self.frames[self._answered :]:
                self._answered += 1
                await self._answer(one)
            await self._flowing.wait()
            data = await self.stream.receive()

    async def _answer(self, one: Frame) -> None:
        if one.payload in self.replies:
            await self.send_raw(self.replies[one.payload])
        if one.opcode == PING:
            await self.send(PONG, one.payload)
        elif one.opcode == CLOSE and self.answers_close:
            self.answers_close = False
            await self.send(CLOSE, one.payload)
            if self.is_server and not isinstance(self.stream, TLSStream):
                self._eof_sent = True
                await self.stream.send_eof()

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        return frame(opcode, payload, fin=fin, mask=not self.is_server)

    async def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        await self.send_raw(self.frame(opcode, payload, fin=fin))

    async def send_close(self, code: int) -> None:
        self.answers_close = False
        await self.send_raw(close_frame(code, mask=not self.is_server))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes; an end of the stream meanwhile is for `run` to tell."""
        async with self._sending:
            try:
                if not self._eof_sent:
                    await self.stream.send(data)
            except STREAM_ERRORS:
                pass

    def _note(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until something is true of what came, or nothing more will come."""
        while not fact() and not self.ended.is_set():
            await self._changed.wait()

    def check_wire(self) -> None:
        """Only whole frames came, or the stream ended; no fragment between two messages."""
        frames, rest = split_frames(bytes(self.log))
        in_message = False
        for place, one in enumerate(frames):
            check(one.opcode in {0, 1, 2, 8, 9, 10}, f"a frame with opcode {one.opcode}")
            check(one.masked is self.is_server, "a frame masked the wrong way")
            if one.opcode < CLOSE:
                check((one.opcode == CONT) is in_message, "a message within another")
                in_message = not one.fin
            check(one.opcode != CLOSE or one is frames[-1], f"{len(frames) - place} after a Close")
        check(not rest or self.ended.is_set(), f"half a frame, and no end: {bytes(rest[:20])!r}")


@dataclass
class World:
    setting: Setting
    stepper: Stepper
    outcome: str = ""
    awaits: set[tuple[str, int]] = field(default_factory=set)
    error: InjectedError = field(default_factory=lambda: InjectedError("injected"))
    streams: list[WatchedStream] = field(default_factory=list)  # ours

    @property
    def struck(self) -> bool:
        return self.stepper.struck_at is not None

    # --- The attack ---

    async def attack(
        self,
        operation: Callable[[], Awaitable[object]],
        *,
        may_raise: tuple[type[Exception], ...] = (),
        within: float | None = None,
    ) -> str:
        """Run the operation and strike at the chosen step; say how it ended.

        within: the seconds that it may take from the strike on; default: one grace.
        """
        check(not self.outcome, "a scenario attacks once")
        attack = {CANCEL: self._cancel, NATIVE: self._cancel_natively, RAISE: self._throw}
        self.outcome = "raised"
        with anyio.fail_after(GUARD):
            self.outcome = await attack[self.setting.how](operation, may_raise)
        if self.struck and self.setting.how != RAISE:
            self._check_time(QUICK.cancel_grace + SLACK if within is None else within)
        return self.outcome

    def _check_time(self, within: float | None) -> None:
        assert self.stepper.struck_at is not None
        assert within is not None
        passed = anyio.current_time() - self.stepper.struck_at
        # Real time belongs to the machine as well.
        bound = within if self.setting.virtual else GUARD / 2
        check(passed <= bound + 0.001, f"{passed:.3f} s passed from the strike to the end")

    def _strike(self, strike: Callable[[], object]) -> Callable[[], None]:
        def do() -> None:
            self.awaits |= suspended_at(PACKAGE)
            if self.stepper.awaiting is not None:
                self.awaits.add(self.stepper.awaiting)
            strike()

        return do

    async def _watched(self, operation: Callable[[], Awaitable[object]]) -> None:
        """Run it, and see where in the package an exception came through."""
        try:
            await operation()
        except BaseException as error:
            traceback = error.__traceback__
            while traceback is not None:
                name = traceback.tb_frame.f_code.co_filename
                if name.startswith(PACKAGE):
                    self.awaits.add((name, traceback.tb_lineno))
                traceback = traceback.tb_next
            raise

    async def _cancel(
        self, operation: Callable[[], Awaitable[object]], may_raise: tuple[type[Exception], ...]
    ) -> str:
        scope = anyio.CancelScope()
        strike = self._strike(scope.cancel)
        count = _cancelling()
        with self.stepper.armed(strike):
            if self.stepper.strike_at == -1:
                self.stepper.struck_at = anyio.current_time()
                strike()
            try:
                with scope:
                    try:
                        await self._watched(operation)
                    except anyio.get_cancelled_exc_class():
                        self.outcome = "cancelled"
                        raise
            except may_raise:
                return "raised"
            except (Violation, anyio.get_cancelled_exc_class()):
                raise
            except BaseException as error:
                raise Violation(f"not the cancellation but {error!r}") from error
        check(self.struck or not scope.cancelled_caught, "nobody cancelled it")
        check(_cancelling() == count, "asyncio still counts the cancellation")
        return "cancelled" if scope.cancelled_caught else "finished"

    async def _cancel_natively(
        self, operation: Callable[[], Awaitable[object]], may_raise: tuple[type[Exception], ...]
    ) -> str:
        async def begin() -> None:
            # From its first step on: cancelled before that, a task never runs.
            with self.stepper.armed(strike):
                if self.stepper.strike_at == -1:
                    self.stepper.struck_at = anyio.current_time()
                    strike()
                await self._watched(operation)

        task = asyncio.get_running_loop().create_task(begin())
        strike = self._strike(task.cancel)
        try:
            while not task.done():
                await asyncio.wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            check(self.struck, "a cancellation that nobody asked for")
            return "cancelled"
        error = task.exception()
        if error is None:
            return "finished"
        if isinstance(error, may_raise):
            return "raised"
        raise Violation(f"not the cancellation but {error!r}") from error

    async def _throw(
        self, operation: Callable[[], Awaitable[object]], may_raise: tuple[type[Exception], ...]
    ) -> str:
        """Raise from within the operation, at the await where it is resumed for the nth time."""
        try:
            await _throwing(self._watched(operation), self._resumed)
        except may_raise:
            return "raised"
        return "finished"

    def _resumed(self) -> BaseException | None:
        stepper = self.stepper
        strikes = stepper.count == stepper.strike_at
        stepper.count += 1
        if not strikes:
            return None
        self.awaits |= suspended_at(PACKAGE)
        stepper.struck_at = anyio.current_time()
        return self.error

    # --- Streams ---

    async def pair(self) -> tuple[Any, ByteStream]:
        """Return our stream, watched where it may be, and the peer's."""
        near, far = await self._pair()
        if self.setting.kind in {NATIVE, NATIVE_TLS}:
            return near, far
        watched = WatchedStream(near, self.stepper)
        self.streams.append(watched)
        return watched, far

    async def _pair(self) -> tuple[ByteStream, ByteStream]:
        if self.setting.kind in {MEMORY, SOCKET_LIKE}:
            return self.memory_pair()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.socket()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            theirs.connect(listener.getsockname())
            ours, _ = listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        far: ByteStream = await SocketStream.from_socket(theirs)
        is_server = self.setting.role == "server"
        if self.setting.kind in {NATIVE, NATIVE_TLS} and self.setting.backend != "trio":
            return await _linked(ours, far, is_server, tls=self.setting.kind == NATIVE_TLS)
        near: ByteStream = await SocketStream.from_socket(ours)
        if self.setting.kind in {TLS, NATIVE_TLS}:
            near, far = await _encrypted(near, far, ours_is_server=is_server)
        return near, far

    def memory_pair(self) -> tuple[Any, Any]:
        near, far = memory_stream_pair(20_000)
        if self.setting.kind == SOCKET_LIKE:
            near = SocketLike(near.incoming, near.outgoing)
        return near, far

    async def listener(self) -> tuple[Listener[Any], Callable[[], Awaitable[ByteStream]], Any]:
        """Return a listener, how to connect to it, and the server's TLS."""
        if self.setting.kind in {MEMORY, SOCKET_LIKE}:

            def make_pair() -> tuple[Any, Any]:
                near, far = self.memory_pair()
                return far, WatchedStream(near, self.stepper)

            listener = MemoryListener(make_pair)

            async def connect_in_memory() -> ByteStream:
                stream: ByteStream = listener.connect()
                return stream

            return listener, connect_in_memory, None
        multi = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = multi.extra(anyio.abc.SocketAttribute.local_port)

        async def connect() -> ByteStream:
            stream: ByteStream = await anyio.connect_tcp("127.0.0.1", port)
            if self.setting.kind in {TLS, NATIVE_TLS}:
                try:
                    return await TLSStream.wrap(
                        stream, hostname="localhost", ssl_context=client_tls()
                    )
                except BaseException:
                    await anyio.aclose_forcefully(stream)
                    raise
            return stream

        return (
            multi.listeners[0],
            connect,
            server_tls() if self.setting.kind in {TLS, NATIVE_TLS} else None,
        )

    # --- A connection ---

    @asynccontextmanager
    async def prepared(
        self, config: Config = QUICK, *, role: str | None = None, **peer_options: Any
    ) -> AsyncIterator[tuple[Any, Peer]]:
        """Give what opens a connection when entered, and its peer, which runs already."""
        near, far = await self.pair()
        is_client = (role or self.setting.role) == "client"
        peer = Peer(far, is_server=is_client)
        opening = (
            anyws.wrap_client_stream(near, URL, config=config)
            if is_client
            else anyws.wrap_server_stream(near, config=config)
        )
        async with anyio.create_task_group() as tg:

            async def run_peer() -> None:
                await peer.run(**peer_options)

            tg.start_soon(run_peer)
            try:
                yield opening, peer
                check(is_closed(near), "our stream was left open")
            finally:
                peer.resume()
                with anyio.move_on_after(GUARD) as scope:
                    await peer.ended.wait()
                check(not scope.cancelled_caught, "the peer never saw the end of the stream")
            peer.check_wire()

    @asynccontextmanager
    async def opened(
        self, config: Config = QUICK, **options: Any
    ) -> AsyncIterator[tuple[WebSocket, Peer]]:
        """Give an open connection and its peer."""
        async with self.prepared(config, **options) as (opening, peer):
            async with opening as ws:
                await peer.open.wait()
                yield ws, peer
            check(ws.status is anyws.Status.CLOSED, "left, and not closed")
            if self.setting.kind in {MEMORY, SOCKET_LIKE}:
                assert ws.closure is not None
                said = ws.closure.sent is None or peer.has_been_sent_a_close
                check(said, f"no whole Close on the wire, and {ws.closure}")

    async def check_usable(self, ws: WebSocket, peer: Peer, skip: tuple[Any, ...] = ()) -> None:
        """The connection works both ways, or it is closed and says so."""
        if ws.is_open:
            check(ws.closure is None, "open, with a closure")
            await ws.send("still here")
            await peer.until(lambda: b"still here" in peer.messages)
            check(peer.messages.count(b"still here") == 1, "sent once, and not arrived once")
            await peer.send(1, b"here too")
            while (got := await ws.receive()) != "here too":
                check(got in skip, f"received {got!r}, which nobody sent")
            return
        closure = await ws.wait_closed()
        check(closure.cause, "closed, and does not say why")
        for call in (ws.receive, ws.ping, lambda: ws.send("x")):
            try:
                await call()
            except anyws.ConnectionClosed as error:
                check(error.closure.cause == closure.cause, "closed, with two reasons")
            else:
                raise Violation("closed, and still of use")


def is_closed(stream: Any) -> bool:
    """Whether a stream of ours was closed."""
    if isinstance(stream, WatchedStream):
        return stream.closed
    return bool(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno() == -1)


async def _linked(
    ours: socket.socket, far: ByteStream, is_server: bool, *, tls: bool
) -> tuple[ByteStream, ByteStream]:
    """Return our end as the package makes it on asyncio, where the loop does TLS."""
    if not tls:
        return await Link.make(ours, server_side=is_server), far
    made: list[ByteStream] = []

    async def make() -> None:
        context = server_tls() if is_server else client_tls()
        name = None if is_server else "localhost"
        made.append(await Link.make(ours, context, server_side=is_server, server_hostname=name))

    async with anyio.create_task_group() as tg:
        tg.start_soon(make)
        far = await TLSStream.wrap(
            far,
            server_side=not is_server,
            hostname="localhost" if is_server else None,
            ssl_context=client_tls() if is_server else server_tls(),
        )
    return made[0], far


async def _encrypted(
    near: ByteStream, far: ByteStream, *, ours_is_server: bool
) -> tuple[ByteStream, ByteStream]:
    wrapped: dict[bool, ByteStream] = {}

    async def wrap(stream: ByteStream, is_server: bool) -> None:
        wrapped[is_server] = await TLSStream.wrap(
            stream,
            server_side=is_server,
            hostname=None if is_server else "localhost",
            ssl_context=server_tls() if is_server else client_tls(),
        )

    async with anyio.create_task_group() as tg:
        tg.start_soon(wrap, near, ours_is_server)
        tg.start_soon(wrap, far, not ours_is_server)
    return wrapped[ours_is_server], wrapped[not ours_is_server]


def _cancelling() -> int:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return task.cancelling() if task is not None else 0


@types.coroutine
def _throwing(
    coro: Coroutine[Any, Any, None], resumed: Callable[[], BaseException | None]
) -> Generator[Any, Any, None]:
    value, error = None, None
    while True:
        try:
            trap = coro.send(value) if error is None else coro.throw(error)
        except StopIteration:
            return
        error = None
        try:
            value = yield trap
        except BaseException as thrown:  # noqa: BLE001 - it is passed on
            error = thrown
        else:
            error = resumed()


# --- Before and after ---


@dataclass(frozen=True)
class Census:
    """What a scenario has to leave as it was."""

    tasks: int
    timers: int

    @classmethod
    async def take(cls) -> Census:
        # A task that has nothing left to do but to end may take a few turns for it.
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return cls(len(tasks()), timers())

    async def check(self) -> None:
        now = await self.take()
        check(now.tasks == self.tasks, f"{now.tasks - self.tasks} tasks are left")
        check(now.timers <= self.timers, f"{now.timers - self.timers} timers are left")


def open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}

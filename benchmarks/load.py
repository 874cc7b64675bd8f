"""The load: the other end of every connection, in this process, on a core of its own.

Blocking sockets, bytes made beforehand, and answers that are counted: the same for all, and cheap
enough that the process under test is the slower end. One window at a time is under way on each
connection. The first window is read in full and compared with what was sent; after that, counting
is enough.

**It never sleeps while it waits**, where it has a core of its own. Waking a process that sleeps on
another core is charged to whoever sends, and on a virtual machine, where it leaves the machine,
that may be twice all the rest of a small message: a cost of the load, told as one of the library.

The clock of the process under test is read where that has nothing to do: a server when all answers
have come, a client when it has sent all that it may and waits for answers.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from . import wire
from .process import Failure, cores
from .target import HOST, Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .process import Subject
    from .workloads import Workload

__all__ = ["Sample", "exchange", "memory"]

_T = TypeVar("_T")
_TIMEOUT = 20  # seconds that a read or a write of the load may wait
_HAS_OWN_CORE = cores() is not None
_LOOKS = 1000  # between two looks at the clock
_BUFFER = bytearray(1 << 18)
_VIEW = memoryview(_BUFFER)
# Connections that are open before memory is measured: what is made once is no connection's.
_IDLE_BEFORE = 50
# Seconds: until memory is what it will be, and until an idle process is asleep.
_SETTLE = 0.2
_SLEEP = 0.005


@dataclass(frozen=True)
class Sample:
    """One measurement: so many messages, or handshakes, in so many seconds."""

    count: int
    cpu: float
    wall: float


def exchange(
    subject: Subject, workload: Workload, certificates: Path, *, warm: int, windows: int
) -> Sample:
    """Measure messages, or handshakes, with a running process in either role."""
    measure = {
        ("server", "exchange"): _exchange_with_server,
        ("server", "churn"): _churn_with_server,
        ("client", "exchange"): _exchange_with_client,
        ("client", "churn"): _churn_with_client,
    }[subject.role, workload.kind]
    end = _End(subject, workload, Mode(workload.mode, certificates))
    return _guarded(subject, partial(measure, end, warm, windows))


def memory(subject: Subject, workload: Workload, certificates: Path, connections: int) -> float:
    """Return the bytes that an idle connection costs, with a process that has had none."""
    measure = _idle_with_server if subject.role == "server" else _idle_with_client
    end = _End(subject, workload, Mode(workload.mode, certificates))
    return _guarded(subject, partial(measure, end, connections))


def _guarded(subject: Subject, measure: Callable[[], _T]) -> _T:
    try:
        subject.wait_ready()
        return measure()
    except (OSError, wire.Miscount, EOFError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failure(f"{subject}: {reason} {subject.errors()}".strip()) from error


class _End:
    """How the load talks to one process in one workload."""

    def __init__(self, subject: Subject, workload: Workload, mode: Mode) -> None:
        self.subject, self.workload, self.mode = subject, workload, mode
        self.bare = subject.contender.bare
        masked = subject.role == "server"
        self.windows = wire.windows(workload, masked=masked, bare=self.bare)
        self._masked = masked

    def counter(self) -> wire.Counter:
        """Return a counter of what a window of the other end has."""
        return wire.counter(self.workload, masked=not self._masked, bare=self.bare)

    def measured(self, count: int, action: Callable[[], None]) -> Sample:
        before = self._cpu_time()
        start = time.perf_counter()
        action()
        wall = time.perf_counter() - start
        return Sample(count, self._cpu_time() - before, wall)

    def _cpu_time(self) -> float:
        # The system adds up when a process goes to sleep, and else at a tick of some
        # milliseconds. The process has nothing to do now: let it.
        time.sleep(_SLEEP)
        return self.subject.cpu_time()

    def expect_first_window(self, sock: socket.socket) -> None:
        """Read a window in full, and compare it with what it has to be."""
        messages = self.workload.messages
        expected = [messages[i % len(messages)] for i in range(self.workload.depth)]
        data = b""
        for payload in expected:
            if self.bare:
                while len(data) < len(payload):
                    data += _receive(sock)
                found, data = data[: len(payload)], data[len(payload) :]
            else:
                while wire.first_frame(data) is None:
                    data += _receive(sock)
                if self.mode.compression and not data[0] & 0x40:
                    raise wire.Miscount("the answer is not compressed")
                found, data = wire.payload_of(data)
            if found != payload:
                raise wire.Miscount(f"{found[:40]!r} in place of {payload[:40]!r}")
        if data:
            raise wire.Miscount(f"{len(data)} bytes more than the answers have")

    # --- Connections to a server ---

    def connect(self) -> socket.socket:
        sock = socket.create_connection((HOST, self.subject.ports[self.mode.name]))
        _prepare(sock)
        context = self.mode.client_context
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=HOST)
        if self.bare:
            sock.sendall(wire.hello(self.workload.size))
            return sock
        sock.sendall(wire.request(deflate=self.mode.compression))
        head = _receive_head(sock)
        if not head.startswith(b"HTTP/1.1 101"):
            raise wire.Miscount(f"the server answers {head[:80]!r}")
        if self.mode.compression and b"permessage-deflate" not in head.lower():
            raise wire.Miscount("the server does not accept permessage-deflate")
        return sock

    def close(self, sock: socket.socket) -> None:
        """Do the closing handshake as a client does."""
        with closing(sock):
            if not self.bare:
                sock.sendall(wire.CLOSE_MASKED)
                _read_to_end(sock)

    # --- Connections of a client ---

    def listen(self) -> socket.socket:
        listener = socket.create_server((HOST, 0), backlog=1024)
        listener.settimeout(_TIMEOUT)
        return listener

    def start_job(self, listener: socket.socket, repeat: int) -> None:
        port = listener.getsockname()[1]
        self.subject.start_job(workload=self.workload.name, port=port, repeat=repeat)

    def accept(self, listener: socket.socket) -> socket.socket:
        if not self.bare:
            return self.answer_request(*self.accept_request(listener))
        sock = self._accept(listener)
        for _ in wire.hello(0):
            _receive(sock, 1)
        return sock

    def accept_request(self, listener: socket.socket) -> tuple[socket.socket, bytes]:
        sock = self._accept(listener)
        return sock, _receive_head(sock)

    def answer_request(self, sock: socket.socket, head: bytes) -> socket.socket:
        sock.sendall(wire.answer(head, deflate=self.mode.compression))
        return sock

    def _accept(self, listener: socket.socket) -> socket.socket:
        _await_readable(listener)
        sock, _ = listener.accept()
        _prepare(sock)
        context = self.mode.server_context
        return sock if context is None else context.wrap_socket(sock, server_side=True)

    def await_close(self, sock: socket.socket) -> None:
        """Do the closing handshake as a server does."""
        with closing(sock):
            if self.bare:
                return
            # Every client sends Close, with whatever code.
            if _receive(sock)[0] != wire.CLOSE_MASKED[0]:
                raise wire.Miscount("something else than Close at the end")
            sock.sendall(wire.CLOSE_UNMASKED)
            _end_our_half(sock)
            _read_to_end(sock)


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Timeouts by the system: Python's own cost a poll for each call.
    limit = struct.pack("ll", _TIMEOUT, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _await_readable(sock: socket.socket) -> None:
    """Wait without sleeping until there is something to read, or to accept."""
    if not _HAS_OWN_CORE or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
        return
    look = select.poll()
    look.register(sock, select.POLLIN)
    give_up = time.monotonic() + _TIMEOUT
    while time.monotonic() < give_up:
        for _ in range(_LOOKS):
            if look.poll(0):
                return
    raise TimeoutError("nothing comes")


def _receive(sock: socket.socket, size: int = 65536) -> bytes:
    _await_readable(sock)
    data = sock.recv(size)
    if not data:
        raise EOFError("the connection ended early")
    return data


def _receive_head(sock: socket.socket) -> bytes:
    """Read up to the empty line. No end says more before it has heard from the other."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _receive(sock)
    return head


def _read_to_end(sock: socket.socket) -> None:
    try:
        while True:
            _await_readable(sock)
            if not sock.recv(65536):
                return
    except (ConnectionError, ssl.SSLError):
        pass  # an end is an end


def _end_our_half(sock: socket.socket) -> None:
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the client was faster


def _fill(sock: socket.socket, counter: wire.Counter) -> None:
    """Receive one window."""
    while True:
        _await_readable(sock)
        size = sock.recv_into(_BUFFER)
        if not size:
            raise EOFError("the connection ended early")
        if counter.feed(_VIEW[:size]):
            return


# --- A server under test ---


def _exchange_with_server(end: _End, warm: int, windows: int) -> Sample:
    workload = end.workload
    with ExitStack() as stack:
        socks = []
        for _ in range(workload.connections):
            sock = end.connect()
            stack.callback(sock.close)
            sock.sendall(end.windows[0])
            end.expect_first_window(sock)
            socks.append(sock)
        _drive(end, socks, warm)
        sample = end.measured(
            windows * workload.depth * workload.connections,
            partial(_drive, end, socks, windows),
        )
        for sock in socks:
            end.close(sock)
    return sample


def _drive(end: _End, socks: list[socket.socket], windows: int) -> None:
    """Send a window and wait for one, so many times on each connection.

    It serves both roles: a client's window is answered, and then its next one is waited for.
    """
    sent = end.windows
    if len(socks) == 1:
        sock, counter = socks[0], end.counter()
        for number in range(windows):
            sock.sendall(sent[number % len(sent)])
            _fill(sock, counter)
        return
    left = {sock.fileno(): (sock, end.counter(), iter(range(windows - 1))) for sock in socks}
    with select.epoll(len(socks)) as poll:
        for descriptor, (sock, _, _) in left.items():
            poll.register(descriptor, select.EPOLLIN)
            sock.sendall(sent[0])
        while left:
            for descriptor, _ in _poll(poll):
                sock, counter, numbers = left[descriptor]
                if not counter.feed(_VIEW[: sock.recv_into(_BUFFER)]):
                    continue
                if next(numbers, None) is None:
                    del left[descriptor]
                    poll.unregister(descriptor)
                else:
                    sock.sendall(sent[0])


def _poll(poll: select.epoll) -> list[tuple[int, int]]:
    give_up = time.monotonic() + _TIMEOUT
    while time.monotonic() < give_up:
        if events := poll.poll(0 if _HAS_OWN_CORE else _TIMEOUT):
            return events
    raise TimeoutError("nothing comes")


def _churn_with_server(end: _End, warm: int, windows: int) -> Sample:
    def churn(times: int) -> None:
        for _ in range(times):
            end.close(end.connect())

    churn(warm)
    return end.measured(windows, partial(churn, windows))


def _idle_with_server(end: _End, connections: int) -> float:
    with ExitStack() as stack:
        for _ in range(_IDLE_BEFORE):
            stack.enter_context(end.connect())
        time.sleep(_SETTLE)
        before = end.subject.resident_bytes()
        for _ in range(connections):
            stack.enter_context(end.connect())
        time.sleep(_SETTLE)
        return (end.subject.resident_bytes() - before) / connections


# --- A client under test ---


def _exchange_with_client(end: _End, warm: int, windows: int) -> Sample:
    workload = end.workload
    with end.listen() as listener, ExitStack() as stack:
        # One more: the first window is read here, in full.
        end.start_job(listener, 1 + warm + windows)
        socks = []
        for _ in range(workload.connections):
            sock = end.accept(listener)
            stack.callback(sock.close)
            socks.append(sock)
        for sock in socks:
            end.expect_first_window(sock)
        _drive(end, socks, warm)
        sample = end.measured(
            windows * workload.depth * workload.connections,
            partial(_drive, end, socks, windows),
        )
        for sock in socks:
            sock.sendall(end.windows[0])
        for sock in socks:
            end.await_close(sock)
        end.subject.finish_job()
    return sample


def _churn_with_client(end: _End, warm: int, windows: int) -> Sample:
    # The client opens the next connection when one is closed, so one more is kept waiting at
    # the start and at the end of what is measured: it has sent nothing but its request.
    with end.listen() as listener:
        end.start_job(listener, warm + windows + 1)
        waiting = end.accept_request(listener)

        def churn(times: int) -> None:
            nonlocal waiting
            for _ in range(times):
                end.await_close(end.answer_request(*waiting))
                waiting = end.accept_request(listener)

        churn(warm)
        sample = end.measured(windows, partial(churn, windows))
        end.await_close(end.answer_request(*waiting))
        end.subject.finish_job()
    return sample


def _idle_with_client(end: _End, connections: int) -> float:
    with end.listen() as listener, ExitStack() as stack:
        end.start_job(listener, _IDLE_BEFORE + connections)
        for _ in range(_IDLE_BEFORE):
            stack.enter_context(end.accept(listener))
        before = end.subject.resident_bytes()
        for _ in range(connections):
            stack.enter_context(end.accept(listener))
        time.sleep(_SETTLE)
        return (end.subject.resident_bytes() - before) / connections

"""Ctrl-C in every call: what it costs, and that nothing is left half done.

Three ways to bring it. A signal, while the main thread waits in the system. An exception from the
stream's calls of the system, before they have done anything or after. And the sweep: an interrupt
at the n-th of all points at which Python runs signal handlers, for every n. Those are the start of
a function and the return of one in C, which is where a profile function is called.
"""

from __future__ import annotations

import ast
import itertools
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import connections
import pytest
from bars.peers import CLOSE, PING, PONG, TEXT
from bars.raw import GUARD, HOST
from frames import close_frame
from proxying import running
from sync.peers import LARGE, QUICK, Peer, RawServer, pair, stream_of

import anyws
import anyws.sync
from anyws import Config, Proxy, Role, Status
from anyws._transports.blocking_stream import BlockingStream
from anyws.sync import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interrupts import Sweep

    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(60)

every_role = pytest.mark.parametrize("role", list(Role))

BRIEF = Config(close_timeout=0.01, cancel_grace=0.01)


def is_at_rest(ws: WebSocket) -> bool:
    """Whether no call is under way, as far as the connection knows."""
    transport = ws._transport
    flags = (transport.is_received, transport.is_writing, transport._is_reading)
    return not any(flags) and not transport.lock.locked()


# --- A signal ---


def functions_of(thread: int) -> set[str]:
    """The names of the functions that a thread is in."""
    names = set()
    frame = sys._current_frames().get(thread)
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


@contextmanager
def pressed(when: threading.Event | str) -> Iterator[None]:
    """Press Ctrl-C, for the main thread, and see to it that it is felt.

    Once an event is set, or the main thread is in the function of this name, or in what that calls.
    """
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        if isinstance(when, str):
            pause = threading.Event()
            while when not in functions_of(main):
                pause.wait(0.001)
        else:
            assert when.wait(GUARD)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    try:
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            yield
            thread.join()
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


@every_role
def test_ctrl_c_while_waiting_for_a_message_costs_nothing(role: Role) -> None:
    with pair(role) as (ws, peer):
        data = peer.frame(TEXT, b"in two pieces")
        for cut in range(0, len(data), 4):
            peer.push(data[:cut])
            with pytest.raises(TimeoutError):
                ws.receive(0)  # what is here has been taken apart
            stream_of(ws).reads.clear()
            with pressed(stream_of(ws).reads):
                ws.receive()
            assert is_at_rest(ws)
            peer.push(data[cut:])
            assert ws.receive(5) == "in two pieces"


def test_signals_that_follow_one_another_put_no_deadline_off() -> None:
    """Their handler raises nothing, and Python goes on with what they have interrupted."""
    signals = 0

    def tick(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        if signals == 100:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, tick)
    try:
        with pair() as (ws, _):
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with pytest.raises(TimeoutError):
                ws.receive(1.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 < signals < 100


@contextmanager
def rung(error: Exception, when: threading.Event) -> Iterator[None]:
    """Have a signal handler raise this in the main thread, once an event is set."""

    def ring(number: int, frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGINT, ring)
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        assert when.wait(GUARD)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    try:
        with pytest.raises(type(error)) as caught:
            thread.start()
            yield
        thread.join()
        assert caught.value is error
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


# What the stream itself may raise, too.
SYSTEM_LIKE = [TimeoutError("an alarm"), InterruptedError("a signal"), ConnectionError("a check")]


@pytest.mark.parametrize("error", SYSTEM_LIKE, ids=lambda error: type(error).__name__)
def test_what_a_handler_raises_while_a_message_is_waited_for_is_not_the_networks(
    error: OSError,
) -> None:
    with pair() as (ws, peer):
        with rung(error, stream_of(ws).reads):
            ws.receive()
        assert is_at_rest(ws)
        peer.send(TEXT, b"nothing is lost")
        assert ws.receive(5) == "nothing is lost"


@pytest.mark.parametrize("error", SYSTEM_LIKE, ids=lambda error: type(error).__name__)
def test_what_a_handler_raises_within_a_write_is_not_the_networks(error: OSError) -> None:
    with pair() as (ws, peer):
        with rung(error, stream_of(ws).writes):
            ws.send(b"x" * LARGE)
        with pytest.raises(anyws.ClosedByUs, match="a write was interrupted"):
            ws.send("next")
        assert peer.until_end() == []


def test_ctrl_c_while_waiting_for_a_pong_costs_the_answer() -> None:
    with pair() as (ws, peer):
        with pressed(stream_of(ws).reads):
            ws.ping()
        peer.send(PONG, peer.next_frame().payload)
        peer.send(TEXT, b"x")
        assert ws.receive(5) == "x"
        assert ws.latency is None
        assert is_at_rest(ws)


@every_role
def test_ctrl_c_in_a_write_that_is_stuck_breaks_the_connection_which_says_so(role: Role) -> None:
    with pair(role) as (ws, peer):
        with pressed(stream_of(ws).writes):
            ws.send(b"x" * LARGE)
        assert is_at_rest(ws)
        for call in (lambda: ws.send("next"), ws.receive, ws.ping):
            with pytest.raises(anyws.ClosedByUs, match="a write was interrupted"):
                call()
        assert not ws.close().clean
        assert stream_of(ws).socket.fileno() == -1
        # The beginning of that frame, and no other behind it.
        assert peer.until_end() == []
        assert len(peer.received) < LARGE


def test_ctrl_c_while_another_thread_writes_costs_that_one_nothing(run) -> None:
    with pair() as (ws, peer):
        sending = run(ws.send, b"x" * LARGE)
        assert stream_of(ws).writes.wait(GUARD)
        with pressed("_wait_for_change"):
            ws.send("waits for its turn")
        assert len(peer.next_frame().payload) == LARGE
        sending.result(5)
        ws.send("next")
        assert peer.next_frame().payload == b"next"


def test_ctrl_c_while_closing_closes_all_the_same() -> None:
    with pair(config=Config(close_timeout=None)) as (ws, peer):
        with pressed(stream_of(ws).reads):
            ws.close()
        assert ws.status is Status.CLOSED
        assert stream_of(ws).socket.fileno() == -1
        assert [f.opcode for f in peer.until_end()] == [CLOSE]
        assert not ws.close().clean


def test_ctrl_c_in_the_body_closes_with_1001_and_a_second_one_closes_at_once() -> None:
    config = Config(cancel_grace=20, close_timeout=20)
    with RawServer() as server:
        opening = anyws.sync.open_websocket(server.url, config=config)
        ws = opening.__enter__()
        peer = server.peer()
        first = KeyboardInterrupt()
        with pressed("fetch"):
            opening.__exit__(KeyboardInterrupt, first, None)
        assert ws.status is Status.CLOSED
        assert [f.payload for f in peer.until_end()] == [b"\x03\xe9"]


def test_ctrl_c_while_connecting_leaves_no_socket(run) -> None:
    """Once while the system waits for an answer, once for the server's half of the handshake."""
    asked = threading.Event()
    with socket.create_server((HOST, 0)) as listening:
        accepting = run(accept_and_read, listening, asked)
        with pressed(asked):
            anyws.sync.open_websocket(
                f"ws://{HOST}:{listening.getsockname()[1]}/", config=QUICK
            ).__enter__()
        assert accepting.result(5) == b""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        with pressed("_connect"):
            anyws.sync.open_websocket(
                f"ws://{HOST}:{listening.getsockname()[1]}/", config=QUICK
            ).__enter__()
        for sock in waiting:
            sock.close()


def accept_and_read(listening: socket.socket, asked: threading.Event) -> bytes:
    sock, _ = listening.accept()
    with sock:
        sock.settimeout(GUARD)
        sock.recv(4096)
        asked.set()
        return sock.recv(1)


# --- Calls of the system ---


class Interrupting(BlockingStream):
    """A stream whose n-th call of the system is interrupted, before it or after."""

    at = 0
    after = False

    def __init__(self, sock: socket.socket) -> None:
        self.left = self.at
        super().__init__(sock)

    def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.left -= 1
        if not self.left and not self.after:
            raise KeyboardInterrupt
        result = function(*args, **options)
        if not self.left:
            raise KeyboardInterrupt
        return result

    def fetch(self, deadline: float) -> bool:
        return self._call(super().fetch, deadline)

    def wait(self, deadline: float, *, read: bool = False) -> tuple[bool, bool]:
        return self._call(super().wait, deadline, read=read)

    def send_now(self, data: bytes | memoryview) -> int:
        return self._call(super().send_now, data)


def answering(peer: Peer) -> list[tuple[int, int]]:
    """Be a good peer to the end; give the opcode and size of all that was received."""
    received = []
    try:
        while True:
            one = peer.next_frame()
            received.append((one.opcode, len(one.payload)))
            if one.opcode == PING:
                peer.send(PONG, one.payload)
            elif one.opcode == CLOSE:
                peer.send(CLOSE, one.payload)
                peer.raw.shutdown(socket.SHUT_WR)
            elif one.opcode == TEXT:
                peer.push(peer.frame(TEXT, b"a") + peer.frame(PING, b"") + peer.frame(TEXT, b"b"))
    except (EOFError, OSError):
        return received


@every_role
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_of_any_call_of_the_system_leaves_whole_frames_or_the_end(
    role: Role, after: bool, run
) -> None:
    for at in itertools.count(1):
        kind = type("One", (Interrupting,), {"at": at, "after": after})
        with pair(role, stream=kind) as (ws, peer):
            peer_s = run(answering, peer)
            was_interrupted = False
            for step in (
                lambda ws=ws: ws.send(b"x" * 30_000),
                lambda ws=ws: ws.send("y"),
                lambda ws=ws: ws.receive(5),
                lambda ws=ws: ws.receive(5),
                lambda ws=ws: ws.ping(5),
                lambda ws=ws: ws.send(b"z"),
                lambda ws=ws: ws.send(b"z" * 200),
            ):
                try:
                    step()
                except KeyboardInterrupt:
                    was_interrupted = True
                    assert is_at_rest(ws)
                except anyws.ClosedByUs:
                    assert was_interrupted
            broken = not ws.is_open
            assert not broken or "interrupt" in ws.closure.cause
            try:
                ws.close()
            except KeyboardInterrupt:
                was_interrupted = broken = True
            assert ws.status is Status.CLOSED
            assert ws._transport._stream.socket.fileno() == -1
            wire = peer_s.result(5)
            if broken:
                assert wire.count((CLOSE, 2)) <= 1
            else:
                assert peer.received == b""
                assert wire[-3:] == [(2, 1), (2, 200), (CLOSE, 2)]
        if not was_interrupted:
            break
    assert at > 12


# --- The sweep ---


@every_role
@pytest.mark.parametrize("wire", ["here", "cut", "with a ping"])
def test_an_interrupt_in_receive_costs_at_most_the_message_being_returned(
    role: Role, wire: str, sweep: Sweep
) -> None:
    for at in sweep:
        with pair(role, stream=BlockingStream) as (ws, peer):
            data = peer.frame(TEXT, b"a")
            if wire == "with a ping":
                data += peer.frame(PING, b"!")
            last = peer.frame(TEXT, b"b")
            peer.push(data if wire != "cut" else data[:2])
            message = sweep.interrupt(at, lambda ws=ws: ws.receive(0 if wire == "cut" else 5))
            assert is_at_rest(ws)
            if ws.is_open:
                peer.push(last if wire != "cut" else data[2:] + last)
            else:
                # In the moment in which it was taken apart.
                sweep.broken += 1
                with pytest.raises(anyws.ClosedByUs, match="interrupt"):
                    ws.receive(0)
                ws.close()
                assert ws._transport._stream.socket.fileno() == -1
                continue
            rest = []
            try:
                while True:
                    rest.append(ws.receive(0))
            except TimeoutError:
                pass
            assert rest in ((["b"],) if message else (["a", "b"], ["b"] if wire != "cut" else []))
            ws.abort()
            peer.until_end()
            assert peer.received == b""
    assert sweep.broken < sweep.points * 0.8


@every_role
def test_an_interrupt_in_a_receive_that_waits_costs_nothing(role: Role, sweep: Sweep) -> None:
    for at in sweep:
        with pair(role, stream=BlockingStream) as (ws, peer):
            sweep.interrupt(at, lambda ws=ws: ws.receive(0.0001))
            assert is_at_rest(ws)
            assert ws.is_open
            peer.send(TEXT, b"x")
            assert ws.receive(5) == "x"


def test_an_interrupt_while_another_thread_has_the_lock_leaves_it_to_that(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that returns from a wait which the main thread is in, too."""
    # Locks alone: what a Python function does would be a point to interrupt.
    wanted, taken = threading.Lock(), threading.Lock()
    is_over = False
    kept: list[bool] = []

    def hold(lock: threading.Lock) -> None:
        while wanted.acquire() and not is_over:
            lock.acquire()
            taken.release()
            time.sleep(0.002)
            kept.append(lock.locked())
            if kept[-1]:
                lock.release()

    def fetch(deadline: float) -> bool:
        wanted.release()
        return not taken.acquire()

    wanted.acquire()
    taken.acquire()
    with pair() as (ws, _):
        monkeypatch.setattr(stream_of(ws), "fetch", fetch)
        thread = threading.Thread(target=hold, args=[ws._transport.lock])
        thread.start()
        try:
            for at in sweep:
                sweep.interrupt(at, lambda: ws.receive(0.001))
        finally:
            is_over = True
            wanted.release()
            thread.join()
        assert is_at_rest(ws)
    assert len(kept) > 5
    assert all(kept)


@every_role
@pytest.mark.parametrize("size", [10, 30_000])
def test_an_interrupt_in_send_leaves_a_whole_frame_or_breaks_the_connection(
    role: Role, size: int, sweep: Sweep, run
) -> None:
    for at in sweep:
        with pair(role, stream=BlockingStream) as (ws, peer):
            reading = run(peer.until_end)
            sweep.interrupt(at, lambda ws=ws: ws.send(b"x" * size))
            assert is_at_rest(ws)
            broken = not ws.is_open
            if broken:
                sweep.broken += 1
                with pytest.raises(anyws.ClosedByUs, match="interrupted"):
                    ws.send(b"next")
            else:
                ws.send(b"next")
            ws.abort()
            wire = [f.payload for f in reading.result(5)]
            if broken:
                assert wire in ([], [b"x" * size])
            else:
                assert wire in ([b"next"], [b"x" * size, b"next"])
                assert peer.received == b""
        if at > 400:
            return  # how often it waits for the peer is a matter of time


class Alarm(ConnectionError):
    """What a signal handler raises, and a network might."""


@pytest.mark.parametrize("call", ["receive", "send", "large send", "close"])
def test_what_a_handler_raises_is_its_own_wherever_in_the_package_it_comes(
    call: str, sweep: Sweep, run
) -> None:
    sweep.error = Alarm
    for at in sweep:
        with pair(config=BRIEF, stream=BlockingStream) as (ws, peer):
            if call == "receive":
                peer.push(peer.frame(TEXT, b"a") + peer.frame(PING, b"!"))
            reading = run(peer.until_end)
            calls = {
                "receive": lambda ws=ws: ws.receive(1),
                "send": lambda ws=ws: ws.send("x"),
                "large send": lambda ws=ws: ws.send(b"x" * 30_000),
                "close": ws.close,
            }
            sweep.interrupt(at, calls[call])
            assert is_at_rest(ws)
            # The network has done nothing.
            assert ws.closure is None or "lost" not in ws.closure.cause
            ws.close()
            assert ws._transport._stream.socket.fileno() == -1
            reading.result(5)
        if at > 400:
            return  # how often it waits for the peer is a matter of time


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_what_a_handler_raises_while_opening_is_not_the_server_s(
    scheme: str, sweep: Sweep, run
) -> None:
    """One that leaves in the middle of the handshake, so that its own error may come as well."""
    sweep.error = Alarm
    # First without, since an import would take an OSError for an answer.
    for number in range(-1, 10_000):
        with socket.create_server((HOST, 0)) as listening:
            accepting = run(accept_and_leave, listening)
            url = f"{scheme}://{HOST}:{listening.getsockname()[1]}/"
            opening = anyws.sync.open_websocket(url, config=BRIEF)
            error = None
            try:
                sweep.interrupt(number + 1, opening.__enter__)
            except (anyws.HandshakeInvalid, OSError) as caught:
                error = caught
            listening.shutdown(socket.SHUT_RDWR)
            accepting.result(5)
            # The interrupt itself, or what the server did: never the one for the other.
            assert error is None or not sweep.interrupted
        sweep.points = number
        if number > 0 and not sweep.interrupted:
            break
    assert sweep.points > 50


def accept_and_leave(listening: socket.socket) -> None:
    try:
        sock, _ = listening.accept()
    except OSError:
        return
    with sock:
        sock.settimeout(GUARD)
        try:
            sock.recv(4096)
        except OSError:
            pass


@every_role
def test_an_interrupt_in_ping_leaves_the_connection_usable_or_broken(
    role: Role, sweep: Sweep
) -> None:
    for at in sweep:
        with pair(role, stream=BlockingStream) as (ws, peer):
            sweep.interrupt(at, lambda ws=ws: ws.ping(0.0001))
            assert is_at_rest(ws)
            if ws.is_open:
                ws.send("next")
            ws.abort()
            wire = [f.opcode for f in peer.until_end()]
            assert wire in ([TEXT], [PING, TEXT], [PING], [])
            assert peer.received == b""


@every_role
@pytest.mark.parametrize("answer", [True, False])
def test_an_interrupt_in_close_leaves_a_connection_that_can_be_closed(
    role: Role, answer: bool, sweep: Sweep
) -> None:
    for at in sweep:
        with pair(role, BRIEF, BlockingStream) as (ws, peer):
            if answer:
                peer.push(peer.frame(TEXT, b"unread") + peer.frame(CLOSE, close_frame(1000)[2:]))
                peer.raw.shutdown(socket.SHUT_WR)
            sweep.interrupt(at, ws.close)
            assert is_at_rest(ws)
            assert ws.status in {Status.CLOSED, Status.OPEN}
            ws.close()
            assert ws.status is Status.CLOSED
            assert ws._transport._stream.socket.fileno() == -1
            assert len(peer.until_end()) <= 1
            assert peer.received == b""


@every_role
def test_an_interrupt_in_a_message_in_fragments_never_makes_a_whole_one_of_a_half(
    role: Role, sweep: Sweep
) -> None:
    for at in sweep:
        with pair(role, BRIEF, BlockingStream) as (ws, peer):
            sweep.interrupt(at, lambda ws=ws: ws.send_fragments(["a", "b"]))
            assert is_at_rest(ws)
            if ws.is_open:
                ws.send("next")
            ws.close()
            frames = [f for f in peer.until_end() if f.opcode != CLOSE]
            assert peer.received == b""
            texts = [f.payload for f in frames]
            if b"next" in texts:
                assert texts in ([b"next"], [b"a", b"b", b"", b"next"])


@every_role
def test_an_interrupt_in_receiving_pieces_costs_what_was_being_returned(
    role: Role, sweep: Sweep
) -> None:
    def receive(ws: WebSocket) -> list[str | bytes]:
        with ws.receive_fragments() as fragments:
            return list(fragments)

    for at in sweep:
        with pair(role, BRIEF, BlockingStream) as (ws, peer):
            peer.push(peer.frame(TEXT, b"a", fin=False) + peer.frame(0, b"b"))
            sweep.interrupt(at, lambda ws=ws: receive(ws))
            assert is_at_rest(ws)
            if ws.is_open:
                peer.send(TEXT, b"next")
                while ws.receive(0) != "next":
                    pass
            ws.close()


# One that the system has just made, and nobody has seen yet, is closed with a warning.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_while_opening_leaves_no_socket(sweep: Sweep) -> None:
    step = 17
    for number in range(10_000):
        with RawServer() as server:

            def use(url: str = server.url) -> None:
                with anyws.sync.open_websocket(url, config=BRIEF):
                    pass

            sweep.interrupt(1 + number * step, use)
            sweep.points = number
            if server._accepted.done() and server._accepted.exception() is None:
                peer = server.peer()
                peer.raw.settimeout(5)
                peer.until_end()
        if not sweep.interrupted:
            return


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupt_while_opening_through_a_proxy_leaves_no_socket(sweep: Sweep) -> None:
    """With TLS to the proxy, and TLS within it."""
    step = 53
    with running(secure=True, credentials=("me", "secret")) as fake:
        proxy = Proxy(fake.url("me:secret"), ssl_context=connections.client_tls())
        for number in range(10_000):
            with RawServer("tls") as server:

                def use(server: RawServer = server) -> None:
                    with anyws.sync.open_websocket(
                        server.url, ssl_context=server.ssl_context, proxy=proxy, config=BRIEF
                    ):
                        pass

                sweep.interrupt(1 + number * step, use)
                sweep.points = number
            if not sweep.interrupted:
                break
    assert b"secret" not in fake.carried


@pytest.mark.parametrize("comes", ["before", "within", "behind", "far behind"])
def test_an_interrupt_while_a_server_starts_leaves_no_thread_and_no_socket(
    monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """The thread that accepts would keep the process from ending."""
    start, begin = threading.Thread.start, Server._start
    acceptors: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        if thread.name != "anyws acceptor" or comes == "far behind":
            return start(thread)
        acceptors.append(thread)
        if comes == "behind":
            start(thread)
        elif comes == "within":
            # It has not begun when the interrupt comes.
            threading.Timer(0.1, start, [thread]).start()
        raise KeyboardInterrupt

    def interrupted_behind(server: Server, sockets: list[socket.socket]) -> None:
        begin(server, sockets)
        if comes == "far behind":
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(Server, "_start", interrupted_behind)
    with pytest.raises(KeyboardInterrupt):
        with anyws.sync.open_server(lambda ws: None, host="127.0.0.1", port=0):
            raise AssertionError("it has not started")
    monkeypatch.undo()
    if comes == "within":
        while not acceptors[0].ident:
            pass
        acceptors[0].join(5)
        assert not acceptors[0].is_alive()


@pytest.mark.parametrize("comes", ["before", "behind"])
def test_an_interrupt_while_a_server_ends_is_the_end_of_accepting_too(
    monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    end = Server._stop_listening
    interrupts = []

    def interrupted(server: Server) -> None:
        if comes == "behind":
            end(server)
        if not interrupts:
            interrupts.append(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with anyws.sync.open_server(lambda ws: None, host="127.0.0.1", port=0) as server:
            acceptor = server._acceptor.thread
            monkeypatch.setattr(Server, "_stop_listening", interrupted)
    assert acceptor is not None
    acceptor.join(5)
    assert not acceptor.is_alive()


# --- Where Python itself would lose one ---

# What the main thread of a program may run.
INTERRUPTED = ["sync/*.py", "callbacks/*.py", "_transports/blocking*.py"]


def test_no_block_that_undoes_something_ends_with_the_condition_of_a_loop() -> None:
    """Python 3.13.0 lets an interrupt that comes there pass by the block's handlers."""
    package = Path(anyws.__file__).parent
    paths = [path for pattern in INTERRUPTED for path in package.glob(pattern)]
    assert len(paths) > 10
    found = [
        f"{path.relative_to(package)}:{line}"
        for path in paths
        for line in loops_in_guarded_blocks(ast.parse(path.read_text()), guarded=False)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("with lock:\n    while f():\n        g()", [2]),
        ("try:\n    if a:\n        while f():\n            g()\nfinally:\n    h()", [3]),
        ("try:\n    while f():\n        g()\nexcept BaseException:\n    h()", [2]),
        ("try:\n    while f():\n        g()\nexcept (OSError, ValueError):\n    h()", []),
        ("while f():\n    with lock:\n        g()", []),
        ("with lock:\n    while True:\n        g()", []),
        ("with lock:\n    def f():\n        while g():\n            h()", []),
        ("try:\n    f()\nfinally:\n    while g():\n        h()", []),
    ],
)
def test_the_referee_finds_such_loops(source: str, lines: list[int]) -> None:
    assert list(loops_in_guarded_blocks(ast.parse(source), guarded=False)) == lines


def loops_in_guarded_blocks(node: ast.AST, *, guarded: bool) -> Iterator[int]:
    """Find loops with a condition within blocks that see an interrupt: their lines."""
    if isinstance(node, (ast.FunctionDef, ast.Lambda)):
        guarded = False
    elif isinstance(node, ast.AsyncFunctionDef):
        return  # Event loops have ways of their own to bring an interrupt.
    elif guarded and isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        yield node.lineno
    elif isinstance(node, ast.With):
        guarded = True
    elif isinstance(node, ast.Try):
        sees_it = bool(node.finalbody) or any(map(catches_interrupts, node.handlers))
        for child in node.body:
            yield from loops_in_guarded_blocks(child, guarded=guarded or sees_it)
        for child in (*node.handlers, *node.orelse, *node.finalbody):
            yield from loops_in_guarded_blocks(child, guarded=guarded)
        return
    for child in ast.iter_child_nodes(node):
        yield from loops_in_guarded_blocks(child, guarded=guarded)


def catches_interrupts(handler: ast.ExceptHandler) -> bool:
    names = {
        node.id for node in ast.walk(handler.type or ast.Name("all")) if isinstance(node, ast.Name)
    }
    return bool(names & {"all", "BaseException", "KeyboardInterrupt"})

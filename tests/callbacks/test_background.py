"""The library's threads: one for the network, one for listeners, and none when nobody needs them."""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from callbacks.clients import (
    GUARD,
    QUICK,
    Heard,
    opened,
    peered,
    served,
    silent_server,
    threads_of_ours,
    wait_until,
)
from programs import run, started

import anyws
import anyws.sync
from anyws import Config, ConnectionBroken, Status
from anyws.callbacks import Client, Closed, Event, Message, Opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Block:
    """A listener that waits within its first event of a kind, until it is let go."""

    def __init__(self, kind: type[Event] = Event) -> None:
        self.is_within = threading.Event()
        self.go_on = threading.Event()
        self._kind = kind

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._kind) and not self.is_within.is_set():
            self.is_within.set()
            # Longer than anybody waits for what this must not hold up.
            assert self.go_on.wait(2 * GUARD)


# --- Threads ---


@pytest.mark.parametrize("comes", ["before", "behind"])
def test_an_interrupt_while_opening_leaves_a_client_that_knows_what_it_is(
    monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """As Ctrl-C does, before the thread has been started or while that is waited for."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "anyws callbacks":
            if comes == "behind":
                start(thread)
            raise KeyboardInterrupt
        start(thread)

    heard = Heard()
    with served() as url:
        client = Client(url, heard, config=QUICK)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.open()
        if comes == "before":
            assert client.status is Status.CLOSED
            assert heard.events == []
            client.open()
        heard.wait_for(Opened)
        assert (
            len([thread for thread in threads_of_ours() if thread.name == "anyws callbacks"]) == 1
        )
        client.send("hello")
        assert heard.wait_for(Message).data == "hello"
        client.close()
        assert heard.wait_for_end().clean
    assert len(heard.of(Opened)) == 1


def test_a_listener_finds_its_client_open_though_open_has_not_returned():
    statuses = []
    is_over = threading.Event()

    def on_opened(event: Opened) -> None:
        statuses.append(event.client.status.value)
        event.client.send("early")

    def on_message(event: Message) -> None:
        statuses.append(event.data)
        event.client.close()

    def hold_up(frame: FrameType, kind: str, argument: object) -> Any:
        """Have this thread wait for the listeners where it has started everything."""
        if frame.f_code.co_name != "start" or not frame.f_code.co_filename.endswith(
            "_background.py"
        ):
            return None
        if kind == "return":
            assert is_over.wait(GUARD)
        return hold_up

    with served() as url:
        listeners = {
            Opened: on_opened,
            Message: on_message,
            Closed: lambda event: is_over.set(),
        }
        client = Client(url, listeners, config=QUICK)
        before = sys.gettrace()
        sys.settrace(hold_up)
        try:
            client.open()
        finally:
            sys.settrace(before)
        assert client.status.value == "closed"
    assert statuses == ["open", "early"]


def test_listeners_are_called_in_a_thread_of_the_library_that_is_not_the_networks():
    with served() as url, opened(url) as (client, heard):
        for number in range(1, 20):
            client.send("x")
            heard.wait_for(Message, number)
        assert {thread.name for thread in heard.threads} == {"anyws listeners"}
        assert threading.current_thread() not in heard.threads


def test_all_clients_share_one_thread_and_it_ends_with_the_last_of_them():
    with served() as url:
        clients = [Client(url, config=QUICK, polled=True) for _ in range(20)]
        assert threads_of_ours() == []
        for client in clients:
            client.open()
        for client in clients:
            assert client.poll(GUARD) == 1
        (thread,) = threads_of_ours()
        assert thread.daemon
        for client in clients:
            client.close()
            assert client.poll(GUARD) == 1
        thread.join(GUARD)
        assert threads_of_ours() == []


def test_threads_for_listeners_end_when_there_is_nothing_to_tell():
    with served() as url, opened(url) as (_, heard):
        assert [thread.name for thread in heard.threads] == ["anyws listeners"]
        wait_until(lambda: [thread.name for thread in threads_of_ours()] == ["anyws callbacks"])


def test_events_of_many_clients_that_are_not_slow_come_in_order_from_few_threads():
    with served() as url:
        heards = [Heard() for _ in range(50)]
        clients = [Client(url, heard, config=QUICK) for heard in heards]
        for client in clients:
            client.open()
        for heard in heards:
            heard.wait_for(Opened)
        for number in range(50):
            for client in clients:
                client.send(str(number))
        for heard in heards:
            heard.wait_for(Message, 50)
        for client, heard in zip(clients, heards, strict=True):
            client.close()
            heard.wait_for_end()
        for heard in heards:
            assert heard.messages == [str(number) for number in range(50)]
            assert heard.kinds == [Opened, *[Message] * 50, Closed]


# --- Slow listeners ---


def test_a_slow_listener_holds_up_its_own_connection_and_no_other():
    block = Block(Message)
    with peered() as (url, peer), served() as other, opened(url, block, peer=peer) as (_, slow):
        ws = peer.wait()
        ws.send("first")
        assert block.is_within.wait(GUARD)
        with opened(other) as (client, heard):
            for number in range(1, 50):
                client.send(str(number))
                heard.wait_for(Message, number)
        assert heard.kinds[-1] is Closed
        # The connection itself is alive.
        assert ws.ping(GUARD) < GUARD
        ws.send("second")
        assert len(slow.messages) == 1
        block.go_on.set()
        slow.wait_for(Message, 2)
        assert slow.messages == ["first", "second"]


def test_many_slow_listeners_hold_up_nobody_else():
    blocks = [Block() for _ in range(20)]
    with served() as url:
        clients = [Client(url, block, config=QUICK) for block in blocks]
        for client in clients:
            client.open()
        for block in blocks:
            assert block.is_within.wait(GUARD)
        with opened(url) as (client, heard):
            client.send("x")
            heard.wait_for(Message)
        for block in blocks:
            block.go_on.set()
        ends = [Heard() for _ in clients]
        for client, heard in zip(clients, ends, strict=True):
            client.add_listener(Closed, heard)
            client.close()
        for heard in ends:
            heard.wait_for_end()


def test_what_waits_for_a_slow_listener_is_bounded():
    block = Block(Message)
    sent = []

    def send(ws: anyws.sync.WebSocket) -> None:
        with pytest.raises(ConnectionBroken, match="stalled"):
            for number in range(400):
                ws.send(number.to_bytes(4, "big") * 65536)
                sent.append(number)
        block.go_on.set()

    server_config = Config(write_timeout=0.5, compression=None, close_timeout=0.1)
    with served(send, config=server_config) as url, opened(url, block) as (_, heard):
        heard.wait_for_end()
        numbers = [int.from_bytes(data[:4], "big") for data in heard.messages]
        assert numbers == list(range(len(numbers)))
        assert len(sent) < 200


def test_a_client_with_a_slow_listener_can_be_closed():
    block = Block(Message)
    with peered() as (url, peer), opened(url, block, peer=peer) as (client, heard):
        ws = peer.wait()
        for _ in range(100):
            ws.send("x")
        assert block.is_within.wait(GUARD)
        client.close(4000)
        with pytest.raises(anyws.ConnectionClosed):
            ws.receive(GUARD)
        assert ws.closure.received.code == 4000
        block.go_on.set()
        heard.wait_for_end()
        assert heard.kinds == [Opened, Message, Closed]


def test_an_end_is_told_also_while_all_others_are_slow():
    """The last connection's end, when the only thread for listeners is in another's."""
    block = Block()
    with served() as url:
        slow = Client(url, block, config=QUICK)
        slow.open()
        assert block.is_within.wait(GUARD)
        heard = Heard()
        client = Client(url, heard, config=QUICK)
        client.open()
        heard.wait_for(Opened)
        (worker,) = heard.threads
        worker.join(GUARD)
        slow.close()
        client.close()
        heard.wait_for_end()
        block.go_on.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_ends_its_thread_behind_all_others_keeps_nobody_from_the_end():
    def leave(event: Closed) -> None:
        for thread in threads_of_ours():
            if thread.name == "anyws callbacks":
                thread.join(GUARD)
        raise SystemExit

    heard = Heard()
    with served() as url:
        client = Client(url, {Closed: leave}, config=QUICK)
        client.add_listener(Event, heard)
        for number in range(1, 3):
            client.open()
            heard.wait_for(Opened, number)
            client.close()
            heard.wait_for_end(number)
    assert heard.kinds == [Opened, Closed] * 2


def test_what_was_dispatched_and_is_called_late_waits_for_no_slow_listener():
    """The connections have ended, and with them the loop that looked for who waits too long."""
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    block = Block()
    heard = Heard()

    def send(ws: anyws.sync.WebSocket) -> None:
        for _ in range(40):
            ws.send("x")

    with served(send) as url:
        slow = Client(url, block, config=QUICK)
        slow.open()
        assert block.is_within.wait(GUARD)
        client = Client(url, heard, config=replace(QUICK, inbox_size=50), dispatch=calls.put)
        client.open()
        call = calls.get(timeout=GUARD)
        slow.close()
        wait_until(lambda: len(threads_of_ours()) == 1)
        while not heard.ends:
            call()
            if not heard.ends:
                call = calls.get(timeout=GUARD)
        block.go_on.set()
    assert heard.kinds == [Opened, *[Message] * 40, Closed]


# --- Dispatching ---


def test_events_are_dispatched_to_another_thread_in_order():
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    heard = Heard()
    with served() as url:
        client = Client(url, heard, config=QUICK, dispatch=calls.put)
        client.open()
        while not heard.ends:
            calls.get(timeout=GUARD)()
            if heard.kinds[-1] is Opened:
                for number in range(200):
                    client.send(str(number))
            if len(heard.messages) == 200:
                client.close()
    assert heard.threads == {threading.current_thread()}
    assert heard.messages == [str(number) for number in range(200)]
    assert heard.kinds == [Opened, *[Message] * 200, Closed]


async def test_events_are_dispatched_to_asyncio() -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    heard = Heard()

    def listen(event: Event) -> None:
        assert asyncio.get_running_loop() is loop
        heard(event)
        match event:
            case Opened():
                event.client.send("x")
            case Message():
                event.client.close()
            case Closed():
                ended.set()

    with served() as url:
        client = Client(url, listen, config=QUICK, dispatch=loop.call_soon_threadsafe)
        client.open()
        await asyncio.wait_for(ended.wait(), GUARD)
    assert heard.kinds == [Opened, Message, Closed]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_while_what_was_dispatched_has_not_been_called_nothing_is_delivered():
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    heard = Heard()
    with peered() as (url, peer):
        client = Client(url, heard, config=QUICK, dispatch=calls.put)
        client.open()
        call = calls.get(timeout=GUARD)
        ws = peer.wait()
        ws.send("x")
        ws.ping(GUARD)
        wait_until(lambda: len(client._inbox) == 2)
        assert heard.events == []
        assert calls.empty()
        call()
        assert heard.kinds == [Opened, Message]
        client.close()
        peer.release()
        calls.get(timeout=GUARD)()
        assert heard.kinds[-1] is Closed


def test_a_dispatch_that_raises_is_reported_and_what_waits_comes_with_the_next_event(caplog):
    heard = Heard()

    def dispatch(call: Callable[[], None]) -> None:
        if client.is_open and not caplog.records:
            raise RuntimeError("main thread is not in main loop")
        call()

    with peered() as (url, peer):
        client = Client(url, heard, config=QUICK, dispatch=dispatch)
        client.open()
        ws = peer.wait()
        while not caplog.records:
            time.sleep(0.001)
        ws.send("x")
        heard.wait_for(Message)
        client.close()
        peer.release()
        heard.wait_for_end()
    assert heard.kinds == [Opened, Message, Closed]
    assert caplog.records[0].message == "dispatching events failed"


def test_what_comes_while_a_dispatch_fails_is_dispatched_all_the_same(caplog):
    heard = Heard()
    attempts: list[bool] = []

    def dispatch(call: Callable[[], None]) -> None:
        attempts.append(client.is_open)
        if len(attempts) == 1:
            client.close()
            wait_until(lambda: client.status is Status.CLOSED)
            raise RuntimeError("main thread is not in main loop")
        call()

    with served() as url:
        client = Client(url, heard, config=QUICK, dispatch=dispatch)
        client.open()
        heard.wait_for_end()
    assert heard.kinds == [Closed]
    assert attempts == [True, False]
    assert [record.message for record in caplog.records] == ["dispatching events failed"]


def test_a_dispatch_that_fails_behind_the_call_is_reported_and_nothing_else(caplog):
    heard = Heard()

    def dispatch(call: Callable[[], None]) -> None:
        call()
        raise RuntimeError("main thread is not in main loop")

    with served() as url:
        client = Client(url, heard, config=QUICK, dispatch=dispatch)
        client.open()
        for number in range(1, 20):
            heard.wait_for(Opened)
            client.send(str(number))
            heard.wait_for(Message, number)
        client.close()
        heard.wait_for_end()
    assert heard.kinds == [Opened, *[Message] * 19, Closed]
    assert {record.message for record in caplog.records} == {"dispatching events failed"}


def test_what_a_dispatch_that_fails_has_kept_delivers_nothing(caplog):
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    heard = Heard()

    def dispatch(call: Callable[[], None]) -> None:
        calls.put(call)
        if not caplog.records:
            raise RuntimeError("main thread is not in main loop")

    with peered() as (url, peer):
        client = Client(url, heard, config=QUICK, dispatch=dispatch)
        client.open()
        kept = calls.get(timeout=GUARD)
        wait_until(lambda: caplog.records)
        kept()
        assert heard.events == []
        client.close()
        peer.release()
        call = calls.get(timeout=GUARD)
        kept()
        assert heard.events == []
        call()
        call()
    assert heard.kinds == [Closed]


def test_a_dispatch_that_blocks_holds_up_no_other_client():
    is_within, go_on = threading.Event(), threading.Event()

    def dispatch(call: Callable[[], None]) -> None:
        is_within.set()
        assert go_on.wait(GUARD)
        call()

    with served() as url:
        heard = Heard()
        client = Client(url, heard, config=QUICK, dispatch=dispatch)
        client.open()
        assert is_within.wait(GUARD)
        with opened(url) as (other, others):
            other.send("x")
            others.wait_for(Message)
        go_on.set()
        client.close()
        heard.wait_for_end()


# --- Dropping ---


def received_close(ws: anyws.sync.WebSocket) -> Any:
    with pytest.raises(anyws.ConnectionClosed):
        while True:
            ws.receive(GUARD)
    assert ws.closure is not None
    return ws.closure.received


@pytest.mark.parametrize("options", [{}, {"polled": True}, {"dispatch": lambda call: None}])
def test_a_client_that_nobody_holds_is_closed_and_says_so(options):
    heard = Heard()
    with peered() as (url, peer):
        client = Client(url, heard.kinds_only, config=QUICK, **options)
        client.open()
        ws = peer.wait()
        (*_, thread) = [one for one in threads_of_ours() if one.name == "anyws callbacks"]
        while not client.is_open:
            time.sleep(0.001)
        with pytest.warns(ResourceWarning, match="was dropped without"):  # noqa: PT031
            # A listener may have it yet, for the length of an event.
            del client
            close = received_close(ws)
            peer.release()
            # The warning refers to the client, which is told nothing more all the same.
            thread.join(GUARD)
        assert close == anyws.Close(1001)
        assert Closed not in heard.told


def test_a_client_whose_listeners_refer_to_it_is_closed_when_it_is_collected():
    class Program:
        def __init__(self, url: str) -> None:
            self.client = Client(url, self.listen, config=QUICK, polled=True)

        def listen(self, event: Event) -> None:
            pass

    with peered() as (url, peer):
        program = Program(url)
        program.client.open()
        ws = peer.wait()
        # The server knows of it first; a client that is connecting yet would be given up.
        while not program.client.is_open:
            time.sleep(0.001)
        with pytest.warns(ResourceWarning, match="dropped"):  # noqa: PT031
            # A collection may come by itself.
            del program
            gc.collect()
        assert received_close(ws) == anyws.Close(1001)


def test_a_client_that_is_dropped_while_connecting_is_given_up():
    with silent_server() as url:
        client = Client(url, config=QUICK, polled=True)
        client.open()
        (thread,) = threads_of_ours()
        with pytest.warns(ResourceWarning, match="dropped"):
            del client
        thread.join(GUARD)
        assert not thread.is_alive()


def test_a_client_that_is_closed_or_was_never_open_is_dropped_in_silence():
    with served() as url:
        client = Client(url)
        del client
        with opened(url) as (client, _):
            pass
        del client
        client = Client(url, config=QUICK, polled=True)
        client.open()
        client.close()
        del client


# --- The end of the program ---

PROGRAM = """
import sys, threading
from anyws.callbacks import Client, Opened

is_open = threading.Event()
client = Client(sys.argv[1], {Opened: lambda event: is_open.set()})
client.open()
assert is_open.wait(10)
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "client.close(4000)", "raise KeyError"])
def test_a_program_that_ends_closes_its_connections_and_leaves_at_once(tmp_path, ending):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + ending + "\n")
    with peered() as (url, peer):
        closes = []

        def watch() -> None:
            closes.append(received_close(peer.wait()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = time.monotonic()
        result = run(program, url)
        assert time.monotonic() - before < GUARD
        watcher.join(GUARD)
    assert closes == [anyws.Close(4000 if "4000" in ending else 1001)]
    assert result.returncode == {"": 0, "sys.exit(3)": 3, "client.close(4000)": 0}.get(ending, 1)
    assert "KeyError" in result.stderr or result.stderr == ""


def test_a_program_whose_peer_does_not_answer_and_whose_listener_blocks_ends_all_the_same(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import atexit, threading\n"
        "atexit.register(lambda: print([one.name for one in threading.enumerate()]))\n"
        + PROGRAM
        + "client.add_listener(Opened, print)\n"
        "blocked = Client(sys.argv[1], {Opened: lambda event: (is_open.set(), threading.Event().wait())})\n"
        "is_open.clear()\nblocked.open()\nis_open.wait(10)\n"
    )
    with peered() as (url, _), started(program, url) as process:
        assert process.wait(GUARD) == 0
        # That with the event loop has ended; nobody can end the other.
        assert process.stdout.read() == "['MainThread', 'anyws listeners']\n"


def test_opening_when_the_interpreter_is_exiting_raises(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import atexit, sys\n"
        "def late():\n"
        "    try:\n        client.open()\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "atexit.register(late)\n"
        "from anyws.callbacks import Client\n"
        "client = Client(sys.argv[1])\n"
    )
    result = run(program, "ws://127.0.0.1/")
    assert (result.stdout, result.stderr) == (
        "the interpreter is exiting: no connection can be opened any more\n",
        "",
    )


def test_the_peers_pings_are_answered_while_nobody_polls():
    with peered() as (url, peer):
        client = Client(url, config=QUICK, polled=True)
        client.open()
        assert peer.wait().ping(GUARD) < GUARD
        client.close()
        peer.release()
        while client.poll(None):
            pass

"""Events that wait for the program's own loop, and that no interrupt loses."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from callbacks.clients import (
    GUARD,
    QUICK,
    Heard,
    opened,
    peered,
    poll_to_the_end,
    served,
    threads_of_ours,
    wait_until,
)
from programs import free_port

from anyws import Config, ConnectionBroken, Status
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened
from anyws.callbacks._run import Run

if TYPE_CHECKING:
    import anyws.sync


def test_a_game_loop_gets_its_events_in_its_own_thread_and_only_when_it_polls():
    heard = Heard()
    with served() as url:
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        while not client.is_open:
            pass
        assert heard.events == []
        frames = 0
        while client.status is not Status.CLOSED or client.poll():
            frames += 1
            client.poll(timeout=0.001)
            if client.is_open and heard.of(Opened) and not frames % 2:
                client.send(f"frame {frames}")
            if len(heard.messages) >= 10:
                client.close()
            assert [thread.name for thread in threads_of_ours()] <= ["anyws callbacks"]
    assert heard.threads == {threading.current_thread()}
    assert heard.kinds[0] is Opened
    assert heard.kinds[-1] is Closed
    assert set(heard.kinds[1:-1]) == {Message}


def test_poll_returns_how_many_events_it_has_delivered():
    heard = Heard()
    is_sent = threading.Event()

    def send(ws: anyws.sync.WebSocket) -> None:
        for _ in range(3):
            ws.send("x")
        ws.close()
        is_sent.set()

    with served(send) as url:
        client = Client(url, heard, config=QUICK, polled=True)
        assert client.poll() == 0
        assert client.poll(None) == 0
        client.open()
        assert is_sent.wait(GUARD)
        assert poll_to_the_end(client) == 5
        assert client.poll() == 0
    assert heard.kinds == [Opened, Message, Message, Message, Closed]


def test_poll_without_a_timeout_waits_for_an_event_and_ends_with_the_last():
    heard = Heard()
    with served(lambda ws: ws.send("x")) as url:
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        while client.poll(None):
            pass
    assert heard.kinds == [Opened, Message, Closed]


def test_poll_waits_as_long_as_it_is_told():
    with served() as url:
        heard = Heard()
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        assert client.poll(GUARD) == 1
        before = time.monotonic()
        assert client.poll(0.05) == 0
        assert 0.05 <= time.monotonic() - before < 5
        client.close()
        poll_to_the_end(client)


def test_an_event_that_comes_while_poll_waits_wakes_it():
    with peered() as (url, peer):
        client = Client(url, config=QUICK, polled=True)
        client.open()
        assert client.poll(GUARD) == 1
        ws = peer.wait()
        before = time.monotonic()
        for _ in range(100):
            sender = threading.Thread(target=ws.send, args=("x",))
            sender.start()
            assert client.poll(GUARD) == 1
            sender.join()
        assert time.monotonic() - before < 10
        client.close()
        peer.release()
        assert poll_to_the_end(client) == 1


def test_a_failure_is_polled_like_any_event():
    heard = Heard()
    client = Client(f"ws://127.0.0.1:{free_port()}/", heard, polled=True)
    client.open()
    assert client.poll(None) == 1
    assert heard.kinds == [Failed]


def test_poll_within_a_listener_delivers_nothing():
    """A window's loop may run within a listener: for a dialog, say."""
    inner = []
    with served() as url:
        client = Client(url, lambda event: inner.append(event.client.poll(GUARD)), polled=True)
        client.open()
        assert client.poll(GUARD) == 1
        assert inner == [0]
        client.close()
        poll_to_the_end(client)


def test_only_one_thread_polls_at_a_time():
    is_within = threading.Event()
    go_on = threading.Event()

    def hold(event: Event) -> None:
        is_within.set()
        assert go_on.wait(GUARD)

    with served() as url:
        client = Client(url, {Opened: hold}, config=QUICK, polled=True)
        client.open()
        thread = threading.Thread(target=client.poll, args=(GUARD,))
        thread.start()
        assert is_within.wait(GUARD)
        with pytest.raises(anyio.BusyResourceError):
            client.poll()
        go_on.set()
        thread.join()
        client.close()
        poll_to_the_end(client)


def test_only_polled_clients_are_polled():
    with pytest.raises(RuntimeError, match="polled=True"):
        Client("ws://127.0.0.1/").poll()


def test_what_opened_and_closed_again_is_polled_in_order():
    heard = Heard()
    with served(lambda ws: ws.send("x")) as url:
        client = Client(url, heard, config=QUICK, polled=True)
        for _ in range(3):
            client.open()
            while client.status is not Status.CLOSED:
                # Nothing is polled in between.
                time.sleep(0.001)
        poll_to_the_end(client)
    assert heard.kinds == [Opened, Message, Closed] * 3


# --- What waits is bounded ---


def test_messages_that_are_not_polled_hold_up_the_peer():
    """Only so many come, whatever it sends; all of those can be polled."""
    server_config = Config(write_timeout=0.5, compression=None, close_timeout=0.1)
    sent = []

    def send(ws: anyws.sync.WebSocket) -> None:
        with pytest.raises(ConnectionBroken, match="stalled"):
            for number in range(400):
                if number == 16:
                    assert is_full.wait(GUARD)
                # The network has room for the first ones, however late they are read.
                ws.send(number.to_bytes(4, "big") * (65536 if number >= 16 else 1))
                sent.append(number)
        is_stalled.set()

    is_full, is_stalled = threading.Event(), threading.Event()
    heard = Heard()
    with served(send, config=server_config) as url:
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        wait_until(lambda: len(client._inbox) == 16)
        is_full.set()
        assert is_stalled.wait(GUARD)
        assert len(client._inbox) == 16
        assert 16 <= len(sent) < 200
        poll_to_the_end(client)
    numbers = [int.from_bytes(data[:4], "big") for data in heard.messages]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= len(sent) - 1
    assert heard.of(Closed)[0].code == 1006


def test_who_polls_late_gets_every_message_all_the_same():
    def send(ws: anyws.sync.WebSocket) -> None:
        for number in range(2000):
            ws.send(str(number))

    heard = Heard()
    with served(send) as url:
        client = Client(url, heard, config=Config(inbox_size=3), polled=True)
        client.open()
        while client.status is Status.CONNECTING:
            time.sleep(0.001)
        poll_to_the_end(client)
    assert heard.messages == [str(number) for number in range(2000)]


def test_a_client_with_a_full_inbox_can_be_closed():
    def send(ws: anyws.sync.WebSocket) -> None:
        for _ in range(5000):
            ws.send("x")
        with pytest.raises(anyio.EndOfStream):
            ws.receive(GUARD)

    heard = Heard()
    with served(send) as url:
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        assert client.poll(GUARD) >= 1
        before = len(heard.messages)
        assert before < 5000
        client.close()
        poll_to_the_end(client)
        assert len(heard.messages) == before
        assert heard.ends[0].clean


# --- Interrupts ---


def test_an_interrupt_ends_a_poll_that_waits_and_loses_nothing():
    with peered() as (url, peer):
        heard = Heard()
        client = Client(url, heard, config=QUICK, polled=True)
        client.open()
        assert client.poll(GUARD) == 1
        with pytest.raises(KeyboardInterrupt), interrupted_in(0.05):
            client.poll(GUARD)
        peer.wait().send("x")
        assert client.poll(GUARD) == 1
        assert heard.messages == ["x"]
        client.close()
        peer.release()
        poll_to_the_end(client)


def test_an_interrupt_within_a_listener_leaves_the_event_to_the_next_listener():
    calls: list[str] = []

    def interrupted(event: Event) -> None:
        calls.append("interrupted")
        raise KeyboardInterrupt

    with served() as url:
        client = Client(url, {Opened: interrupted}, config=QUICK, polled=True)
        client.add_listener(Opened, lambda event: calls.append("next"))
        client.open()
        with pytest.raises(KeyboardInterrupt):
            client.poll(GUARD)
        assert calls == ["interrupted"]
        assert client.poll(GUARD) == 1
        assert calls == ["interrupted", "next"]
        client.close()
        poll_to_the_end(client)


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_where_there_is_room_again_does_not_hold_the_peer_up_for_ever(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    number = 50
    interrupts: list[int] = []
    poke = Run.poke

    def interrupted(run: Run) -> None:
        is_first = threading.current_thread() is threading.main_thread() and not interrupts
        if after or not is_first:
            poke(run)
        if is_first:
            interrupts.append(1)
            raise KeyboardInterrupt

    def send(ws: anyws.sync.WebSocket) -> None:
        for index in range(number):
            ws.send(str(index))
        ws.close()

    heard = Heard()
    with served(send) as url:
        monkeypatch.setattr(Run, "poke", interrupted)
        client = Client(url, heard, config=replace(QUICK, inbox_size=4), polled=True)
        client.open()
        wait_until(lambda: client._inbox._room_wanted)
        with pytest.raises(KeyboardInterrupt):
            while client.poll(GUARD):
                pass
        assert len(heard.messages) < number
        while client.poll(GUARD) and not heard.ends:
            pass
    assert heard.messages == [str(index) for index in range(number)]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such timers")
def test_interrupts_at_any_moment_lose_no_event_and_deliver_none_twice():
    """Hundreds of them, wherever they come; the listeners are no Python, so none is interrupted."""
    sent: list[str] = []

    def send(ws: anyws.sync.WebSocket) -> None:
        while len(sent) < 3000 or interrupts <= 20:
            sent.append(str(len(sent)))
            ws.send(sent[-1])
        ws.close()

    first: list[Any] = []
    second: list[Any] = []
    interrupts = 0
    pause = random.Random(1)

    def is_over() -> bool:
        return bool(second) and isinstance(second[-1], Closed)

    # A function of its own: `interrupted_in` says why.
    def poll() -> None:
        while client.poll(GUARD) and not is_over():
            pass

    with served(send) as url:
        client = Client(url, first.append, config=QUICK, polled=True)
        client.add_listener(Event, second.append)
        client.open()
        with unmeasured():
            while not is_over():
                try:
                    with interrupted_in(pause.uniform(0.00005, 0.002)):
                        poll()
                except KeyboardInterrupt:
                    interrupts += 1
    assert first == second
    assert [type(event) for event in first] == [Opened, *[Message] * len(sent), Closed]
    assert [event.data for event in first[1:-1]] == sent


@pytest.mark.skipif(sys.platform == "win32", reason="has no such timers")
def test_interrupts_within_send_lose_no_message_and_nothing_hangs():
    """What `send` has returned for arrives; what it was interrupted in arrives once, or not."""
    certain: set[str] = set()
    received: list[Any] = []

    def take(ws: anyws.sync.WebSocket) -> None:
        received.extend(ws)

    pause = random.Random(2)
    interrupts = 0
    messages = map(str, itertools.count())

    def send() -> bool:
        while len(certain) < 30_000 or interrupts <= 20:
            message = next(messages)
            client.send(message)
            certain.add(message)
        return True

    with served(take) as url, opened(url) as (client, _), unmeasured():
        is_over = False
        while not is_over:
            try:
                with interrupted_in(pause.uniform(0.00002, 0.001)):
                    is_over = send()
            except KeyboardInterrupt:
                interrupts += 1
        client.send("last", timeout=GUARD)
        # Before `opened` closes: what waits then has to go out in the time for closing.
        wait_until(lambda: received[-1:] == ["last"])
    assert received[-1] == "last"
    assert certain <= set(received)
    assert received[:-1] == sorted(set(received[:-1]), key=int)


class unmeasured:
    """A block that may be interrupted anywhere.

    What measures coverage has locks, and no care. What Hypothesis has called at each collection, to
    measure that, would swallow an interrupt.
    """

    def __enter__(self) -> None:
        self._tracer, self._collecting = sys.gettrace(), gc.callbacks[:]
        sys.settrace(None)
        gc.callbacks.clear()

    def __exit__(self, *error: object) -> None:
        gc.callbacks[:] = self._collecting
        sys.settrace(self._tracer)


class interrupted_in:
    """A block in which Ctrl-C is pressed after some seconds, unless it has ended before.

    A loop with a condition belongs in a function that the block calls: where one is in the block
    itself, Python 3.13.0 lets an interrupt between two rounds of it pass by the handlers around.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def test_interrupts_are_as_the_tests_need_them() -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_in(0.01):
        threading.Event().wait(GUARD)


def test_other_clients_of_the_program_are_not_polled_with_one() -> None:
    with served() as url, opened(url) as (background, heard):
        client = Client(url, config=QUICK, polled=True)
        client.open()
        assert client.poll(GUARD) == 1
        background.send("x")
        heard.wait_for(Message)
        client.close()
        poll_to_the_end(client)


class Window:
    """A main loop as a window's toolkit has it: `after` calls a function once, in that loop."""

    def __init__(self) -> None:
        self._due: list[tuple[float, Any]] = []

    def after(self, milliseconds: int, function: Any) -> None:
        self._due.append((time.monotonic() + milliseconds / 1000, function))

    def mainloop(self) -> None:
        while self._due:
            self._due.sort(key=lambda due: due[0])
            at, function = self._due.pop(0)
            time.sleep(max(0, at - time.monotonic()))
            function()


def test_a_window_polls_with_after() -> None:
    """As the page has it for Tk."""
    window = Window()
    heard = Heard()

    def tick() -> None:
        client.poll()
        if not heard.ends:
            window.after(1, tick)

    with served() as url:
        client = Client(url, heard, config=QUICK, polled=True)
        client.add_listener(Opened, lambda event: event.client.send("x"))
        client.add_listener(Message, lambda event: event.client.close())
        client.open()
        tick()
        window.mainloop()
    assert heard.kinds == [Opened, Message, Closed]
    assert heard.threads == {threading.current_thread()}

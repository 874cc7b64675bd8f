"""What a client tells, in which order, and how it ends: in the background, as by default."""

from __future__ import annotations

import dataclasses
import logging
import threading

import pytest
from callbacks.clients import (
    GUARD,
    QUICK,
    Heard,
    echo,
    opened,
    peered,
    served,
    silent_server,
)

import anyws
import anyws.sync
from anyws import ClosedByUs, Config, ConnectionClosed, Status
from anyws.callbacks import Client, Closed, Event, Failed, Message, Opened, Pong

# --- From the beginning to the end ---


def test_a_connection_tells_that_it_is_open_its_messages_in_order_and_its_end():
    def count(ws: anyws.sync.WebSocket) -> None:
        for number in range(100):
            ws.send(str(number) if number % 2 else b"%d" % number)
        ws.close(4000, "enough")

    heard = Heard()
    with served(count) as url:
        client = Client(url, heard, config=QUICK)
        client.open()
        end = heard.wait_for_end()
    assert heard.kinds == [Opened, *[Message] * 100, Closed]
    assert [int(data) for data in heard.messages] == list(range(100))
    assert [event.is_text for event in heard.of(Message)] == [bool(n % 2) for n in range(100)]
    assert (end.code, end.reason, end.clean) == (4000, "enough", True)
    assert end.closure.first == "theirs"
    assert all(event.client is client for event in heard.events)


def test_opened_has_both_halves_of_the_handshake_and_the_subprotocol():
    """DE-19, SO-17."""
    handlers = {"chat": echo}
    with served(handlers, headers={"X-Greeting": "hello"}) as url:
        options = {"subprotocols": ["talk", "chat"], "headers": {"X-Name": "Ada"}}
        with opened(url, **options) as (_, heard):
            event = heard.wait_for(Opened)
    assert event.response.status == 101
    assert event.response.headers["X-Greeting"] == "hello"
    assert event.request.headers["X-Name"] == "Ada"
    assert event.subprotocol == "chat"


def test_events_are_values_that_cannot_be_changed():
    with served() as url, opened(url) as (client, heard):
        client.send("x")
        event = heard.wait_for(Message)
        assert event == Message("x", client=Client(url))
        assert repr(event) == "Message(data='x')"
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.data = "y"


def test_closing_tells_the_peer_why_and_ends_with_one_event():
    """HS-9, DE-21, CP-8, CP-10."""
    with peered() as (url, peer):
        with opened(url, peer=peer) as (client, heard):
            ws = peer.wait()
            client.close(4001, "bye")
            with pytest.raises(ConnectionClosed):
                ws.receive(GUARD)
            end = heard.wait_for_end()
    assert ws.closure.received == anyws.Close(4001, "bye")
    assert end.closure.sent == anyws.Close(4001, "bye")
    assert end.closure.first == "ours"
    assert end.clean
    assert heard.kinds == [Opened, Closed]


def test_a_peer_that_vanishes_is_an_end_that_is_not_clean():
    with peered() as (url, peer), opened(url, peer=peer) as (_, heard):
        peer.wait().abort()
        end = heard.wait_for_end()
        assert (type(end), end.code, end.clean) == (Closed, 1006, False)
        assert "lost" in end.closure.cause


def test_closing_twice_or_where_nothing_is_open_does_nothing():
    with served() as url:
        client = Client(url)
        client.close()
        with opened(url) as (client, heard):
            client.close(4000)
            client.close(4001)
            assert heard.wait_for_end().closure.sent.code == 4000
            client.close()
            client.close()
    assert len(heard.ends) == 1


def test_closing_with_what_cannot_be_sent_raises_and_closes_nothing():
    with served() as url, opened(url) as (client, _):
        with pytest.raises(ValueError, match="1005"):
            client.close(1005)
        with pytest.raises(ValueError, match="bytes"):
            client.close(1000, "x" * 124)
        assert client.is_open


def test_closing_while_connecting_gives_that_up():
    heard = Heard()
    with silent_server() as url:
        client = Client(url, heard, config=QUICK)
        client.open()
        assert client.status is Status.CONNECTING
        client.close(4000, "changed my mind")
        assert client.status is not Status.CONNECTING
        end = heard.wait_for_end()
    assert heard.kinds == [Closed]
    assert (end.code, end.clean, end.closure.first) == (1006, False, "ours")
    assert end.closure.cause == "this end closed the connection before it was open"


def test_behind_close_no_event_comes_but_the_last_one():
    """Those that wait are dropped, and also the peer's later ones."""
    is_closed = threading.Event()

    def send(ws: anyws.sync.WebSocket) -> None:
        ws.send("first")
        for _ in range(10):
            ws.send("late")
        with pytest.raises(ConnectionClosed):
            while True:
                ws.receive(GUARD)

    def close(event: Event) -> None:
        if isinstance(event, Message):
            # The others have come meanwhile, or some of them.
            event.client.ping()
            event.client.close()
            is_closed.set()

    with served(send) as url, opened(url, close) as (_, heard):
        assert is_closed.wait(GUARD)
        heard.wait_for_end()
        assert heard.kinds == [Opened, Message, Closed]


def test_a_message_before_close_is_sent_before_it():
    with peered() as (url, peer), opened(url, peer=peer) as (client, _):
        ws = peer.wait()
        for number in range(100):
            client.send(str(number))
        client.close()
        assert [ws.receive(GUARD) for _ in range(100)] == [str(n) for n in range(100)]
        with pytest.raises(anyws.ClosedByPeer):
            ws.receive(GUARD)


def test_close_waits_for_what_a_slow_peer_has_not_taken_yet():
    config = Config(compression=None)
    server_config = dataclasses.replace(QUICK, max_message_size=None)
    with peered(config=server_config) as (url, peer), opened(url, config=config) as (client, heard):
        ws = peer.wait()
        for _ in range(5):
            client.send(bytes(3_000_000))
        client.close()
        assert client.pending_bytes > 0
        assert [len(ws.receive(GUARD)) for _ in range(5)] == [3_000_000] * 5
        with pytest.raises(anyws.ClosedByPeer):
            ws.receive(GUARD)
        peer.release()
        assert heard.wait_for_end().clean


def test_a_peer_that_takes_nothing_is_cut_when_the_time_for_closing_is_over():
    config = Config(close_timeout=1, compression=None)
    with peered() as (url, peer), opened(url, peer=peer, config=config) as (client, heard):
        peer.wait()
        client.send(bytes(8_000_000))
        client.send(bytes(8_000_000))
        client.close()
        assert client.status is Status.CLOSING
        end = heard.wait_for_end()
        assert not end.clean
        assert client.pending_bytes == 0
        peer.release()


# --- Again ---


def test_a_client_can_be_opened_again_when_it_has_ended():
    heard = Heard()
    with served() as url:
        client = Client(url, heard, config=QUICK)
        for number in range(1, 4):
            client.open()
            heard.wait_for(Opened, number)
            client.send(str(number))
            heard.wait_for(Message, number)
            client.close()
            heard.wait_for_end(number)
    assert heard.kinds == [Opened, Message, Closed] * 3
    assert heard.messages == ["1", "2", "3"]


def test_a_listener_may_open_again_at_the_end(restless_threads):
    heard = Heard()
    with served(lambda ws: ws.send("hello")) as url:
        client = Client(url, heard, config=QUICK)

        def open_again(event: Closed) -> None:
            if len(heard.ends) < 30:
                event.client.open()

        client.add_listener(Closed, open_again)
        client.open()
        heard.wait_for_end(30)
    assert heard.kinds == [Opened, Message, Closed] * 30


def test_opening_what_is_open_raises():
    with silent_server() as url:
        heard = Heard()
        client = Client(url, heard, config=QUICK)
        client.open()
        with pytest.raises(RuntimeError, match="connecting already"):
            client.open()
        client.close()
        heard.wait_for_end()
    with served() as url, opened(url) as (client, _):
        with pytest.raises(RuntimeError, match="open already"):
            client.open()


# --- Status ---


def test_the_status_has_all_four_values():
    """HS-12..HS-16, CP-7."""
    answer = threading.Event()
    seen = []

    def hold(request: anyws.Request) -> None:
        assert answer.wait(GUARD)

    with peered(on_request=hold) as (url, peer):
        heard = Heard()
        client = Client(url, heard, config=QUICK)
        assert client.status is Status.CLOSED
        client.open()
        seen.append((client.status, client.is_open))
        answer.set()
        heard.wait_for(Opened)
        seen.append((client.status, client.is_open))
        assert repr(client) == f"<anyws.callbacks.Client of {url}: open>"
        client.close()
        seen.append((client.status, client.is_open))
        peer.release()
        heard.wait_for_end()
        seen.append((client.status, client.is_open))
    assert seen == [
        (Status.CONNECTING, False),
        (Status.OPEN, True),
        (Status.CLOSING, False),
        (Status.CLOSED, False),
    ]


def test_within_a_listener_the_status_is_that_of_the_event_or_a_later_one():
    seen = []
    heard = Heard()
    with served(lambda ws: None) as url:
        client = Client(
            url, lambda event: seen.append((type(event), event.client.status)), config=QUICK
        )
        client.add_listener(Event, heard)
        client.open()
        heard.wait_for_end()
    assert seen[-1] == (Closed, Status.CLOSED)
    assert seen[0][0] is Opened
    assert seen[0][1] is not Status.CONNECTING


# --- Sending ---


def test_messages_are_text_or_binary_as_they_are_given_or_as_asked_for():
    with peered() as (url, peer), opened(url, peer=peer) as (client, _):
        ws = peer.wait()
        client.send("text €")
        client.send(b"binary")
        client.send(bytearray(b"also"))
        client.send_text(b"bytes as text")
        client.send_text(b"not UTF-8: \xff", errors="replace")
        client.send_bytes("text as bytes €")
        assert [ws.receive(GUARD) for _ in range(6)] == [
            "text €",
            b"binary",
            b"also",
            "bytes as text",
            "not UTF-8: \ufffd",
            "text as bytes €".encode(),
        ]


def test_a_message_that_cannot_be_sent_raises_and_leaves_the_connection_open():
    with served() as url, opened(url) as (client, heard):
        with pytest.raises(TypeError, match="int"):
            client.send(1)
        with pytest.raises(ValueError, match="surrogate"):
            client.send("\ud800")
        with pytest.raises(ValueError, match="UTF-8"):
            client.send_text(b"\xff")
        client.send("still here")
        assert heard.wait_for(Message).data == "still here"


def test_a_listener_may_send_from_opened_on():
    """DE-25."""

    def talk(event: Event) -> None:
        match event:
            case Opened():
                event.client.send("one")
            case Message("one"):
                event.client.send("two")

    with served() as url, opened(url, talk) as (_, heard):
        heard.wait_for(Message, 2)
        assert heard.messages == ["one", "two"]


def test_sending_when_nothing_is_open_raises_and_says_so():
    with silent_server() as url:
        heard = Heard()
        client = Client(url, heard, config=QUICK)
        for send in (lambda: client.send("x"), client.ping):
            with pytest.raises(ConnectionClosed, match="nobody has opened it"):
                send()
        client.open()
        for send in (lambda: client.send("x"), client.ping):
            with pytest.raises(ConnectionClosed, match="not open yet"):
                send()
        client.close()
        heard.wait_for_end()
    with served() as url:
        with opened(url) as (client, _):
            client.close()
            with pytest.raises(ClosedByUs):
                client.send("x")
        with pytest.raises(ClosedByUs):
            client.send("x")
    with served(lambda ws: ws.close(4000, "go")) as url, opened(url) as (client, heard):
        heard.wait_for_end()
        with pytest.raises(anyws.ClosedWithError, match="go"):
            client.send("x")


def test_many_threads_may_send_and_each_ones_messages_stay_in_order():
    with peered() as (url, peer), opened(url, peer=peer) as (client, _):
        ws = peer.wait()

        def send_all(name: str) -> None:
            for number in range(200):
                client.send(f"{name}{number}", timeout=GUARD)

        threads = [threading.Thread(target=send_all, args=(name,)) for name in "abcde"]
        for thread in threads:
            thread.start()
        received = [ws.receive(GUARD) for _ in range(1000)]
        for thread in threads:
            thread.join()
    for name in "abcde":
        mine = [message for message in received if message[0] == name]
        assert mine == [f"{name}{number}" for number in range(200)]


def test_what_waits_to_be_sent_is_bounded_and_the_caller_may_wait_for_room():
    config = Config(compression=None, close_timeout=2)
    size = 4_000_000
    server_config = dataclasses.replace(QUICK, max_message_size=None)
    with (
        peered(config=server_config) as (url, peer),
        opened(url, peer=peer, config=config) as (client, _),
    ):
        ws = peer.wait()
        sent = 0
        with pytest.raises(TimeoutError, match="messages wait to be sent already"):
            while True:
                client.send(bytes(size))
                sent += 1
        assert client.pending_bytes <= 16 * 2**20
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            # On a busy machine the network has not taken all that it can take by now.
            while True:
                client.send(bytes(size), timeout=0.01)
                sent += 1
        waiting = threading.Thread(
            target=client.send, args=(bytes(size),), kwargs={"timeout": None}
        )
        waiting.start()
        for _ in range(sent + 1):
            assert len(ws.receive(GUARD)) == size
        waiting.join()
        # One message may be larger than that, where it is the only one.
        client.ping()
        client.send(bytes(20_000_000), timeout=GUARD)
        assert len(ws.receive(GUARD)) == 20_000_000


def test_who_waits_for_room_does_not_outwait_the_connection():
    config = Config(compression=None, close_timeout=0.2)
    with peered() as (url, peer), opened(url, peer=peer, config=config) as (client, _):
        peer.wait()
        errors = []

        def send() -> None:
            try:
                while True:
                    client.send(bytes(4_000_000), timeout=None)
            except ConnectionClosed as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        with pytest.raises(TimeoutError):
            while True:
                client.send(bytes(4_000_000))
        thread.start()
        client.close()
        thread.join(GUARD)
        assert [type(error) for error in errors] == [ClosedByUs]
        peer.release()


# --- Pings ---


def test_each_ping_is_answered_by_a_pong_with_its_latency():
    with peered() as (url, peer), opened(url, peer=peer) as (client, heard):
        ws = peer.wait()
        for _ in range(5):
            client.ping()
        with pytest.raises(TimeoutError):
            ws.receive(0.05)
        while len(heard.of(Pong)) < 5:
            with pytest.raises(TimeoutError):
                ws.receive(0.01)
        assert all(0 <= event.latency < GUARD for event in heard.of(Pong))


def test_pings_that_nobody_answers_cost_nothing_and_the_connection_can_be_closed():
    config = Config(close_timeout=0.2)
    with peered() as (url, peer), opened(url, peer=peer, config=config) as (client, heard):
        for _ in range(10_000):
            client.ping()
        client.close()
        heard.wait_for_end()
        assert heard.of(Pong) == []


# --- Listeners ---


def test_a_listener_gets_the_events_of_its_class_only_and_all_in_the_order_of_adding():
    """SO-2, SO-4."""
    calls = []
    heard = Heard()
    with served() as url:
        client = Client(
            url,
            {
                Opened: lambda event: calls.append("opened"),
                Message: lambda event: calls.append(event.data),
            },
            config=QUICK,
        )
        client.add_listener(Message, lambda event: calls.append("second"))
        client.add_listener(Event, heard)
        client.open()
        heard.wait_for(Opened)
        client.send("x")
        heard.wait_for(Message)
        client.close()
        heard.wait_for_end()
    assert calls == ["opened", "x", "second"]


def test_listeners_are_added_and_removed_at_any_time_within_listeners_too():
    calls = []

    def late(event: Message) -> None:
        calls.append(f"late {event.data}")

    def first(event: Message) -> None:
        calls.append(f"first {event.data}")
        event.client.remove_listener(Message, first)
        event.client.add_listener(Message, late)

    with served() as url, opened(url) as (client, heard):
        client.add_listener(Message, first)
        for number in range(1, 4):
            client.send(str(number))
            heard.wait_for(Message, number)
        # This one's listeners have begun when the next one is there.
        client.send("last")
        heard.wait_for(Message, 4)
        client.remove_listener(Message, late)
        with pytest.raises(ValueError, match="no listener"):
            client.remove_listener(Message, late)
    assert calls[:3] == ["first 1", "late 2", "late 3"]


def test_what_is_no_listener_is_refused():
    client = Client("ws://127.0.0.1/")
    for event in ("message", str, Message("x", client=client)):
        with pytest.raises(TypeError, match="classes of events"):
            client.add_listener(event, print)
    with pytest.raises(TypeError, match="must be a function"):
        client.add_listener(Message, "print")

    async def listen(event: Event) -> None:
        pass

    client.add_listener(Message, listen)
    with pytest.raises(TypeError, match="async"):
        client.open()
    assert client.status is Status.CLOSED


def test_a_listener_that_raises_is_reported_in_the_log_and_kills_nothing(caplog):
    def fail(event: Event) -> None:
        raise LookupError(type(event).__name__)

    heard = Heard()
    with served() as url:
        client = Client(url, fail, config=QUICK)
        client.add_listener(Event, heard)
        client.open()
        heard.wait_for(Opened)
        client.send("x")
        heard.wait_for(Message)
        client.close()
        heard.wait_for_end()
    assert heard.kinds == [Opened, Message, Closed]
    reported = [record for record in caplog.records if record.name == "anyws.client"]
    assert [record.message for record in reported] == [
        f"a listener for {name} failed" for name in ("Opened", "Message", "Closed")
    ]
    assert all(record.levelno == logging.ERROR for record in reported)
    assert [record.exc_info[0] for record in reported] == [LookupError] * 3


def test_a_listener_that_is_async_after_all_is_reported(caplog):
    async def later() -> None:
        pass

    with served() as url, opened(url, lambda event: later()):
        pass
    assert "async" in str(caplog.records[0].exc_info[1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_exits_its_thread_kills_nothing_either():
    def leave(event: Event) -> None:
        raise SystemExit

    with served() as url, opened(url, leave) as (client, heard):
        client.send("x")
        heard.wait_for(Message)
    assert heard.kinds == [Opened, Message, Closed]


# --- Arguments ---


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("http://example.com/",), {}, anyws.InvalidURL),
        (("ws://example.com/",), {"port": 0x10000}, ValueError),
        (("ws://example.com/",), {"headers": {"X": "a\nb"}}, ValueError),
        (("ws://example.com/",), {"headers": {"Upgrade": "x"}}, ValueError),
        (("ws://example.com/",), {"subprotocols": [" "]}, ValueError),
        (("ws://example.com/",), {"config": 1}, TypeError),
        (("ws://example.com/",), {"polled": True, "dispatch": print}, ValueError),
        (("ws://example.com/", "listener"), {}, TypeError),
        (("ws://example.com/", {"message": print}), {}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_where_the_client_is_made(arguments, options, error):
    with pytest.raises(error):
        Client(*arguments, **options)


def test_every_open_of_a_client_that_many_threads_use_ends_with_one_event(restless_threads):
    """Nobody waits for anybody; whatever they do, events and ends stay in order."""
    heard = Heard()
    openings = 0
    with served() as url:
        client = Client(url, heard, config=QUICK)
        stop = threading.Event()
        lock = threading.Lock()

        def use() -> None:
            nonlocal openings
            for _ in range(200):
                try:
                    client.open()
                except RuntimeError:
                    pass
                else:
                    with lock:
                        openings += 1
                try:
                    client.send("x")
                    client.ping()
                except ConnectionClosed:
                    pass
                client.close()
            stop.set()

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        heard.wait_for_end(openings)
    assert len(heard.ends) == openings
    assert heard.of(Failed) == []
    # Between two ends, at most one Opened, and that comes first.
    state = None
    for kind in heard.kinds:
        assert kind is not Opened or state in {None, Closed}
        assert kind not in {Message, Pong} or state is not Closed
        state = kind

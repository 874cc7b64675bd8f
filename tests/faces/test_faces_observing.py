"""What is counted, logged and traced: the same in each face."""

from __future__ import annotations

import logging
import re
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bars import raw
from callbacks.clients import GUARD, QUICK, echo, served
from faces.plain import answer_of, asked, upgrade

import anyws
import anyws.sync
from anyws import TraceEvent
from anyws._config import MAX_TURNED_AWAY

if TYPE_CHECKING:
    from faces.drivers import Face, ServerFace

pytestmark = pytest.mark.timeout(60)

# For a server whose clients are gone by its end: it waits for what is noted of them then.
LOOK = replace(QUICK, drain_timeout=GUARD)
# For one whose clients stay: they are cut as soon as ever, and it waits for that.
STAYING = replace(QUICK, cancel_grace=GUARD)


def talk(ws: Any) -> None:
    """Three messages each way, 8 bytes of them, and a ping."""
    for message in ("a", b"bcd", "né!"):
        ws.send(message)
        assert ws.receive() == message
    ws.ping()


# --- Counters ---


def test_a_connection_counts_what_goes_over_it(face: Face) -> None:
    with served() as url, face.opened(url) as ws:
        talk(ws)
        counters = ws.counters
        assert (counters.messages_sent, counters.bytes_sent) == (3, 8)
        assert (counters.messages_received, counters.bytes_received) == (3, 8)
        assert (counters.pings_sent, counters.pings_received) == (1, 0)
        assert counters.latency is not None
        assert counters.latency < GUARD
        assert (counters.inbox_messages, counters.inbox_bytes) == (1, 4)
        ws.send("later")
        assert ws.receive() == "later"
        # A snapshot stays what it was.
        assert counters.messages_sent == 3
        ws.close()
        assert ws.counters.messages_sent == 4


def test_a_client_that_the_end_of_its_server_meets_in_the_handshake_has_got_no_websocket(
    server_face: ServerFace,
) -> None:
    with ExitStack() as stack:
        with server_face.serving(echo, config=STAYING) as server:
            address = ("127.0.0.1", server.port)
            client = stack.enter_context(socket.create_connection(address, GUARD))
            client.sendall(b"GET / HTTP/1.1\r\n")
            # Clients are accepted in their order.
            with anyws.sync.open_websocket(server.url) as ws:
                talk(ws)
        totals = server.totals
    assert (totals.connections, totals.accepted, totals.refused) == (0, 1, 1)


def test_a_server_counts_over_all_its_clients_open_and_gone(server_face: ServerFace) -> None:
    with server_face.serving(echo, config=LOOK) as server:
        assert server.totals == anyws.Totals()
        with anyws.sync.open_websocket(server.url) as first:
            talk(first)
            with anyws.sync.open_websocket(server.url) as second:
                talk(second)
                totals = server.totals
                assert (totals.connections, totals.accepted, totals.refused) == (2, 2, 0)
                assert (totals.messages_received, totals.messages_sent) == (6, 6)
        assert asked(server, upgrade("/", "Origin: https://evil.com")).status == 403
        assert asked(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").status == 426
    totals = server.totals
    assert (totals.connections, totals.accepted) == (0, 2)
    assert (totals.messages_received, totals.messages_sent) == (6, 6)
    assert (totals.bytes_received, totals.bytes_sent) == (16, 16)
    assert (totals.pings_received, totals.inbox_messages, totals.inbox_bytes) == (2, 1, 4)
    assert (totals.refused, totals.turned_away) == (2, 0)


# --- The log ---


def ends_in(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    """What the log has of ends, without the numbers that are another each time."""
    found = []
    for record in caplog.records:
        if record.name == logger and ", after " in record.message:
            assert record.levelno == logging.INFO
            peer, _, words = record.message.partition(": ")
            assert re.match(r"127\.0\.0\.1:\d+$|ws://127\.0\.0\.1:\d+/", peer), peer
            found.append(re.sub(r"after \d+\.\d s", "after ... s", words))
    return found


@pytest.mark.parametrize(
    ("close", "words"),
    [
        ((), "1000 (normal)"),
        ((1001, "going home"), "1001 (going away) 'going home'"),
        ((4000, "\x1b[31m\r\nforged"), r"4000 (application) '\x1b[31m\r\nforged'"),
    ],
)
def test_the_log_says_who_closed_and_why_and_after_what(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture, close: Any, words: str
) -> None:
    """V24."""
    caplog.set_level(logging.INFO)
    with server_face.serving(echo, config=LOOK) as server:
        with anyws.sync.open_websocket(server.url + "?token=s3cret") as ws:
            talk(ws)
            ws.close(*close)
    after = "after ... s, 3 messages in, 3 out"
    assert ends_in(caplog, "anyws.server") == [
        f"the peer closed the connection with {words}, {after}"
    ]
    assert ends_in(caplog, "anyws.client") == [
        f"this end closed the connection with {words}, {after}"
    ]
    assert "s3cret" not in caplog.text
    assert all("\x1b" not in record.message for record in caplog.records)


def test_the_log_says_what_broke_a_connection(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with server_face.serving(echo, config=LOOK) as server:
        with raw.connect(server.port) as sock:
            raw.ask(sock)
            sock.sendall(b"\x83\x80\0\0\0\0")
            assert sock.recv(100)[2:4] == (1002).to_bytes(2)
    [words] = ends_in(caplog, "anyws.server")
    assert words.startswith("the peer sent what is refused: ")
    assert words.endswith("(1002), after ... s, 0 messages in, 0 out")


def test_the_log_says_of_a_handler_that_fails_how_its_connection_ended(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def fail(ws: Any) -> None:
        raise OSError("the database is gone")

    with server_face.serving(fail, config=LOOK) as server:
        with anyws.sync.open_websocket(server.url) as ws, pytest.raises(anyws.ClosedWithError):
            ws.receive(GUARD)
    [words] = ends_in(caplog, "anyws.server")
    assert words.startswith("this end closed the connection with 1011 (internal error), ")
    assert "the database is gone" in caplog.text


# --- Traces ---


class Traced:
    """A trace that remembers."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []
        self._closed = threading.Event()

    def __call__(self, event: TraceEvent) -> None:
        self.events.append(event)
        if event.kind == "closed":
            self._closed.set()

    def all(self) -> list[TraceEvent]:
        assert self._closed.wait(GUARD)
        return self.events

    def told(self) -> list[tuple[str, int | None, int]]:
        return [(event.kind, event.opcode, event.length) for event in self.all()]


def test_a_client_s_trace_has_its_frames_between_its_beginning_and_its_end(face: Face) -> None:
    trace = Traced()
    config = replace(QUICK, trace=trace)
    with served() as url, face.opened(url + "room?token=s3cret", config=config) as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
        ws.ping()
        ws.close(4000, "enough")
    assert trace.told() == [
        ("open", None, 0),
        *(("sent", 1, 5), ("received", 1, 5)),
        *(("sent", 9, 4), ("received", 10, 4)),
        *(("sent", 8, 8), ("received", 8, 2)),
        ("closed", None, 0),
    ]
    times = [event.time for event in trace.events]
    assert times == sorted(times)
    assert len({event.connection for event in trace.events}) == 1
    assert {event.role for event in trace.events} == {anyws.Role.CLIENT}
    first, last = trace.events[0], trace.events[-1]
    assert first.detail.startswith(url + "room, ")
    assert "permessage-deflate" in first.detail
    assert last.detail == "this end closed the connection with 4000 (application) 'enough'"
    assert "s3cret" not in repr(trace.events)


def test_a_server_s_trace_tells_its_connections_apart(server_face: ServerFace) -> None:
    trace = Traced()
    config = replace(LOOK, trace=trace)
    with server_face.serving({"x": echo}, config=config) as server:
        with anyws.sync.open_websocket(server.url, subprotocols=["x"]) as first:
            with anyws.sync.open_websocket(server.url, subprotocols=["x"]) as second:
                for ws, message in ((first, "1"), (second, "22")):
                    ws.send(message)
                    ws.receive(GUARD)
    # Whose "open" comes first is open: a client knows of its connection before the server's thread
    # has told of it.
    by_message = {
        event.length: event.connection
        for event in trace.all()
        if (event.kind, event.opcode) == ("received", 1)
    }
    assert sorted(by_message) == [1, 2]
    assert {event.connection for event in trace.events} == set(by_message.values())
    for length, number in by_message.items():
        events = [event for event in trace.events if event.connection == number]
        assert [(e.kind, e.opcode, e.length) for e in events] == [
            ("open", None, 0),
            *(("received", 1, length), ("sent", 1, length)),
            *(("received", 8, 2), ("sent", 8, 2)),
            ("closed", None, 0),
        ]
        assert re.match(r"127\.0\.0\.1:\d+, '/', subprotocol 'x'", events[0].detail)
        assert events[0].role is anyws.Role.SERVER


def judge(request: anyws.Request) -> anyws.Response | anyws.Reject | None:
    if request.path == "/health":
        return anyws.Response(200, {}, b"ok")
    return anyws.Reject(403, "not you") if request.path == "/private" else None


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, "answered with 200 OK: 'ok'"),
        (upgrade("/health?token=s3cret"), 200, "answered with 200 OK: 'ok'"),
        (upgrade("/private?token=s3cret"), 403, "no WebSocket: the server refused the WebSocket: "),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "no WebSocket: the client was refused: this"),
        (b"\x16\x03\x01", 400, "no WebSocket: the client was refused: the request is TLS"),
    ],
)
def test_a_client_without_a_websocket_is_counted_logged_and_traced(
    server_face: ServerFace,
    caplog: pytest.LogCaptureFixture,
    request_: bytes,
    status: int,
    words: str,
) -> None:
    """V24. A health check is no refusal."""
    caplog.set_level(logging.INFO)
    events: list[TraceEvent] = []
    config = replace(LOOK, trace=events.append)
    with server_face.serving(echo, on_request=judge, config=config) as server:
        assert asked(server, request_).status == status
    [event] = events
    assert (event.kind, event.role) == ("refused", anyws.Role.SERVER)
    assert event.detail.startswith("127.0.0.1:")
    assert f": {words}" in event.detail
    assert event.detail in caplog.messages
    assert "s3cret" not in caplog.text
    expected = (0, 1) if status == 200 else (1, 0)
    assert (server.totals.refused, server.totals.answered) == expected


def test_a_client_that_has_its_answer_and_stays_is_told_of_when_the_server_ends(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    """The server waits for it to leave, and has no time left for that."""
    caplog.set_level(logging.INFO)
    events: list[TraceEvent] = []
    config = replace(STAYING, trace=events.append)
    with ExitStack() as stack:
        with server_face.serving(echo, on_request=judge, config=config) as server:
            for path, status in (("/health", 200), ("/private", 403)):
                client = stack.enter_context(raw.connect(server.port))
                client.sendall(upgrade(path))
                assert answer_of(client).status == status
        totals = server.totals
    assert (totals.answered, totals.refused) == (1, 1)
    details = sorted(event.detail.partition(": ")[2][:21] for event in events)
    assert details == ["answered with 200 OK:", "no WebSocket: the ser"]
    assert all(event.detail in caplog.messages for event in events)


def test_who_is_turned_away_is_traced_and_logged_whether_told_or_not(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events: list[TraceEvent] = []
    config = replace(LOOK, max_connections=1, trace=events.append)
    with server_face.serving(echo, config=config) as server, ExitStack() as stack:
        stack.enter_context(anyws.sync.open_websocket(server.url))
        late = [stack.enter_context(raw.connect(server.port)) for _ in range(MAX_TURNED_AWAY + 9)]
        for sock in late:
            with suppress(ConnectionError):
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass
    refused = [event.detail for event in events if event.kind == "refused"]
    assert len(refused) == len(late) == server.totals.turned_away
    assert all(one.endswith("the server has as many clients as it takes") for one in refused)
    assert len([one for one in caplog.messages if one in refused]) == len(late)
    assert len({event.connection for event in events}) == len(late) + 1


def test_a_trace_that_fails_harms_no_refusal(
    server_face: ServerFace, caplog: pytest.LogCaptureFixture
) -> None:
    def trace(event: TraceEvent) -> None:
        raise OSError("the disk is full")

    config = replace(LOOK, trace=trace)
    with server_face.serving(echo, on_request=judge, config=config) as server:
        assert asked(server, upgrade("/private")).status == 403
        assert asked(server, upgrade("/private")).status == 403
    assert "Config.trace failed" in caplog.text
    assert "anyws failed" not in caplog.text


def test_a_trace_that_fails_harms_nobody(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    def trace(event: TraceEvent) -> None:
        raise OSError("the disk is full")

    with served() as url, face.opened(url, config=replace(QUICK, trace=trace)) as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
    assert caplog.text.count("Config.trace failed") == 1

"""The end of a server in threads: who waits for whom, how long, and who is still let in."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from bars import raw
from bars.peers import TEXT
from streams import request_bytes
from sync.peers import Peer, served
from sync.test_sync_interrupts import pressed

import anyws
import anyws.sync
from anyws import Config, Reject

if TYPE_CHECKING:
    from anyws.sync import WebSocket

pytestmark = pytest.mark.timeout(40)

LONG = 100.0


class Busy:
    """A handler that does something else than to wait for its connection."""

    def __init__(self) -> None:
        self.entered, self.released, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, ws: WebSocket) -> None:
        self.entered.set()
        self.released.wait(raw.GUARD)
        self.ended.set()


def test_a_second_closer_with_less_time_brings_the_deadline_nearer_for_the_first(run) -> None:
    busy = Busy()
    config = Config(drain_timeout=LONG, cancel_grace=0.1, close_timeout=0.1)
    began = time.monotonic()
    with pytest.raises(ValueError, match="mine"):
        with served(busy, config=config) as server:
            peer = Peer.connect(server.port)
            assert busy.entered.wait(raw.GUARD)
            closing = run(server.close)
            while not server._is_closing:
                pass
            raise ValueError("mine")
    closing.result(5)
    assert time.monotonic() - began < 10
    assert not busy.ended.is_set()
    busy.released.set()
    peer.close()


def test_leaving_the_block_waits_for_what_another_thread_closes(run) -> None:
    busy = Busy()
    with served(busy, config=Config(drain_timeout=20, close_timeout=0.1)) as server:
        peer = Peer.connect(server.port)
        assert busy.entered.wait(raw.GUARD)
        closing = run(server.close)
        while not server._is_closing:
            pass
        threading.Timer(0.3, busy.released.set).start()
    assert busy.ended.is_set()
    closing.result(5)
    peer.close()


def test_connections_that_are_kept_have_the_time_of_who_closes_them_later(run) -> None:
    busy = Busy()
    with served(busy, config=Config(drain_timeout=0.2, cancel_grace=0.1)) as server:
        peer = Peer.connect(server.port)
        assert busy.entered.wait(raw.GUARD)
        server.close(keep_connections=True)
        waiter = threading.Timer(0.2, server.close)
        waiter.start()
        began = time.monotonic()
    assert time.monotonic() - began < 10
    waiter.join()
    busy.released.set()
    peer.close()


@pytest.mark.parametrize("verdict", [None, Reject(403, "no")])
def test_a_client_that_is_still_judged_when_the_server_closes_gets_503(verdict, run) -> None:
    asked = threading.Event()
    holder: list[Any] = []
    called = []

    def on_request(request: anyws.Request) -> Reject | None:
        asked.set()
        while not holder[0]._is_closing:
            pass
        return verdict

    with served(called.append, on_request=on_request) as server, raw.connect(server.port) as sock:
        holder.append(server)
        sock.sendall(request_bytes())
        assert asked.wait(raw.GUARD)
        server.close()
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    assert answer.split(b" ")[1] == (b"503" if verdict is None else b"403")
    assert called == []


@pytest.mark.parametrize("first", [None, ValueError("mine"), KeyboardInterrupt()])
def test_an_interrupt_while_a_server_ends_cuts_its_connections_and_leaves_no_thread(first) -> None:
    told = threading.Event()

    def handler(ws: WebSocket) -> None:
        try:
            ws.receive()
        finally:
            told.set()

    config = Config(drain_timeout=LONG, close_timeout=LONG, cancel_grace=20)
    opening = anyws.sync.open_server(handler, host=raw.HOST, port=0, config=config)
    server = opening.__enter__()
    peer = Peer.connect(server.port)
    began = time.monotonic()
    with pressed(told):
        # The handler has ended, and its connection waits for an answer.
        opening.__exit__(first and type(first), first, None)
    assert time.monotonic() - began < 10
    assert server.connections == frozenset()
    assert [f.payload for f in peer.until_end()] == [b"\x03\xe9"]
    peer.close()


def test_a_server_that_was_closed_logs_a_late_handler_once(caplog) -> None:
    busy = Busy()
    config = Config(drain_timeout=0.1, cancel_grace=0.1, close_timeout=0.1)
    with served(busy, config=config) as server:
        peer = Peer.connect(server.port)
        assert busy.entered.wait(raw.GUARD)
        server.close()
        server.close()
    assert caplog.text.count("handlers still run") == 1
    busy.released.set()
    peer.close()


def test_a_handler_that_closes_the_server_is_waited_for_at_the_end_of_the_block() -> None:
    holder: list[Any] = []
    closed, ended = threading.Event(), threading.Event()

    def handler(ws: WebSocket) -> None:
        ws.receive()
        holder[0].close()
        closed.set()
        time.sleep(0.2)  # it has more to do
        ended.set()

    with served(handler, config=Config(drain_timeout=20, close_timeout=2)) as server:
        holder.append(server)
        peer = Peer.connect(server.port)
        peer.send(TEXT, b"stop")
        assert closed.wait(raw.GUARD)
        peer.close()
    assert ended.is_set()


def refuse_at_length(request: anyws.Request) -> Reject:
    return Reject(403, "x" * (16 << 20))


def asked_slowly(port: int) -> socket.socket:
    """Return a client that has asked, and for which the system keeps little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    client.connect((raw.HOST, port))
    client.settimeout(raw.GUARD)
    client.sendall(request_bytes())
    return client


def test_the_body_of_a_refusal_may_take_the_time_of_the_handshake() -> None:
    """As long as the client goes on reading it: more than a second here."""
    with served(Busy(), on_request=refuse_at_length) as server, asked_slowly(server.port) as client:
        began = time.monotonic()
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
            if time.monotonic() - began < 1.5:
                time.sleep(0.05)
        assert received > 16 << 20


def test_a_refusal_that_nobody_reads_does_not_hold_up_the_end() -> None:
    config = Config(drain_timeout=20)
    with contextlib.ExitStack() as stack:
        with served(Busy(), on_request=refuse_at_length, config=config) as server:
            client = stack.enter_context(asked_slowly(server.port))
            assert client.recv(1)
            began = time.monotonic()
        assert time.monotonic() - began < 5

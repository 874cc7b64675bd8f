"""Receiving with calls that wait: timeouts lose nothing, and messages come in each of their forms."""

from __future__ import annotations

import socket
import time

import pytest
from anyio import BusyResourceError, ClosedResourceError
from bars.peers import BINARY, CLOSE, CONT, PING, PONG, TEXT
from frames import frame
from sync.peers import Peer, both_ends, client_of_peer, pair, stream_of

import anyws
from anyws import Config, Deflate, Role

pytestmark = pytest.mark.timeout(30)

every_network = pytest.mark.parametrize("kind", ["tcp", "tls"])
every_role = pytest.mark.parametrize("role", list(Role))

MIB = 1 << 20


def flood(peer: Peer, data: bytes) -> None:
    try:
        while True:
            peer.push(data)
    except OSError:
        pass


# --- Timeouts ---


@every_role
@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_message_cut_in_two_arrives_whole_after_a_timeout_in_between(role, timeout) -> None:
    """LW-3."""
    with pair(role) as (ws, peer):
        data = peer.frame(TEXT, b"in two pieces")
        for cut in range(1, len(data)):
            peer.push(data[:cut])
            with pytest.raises(TimeoutError, match=f"no message came within {timeout} s"):
                ws.receive(timeout)
            peer.push(data[cut:])
            assert ws.receive(5) == "in two pieces"


@every_network
def test_a_timeout_within_a_large_message_loses_nothing(kind: str) -> None:
    message = bytes(range(256)) * 3000
    with client_of_peer(kind) as (ws, peer):
        data = peer.frame(BINARY, message)
        for start in range(0, len(data), 100_000):
            with pytest.raises(TimeoutError):
                ws.receive(0)
            peer.push(data[start : start + 100_000])
        assert ws.receive(5) == message


@every_network
def test_no_time_at_all_is_enough_for_what_is_here(kind: str) -> None:
    with client_of_peer(kind, config=Config(inbox_size=2)) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.receive(0)
        sock = ws._transport._stream.socket
        peer.send(TEXT, b"0")
        size = len(sock.recv(MIB, socket.MSG_PEEK))
        for number in range(1, 5):
            peer.send(TEXT, str(number).encode())
        until_it_is_here(sock, 5 * size)
        assert [ws.receive(0) for _ in range(5)] == ["0", "1", "2", "3", "4"]
        with pytest.raises(TimeoutError):
            ws.receive(0)


def test_no_time_at_all_is_enough_for_a_large_message_that_is_here(run) -> None:
    """It takes several reads, of which none has to wait."""
    with client_of_peer() as (ws, peer):
        peer.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream_of_socket = ws._transport._stream.socket
        stream_of_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        # Once that returns, all but what fits in the peer's buffer has arrived.
        peer.push(frame(BINARY, b"x" * 500_000))
        until_it_is_here(stream_of_socket, 500_000)
        assert ws.receive(0) == b"x" * 500_000


def until_it_is_here(sock: socket.socket, size: int) -> None:
    while len(sock.recv(size, socket.MSG_PEEK)) < size:
        pass


@every_role
@pytest.mark.parametrize(
    ("opcode", "payload", "fin"),
    [(PING, b"", True), (PONG, b"x" * 100, True), (TEXT, b"", False)],
)
def test_a_timeout_holds_against_a_peer_that_sends_no_message_without_end(
    role: Role, opcode: int, payload: bytes, fin: bool, run
) -> None:
    config = Config(max_fragments=None, max_message_size=None, close_timeout=1)
    with pair(role, config) as (ws, peer):
        data = peer.frame(opcode, payload, fin=fin) + peer.frame(
            opcode if fin else CONT, payload, fin=fin
        ) * (50 if fin else 0)
        if not fin:
            peer.push(data)
            data = peer.frame(CONT, b"x", fin=False) * 50
        flooding = run(flood, peer, data)
        reading = run(drain, peer) if opcode == PING else None
        for timeout in (0, 0.1, 0.1):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                ws.receive(timeout)
            assert time.monotonic() - began < timeout + 3
        ws.abort()
        flooding.result(10)
        if reading is not None:
            reading.result(10)


def drain(peer: Peer) -> None:
    try:
        while peer.raw.recv(1 << 16):
            pass
    except OSError:
        pass


def test_a_timeout_in_a_thread_of_several_is_its_own(run) -> None:
    """Another thread reads meanwhile."""
    with pair() as (ws, peer):
        pinging = run(ws.ping)
        assert stream_of(ws).reads.wait(10)
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError):
                ws.receive(timeout)
        peer.send(PONG, peer.next_frame().payload)
        assert pinging.result(10) >= 0
        peer.send(TEXT, b"x")
        assert ws.receive(5) == "x"


@every_role
def test_the_timeout_of_each_form_of_receiving_is_the_same(role: Role) -> None:
    with pair(role) as (ws, _):
        for receive in (ws.receive_text, ws.receive_bytes, ws.receive_json):
            with pytest.raises(TimeoutError):
                receive(0.01)
            with pytest.raises(TimeoutError):
                receive(timeout=0)


# --- Forms of a message ---


def test_what_is_sent_in_one_form_arrives_in_the_other() -> None:
    with both_ends() as (client, server):
        client.send_text("text")
        client.send_text("as bytes €".encode())
        client.send_text(b"\xff!", errors="replace")
        client.send_bytes("€")
        client.send_json({"a": [1, None, "é"]})
        client.send_json([1.5], binary=True)
        client.send(bytearray(b"array"))
        client.send(memoryview(b"view"))
        assert server.receive_text(5) == "text"
        assert server.receive_text(5) == "as bytes €"
        assert server.receive_text(5) == "\ufffd!"
        assert server.receive_bytes(5) == "€".encode()
        assert server.receive_json(5) == {"a": [1, None, "é"]}
        assert server.receive_json(5) == [1.5]
        assert [server.receive(5), server.receive(5)] == [b"array", b"view"]


def test_what_cannot_be_sent_is_refused_and_the_connection_stays() -> None:
    with both_ends() as (client, server):
        for call, error in [
            (lambda: client.send(1), TypeError),
            (lambda: client.send("\ud800"), ValueError),
            (lambda: client.send_text(b"\xff"), ValueError),
            (lambda: client.send_json({1}), TypeError),
            (lambda: client.send_json(float("nan")), ValueError),
            (lambda: client.send_fragments("text"), TypeError),
        ]:
            with pytest.raises(error):
                call()
        client.send("fine")
        assert server.receive(5) == "fine"


@pytest.mark.parametrize(("given", "method"), [(b"x", "receive_text"), ("x", "receive_bytes")])
def test_a_message_of_the_other_type_closes_with_1003(given, method: str) -> None:
    with both_ends() as (client, server):
        client.send(given)
        with pytest.raises(anyws.ClosedByUs, match="was expected"):
            getattr(server, method)(5)
        with pytest.raises(anyws.ClosedWithError) as caught:
            client.receive(5)
        assert caught.value.closure.code == 1003


def test_what_is_no_json_is_the_peer_s_fault_and_the_connection_stays() -> None:
    with both_ends() as (client, server):
        client.send("{")
        client.send("1")
        with pytest.raises(ValueError, match="Expecting property name"):
            server.receive_json(5)
        assert server.receive_json(5) == 1


@every_role
def test_messages_in_fragments_are_joined_and_pings_between_them_answered(role: Role) -> None:
    with pair(role) as (ws, peer):
        peer.send(TEXT, "h€".encode()[:2], fin=False)
        peer.send(PING, b"1")
        peer.send(CONT, b"", fin=False)
        peer.send(CONT, "h€".encode()[2:])
        assert ws.receive(5) == "h€"
        assert peer.next()[:2] == (PONG, b"1")


# --- Messages in pieces ---


def test_a_message_is_received_in_pieces_as_they_come() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"one ", fin=False)
        with ws.receive_fragments() as fragments:
            assert fragments.is_text
            assert next(fragments) == "one "
            peer.send(CONT, b"two ", fin=False)
            assert next(fragments) == "two "
            peer.send(CONT, b"three")
            assert list(fragments) == ["three"]
            with pytest.raises(BusyResourceError):
                ws.receive(0)
        peer.send(BINARY, b"next")
        assert ws.receive(5) == b"next"


def test_a_message_larger_than_any_inbox_is_received_in_pieces(run) -> None:
    """One frame of 8 MiB."""
    size = 8 * MIB
    with client_of_peer(config=Config(max_message_size=None, close_timeout=2)) as (ws, peer):
        sending = run(peer.send, BINARY, b"x" * size)
        with ws.receive_fragments() as fragments:
            assert not fragments.is_text
            assert sum(map(len, fragments)) == size
        sending.result(10)


def test_what_is_left_of_a_message_is_dropped() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"begun", fin=False)
        with ws.receive_fragments() as fragments:
            next(fragments)
        peer.send(CONT, b"and left", fin=False)
        peer.send(CONT, b"to itself")
        peer.send(TEXT, b"next")
        assert ws.receive(5) == "next"
        with pytest.raises(ClosedResourceError):
            next(fragments)
        with pytest.raises(RuntimeError, match="call it again"):
            fragments.__enter__()


def test_a_message_whose_pieces_nobody_took_is_there_whole() -> None:
    """Nothing came in the time of an interrupt, and the next call is another."""
    with pair() as (ws, peer):
        receiver = ws.receive_fragments()
        peer.send(CLOSE, (1000).to_bytes(2, "big"))
        with pytest.raises(anyws.ClosedByPeer):
            receiver.__enter__()
        with pytest.raises(anyws.ClosedByPeer):
            ws.receive(5)


def test_a_connection_lost_within_a_message_in_pieces_says_so() -> None:
    with pair() as (ws, peer):
        peer.send(TEXT, b"begun", fin=False)
        with ws.receive_fragments() as fragments:
            next(fragments)
            peer.close()
            with pytest.raises(anyws.ConnectionBroken):
                next(fragments)
        with pytest.raises(anyws.ConnectionBroken):
            ws.receive(5)


@pytest.mark.parametrize("compression", [None, Deflate(threshold=0)])
def test_messages_sent_in_fragments_arrive_as_one(compression: Deflate | None) -> None:
    with pair() as (ws, peer):
        with ws.open_message() as message:
            message.send("half a mess")
            assert peer.next() == (TEXT, b"half a mess", False)
            message.send("age")
            assert peer.next() == (CONT, b"age", False)
        assert peer.next() == (CONT, b"", True)
    with both_ends(Config(compression=compression)) as (client, server):
        client.send_fragments(iter(["a", "", "b" * 5000]))
        client.send_fragments([b"1", memoryview(b"2")])
        client.send_fragments([])
        assert server.receive(5) == "a" + "b" * 5000
        assert server.receive(5) == b"12"
        with pytest.raises(TimeoutError):
            server.receive(0)


def test_fragments_of_another_type_are_refused_and_nothing_sent() -> None:
    with both_ends() as (client, server):
        with client.open_message() as message:
            message.send("text")
            with pytest.raises(TypeError):
                message.send(b"bytes")
            message.send(" goes on")
        assert server.receive(5) == "text goes on"
        with pytest.raises(ClosedResourceError):
            message.send("late")
        with pytest.raises(RuntimeError, match="call it again"):
            message.__enter__()


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_half_a_message_does_not_look_like_a_whole_one(error: BaseException) -> None:
    def halves():
        yield "half"
        raise error

    with both_ends() as (client, server):
        with pytest.raises(type(error)) as caught:
            client.send_fragments(halves())
        assert caught.value is error
        with pytest.raises(anyws.ClosedWithError) as ended:
            server.receive(5)
        assert ended.value.closure.code == 1011
        assert not client.is_open


def test_a_message_that_was_left_before_its_first_fragment_was_never_begun() -> None:
    with both_ends() as (client, server):
        with pytest.raises(ValueError, match="mine"), client.open_message():
            raise ValueError("mine")
        client.send("fine")
        assert server.receive(5) == "fine"

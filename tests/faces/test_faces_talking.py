"""What is said on an open connection, and how it ends: the same in each face, and in either role."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from bars.peers import CLOSE, RawServer
from callbacks.clients import GUARD, peered, poll_to_the_end, served, silent_server

import anyws
from anyws import Close, Config, Status
from anyws.callbacks import Client

if TYPE_CHECKING:
    from faces.drivers import Face, ServerFace

pytestmark = pytest.mark.timeout(60)

PATIENT = Config(close_timeout=GUARD, cancel_grace=0.2)


# --- Messages ---


def test_text_and_binary_messages_are_told_apart_by_their_type(face: Face) -> None:
    """DE-15, DE-17, DE-22, SO-15, SO-18, LW-9, LW-10, LW-15..LW-18."""
    with served() as url, face.opened(url) as ws:
        for message in ["text €", b"binary \xff", "", b""]:
            assert ws.send(message) is None
            received = ws.receive()
            assert (type(received), received) == (type(message), message)


def test_a_str_can_be_sent_as_binary_and_bytes_as_text(face: Face) -> None:
    """HS-10, HS-11, DE-23, DE-24, CP-11, CP-12."""
    with served() as url, face.opened(url) as ws:
        ws.send_bytes("text as bytes €")
        assert ws.receive() == "text as bytes €".encode()
        ws.send_text("bytes as text €".encode())
        assert ws.receive() == "bytes as text €"


def test_bytes_that_are_no_utf_8_are_refused_as_text_or_replaced_where_that_is_asked_for(
    face: Face,
) -> None:
    """HS-11, CP-12."""
    with served() as url, face.opened(url) as ws:
        with pytest.raises(ValueError, match="not UTF-8"):
            ws.send_text(b"caf\xe9")
        with pytest.raises(ValueError, match="'strict' or 'replace'"):
            ws.send_text(b"caf\xe9", errors="ignore")
        ws.send_text(b"caf\xe9", errors="replace")
        assert ws.receive() == "caf\ufffd"


def test_a_ping_is_answered_and_tells_how_long_that_took(face: Face) -> None:
    """HS-8."""
    with served() as url, face.opened(url) as ws:
        assert ws.ping() >= 0


# --- The end ---


def test_closing_says_why_and_tells_whether_it_was_clean(face: Face) -> None:
    """HS-9, LW-20, LW-23."""
    with served() as url, face.opened(url) as ws:
        closure = ws.close(4001, "bye")
    assert (closure.clean, closure.code, closure.reason) == (True, 4001, "")
    assert closure.sent == Close(4001, "bye")
    # The answer has the code alone.
    assert closure.received == Close(4001)


def test_closing_without_a_word_is_1000_and_no_reason(face: Face) -> None:
    """SO-14, LW-21, LW-22."""
    with served() as url, face.opened(url) as ws:
        assert ws.close().sent == Close(1000, "")


def test_closing_is_not_clean_where_the_peer_does_not_answer(face: Face) -> None:
    """LW-23."""
    with RawServer() as server:
        with face.opened(server.url, config=Config(close_timeout=0.2)) as ws:
            closure = ws.close()
    assert (closure.clean, closure.code, closure.reason) == (False, 1006, "")


@pytest.mark.parametrize("code", [1000, 1001, 1008, 4002])
def test_the_peer_s_close_is_told_with_code_and_reason_behind_its_messages(
    face: Face, code: int
) -> None:
    """DE-14, DE-20, SO-19, SO-20, LW-11, LW-12, LW-13."""

    def handler(ws: anyws.sync.WebSocket) -> None:
        ws.send("first")
        ws.close(code, "full")

    with served(handler) as url, face.opened(url) as ws:
        assert ws.receive() == "first"
        closure = ws.end()
        assert (closure.clean, closure.code, closure.reason) == (True, code, "full")
        assert closure.first == "theirs"


def test_a_lost_connection_is_an_end_that_is_not_clean(face: Face) -> None:
    """SO-21, SO-22, LW-11."""
    with peered() as (url, peer), face.opened(url) as ws:
        peer.wait().abort()
        closure = ws.end()
        assert (closure.clean, closure.code, closure.first) == (False, 1006, None)
        peer.release()


def test_after_the_end_nothing_can_be_sent_and_the_error_tells_how_it_was(face: Face) -> None:
    """LW-19."""
    with served(lambda ws: ws.close(4002, "full")) as url, face.opened(url) as ws:
        ws.end()
        with pytest.raises(anyws.ConnectionClosed) as caught:
            ws.send("too late")
        closure = caught.value.closure
        assert (closure.clean, closure.code, closure.reason) == (True, 4002, "full")


def test_after_the_peer_s_close_no_close_of_ours_is_needed(face: Face) -> None:
    """LW-14."""
    with RawServer() as server:
        with face.opened(server.url) as ws:
            peer = server.peer()
            ending = threading.Thread(target=ws.end)
            ending.start()
            peer.send(CLOSE, b"\x03\xe8")
            assert peer.next_frame().payload == b"\x03\xe8"
            peer.close()
            ending.join(GUARD)
            assert not ws.is_open


# --- Status ---


def test_the_status_is_open_closing_and_closed(face: Face) -> None:
    """HS-12, HS-14..HS-16, CP-7, CP-9, LW-7."""
    with RawServer() as server:
        with face.opened(server.url, config=PATIENT) as ws:
            assert (ws.status, ws.is_open) == (Status.OPEN, True)
            peer = server.peer()
            closing = threading.Thread(target=ws.close)
            closing.start()
            # Its Close is here, and it waits for the answer.
            close = peer.next_frame()
            assert close.opcode == CLOSE
            assert (ws.status, ws.is_open) == (Status.CLOSING, False)
            peer.send(CLOSE, close.payload)
            peer.close()
            closing.join(GUARD)
            assert (ws.status, ws.is_open) == (Status.CLOSED, False)


def test_the_status_is_connecting_where_there_is_somebody_to_ask() -> None:
    """HS-13. The other faces hand a connection over when it is open, and no sooner."""
    with silent_server() as url:
        client = Client(url, polled=True)
        client.open()
        assert (client.status, client.is_open) == (Status.CONNECTING, False)
        client.close()
        poll_to_the_end(client)
        assert client.status is Status.CLOSED


def test_there_are_four_values_and_none_is_unknown() -> None:
    """HS-17."""
    assert [status.value for status in Status] == ["connecting", "open", "closing", "closed"]


# --- The connection that a handler gets ---


def exercise(near: Any, far: Any) -> None:
    """Use what a connection offers at this end, against the other one."""
    assert near.is_open
    assert near.status is Status.OPEN
    assert near.closure is None
    for send, sent, received in [
        (near.send, "text", "text"),
        (near.send, b"binary", b"binary"),
        (near.send_text, b"text", "text"),
        (near.send_bytes, "binary", b"binary"),
        (near.send_json, {"a": [1]}, '{"a":[1]}'),
        (near.send_fragments, ["in ", "pieces"], "in pieces"),
    ]:
        send(sent)
        assert far.receive() == received
    for receive, sent, received in [
        (near.receive, b"binary", b"binary"),
        (near.receive_text, "text", "text"),
        (near.receive_bytes, b"binary", b"binary"),
        (near.receive_json, '{"a":[1]}', {"a": [1]}),
    ]:
        far.send(sent)
        assert receive() == received
    assert near.subprotocol == far.subprotocol == "chat"
    assert near.request.subprotocols == far.request.subprotocols == ("chat",)
    assert near.response.status == far.response.status == 101
    assert near.extensions == far.extensions == ("permessage-deflate",)


@pytest.mark.parametrize("closer", ["client", "handler"])
def test_the_connection_of_a_handler_has_the_whole_interface_of_a_client_s(
    server_face: ServerFace, closer: str
) -> None:
    """LW-29. The class is the same, and all of it works in either role."""
    arrived: list[Any] = []
    has_arrived, released = threading.Event(), threading.Event()

    def handler(ws: Any) -> None:
        arrived.append(ws)
        has_arrived.set()
        assert released.wait(GUARD)

    with server_face.serving({"chat": handler}) as server:
        with server_face.opened(server.url, subprotocols=["chat"]) as client:  # type: ignore[attr-defined]
            try:
                assert has_arrived.wait(GUARD)
                [served_] = arrived
                assert served_.kind() is client.kind()
                exercise(client, served_)
                exercise(served_, client)
                ends = [client, served_] if closer == "client" else [served_, client]
                answering = threading.Thread(target=lambda: (ends[1].end(), released.set()))
                answering.start()
                # Whoever receives answers the other one's ping.
                assert ends[0].latency is None
                assert ends[0].ping() >= 0
                assert ends[0].latency is not None
                closure = ends[0].close(4000, "done")
                answering.join(GUARD)
                assert (closure.clean, closure.sent) == (True, Close(4000, "done"))
                assert ends[1].closure.received == Close(4000, "done")
                assert ends[0].status is Status.CLOSED
            finally:
                released.set()


def names_of(connection: type) -> set[str]:
    return {name for name in dir(connection) if not name.startswith("_")}


def test_the_blocking_connection_has_the_names_of_the_async_one() -> None:
    """LW-5. What only the async one has, tasks and AnyIO's streams have need of."""
    blocking, waited_for = names_of(anyws.sync.WebSocket), names_of(anyws.WebSocket)
    assert blocking <= waited_for
    assert waited_for - blocking == {
        "aclose",
        "cancel_when_closed",
        "extra",
        "extra_attributes",
        "send_eof",
        "wait_closed",
    }

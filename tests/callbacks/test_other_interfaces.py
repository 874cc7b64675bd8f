"""Programs written for other interfaces: `docs/call-by-call.md` has the table."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from callbacks.clients import (
    GUARD,
    Heard,
    echo,
    opened,
    peered,
    poll_to_the_end,
    served,
    silent_server,
)
from connections import authority, client_tls, server_tls

import anyws
from anyws import CloseCode, Config, Status
from anyws._target import Target
from anyws.callbacks import Client, Closed, Failed, Message, Opened, Pong

# --- A desktop script; a video tool's extension is nearly the same ---


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_script_makes_a_client_with_a_url_and_one_callback_for_all_events(kind):
    """HS-1..HS-5, HS-7, HS-8, CP-1..CP-4. All of a script."""
    heard = Heard()
    tls = {"ssl_context": server_tls()} if kind == "tls" else {}
    ours = {"ssl_context": client_tls()} if kind == "tls" else {}
    with served(**tls) as url:
        assert url.startswith("ws" if kind == "tcp" else "wss")
        client = Client(url + "path", heard, **ours)
        client.open()
        heard.wait_for(Opened)
        client.send("received")
        client.ping()
        heard.wait_for(Message)
        heard.wait_for(Pong)
        client.close()
        heard.wait_for_end()
        assert heard.of(Opened)[0].request.path == "/path"
    # Its events: open, received with the message, pong, closed.
    assert set(heard.kinds) == {Opened, Message, Pong, Closed}
    assert heard.messages == ["received"]


def test_the_fail_event_has_the_error_message():
    """HS-6, CP-3."""
    heard = Heard()
    client = Client("ws://127.0.0.1:1/", heard)
    client.open()
    assert heard.wait_for(Failed).what.startswith("cannot connect to 127.0.0.1 port 1: ")


def test_a_message_is_sent_as_data_or_as_text_in_which_bad_utf_8_is_replaced():
    """HS-10, HS-11, CP-11, CP-12. Ours decides by the type: `send_bytes` is always binary."""
    with peered() as (url, peer), opened(url, peer=peer) as (client, _):
        ws = peer.wait()
        client.send_bytes("binary by default")
        client.send_text(b"caf\xe9", errors="replace")
        assert ws.receive(GUARD) == b"binary by default"
        assert ws.receive(GUARD) == "caf\ufffd"


def test_the_status_has_words():
    """HS-12, HS-13, HS-16, HS-17, CP-7."""
    assert [status.value for status in Status] == ["connecting", "open", "closing", "closed"]
    with silent_server() as url:
        heard = Heard()
        client = Client(url, heard)
        client.open()
        assert client.status.value == "connecting"
        client.close()
        heard.wait_for_end()
    assert client.status.value == "closed"


def test_open_and_close_return_at_once_and_the_status_tells_how_far_they_are():
    """HS-9, CP-4..CP-10."""
    with served() as url:
        heard = Heard()
        client = Client(url, heard)
        client.open()
        assert client.status in {Status.CONNECTING, Status.OPEN}
        heard.wait_for(Opened)
        assert client.is_open
        client.close()
        assert client.status in {Status.CLOSING, Status.CLOSED}
        assert not client.is_open
        heard.wait_for(Closed)
        assert client.status is Status.CLOSED


# --- A game ---


class Game:
    """The engine's example: connect with a timeout and headers, four events, leave."""

    def __init__(self, url: str) -> None:
        self.log: list[Any] = []
        self.client = Client(
            url,
            self.on_event,
            headers="X-Game: pong\r\nOrigin: https://game.example\r\n",
            config=Config(handshake_timeout=3.0),
            polled=True,
        )
        self.client.open()

    def on_event(self, event: Any) -> None:
        match event:
            case Opened(response=response):
                self.log.append(("connected", response.status))
                event.client.send_bytes("binary by default")
                event.client.send_text("text")
            case Message(data=data):
                self.log.append(("message", data))
            case Closed(code=code):
                self.log.append(("disconnected", code))
            case Failed(what=what, response=response):
                self.log.append(("error", what, response and response.status))

    def update(self) -> None:
        self.client.poll()

    def finalize(self) -> None:
        self.client.close()


def test_a_game_connects_with_a_timeout_and_headers_and_gets_its_four_events():
    """DE-1, DE-2, DE-6..DE-8, DE-10..DE-15, DE-17, DE-21..DE-24, DE-26. All of a game."""
    requests = []
    with served(echo, on_request=requests.append, origins="*") as url:
        game = Game(url)
        while len(game.log) < 3:
            game.update()
        game.finalize()
        poll_to_the_end(game.client)
    assert game.log == [
        ("connected", 101),
        ("message", b"binary by default"),
        ("message", "text"),
        ("disconnected", 1000),
    ]
    assert requests[0].headers["X-Game"] == "pong"
    assert requests[0].origin == "https://game.example"
    assert "Sec-WebSocket-Protocol" not in requests[0].headers


def test_a_game_that_is_refused_gets_an_error_with_the_servers_response():
    """DE-16, DE-18, DE-19."""
    with served(on_request=lambda _: anyws.Reject(401, "who are you?"), origins="*") as url:
        game = Game(url)
        poll_to_the_end(game.client)
    assert game.log == [
        ("error", "the server refused the WebSocket: 401 Unauthorized: 'who are you?'", 401)
    ]


def test_a_game_is_told_the_code_of_the_servers_close_when_disconnected():
    """DE-14, DE-20."""
    with served(lambda ws: ws.close(4002, "full"), origins="*") as url:
        game = Game(url)
        poll_to_the_end(game.client)
    assert game.log[-1] == ("disconnected", 4002)


def test_the_timeout_for_connecting_is_in_seconds():
    """DE-3."""
    with silent_server() as url:
        client = Client(url, config=Config(handshake_timeout=0.05), polled=True)
        failed: list[Failed] = []
        client.add_listener(Failed, failed.append)
        client.open()
        poll_to_the_end(client)
    assert failed[0].what.endswith("was not over after 0.05 s")


def test_a_protocol_is_offered_where_it_is_named_and_not_as_a_header():
    """DE-5, DE-9. There are not two ways to name it."""
    with served({"chat": echo}) as url, opened(url, subprotocols=["chat"]) as (_, heard):
        assert heard.wait_for(Opened).subprotocol == "chat"
    with pytest.raises(ValueError, match="argument for subprotocols"):
        Client("ws://127.0.0.1/", headers="Sec-WebSocket-Protocol: chat")


# --- Another one ---


def test_listeners_are_set_up_before_connecting_and_taken_back():
    """SO-1..SO-6, SO-14..SO-16, SO-18."""
    calls = []

    def on_message(event: Message) -> None:
        calls.append(event.data)

    with served() as url:
        heard = Heard()
        client = Client(url)
        client.add_listener(Message, on_message)
        client.add_listener(anyws.callbacks.Event, heard)
        client.open()
        heard.wait_for(Opened)
        client.send("heard")
        heard.wait_for(Message)
        client.remove_listener(Message, on_message)
        client.send("not heard")
        heard.wait_for(Message, 2)
        client.close()
        heard.wait_for_end()
    assert calls == ["heard"]


def test_the_port_may_stand_beside_the_url():
    """SO-8."""
    with served() as url:
        host, _, port = url[5:-1].partition(":")
        with opened(f"ws://{host}/", port=int(port)) as (client, _):
            assert client.is_open


def test_the_version_of_tls_is_the_contexts_1_2_at_least_by_default():
    """SO-10."""
    old = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    authority().issue_cert("127.0.0.1").configure_cert(old)
    target = Target("wss://127.0.0.1/", None, None)
    default = target.tls(target.url)
    assert default is not None
    # Whatever Python's own default is, which some systems leave to OpenSSL.
    assert default.minimum_version is ssl.TLSVersion.TLSv1_2
    with served(ssl_context=old) as url, opened(url, ssl_context=client_tls()) as (client, _):
        assert client.is_open
    newer = ssl.create_default_context()
    newer.minimum_version = ssl.TLSVersion.TLSv1_3
    authority().configure_trust(newer)
    with served(ssl_context=old) as url:
        heard = Heard()
        client = Client(url, heard, ssl_context=newer)
        client.open()
        assert heard.wait_for(Failed).what.startswith("TLS with ")


def test_closed_has_code_and_reason_and_a_violation_is_told_as_an_end():
    """SO-19..SO-22. What ends an open connection is Closed."""
    with served(lambda ws: ws.close(CloseCode.POLICY_VIOLATION, "no")) as url:
        with opened(url) as (_, heard):
            end = heard.wait_for(Closed)
            assert (end.code, end.reason) == (1008, "no")
    with served(lambda ws: ws.send("x" * 100)) as url:
        with opened(url, config=Config(max_message_size=10)) as (_, heard):
            end = heard.wait_for(Closed)
            assert end.closure.sent is not None
            assert end.closure.sent.code == 1009

"""The examples and the README's code, run as they stand, and what they print."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from programs import (
    ANYWS,
    EXAMPLES,
    ORDINARY,
    ROOT,
    free_port,
    interrupt,
    output_of,
    rest_of,
    run,
    serving,
    started,
)

import anyws
from anyws import Close

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Coroutine

README = (ROOT / "README.md").read_text(encoding="utf-8")
# README: language -> blocks
BLOCKS: dict[str, list[str]] = {}
for _language, _block in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S):
    BLOCKS.setdefault(_language, []).append(_block)


def finish(client: Coroutine[Any, Any, None]) -> None:
    """Run a client; where it hangs, the test fails in time to end what it has started."""
    asyncio.run(asyncio.wait_for(client, timeout=40))


def test_each_example_has_a_test():
    tests = (ROOT / "tests").glob("test_examples*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in source] == []


# --- examples/ ---


def test_the_echo_client_and_the_echo_server():
    with serving("echo_server.py") as url:
        *lines, ping, closure = output_of("echo_client.py", url)
    assert lines == ["hello", r"b'\x00\xff'", "{'answer': 42}"]
    assert re.fullmatch(r"ping: \d\.\d{6} s", ping)
    assert closure == repr(ORDINARY)


def test_a_client_in_a_plain_asyncio_program():
    with serving("echo_server.py") as url:
        lines = output_of("client_asyncio.py", url)
    messages = [f"message {number}" for number in range(3)]
    assert lines == [*messages, "nothing came", "still usable", repr(ORDINARY)]


def test_a_client_in_a_plain_trio_program():
    with serving("echo_server.py") as url:
        lines = output_of("client_trio.py", url)
    messages = [f"message {number}" for number in range(3)]
    assert lines == [*messages, "nothing came", repr(ORDINARY), "from the task group"]


def test_a_client_and_a_server_with_tls(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    with serving("tls_server.py", tmp_path / "certificate.pem", tmp_path / "key.pem") as url:
        assert url.startswith("wss:")
        lines = output_of("tls_client.py", url, tmp_path / "authority.pem")
    assert lines == ["hello, privately"]


@pytest.mark.parametrize("server", ["subprotocols_server.py", "sync_server.py"])
@pytest.mark.parametrize(
    ("offered", "chosen", "replies"),
    [
        (["echo"], "echo", ["Hello", b"bytes"]),
        (["echo-uppercase"], "echo-uppercase", ["HELLO", b"BYTES"]),
        (["chat", "echo-uppercase", "echo"], "echo-uppercase", ["HELLO", b"BYTES"]),
    ],
)
def test_the_subprotocol_chooses_the_handler(offered, chosen, replies, server):
    async def client(url):
        async with anyws.open_websocket(url, subprotocols=offered) as ws:
            assert ws.subprotocol == chosen
            for message, reply in zip(["Hello", b"bytes"], replies, strict=True):
                await ws.send(message)
                assert await ws.receive() == reply

    with serving(server) as url:
        finish(client(url))


@pytest.mark.parametrize("server", ["subprotocols_server.py", "sync_server.py"])
@pytest.mark.parametrize("offered", [[], ["chat"]])
def test_strangers_are_sent_away_by_the_default_handler(offered, server):
    async def client(url):
        async with anyws.open_websocket(url, subprotocols=offered) as ws:
            assert ws.subprotocol is None
            assert [message async for message in ws] == ["goodbye strange client"]
        assert ws.closure.received == Close(1000)

    with serving(server) as url:
        finish(client(url))


def test_a_program_that_knows_nothing_of_websocket_reaches_a_service_through_a_tunnel():
    """It says what it wants and closes; what the service says arrives to the last byte."""
    answer = bytes(range(256)) * 4000

    def serve(listener: socket.socket) -> None:
        for _ in range(3):
            service, _ = listener.accept()
            with service:
                size = int(service.makefile("rb").readline())
                service.sendall(answer[:size])

    def ask(port: int, size: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as program:
            program.sendall(b"%d\n" % size)
            return program.makefile("rb").read()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(4) as pool:
        listener.settimeout(30)
        served = pool.submit(serve, listener)
        with (
            serving("tunnel_server.py", "127.0.0.1", listener.getsockname()[1]) as url,
            started(EXAMPLES / "tunnel_client.py", url, 0) as near,
        ):
            found = re.fullmatch(r"listening at 127\.0\.0\.1:(\d+)\n", near.stdout.readline())
            sizes = [0, 100, len(answer)]
            got = list(pool.map(ask, [int(found[1])] * 3, sizes))
            assert interrupt(near) == (0, "bye\n", "")
        served.result()
    assert [len(one) for one in got] == sizes
    assert got[2] == answer


def test_a_tunnel_to_a_service_that_is_down_is_closed():
    with serving("tunnel_server.py", "127.0.0.1", free_port()) as url:

        async def client() -> None:
            async with anyws.open_websocket(url, subprotocols=["binary"]) as ws:
                with pytest.raises(anyws.ClosedWithError) as caught:
                    await ws.receive()
            assert caught.value.closure.received == Close(1013, "the service cannot be reached")

        finish(client())


def test_what_a_service_said_before_it_was_lost_does_not_look_complete():
    def serve(listener: socket.socket) -> None:
        service, _ = listener.accept()
        with service:
            service.recv(100)
            # Closing it resets the connection.
            service.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def client(url: str) -> None:
        async with anyws.open_websocket(url, subprotocols=["binary"]) as ws:
            await ws.send(b"well?")
            with pytest.raises(anyws.ClosedWithError) as caught:
                await ws.receive()
        assert caught.value.closure.received == Close(1011, "the service was lost")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(30)
        served = pool.submit(serve, listener)
        with serving("tunnel_server.py", "127.0.0.1", listener.getsockname()[1]) as url:
            finish(client(url))
        served.result()


def test_a_tunnel_that_is_lost_does_not_look_like_the_end_of_what_the_service_said():
    async def lose(ws: anyws.WebSocket) -> None:
        await ws.receive()
        ws.abort()

    def ask(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as program:
            program.sendall(b"well?")
            return program.recv(100)

    async def main() -> None:
        async with anyws.open_server({"binary": lose}, host="127.0.0.1", port=0) as server:
            with started(EXAMPLES / "tunnel_client.py", server.url, 0) as near:
                line = await anyio.to_thread.run_sync(near.stdout.readline)
                with pytest.raises(ConnectionResetError):
                    await anyio.to_thread.run_sync(ask, int(line.rpartition(":")[2]))
                assert interrupt(near) == (0, "bye\n", "")

    finish(main())


def test_in_the_chat_everybody_gets_what_anybody_says():
    async def talk(url):
        async with (
            anyws.open_websocket(f"{url}?name=Ada") as ada,
            anyws.open_websocket(f"{url}?name=Ben") as ben,
        ):
            assert await ada.receive() == "* Ada joins"
            assert await ada.receive() == "* Ben joins"
            assert await ben.receive() == "* Ben joins"
            async with anyws.open_websocket(f"{url}?name=Cleo") as cleo:
                everybody = (ada, ben, cleo)
                for ws in everybody:
                    assert await ws.receive() == "* Cleo joins"
                async with anyio.create_task_group() as task_group:
                    for ws in everybody:
                        for number in range(10):
                            task_group.start_soon(ws.send, f"{number}")
                heard = [[await ws.receive() for _ in range(30)] for ws in everybody]
                # All in the same order, and nothing twice or not at all.
                assert heard[0] == heard[1] == heard[2]
                assert sorted(heard[0]) == sorted(
                    f"{name}: {number}" for name in ("Ada", "Ben", "Cleo") for number in range(10)
                )
            assert await ada.receive() == await ben.receive() == "* Cleo leaves"

    with serving("chat.py") as url:
        finish(talk(url))


def test_in_the_chat_who_does_not_read_holds_nobody_up():
    line = "x" * 50_000
    lines = 400  # more than the network's buffers and the outbox take
    # Compressed, they would all fit.
    config = anyws.Config(inbox_size=1, compression=None)

    async def talk(url):
        async with (
            anyws.open_websocket(f"{url}?name=Ada") as ada,
            anyws.open_websocket(f"{url}?name=Ben", config=config) as ben,
        ):
            assert await ada.receive() == "* Ada joins"
            assert await ada.receive() == "* Ben joins"
            for _ in range(lines):
                await ada.send(line)
                assert await ada.receive() == f"Ada: {line}"
            received, close = await count(ben)
            assert close == Close(1013, "too slow")
            assert 100 < received < lines

    with serving("chat.py") as url:
        finish(talk(url))


async def count(ws: anyws.WebSocket) -> tuple[int, Close | None]:
    """How many messages come, and with which Close they end."""
    messages = 0
    try:
        async for _ in ws:
            messages += 1
    except anyws.ConnectionClosed as error:
        return messages, error.closure.received
    return messages, None


# --- README.md ---


def test_the_readme_has_both_commands_each_in_a_block_of_its_own():
    assert BLOCKS["sh"] == [
        "python -m pip install . && anyws demo\n",
        "python -m pip install nox && python -m nox -s tests\n",
    ]


RUNNERS = [
    "anyio.run(main)",
    'anyio.run(main, backend="trio")',
    "import asyncio; asyncio.run(main())",
    "import trio; trio.run(main)",
]


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_clients_and_the_server_of_the_readme(runner, tmp_path):
    port = free_port()
    programs = [tmp_path / "server.py", tmp_path / "client.py"]
    *looping, blocking = BLOCKS["python"]
    for path, block in zip(programs, looping, strict=True):
        assert block.count("8080") == block.count("anyio.run(main)") == 1
        program = block.replace("8080", str(port)).replace("anyio.run(main)", runner)
        path.write_text(program, encoding="utf-8")
    with started(programs[0]) as server:
        wait_for(port, server)
        done = run(programs[1])
        assert blocking.count("8080") == 1
        waited = run("-c", blocking.replace("8080", str(port)))
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "hello\n", "")
    *lines, ping, closure = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines == ["hello", r"b'\x00\x01'"]
    assert re.fullmatch(r"ping: \d\.\d{4} s", ping)
    assert closure == repr(ORDINARY)


def test_the_command_of_the_readme():
    port = free_port()
    echo, connect = (block.replace("8080", str(port)) for block in BLOCKS["console"])
    command, _, output = echo.partition("\n")
    with started(*ANYWS, *command.removeprefix("$ anyws ").split()) as server:
        assert server.stdout.readline() == output
        command, _, output = connect.partition("\n")
        command = command.removeprefix("$ echo hello | anyws ")
        with started(*ANYWS, *command.split(), "--wait", 0) as client:
            first = client.stderr.readline()
            client.stdin.write("hello\n")
            client.stdin.flush()
            answer = client.stdout.readline()
            _, last = rest_of(client)
    assert first + answer + last == output


def test_the_names_of_the_readme_are_public():
    table = README.partition("## What there is")[2].partition("## Errors")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.M)
    names = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    assert len(names) > 15
    assert names <= set(anyws.__all__)


def test_the_exceptions_of_the_readme_are_the_library_s():
    described = {}
    parents: list[str] = []
    for line in BLOCKS["text"][0].splitlines():
        prefix, name = re.match(r"([^A-Za-z]*)(\w+)", line).groups()
        depth = len(prefix) // 4
        parents[depth:] = [name]
        described[name] = parents[depth - 1] if depth else "Exception"
    real = {
        name: value.__mro__[1].__name__
        for name in anyws.__all__
        if isinstance(value := getattr(anyws, name), type)
        and issubclass(value, anyws.WebSocketError)
    }
    assert described == real


def test_the_links_of_the_readme_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def wait_for(port: int, server: subprocess.Popen[str]) -> None:
    """Connect until somebody listens; each try waits for the system's answer."""
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
        except ConnectionRefusedError:
            continue
        return
    pytest.fail(f"the server has ended: {server.communicate()}")

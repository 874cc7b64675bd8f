"""The documentation, held against the package: names exist, and every block of Python runs.

The tutorial is done as a reader does it: its programs are saved under the names in their captions
and started as programs, and what they print has to be what the page shows.

On the other pages the blocks of one section (one heading) belong together. A block that calls
`anyws.serve` runs in the background while those behind it run. Where the reader has to fill in,
there is something to work with: `url` leads to a server, `ws` is an open connection. Port 8080
becomes one that is free, and example.com the server of the section. A section that only serves
has a client in `CLIENTS`.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from connections import authority

import anyws
import anyws.callbacks
import anyws.sync
import anyws.testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# Seconds for one program or one section.
GUARD = 30

FENCE = re.compile(
    r"^```(?P<info>[^\n`]+)\n(?P<options>(?::\w+:[^\n]*\n)*)(?P<code>.*?)^```$", re.M | re.S
)
HEADING = re.compile(r"^#+ (.+)$", re.M)
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class|exception|data):: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    caption: str
    code: str
    section: str


def blocks_of(page: str) -> list[Block]:
    text = (DOCS / page).read_text()
    fences = list(FENCE.finditer(text))
    headings = [
        match
        for match in HEADING.finditer(text)
        if not any(fence.start() < match.start() < fence.end() for fence in fences)
    ]
    blocks = []
    for fence in fences:
        section = ["", *(match[1] for match in headings if match.start() < fence.start())][-1]
        caption = re.search(r":caption: (.+)", fence["options"])
        blocks.append(
            Block(
                page,
                text.count("\n", 0, fence.start("code")) + 1,
                fence["info"].removeprefix("{code-block}").strip(),
                caption[1] if caption else "",
                fence["code"],
                section,
            )
        )
    return blocks


def python_blocks(page: str) -> list[Block]:
    return [block for block in blocks_of(page) if block.language == "python"]


# --- Names ---


def test_the_reference_has_every_public_name_once_and_no_other():
    names = [*anyws.__all__, *anyws.callbacks.__all__, *anyws.testing.__all__]
    assert sorted(DIRECTIVE.findall((DOCS / "reference.md").read_text())) == sorted(names)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_package_on_a_page_exists(page):
    text = (DOCS / page).read_text()
    owners = "|".join(anyws.__all__)
    for owner, name in re.findall(rf"\b({owners})\.([a-z_]\w*)", text):
        cls = getattr(anyws, owner)
        fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
        assert hasattr(cls, name) or name in fields or _is_set_on_instances(cls, name), (
            f"{owner}.{name}"
        )
    # Module names and the command's own are none of the package's.
    for name in re.findall(r"\banyws\.([A-Za-z]\w*)", text):
        assert hasattr(anyws, name) or name in {"client", "server", "protocol"}, f"anyws.{name}"


def _is_set_on_instances(cls: type, name: str) -> bool:
    return name in {"response", "closure"} and issubclass(cls, (anyws.WebSocketError, anyws.Reject))


def rows(page: str) -> list[list[str]]:
    """The cells of every table row on a page, without markup."""
    lines = (DOCS / page).read_text().splitlines()
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| ") and not line.startswith("| --")
    ]


def described(page: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(page)}


@pytest.mark.parametrize("cls", [anyws.Config, anyws.Deflate])
def test_the_page_on_limits_has_every_field_with_its_default(cls):
    defaults = described("limits.md")
    for field in dataclasses.fields(cls):
        assert _plain(defaults[field.name]) == _plain(_spelled(field.default)), field.name


def _spelled(default: object) -> str:
    return "Deflate()" if isinstance(default, anyws.Deflate) else str(default)


def _plain(value: str) -> str:
    if number := re.fullmatch(r"([\d.]+) ?(KiB|MiB|s|bytes)?", value):
        unit = {"KiB": 2**10, "MiB": 2**20}.get(number[2] or "", 1)
        return str(float(number[1]) * unit)
    return value


def test_the_page_on_dependencies_has_every_one_and_no_other():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *[name for extra in project["project"]["optional-dependencies"].values() for name in extra],
        *[name for group in project["dependency-groups"].values() for name in group],
    ]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in needed}
    assert {row[0] for row in rows("dependencies.md")} == names | {"package"}


def test_the_page_on_the_command_has_every_command_and_option_and_no_other():
    page = (DOCS / "command.md").read_text()
    commands = re.search(r"^  COMMAND\n((?:    .+\n)+)", command_help(), re.M)[1]
    commands = re.findall(r"^    (\w+)", commands, re.M)
    assert sorted(re.findall(r"^## `anyws (\w+)`$", page, re.M)) == sorted(commands)
    options = {option for name in commands for option in OPTION.findall(command_help(name))}
    assert set(OPTION.findall(page)) == options - {"--help"}


OPTION = re.compile(r"(?<![\w-])--[a-z]+")


def command_help(*command: str) -> str:
    arguments = [sys.executable, "-m", "anyws", *command, "--help"]
    return subprocess.run(
        arguments, timeout=GUARD, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


# --- The tutorial ---


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_tutorial_does_what_it_shows(backend, tmp_path):
    blocks = blocks_of("tutorial.md")
    trio_line = next(block.code for block in blocks if block.code.startswith("anyio.run"))
    server = None
    port = 0
    with ExitStack() as running:
        for block in blocks:
            if block.caption:
                code = block.code.replace("8080", str(0 if "server" in block.caption else port))
                if backend == "trio":
                    assert code.endswith("\nanyio.run(main)\n")
                    code = code.replace("anyio.run(main)\n", trio_line)
                (tmp_path / block.caption).write_text(code)
            elif block.language == "console" and (
                program := re.match(r"\$ python (\w+\.py)\n", block.code)
            ):
                shown = block.code[program.end() :]
                if program[1] == "server.py":
                    server, port = start_server(tmp_path, running, shown)
                elif server is None:
                    pytest.fail("a client before the server")
                else:
                    assert run_program(tmp_path, program[1]) == shown
            if block.caption == "server.py" and server is not None:
                # The page has the reader start it anew.
                server, port = start_server(tmp_path, running, None)


def start_server(folder: Path, running: ExitStack, shown: str | None) -> tuple[Any, int]:
    server = running.enter_context(
        subprocess.Popen([sys.executable, "server.py"], cwd=folder, stdout=subprocess.PIPE)
    )
    running.callback(server.kill)
    line = server.stdout.readline().decode()
    port = int(re.fullmatch(r"serving at ws://127\.0\.0\.1:(\d+)/\n", line)[1])
    assert shown is None or shown == line.replace(str(port), "8080")
    return server, port


def run_program(folder: Path, name: str) -> str:
    return subprocess.run(
        [sys.executable, name],
        cwd=folder,
        timeout=GUARD,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


# --- The recipes ---


def sections() -> Iterator[Any]:
    for page in PAGES:
        if page != "tutorial.md":
            blocks = python_blocks(page)
            for name in dict.fromkeys(block.section for block in blocks):
                yield pytest.param(
                    [block for block in blocks if block.section == name], id=f"{page}: {name}"
                )


@pytest.mark.parametrize("blocks", list(sections()))
async def test_the_recipes_run(blocks, anyio_backend, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_certificates(tmp_path)
    names = {"anyws": anyws, "anyio": anyio, "__name__": "docs"}
    with anyio.fail_after(GUARD):
        async with (
            anyws.open_server(
                dict.fromkeys([None, "chat", "echo"], serve_anything), port=0, host="127.0.0.1"
            ) as server,
            anyio.create_task_group() as task_group,
        ):
            names["url"] = server.url
            for block in blocks:
                code = adapted(block, names["url"])
                if is_server(block):
                    server = await task_group.start(serve_block, code, names)
                    if reachable(server):
                        names["url"] = server.url
                else:
                    await run_block(block, code, names)
            client = CLIENTS.get(blocks[0].section)
            assert client or not is_server(blocks[-1]), "nobody visits this server"
            if client:
                await client(names["url"])
            task_group.cancel_scope.cancel()
    # A handler that fails does so in the log alone.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def is_server(block: Block) -> bool:
    return "await anyws.serve(" in block.code


def reachable(server: anyws.Server) -> bool:
    attribute = anyio.abc.SocketAttribute.local_address
    return isinstance(server.listeners[0].extra(attribute), tuple)


async def serve_block(code: Any, names: dict[str, Any], *, task_status: Any) -> None:
    await eval(code, {**names, "_task_status": task_status})


async def run_block(block: Block, code: Any, names: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        if "ws" in free_names(block.code):
            opening = anyws.open_websocket(names["url"])
            names["ws"] = await stack.enter_async_context(opening)
        if blocks_its_thread(block):
            await anyio.to_thread.run_sync(eval, code, names)
        elif (coroutine := eval(code, names)) is not None:
            await coroutine


def blocks_its_thread(block: Block) -> bool:
    """Whether it is a program without an event loop, or brings its own: none for the server's."""
    has_callbacks = block.page == "callbacks.md" and "await client" not in block.code
    return has_callbacks or "anyio.run(" in block.code


def adapted(block: Block, url: str) -> Any:
    tree = Adapt(url).visit(ast.parse(block.code))
    ast.increment_lineno(tree, block.line - 1)
    return compile(
        ast.fix_missing_locations(tree),
        DOCS / block.page,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )


class Adapt(ast.NodeTransformer):
    """What a reader changes: the port, the address. And the test has to know when it serves."""

    def __init__(self, url: str) -> None:
        self._url = url

    def visit_Await(self, node: ast.Await) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "anyws.serve":
            status = ast.keyword("task_status", ast.Name("_task_status", ast.Load()))
            node.value.keywords.append(status)
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self.generic_visit(node)
        if node.arg == "port" and ast.unparse(node.value) == "8080":
            node.value = ast.Constant(0)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = re.sub(r"^wss?://example\.com/", self._url, node.value)
        return node


def free_names(code: str) -> set[str]:
    """The names that a block uses, outside of its functions, and does not bind."""
    used: set[str] = set()
    bound: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_Name(self, node: ast.Name) -> None:
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)

        def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
            bound.add(node.name)

        visit_AsyncFunctionDef = visit_FunctionDef

    Visitor().visit(ast.parse(code))
    return used - bound


def write_certificates(folder: Path) -> None:
    ca = authority()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = ca.issue_cert("127.0.0.1", "::1", "localhost")
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(str(folder / "cert.pem"), append=True)


async def serve_anything(ws: anyws.WebSocket) -> None:
    """What the pages' `url` leads to where they bring no server: an echo, or a feed that ends."""
    if ws.request.path == "/feed":
        for number in range(3):
            await ws.send(f"news {number}")
        # Some say hello first, and must not find the door closed.
        with anyio.move_on_after(0.2):
            await ws.receive()
    else:
        async for message in ws:
            await ws.send(message)


# --- Clients for the sections that only serve ---


async def visit_unix_socket(url: str) -> None:
    stream = await anyio.connect_unix("echo.sock")
    async with anyws.wrap_client_stream(stream, "ws://localhost/") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


async def visit_health_check(url: str) -> None:
    host, port = re.fullmatch(r"ws://\[?([^\]]+)\]?:(\d+)/", url).groups()
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")


async def visit_and_leave(url: str) -> None:
    async with anyws.open_websocket(url) as ws:
        await ws.send("what is the answer?")


async def subscribe_and_publish(url: str) -> None:
    async with (
        anyws.open_websocket(url) as subscriber,
        anyws.open_websocket(url, subprotocols=["source"]) as source,
    ):
        # Answered by a connection whose handler has begun.
        await subscriber.ping()
        await source.send("news")
        assert await subscriber.receive() == "news"


CLIENTS = {
    "Ask who is there, before the handshake": visit_health_check,
    "Send to many clients": subscribe_and_publish,
    "Stop working when the peer leaves": visit_and_leave,
    "Unix sockets and other listeners": visit_unix_socket,
}

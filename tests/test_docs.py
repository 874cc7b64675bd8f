"""The documentation, held against the package: names exist, and every block of Python runs.

The tutorial is done as a reader does it: its programs are saved under the names in their captions
and started as programs, and what they print has to be what the page shows.

On the other pages the blocks of one section (one heading) belong together. A block that awaits runs
in the event loop, any other one in a thread, since it may wait. One that awaits `anyws.serve` runs
in the background while those behind it run; one that calls `anyws.sync.serve` is a program of its
own, ended by Ctrl-C. Where the reader has to fill in, there is something to work with: `url` leads
to a server, `ws` is an open connection. Port 8080 becomes one that is free, and example.com the
server of the section. A section that only serves has a client in `CLIENTS`.

On the pages in `WITH_OUTPUT` the comment behind a `print` is what it prints.

Blocks that are not ours, or need what is not there, are `py` in place of `python`, or in another
language; these do not run.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import socket
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from connections import authority
from programs import free_port, interrupt, started

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
FACES = [anyws, anyws.sync, anyws.callbacks, anyws.testing]
# Where `ws` is the connection of a program that waits.
BLOCKING = {"sync.md"}
WITH_OUTPUT = {"coming-from.md", "observing.md", "serving.md", "sync.md"}

FENCE = re.compile(
    r"^```(?P<info>[^\n`]+)\n(?P<options>(?::\w+:[^\n]*\n)*)(?P<code>.*?)^```$", re.M | re.S
)
HEADING = re.compile(r"^#+ (.+)$", re.M)
DIRECTIVE = re.compile(
    r"^\.\. (currentmodule|autofunction|autoclass|autoexception|autodata):: ([\w.]+)$", re.MULTILINE
)
PRINTS = re.compile(r"\bprint\(.*\)  # (.+)$")


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
    names = [f"{face.__name__}.{name}" for face in FACES for name in face.__all__]
    found = []
    module = ""
    for directive, name in DIRECTIVE.findall((DOCS / "reference.md").read_text()):
        if directive == "currentmodule":
            module = name
        else:
            found.append(f"{module}.{name}")
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_package_on_a_page_exists(page):
    text = (DOCS / page).read_text()
    # Some are in several faces, as `Server` is.
    classes = [(name, getattr(face, name)) for face in FACES for name in face.__all__]
    owners = "|".join({name for name, _ in classes})
    for owner, name in re.findall(rf"\b({owners})\.([a-z_]\w*)", text):
        assert any(_has(cls, name) for known, cls in classes if known == owner), f"{owner}.{name}"
    # Module names and the command's own are none of the package's.
    for name in re.findall(r"\banyws\.([A-Za-z]\w*)", text):
        assert hasattr(anyws, name) or name in {"client", "server", "protocol"}, f"anyws.{name}"
    for face, name in re.findall(r"\banyws\.(sync|callbacks)\.([A-Za-z]\w*)", text):
        assert hasattr(getattr(anyws, face), name), f"anyws.{face}.{name}"


def _has(cls: Any, name: str) -> bool:
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
    return hasattr(cls, name) or name in fields or _is_set_on_instances(cls, name)


def _is_set_on_instances(cls: Any, name: str) -> bool:
    told = (anyws.WebSocketError, anyws.Reject)
    return name in {"response", "closure"} and isinstance(cls, type) and issubclass(cls, told)


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


@pytest.mark.parametrize("cls", [anyws.Config, anyws.Deflate, anyws.Backoff, anyws.Backlog])
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
    printed = Printed()
    names = {"anyws": anyws, "anyio": anyio, "print": printed, "__name__": "docs"}
    serve = partial(serve_anything, any("ws.send(" in block.code for block in blocks))
    with anyio.fail_after(GUARD), ExitStack() as programs:
        async with (
            anyws.open_server(
                dict.fromkeys([None, "chat", "echo"], serve), port=0, host="127.0.0.1"
            ) as server,
            anyio.create_task_group() as task_group,
        ):
            names["url"] = server.url
            for block in blocks:
                code = adapted(block, names["url"])
                if is_program(block):
                    names["url"] = programs.enter_context(serving(block, tmp_path))
                elif is_server(block):
                    server = await task_group.start(serve_block, code, names)
                    if reachable(server):
                        names["url"] = server.url
                else:
                    await run_block(block, code, names)
            client = CLIENTS.get(blocks[0].section)
            serves = is_server(blocks[-1]) or is_program(blocks[-1])
            assert client or not serves, "nobody visits this server"
            if client:
                await client(names["url"])
            task_group.cancel_scope.cancel()
    # A handler, or a listener, that fails does so in the log alone.
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    for block in blocks:
        if block.page in WITH_OUTPUT:
            shown = outputs(block)
            assert {line: printed.on(line) for line in shown} == shown


def is_server(block: Block) -> bool:
    return "await anyws.serve(" in block.code


def is_program(block: Block) -> bool:
    return "anyws.sync.serve(" in block.code


def reachable(server: anyws.Server) -> bool:
    attribute = anyio.abc.SocketAttribute.local_address
    return isinstance(server.listeners[0].extra(attribute), tuple)


async def serve_block(code: Any, names: dict[str, Any], *, task_status: Any) -> None:
    await eval(code, {**names, "_task_status": task_status})


@contextmanager
def serving(block: Block, folder: Path) -> Iterator[str]:
    """Run a program that serves; its Ctrl-C ends it, and nothing has gone wrong until then."""
    port = free_port()
    assert "8080" in block.code
    path = folder / f"server_{block.line}.py"
    path.write_text(block.code.replace("8080", str(port)))
    with started(path) as process:
        while True:
            try:
                socket.create_connection(("localhost", port)).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, process.stderr.read()
        yield f"ws://localhost:{port}/"
        _, _, errors = interrupt(process)
    assert errors.count("Traceback") == 1
    assert errors.endswith("\nKeyboardInterrupt\n")


async def run_block(block: Block, code: Any, names: dict[str, Any]) -> None:
    needs_connection = "ws" in free_names(block.code)
    awaits = bool(code.co_flags & inspect.CO_COROUTINE)
    if not awaits and not (needs_connection and block.page not in BLOCKING):
        await anyio.to_thread.run_sync(
            run_in_thread, code, names, needs_connection, abandon_on_cancel=True
        )
        return
    async with AsyncExitStack() as stack:
        if needs_connection:
            names["ws"] = await stack.enter_async_context(anyws.open_websocket(names["url"]))
        if (coroutine := eval(code, names)) is not None:
            await coroutine


def run_in_thread(code: Any, names: dict[str, Any], needs_connection: bool) -> None:
    with ExitStack() as stack:
        if needs_connection:
            names["ws"] = stack.enter_context(anyws.sync.open_websocket(names["url"]))
        eval(code, names)


class Printed:
    """In the place of `print`: remembers what was printed on which line."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []

    def __call__(self, *values: object) -> None:
        line = sys._getframe(1).f_lineno
        self._lines.append((line, " ".join(map(str, values))))

    def on(self, line: int) -> str:
        return ", ".join(text for number, text in self._lines if number == line)


def outputs(block: Block) -> dict[int, str]:
    """What a block says that it prints, by the lines of its page."""
    found = {}
    for number, line in enumerate(block.code.splitlines(), block.line):
        if match := PRINTS.search(line):
            found[number] = match[1]
    return found


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


async def serve_anything(are_greeting: bool, ws: anyws.WebSocket) -> None:
    """What the pages' `url` leads to where they bring no server: an echo, or a feed that ends."""
    if ws.request.path == "/feed":
        for number in range(3):
            await ws.send(f"news {number}")
        # Who says hello must not find the door closed.
        if are_greeting:
            await ws.receive()
    else:
        async for message in ws:
            await ws.send(message)


# --- What others are called ---


def others() -> list[Block]:
    return [block for block in blocks_of("coming-from.md") if block.language != "python"]


def test_each_section_on_others_has_a_block_of_theirs_and_one_of_ours_that_shows_something():
    ours = python_blocks("coming-from.md")
    assert [block.section for block in ours if "anyws" not in block.code] == []
    assert [block.section for block in others() if "anyws" in block.code] == []
    assert {block.language for block in others()} == {"lua", "py"}
    assert {block.section for block in others()} == {block.section for block in ours}
    assert {block.section for block in ours if outputs(block)} == {block.section for block in ours}


def test_names_of_others_are_what_they_are_called():
    """As far as they are installed here, to be talked to."""
    found = set()
    for block in others():
        if block.language == "py":
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in STRANGERS:
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
                        found.add(node.module)
    assert {module.split(".")[0] for module in found} == STRANGERS


STRANGERS = {"websockets", "trio_websocket"}


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


async def visit_and_be_asked_for_a_health_check(url: str) -> None:
    await visit_health_check(url)
    await visit_and_echo(url)


async def visit_by_name_and_echo(url: str) -> None:
    await visit_and_echo(re.sub(r"//.*:", "//localhost:", url))


async def visit_and_echo(url: str) -> None:
    async with anyws.open_websocket(url) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"


CLIENTS = {
    "How many at a time": visit_and_echo,
    "Names that the server is known by": visit_by_name_and_echo,
    "Other answers on the same port": visit_and_be_asked_for_a_health_check,
    "Ask who is there, before the handshake": visit_health_check,
    "Send to many clients": subscribe_and_publish,
    "To everybody who is connected": subscribe_and_publish,
    "Stop working when the peer leaves": visit_and_leave,
    "Unix sockets and other listeners": visit_unix_socket,
}

"""Imports point only downward: the referee of the house's layers.

It reads the sources, and imports none of them. A module that the table does not know fails, so
whoever adds one decides where it belongs.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "anyws"

# From the top down. A module imports from its own layer and from those below it; a folder stands
# for everything in it. Groups of one layer that may not import one another are lists of their own.
LAYERS: list[list[list[str]]] = [
    [["anyws", "__main__", "_cli", "_demo"]],
    [["sync"], ["callbacks"], ["testing"]],
    [
        ["_client", "_target", "_reconnect", "_proxy"],
        [
            *("_server", "_served", "_accept", "_policy", "_handlers", "_listening"),
            *("_routes", "_hooks", "_accepting", "_arrivals", "_asked"),
        ],
    ],
    [["_broadcast", "_byte_stream"]],
    [["_connection", "_websocket", "_face", "_fragments", "_handshake", "_keepalive", "_observed"]],
    [["_transports"]],
    [["_protocol"]],
    [["_close", "_config", "_errors", "_counters", "_trace", "_speedups"]],
]

# The two lowest layers have no I/O, no clock and no concurrency.
PURE = {"_protocol", "_close", "_config", "_errors", "_counters", "_trace", "_speedups"}
IMPURE = {
    *("anyio", "asyncio", "trio", "sniffio", "uvloop"),
    *("socket", "ssl", "select", "selectors", "subprocess", "multiprocessing", "concurrent"),
    *("time", "sched", "threading", "queue", "signal"),
}
# Needs to import a module that the user names.
MAY_IMPORT_BY_NAME = {"_cli"}
# Needs what need not be installed, and is imported where that runs.
MAY_BE_IMPORTED_LATE = {"anyws._transports.trio"}


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    name: str | None
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


class House:
    """The modules of a package by their dotted names, and what each imports at run time.

    An extension module is known by its stub: built or not, it has its place.
    ``if TYPE_CHECKING:`` is no run time: what stands there does not count.
    """

    def __init__(self, root: Path) -> None:
        sources = sorted([*root.rglob("*.py"), *root.rglob("*.pyi")])
        self.paths = {self._name(root, path): path for path in sources}
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}
        self.imports = [found for name in self.trees for found in self._imports_of(name)]

    @staticmethod
    def _name(root: Path, path: Path) -> str:
        parts = path.relative_to(root).with_suffix("").parts
        return ".".join([PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)])

    def internal(self) -> list[Import]:
        return [found for found in self.imports if found.imported in self.paths]

    def external(self) -> list[Import]:
        return [found for found in self.imports if found.imported not in self.paths]

    def _imports_of(self, importer: str) -> Iterator[Import]:
        for node, in_function in _run_time(self.trees[importer]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(importer, alias.name, None, node.lineno, in_function)
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(importer, node)
                for alias in node.names:
                    # `from .x import y` means the module x.y where there is one.
                    inner = f"{origin}.{alias.name}"
                    target = inner if inner in self.paths else origin
                    yield Import(importer, target, alias.name, node.lineno, in_function)

    def _origin(self, importer: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = importer.split(".")
        if self.paths[importer].name != "__init__.py":
            package.pop()
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])


def _run_time(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield node, in_function
    inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _run_time(child, inside)


def part(module: str) -> str:
    """The file or folder of the table that a module belongs to."""
    return module.removeprefix(f"{PACKAGE}.").split(".")[0]


def place(module: str) -> tuple[int, int] | None:
    """Layer and group of a module, counted from the top; ``None`` if the table has none."""
    for rank, layer in enumerate(LAYERS):
        for group, members in enumerate(layer):
            if part(module) in members:
                return rank, group
    return None


def unknown_modules(house: House) -> list[str]:
    return [name for name in house.paths if place(name) is None]


def imports_against_the_direction(house: House) -> list[str]:
    wrong = []
    for found in house.internal():
        here, there = place(found.importer), place(found.imported)
        if here is None or there is None:
            continue
        if there[0] < here[0]:
            wrong.append(f"{found}, which is above it")
        elif there[0] == here[0] and there[1] != here[1]:
            wrong.append(f"{found}, its neighbour")
    return wrong


def imports_in_functions(house: House) -> list[str]:
    return [
        str(found)
        for found in house.internal()
        if found.in_function and found.imported not in MAY_BE_IMPORTED_LATE
    ]


def imports_by_name(house: House) -> list[str]:
    return [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, tree in house.trees.items()
        if part(name) not in MAY_IMPORT_BY_NAME
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in {"__import__", "import_module"}
    ]


def cycles(house: House) -> list[str]:
    graph: dict[str, set[str]] = {name: set() for name in house.paths}
    for found in house.internal():
        graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def impurities(house: House) -> list[str]:
    wrong = []
    for found in house.external():
        if part(found.importer) not in PURE:
            continue
        top = found.imported.split(".")[0]
        if part(found.importer) == "_errors" and top == "anyio" and _is_exception(found.name):
            continue  # our exceptions are anyio's, too
        if top in IMPURE:
            wrong.append(str(found))
    return wrong


def _is_exception(name: str | None) -> bool:
    value = getattr(anyio, name or "", None)
    return isinstance(value, type) and issubclass(value, Exception)


CHECKS = [
    unknown_modules,
    imports_against_the_direction,
    imports_in_functions,
    imports_by_name,
    cycles,
    impurities,
]


@pytest.fixture(scope="module")
def house() -> House:
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return House(Path(spec.origin).parent)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_there_are_no(check, house):
    assert check(house) == []


def test_the_whole_house_was_read(house):
    assert {place(name)[0] for name in house.paths} >= {0, 2, 3, 4, 5, 6}
    assert len(house.internal()) > len(house.paths)


@pytest.mark.parametrize(
    ("check", "module", "source"),
    [
        (unknown_modules, "_elsewhere", ""),
        (imports_against_the_direction, "_protocol/url", "from .._client import open_websocket"),
        (imports_against_the_direction, "_protocol/url", "from .. import _client"),
        (imports_against_the_direction, "_protocol/url", "import anyws._client"),
        (imports_against_the_direction, "_protocol/url", "def f():\n    from .. import _client"),
        (imports_against_the_direction, "_protocol/url", "try:\n    import anyws\nexcept E: pass"),
        (imports_against_the_direction, "_server", "from . import open_websocket"),
        (imports_against_the_direction, "_server", "from ._client import open_websocket"),
        (imports_against_the_direction, "testing", "from .sync import open_websocket"),
        (imports_in_functions, "sync", "def f():\n    from ._client import open_websocket"),
        (imports_by_name, "sync", "x = importlib.import_module('anyws._client')"),
        (imports_by_name, "sync", "x = __import__('anyws')"),
        (cycles, "_close", "from ._errors import InvalidURL"),
        (impurities, "_protocol/url", "import socket"),
        (impurities, "_protocol/url", "from concurrent.futures import Future"),
        (impurities, "_config", "import anyio.lowlevel"),
        (impurities, "_errors", "from anyio import sleep"),
        (impurities, "_errors", "import anyio"),
    ],
)
def test_the_referee_sees(check, module, source, tmp_path):
    assert check(House(furnished(tmp_path, module, source))) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_client", "from ._protocol.url import parse\nfrom . import _close\nimport anyio"),
        ("_protocol/url", "from __future__ import annotations\nfrom .._close import Close"),
        ("_protocol/url", "try:\n    from .. import _speedups\nexcept ImportError: pass"),
        ("_protocol/url", "if TYPE_CHECKING:\n    from .._client import open_websocket"),
        ("_errors", "from anyio import EndOfStream"),
        ("_cli", "from importlib import import_module\nx = import_module('users')"),
        ("__init__", "from ._client import open_websocket as open_websocket"),
        ("_demo", "import anyws"),
    ],
)
def test_the_referee_lets_pass(module, source, tmp_path):
    house = House(furnished(tmp_path, module, source))
    assert [complaint for check in CHECKS for complaint in check(house)] == []


def furnished(root: Path, module: str, source: str) -> Path:
    """A small house that is in order, but for the given module."""
    (root / "_protocol").mkdir()
    modules = ["__init__", "_cli", "sync", "testing", "_client", "_server"]
    for name in [*modules, "_protocol/__init__", "_protocol/url", "_close", "_errors"]:
        (root / f"{name}.py").write_text("")
    (root / "_speedups.pyi").write_text("")
    (root / "_errors.py").write_text("from ._close import Close\n")
    (root / f"{module}.py").write_text(source)
    return root


def test_a_runtime_guard_is_told_from_a_guard_for_types():
    tree = ast.parse(
        "if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b\nif x:\n    import c"
    )
    seen = [ast.unparse(node) for node, _ in _run_time(tree) if isinstance(node, ast.Import)]
    assert seen == ["import b", "import c"]

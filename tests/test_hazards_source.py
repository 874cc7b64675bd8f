"""H28: no cancellation gets lost in the package, as far as its source can show that.

What the package does when it runs, the sweeps show: they cancel at every turn (T5).
"""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest
import trio

import anyws

# By these names a cancellation can be caught. `except Exception` is no such name: see below.
CATCH_ALL = {"BaseException", "BaseExceptionGroup"}
CANCELLATION = {"get_cancelled_exc_class()", "cancelled", "CancelledError", "Cancelled"}
# Why a cancellation may give way: the body's own exception leaves in its place; or it is not this
# task's, but the end of something that the task has waited for; or the task ends with it, and no
# scope has asked for that.
CONDITIONS = {"exc is None", "is_cancellation(error)", "is_cancelled()"}

PACKAGE = Path(anyws.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def swallows(source: str) -> list[str]:
    """Where in this source a cancellation could get lost.

    In an `except` that can catch one, and does not end by raising, or raises under a condition
    other than those above; in a `finally` that is left by return, break or continue; in
    `contextlib.suppress`; in a context manager's exit that may return something true.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = _names(node.type)
            if not (_ends_by_raising(node.body) if caught & CATCH_ALL else _reraises(node, caught)):
                found.append(f"line {node.lineno}: except {', '.join(caught)}")
        elif isinstance(node, (ast.Try, ast.TryStar)):
            found += [f"line {n.lineno}: in finally" for n in _jumps(node.finalbody)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            if set().union(*map(_names, node.args)) & (CATCH_ALL | CANCELLATION):
                found.append(f"line {node.lineno}: suppress")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (
            node.name in {"__exit__", "__aexit__"} and _may_return_something(node)
        ):
            found.append(f"line {node.lineno}: {node.name} returns something")
    return found


def _names(caught: ast.expr | None) -> set[str]:
    if caught is None:
        return {"BaseException"}
    several = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return {ast.unparse(one).removeprefix("asyncio.").removeprefix("trio.") for one in several}


def _ends_by_raising(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise)


def _reraises(handler: ast.ExceptHandler, caught: set[str]) -> bool:
    first = handler.body[0]
    if not caught & CANCELLATION or _ends_by_raising(handler.body):
        return True
    return (
        isinstance(first, ast.If)
        and ast.unparse(first.test) in CONDITIONS
        and isinstance(first.body[-1], ast.Raise)
        and first.body[-1].exc is None
    )


def _jumps(body: list[ast.stmt], *, loops: bool = False) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Return) or (
            isinstance(node, (ast.Break, ast.Continue)) and not loops
        ):
            found.append(node)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = loops or isinstance(node, (ast.For, ast.AsyncFor, ast.While))
            for name in ("body", "orelse", "finalbody"):
                found += _jumps(getattr(node, name, []), loops=inner)
            for handler in getattr(node, "handlers", []):
                found += _jumps(handler.body, loops=inner)
    return found


def _may_return_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(n, ast.Return) and n.value is not None for n in ast.walk(function))


@pytest.mark.parametrize("module", MODULES)
def test_no_cancellation_gets_lost_in_the_package(module: str) -> None:
    """H28."""
    assert swallows((PACKAGE / module).read_text()) == []


def test_no_except_exception_can_catch_a_cancellation() -> None:
    """H28: why those that there are need not be looked at, not even around an await.

    Several cancellations at once are a BaseExceptionGroup, which is no Exception either.
    """
    for cancellation in (asyncio.CancelledError, trio.Cancelled):
        assert not issubclass(cancellation, Exception)
    assert not issubclass(BaseExceptionGroup, Exception)


@pytest.mark.parametrize(
    "source",
    [
        "try: x()\nexcept: pass",
        "try: x()\nexcept BaseException: log()",
        "try: x()\nexcept BaseException as e:\n  if not y: raise",
        "try: x()\nexcept (OSError, BaseException): pass",
        "try: x()\nexcept BaseExceptionGroup: pass",
        "try: x()\nexcept* BaseException: pass",
        "try: x()\nexcept cancelled: pass",
        "try: x()\nexcept cancelled:\n  if late: raise",
        "try: x()\nexcept (Exception, get_cancelled_exc_class()): pass",
        "try: x()\nexcept asyncio.CancelledError: pass",
        "def f():\n  try: x()\n  finally: return 1",
        "for x in y:\n  try: x()\n  finally:\n    if x: break",
        "with contextlib.suppress(BaseException): x()",
        "class C:\n  async def __aexit__(self, *_): return True",
    ],
)
def test_the_check_finds_what_would_lose_one(source: str) -> None:
    """H28."""
    assert len(swallows(source)) == 1

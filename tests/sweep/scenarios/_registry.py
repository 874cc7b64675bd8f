"""What a scenario is: a coroutine function of a `World`, and where it is run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from world import CANCEL, KINDS, NATIVE, World

BOTH = ("client", "server")
LOOPS_OF_ASYNCIO = ("asyncio", "uvloop")
BACKENDS = (*LOOPS_OF_ASYNCIO, "trio")
Run = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Run
    role: str
    kinds: tuple[str, ...]
    hows: tuple[str, ...]
    backends: tuple[str, ...]


SCENARIOS: list[Scenario] = []


def scenario(
    *roles: str,
    kinds: tuple[str, ...] = KINDS,
    hows: tuple[str, ...] = (CANCEL, NATIVE),
    backends: tuple[str, ...] = BACKENDS,
) -> Callable[[Run], Run]:
    """Have the sweep run it, in each of these roles, over these kinds of stream, on these backends."""

    def register(run: Run) -> Run:
        for role in roles or ("",):
            name = run.__name__.replace("_", " ")
            if role:
                name = f"{name} ({role})"
            SCENARIOS.append(Scenario(name, run, role, kinds, hows, backends))
        return run

    return register

"""What a scenario is: a coroutine function of a `World`, and where it is run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from world import CANCEL, KINDS, NATIVE, World

BOTH = ("client", "server")
Run = Callable[[World], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Run
    role: str
    kinds: tuple[str, ...]
    hows: tuple[str, ...]


SCENARIOS: list[Scenario] = []


def scenario(
    *roles: str, kinds: tuple[str, ...] = KINDS, hows: tuple[str, ...] = (CANCEL, NATIVE)
) -> Callable[[Run], Run]:
    """Have the sweep run it, in each of these roles, over these kinds of stream."""

    def register(run: Run) -> Run:
        for role in roles or ("",):
            name = run.__name__.replace("_", " ")
            SCENARIOS.append(Scenario(f"{name} ({role})" if role else name, run, role, kinds, hows))
        return run

    return register

"""`python -m benchmarks`: measure, report, and with --check judge."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from . import linear
from .bars import judge
from .contenders import BACKENDS, CONTENDERS, ROLES
from .contenders import BY_NAME as CONTENDERS_BY_NAME
from .measure import Plan, run_group
from .process import cores, pin_load
from .report import Results, as_json, as_markdown, group_lines, share_lines, verdict_lines
from .workloads import BY_NAME, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .contenders import Contender
    from .workloads import Workload

STATIC = Path("docs") / "_static"
# For --smoke: does everything run, and do the counts come back right?
_SMOKE_WINDOWS = 2
_SMOKE_CONNECTIONS = 3
_SMOKE_SCALE = 10


def _names(known: Iterable[str]) -> dict[str, object]:
    known = list(known)

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; see --list")
        return names

    return {"type": parse, "default": known, "metavar": "NAME,..."}


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--workloads", **_names(BY_NAME))  # type: ignore[arg-type]
    add("--contenders", **_names(CONTENDERS_BY_NAME))  # type: ignore[arg-type]
    add("--roles", **_names(ROLES))  # type: ignore[arg-type]
    add("--backends", **_names(BACKENDS))  # type: ignore[arg-type]
    add("--rounds", type=_positive, default=9, help="default: 9")
    add("--seconds", type=float, default=0.4, help="of CPU for each measurement; default: 0.4")
    add("--connections", type=_positive, default=1000, help="idle ones; default: 1000")
    add("--reference", default="anyws", choices=CONTENDERS_BY_NAME, help="of ratios")
    add(
        "--check",
        action="store_true",
        help="judge the bars; 1 is the exit code where one is missed",
    )
    add("--write", nargs="?", type=Path, const=STATIC, metavar="FOLDER", help=f"default: {STATIC}")
    add("--list", action="store_true", help="names of workloads and contenders, and who is missing")
    add("--smoke", action="store_true", help="a few messages each: times mean nothing")
    return parser.parse_args(argv)


def _list() -> None:
    print("workloads:")
    for workload in WORKLOADS:
        print(f"  {workload.name:<18} {workload.title}")
    print("contenders:")
    for contender in CONTENDERS:
        places = []
        for backend in contender.modules:
            missing = contender.missing(backend)
            places.append(
                f"{backend} (not installed: {', '.join(missing)})" if missing else backend
            )
        print(f"  {contender.name:<18} {', '.join(contender.roles)}; {', '.join(places)}")


def _groups(
    arguments: argparse.Namespace,
) -> Iterable[tuple[Workload, str, str, list[Contender]]]:
    """Yield what is to be measured, with those who can and are asked to take part."""
    for workload in map(BY_NAME.__getitem__, arguments.workloads):
        if workload.kind == "linear":
            continue
        for backend in arguments.backends:
            for role in arguments.roles:
                contenders = [
                    contender
                    for contender in map(CONTENDERS_BY_NAME.__getitem__, arguments.contenders)
                    if contender.takes_part(workload, role, backend)
                    and not contender.missing(backend)
                ]
                if contenders:
                    yield workload, role, backend, contenders


def _say_missing(arguments: argparse.Namespace) -> None:
    for contender in map(CONTENDERS_BY_NAME.__getitem__, arguments.contenders):
        for backend in set(contender.modules) & set(arguments.backends):
            if missing := contender.missing(backend):
                print(f"left out: {contender.name} on {backend}: no {', '.join(missing)}")


def _write_certificates(folder: Path) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    server.private_key_pem.write_to_path(folder / "server.key")
    for number, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(folder / "server.pem", append=number > 0)
    authority.cert_pem.write_to_path(folder / "authority.pem")


def _plan(arguments: argparse.Namespace, certificates: Path, core: set[int] | None) -> Plan:
    if arguments.smoke:
        return Plan(
            certificates,
            rounds=1,
            windows=_SMOKE_WINDOWS,
            connections=_SMOKE_CONNECTIONS,
            core=core,
        )
    return Plan(
        certificates,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        connections=arguments.connections,
        core=core,
    )


def _measure(arguments: argparse.Namespace) -> Results:
    places = cores()
    pin_load(places)
    if places is None:
        print("one core only: the load takes time from what is measured")
    with tempfile.TemporaryDirectory() as folder:
        _write_certificates(Path(folder))
        plan = _plan(arguments, Path(folder), None if places is None else places[0])
        results = Results(arguments.reference, plan.rounds)
        for workload, role, backend, contenders in _groups(arguments):
            group = run_group(plan, workload, role, backend, contenders)
            results.groups[workload.name, role, backend] = group
            print(*group_lines(group, arguments.reference), sep="\n", flush=True)
    if "linear" in arguments.workloads:
        results.growths = linear.measure(_SMOKE_SCALE if arguments.smoke else 1)
        print("linear cost:", *(f"  {growth}" for growth in results.growths), sep="\n")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.list:
        _list()
        return 0
    _say_missing(arguments)
    results = _measure(arguments)
    print("frames through the lane:", *share_lines(results), sep="\n")
    verdicts = judge(results.groups)
    if arguments.write is not None:
        from .plot import write_plot

        arguments.write.mkdir(parents=True, exist_ok=True)
        (arguments.write / "performance.md").write_text(as_markdown(results, verdicts))
        (arguments.write / "performance.json").write_text(as_json(results, verdicts))
        write_plot(results, arguments.write / "performance.svg")
    wrong = bool(results.failures)
    if arguments.check:
        print("bars:", *verdict_lines(verdicts), sep="\n")
        if not verdicts and not results.growths:
            print("  none of what was measured has a bar")
            wrong = True
        missed = [verdict for verdict in verdicts if not verdict.met]
        steep = [growth for growth in results.growths if not growth.met]
        print(
            f"{len(verdicts) - len(missed)} of {len(verdicts)} bars met;"
            f" {len(steep)} of {len(results.growths)} growths above {linear.STEP}"
        )
        wrong = wrong or bool(missed or steep)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""What can be done with this repository: `nox --list`, then `nox -s NAME`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]
# Per cent, branches included.
COVERAGE = 95
PROTOCOL_COVERAGE = 98
# Measured, and beside other things, a test takes several times what it takes by itself.
LONGEST = "--timeout=300"
# They take their time, and are a session of their own.
QUICK = ["--ignore=tests/bars", "--ignore=tests/test_benchmarks.py"]
# All of the tests keep all cores busy for some minutes; of a few, one wants to see the output.
ON_ALL_CORES = ["-n", "auto", "--dist", "worksteal"]
# What makes anyws fast, left out one by one; everything has to work without it.
VARIANTS = {
    "plain transports": {"ANYWS_WITHOUT": "native"},
    "no fast lane": {"ANYWS_WITHOUT": "lane"},
    "no C": {"ANYWS_PURE": "1"},
}
WHOLE_SWEEP = ["--min-points=3000", "--all-awaits"]

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
# Here a missing interpreter is a session less; there nobody would notice.
nox.options.error_on_missing_interpreters = "CI" in os.environ


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """Groups of dependencies, and the package itself as a user gets it: built, not editable."""
    if package:
        # setuptools packs what an earlier build left there, deleted modules included.
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        session.install(".[trio]", *nox.project.dependency_groups(PYPROJECT, *groups))
    else:
        session.install(*nox.project.dependency_groups(PYPROJECT, *groups))


def run_tests(session: nox.Session, data: Path, *args: str) -> None:
    """pytest under coverage.

    Not by `coverage run -m`: that puts this folder first on the path, and the tests would see the
    modules here in place of the installed ones.
    """
    env = {"COVERAGE_FILE": str(data)}
    session.run("coverage", "erase", env=env)
    pytest = (str(Path(session.bin) / "pytest"), LONGEST)
    session.run("coverage", "run", *pytest, *args, env=env)
    session.run("coverage", "combine", "--quiet", env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite on this interpreter, with its coverage."""
    install(session, "test")
    data = Path(session.create_tmp()) / "coverage"
    run_tests(session, data, *(session.posargs or [*ON_ALL_CORES, *QUICK]))
    # A part of the tests has no figure to reach.
    bound = [] if session.posargs else [f"--fail-under={COVERAGE}"]
    session.run("coverage", "report", *bound, env={"COVERAGE_FILE": str(data)})


@nox.session(python=PYTHONS)
def tests_everywhere(session: nox.Session) -> None:
    """The test suite on every interpreter that is supported."""
    install(session, "test")
    session.run("pytest", LONGEST, *(session.posargs or [*ON_ALL_CORES, *QUICK]))


@nox.session
def variants(session: nox.Session) -> None:
    """The test suite without native transports, without the fast lane, and without C."""
    install(session, "test")
    for name, env in VARIANTS.items():
        session.log(name)
        session.run("pytest", LONGEST, *(session.posargs or [*ON_ALL_CORES, *QUICK]), env=env)


@nox.session
def bars(session: nox.Session) -> None:
    """The behaviour that is promised under pressure, over real sockets and in real time."""
    install(session, "test")
    session.run("pytest", "tests/bars", *session.posargs)


@nox.session
def stateful(session: nox.Session) -> None:
    """Two connected ends, and whatever Hypothesis thinks of, at length."""
    install(session, "test")
    examples = {"ANYWS_EXAMPLES": os.environ.get("ANYWS_EXAMPLES", "1000")}
    session.run("pytest", "tests/stateful", *session.posargs, env=examples)


@nox.session
def sweep(session: nox.Session) -> None:
    """Cancel everything at every step: `-- --short` for a part, `-- --help` for more."""
    install(session, "test")
    session.run("python", "tests/sweep/run.py", *(session.posargs or WHOLE_SWEEP))


@nox.session
def mutants(session: nox.Session) -> None:
    """Break the promises one by one, and see that the sweep or the property test notices."""
    install(session, "test")
    session.run("python", "tests/mutants/run.py", *session.posargs)


@nox.session
def cycles(session: nox.Session) -> None:
    """Open and close 10,000 connections on each backend, and look for what is left of them."""
    install(session, "test")
    session.run("python", "tests/cycles.py", *session.posargs)


@nox.session
def coverage_protocol(session: nox.Session) -> None:
    """Each module of the protocol, measured from its own tests alone: test_X.py and test_X_*.py."""
    install(session, "test")
    short = []
    for module in sorted((ROOT / "anyws" / "_protocol").glob("[!_]*.py")):
        folder = ROOT / "tests" / "protocol"
        own = [*folder.glob(f"test_{module.name}"), *folder.glob(f"test_{module.stem}_*.py")]
        if not own:
            short.append(f"{module.name} (no test_{module.name})")
            continue
        data = Path(session.create_tmp()) / f"coverage-{module.stem}"
        run_tests(session, data, "-q", *map(str, sorted(own)))
        only = [f"--include=*/_protocol/{module.name}", f"--fail-under={PROTOCOL_COVERAGE}"]
        try:
            session.run(
                *("coverage", "report", "--no-skip-covered", *only),
                env={"COVERAGE_FILE": str(data)},
            )
        except nox.command.CommandFailed:
            short.append(module.name)
    if short:
        session.error(f"below {PROTOCOL_COVERAGE} %: {', '.join(short)}")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and ruff's rules."""
    install(session, "lint", package=False)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy on what is written here, pyright on what a user's type checker sees."""
    install(session, "typing", "test")
    session.run("mypy", "anyws", "examples", "noxfile.py")
    session.run("mypy", "conformance")
    session.run("pyright", "--verifytypes", "anyws", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def conformance(session: nox.Session) -> None:
    """Autobahn's cases, both roles, each backend: `-- --full` for all 517, `-- --help` for more."""
    install(session, "conformance")
    session.run("python", "conformance/run.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """anyws beside other libraries: `-- --check` judges the bars, `-- --help` for more."""
    install(session, "benchmark")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The built wheel in an empty environment, and its demonstration."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), ".")
    session.install(*map(str, wheels.glob("*.whl")))
    session.run("anyws", "demo")

"""The benchmarks run, and every answer comes back: counts, never times."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))
from benchmarks.contenders import CONTENDERS  # noqa: E402

PLACES = [(contender, backend) for contender in CONTENDERS for backend in contender.modules]


@pytest.mark.parametrize(
    ("contender", "backend"), PLACES, ids=[f"{one.name}-{where}" for one, where in PLACES]
)
def test_every_workload_gets_its_answers(contender, backend):
    if missing := contender.missing(backend):
        pytest.skip(f"not installed: {', '.join(missing)}")
    arguments = ["--smoke", "--contenders", contender.name, "--backends", backend]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--reference", contender.name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "message" in run.stdout


@pytest.mark.parametrize("options", [[], ["--deflate"]], ids=["plain", "deflate"])
def test_a_crowd_gets_every_message(options):
    """A peer that reads and does not get all that was sent ends the program with an error."""
    small = ["--peers", "5", "--silent", "1", "--messages", "20"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.crowd", *small, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert run.stdout.count(" µs |") == 5

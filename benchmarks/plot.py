"""The plot: what each contender costs as a multiple of the reference, workload by workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .contenders import BACKENDS, CONTENDERS, ROLES
from .workloads import BY_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from .measure import Group
    from .report import Results

__all__ = ["write_plot"]


def write_plot(results: Results, path: Path) -> None:
    # Here, so that measuring and checking do without it.
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "anyws"  # the same figures give the same file
    from matplotlib import pyplot as plt

    panels = [
        (role, backend)
        for backend in BACKENDS
        for role in ROLES
        # One alone is a multiple of nothing.
        if any(
            key[1:] == (role, backend) and len(group.rows) > 1
            for key, group in results.groups.items()
        )
    ]
    if not panels:
        return
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(13, 3.4 * len(panels)), squeeze=False, layout="constrained"
    )
    for (role, backend), axis in zip(panels, axes[:, 0], strict=True):
        _draw(axis, results, role, backend)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw(axis: Any, results: Results, role: str, backend: str) -> None:
    groups = {
        name: results.groups[name, role, backend]
        for name in BY_NAME
        if (name, role, backend) in results.groups
    }
    reference = _reference(groups, results.reference)
    names = [
        contender.name
        for contender in CONTENDERS
        if any(contender.name in group.rows for group in groups.values())
    ]
    width = 0.85 / len(names)
    for number, name in enumerate(names):
        places, heights, below, above = [], [], [], []
        for column, group in enumerate(groups.values()):
            ratio = group.ratio(name, reference)
            # Memory by difference may be nothing at all, and has no place on this scale.
            if ratio is not None and ratio.low > 0:
                places.append(column + (number - (len(names) - 1) / 2) * width)
                heights.append(ratio.median)
                below.append(ratio.median - ratio.low)
                above.append(ratio.high - ratio.median)
        axis.bar(
            places,
            heights,
            width,
            yerr=(below, above),
            label=name,
            color=f"C{[contender.name for contender in CONTENDERS].index(name) % 10}",
            hatch="//" if name.startswith("bare") else None,
            error_kw={"linewidth": 0.7},
        )
    axis.axhline(1, color="black", linewidth=0.7)
    axis.set_yscale("log")
    titles = [BY_NAME[name].title for name in groups]
    axis.set_xticks(range(len(groups)), titles, rotation=20, ha="right", fontsize="small")
    axis.set_title(f"{role}, {backend}: cost as a multiple of {reference}")
    axis.legend(ncols=2, fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))


def _reference(groups: dict[str, Group], reference: str) -> str:
    """Return the reference, or the first that took part where that did not."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group.rows))
    return reference if reference in names else names[0]

"""Draw the recorded run: ``python -m tests.benchmarks.plots``."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

OURS, OTHERS = "#0b6e99", "#b0b7bf"
mpl.rcParams |= {
    "svg.hashsalt": "the same run gives the same file",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(run: dict[str, Any], folder: Path) -> None:
    """Draw all plots of a run, each as an SVG."""
    for name, plot in {"lookups": lookups, "crowd": crowd, "fleet": fleet}.items():
        figure = Figure(figsize=(8, 4), layout="constrained")
        plot(figure.subplots(), run["figures"])
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def lookups(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw the medians of all that can be waited for, on one scale."""
    in_task, process = figures["in_airflow"]["in a task"], figures["new_process"]
    known = {
        "ours: first lookup of a process": process["first lookup"]["ours"],
        "credential helper, warm": process["first lookup"]["credential helper"],
        "ours: repeated lookup in a task": [statistics.median(task[1:]) for task in in_task["docker_default"]],
        "metadata database: repeated lookup": [statistics.median(task[1:]) for task in in_task["stored"]],
        "ours: first lookup in a task": [task[0] for task in in_task["docker_default"]],
        "metadata database: first lookup": [task[0] for task in in_task["stored"]],
        "ours: cold mint": process["mint"]["ours"],
        "bare boto3: mint": process["mint"]["bare boto3"],
    }
    names = list(known)[::-1]
    milliseconds = [statistics.median(known[name]) * 1e3 for name in names]
    bars = axes.barh(names, milliseconds, color=[OURS if name.startswith("ours") else OTHERS for name in names])
    axes.bar_label(bars, fmt=" {:.3g} ms")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds (median; logarithmic)")


def crowd(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw how many of a crowd's lookups have been served after how long."""
    for (name, seconds), colour in zip(figures["one_host"]["crowd"].items(), (OURS, OTHERS), strict=True):
        axes.ecdf(seconds, label=f"{name} cache", color=colour)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the lookup began; a mint takes one second")
    axes.set_ylabel("part of 800 lookups that is served")
    axes.legend(loc="lower right")


def fleet(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw the busiest second of each minute of three days."""
    for (name, calls), colour in zip(figures["fleet"]["fleet"].items(), (OURS, OTHERS), strict=True):
        hours = [minute / 60 for minute in range(len(calls))]
        axes.plot(hours, calls, label=name, color=colour, linewidth=1, zorder=2 if colour == OURS else 1)
    axes.axhline(500, color="#c0392b", linewidth=1, linestyle="--", label="ECR's quota")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours since 10,000 hosts were started; AWS fails from 10.5 to 11.5 and from 43 to 46")
    axes.set_ylabel("most calls a second")
    axes.set_xticks(range(0, 73, 12))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


if __name__ == "__main__":
    from tests.benchmarks.__main__ import RECORDED

    draw(json.loads(RECORDED.read_text()), RECORDED.parent)

"""The performance page, rendered from a run: its charts and its tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.fleet import PERIOD_SECONDS, QUOTA

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = ("#0b6e99", "#b0b7bf")  # this backend, the alternative
LIMIT_COLOUR = "#c0392b"
BLOCK = re.compile(r"(<!-- (summary|details) -->\n).*?(?=<!-- end -->)", re.DOTALL)
mpl.rcParams |= {
    "svg.hashsalt": "fixed, so that a run always results in the same files",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(page: str, run: dict[str, Any]) -> str:
    """Return the page with the tables of a run between its markers."""
    charted = [row for row in run["rows"] if row["seconds"]]
    others = [row for row in run["rows"] if row["goals"] or not row["seconds"]]
    environment = ", ".join(f"{name} {value}" for name, value in run["environment"].items())
    tables = {"summary": summary(charted), "details": f"{details(others)}\nThe run: {environment}.\n"}
    return BLOCK.sub(lambda block: f"{block[1]}\n{tables[block[2]]}\n", page)


def summary(rows: list[dict[str, Any]]) -> str:
    head = ("what", "this backend", "the alternative", "times faster")
    return table(head, ((*cells(row), significant(row["seconds"][1] / row["seconds"][0], 2)) for row in rows))


def details(rows: list[dict[str, Any]]) -> str:
    head = ("what", "this backend", "compared with", "goals")
    return table(head, ((*cells(row), "<br>".join(map(describe, row["goals"]))) for row in rows))


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    return row["what"], row["ours"], f"{row['theirs']}: {row['alternative']}"


def describe(goal: dict[str, Any]) -> str:
    measured, limit = goal["measured"], goal["limit"]
    result = "met" if measured <= limit else "**missed**"
    return f"{result}: {significant(measured)} (≤ {significant(limit)}) {goal['unit']}"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    first, *others = [f"| {' | '.join(row)} |\n" for row in (head, *rows)]
    return "".join([first, f"|{'---|' * len(head)}\n", *others])


def significant(number: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, and without an exponent."""
    return f"{float(f'{number:.{digits}g}'):,.10g}"


def draw(run: dict[str, Any], folder: Path) -> None:
    """Draw all charts of a run, each as an SVG."""
    lookups, crowd, fleet = (Figure(figsize=(8, height), layout="constrained") for height in (5, 4, 4))
    draw_lookups(lookups.subplots(), [row for row in run["rows"] if row["seconds"]])
    draw_crowd(crowd.subplots(), run["samples"]["crowd"])
    draw_fleet(fleet.subplots(), run["samples"]["fleet"])
    for name, figure in {"lookups": lookups, "crowd": crowd, "fleet": fleet}.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def draw_lookups(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw the times of the short table."""
    for offset, (name, colour) in enumerate(zip(("this backend", "the alternative"), COLOURS, strict=True)):
        times = [row["seconds"][offset] * 1e3 for row in rows]
        places = [number + 0.38 * offset for number in range(len(rows))]
        bars = axes.barh(places, times, height=0.38, color=colour, label=name)
        labels = [f" {cells(row)[1 + offset]}" for row in rows]
        axes.bar_label(bars, labels, fontsize=8, padding=2)
    axes.set_yticks([number + 0.19 for number in range(len(rows))], [row["what"].replace(", ", ",\n") for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(right=1e6)  # space for the labels
    ticks = {1e-4: "100 ns", 1e-3: "1 µs", 1e-2: "10 µs", 0.1: "100 µs", 1: "1 ms", 10: "10 ms", 100: "0.1 s"}
    axes.set_xticks([*ticks], [*ticks.values()])
    axes.set_xlabel("median time of one lookup (logarithmic: one step is ten times as long)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def draw_crowd(axes: Axes, samples: dict[str, list[float]]) -> None:
    """Draw the share of the lookups that have their token after a time."""
    for (name, seconds), colour in zip(samples.items(), COLOURS, strict=True):
        axes.ecdf(seconds, label=name, color=colour)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the lookup began (AWS takes one second to answer)")
    axes.set_ylabel("share of 800 lookups that are done")
    axes.legend(loc="lower right")


def draw_fleet(axes: Axes, samples: dict[str, list[int]]) -> None:
    """Draw the busiest second of each period of three days."""
    for (name, calls), colour, layer in zip(samples.items(), COLOURS, (2, 1), strict=True):
        hours = [period * PERIOD_SECONDS / 3600 for period in range(len(calls))]
        axes.plot(hours, calls, label=name, color=colour, linewidth=1, zorder=layer)
    axes.axhline(QUOTA, color=LIMIT_COLOUR, linewidth=1, linestyle="--", label="ECR's quota")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours since 10,000 hosts started; AWS fails at 10.5 to 11.5 and 43 to 46 hours")
    axes.set_ylabel("AWS calls in the busiest second")
    axes.set_xticks(range(0, 73, 12))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)

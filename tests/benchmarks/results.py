"""What a benchmark finds: rows, each with its goals, and the figures that plots are drawn from."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Goal:
    """
    A figure, and what it may be at the most.

    :param what: what the figure is, such as `ratio`
    """

    what: str
    found: float
    most: float

    @property
    def holds(self) -> bool:
        return self.found <= self.most


@dataclass(frozen=True)
class Row:
    """
    A line of the table.

    :param what: what was measured
    :param ours: what was found, with its unit
    :param against: what else was measured in the same run
    :param theirs: what was found of that
    :param goals: what is asked for; none: the row is shown for what it tells
    """

    what: str
    ours: str
    against: str
    theirs: str
    goals: tuple[Goal, ...] = ()

    @property
    def verdict(self) -> str:
        if not self.goals:
            return "-"
        return "met" if all(goal.holds for goal in self.goals) else "MISSED"


@dataclass(frozen=True)
class Findings:
    """
    What a group of rows has found.

    :param figures: what the plots are drawn from; it goes to JSON
    """

    rows: list[Row]
    figures: dict[str, Any] = field(default_factory=dict)


def interleaved(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure in turn, round after round, so that whatever disturbs the machine disturbs all; give each's samples."""
    taken = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(samples) for samples in zip(*taken, strict=True)]


def medians(samples: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(each) for each in samples]


def shown(seconds: float) -> str:
    """Write a time with the unit in which it reads best."""
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"

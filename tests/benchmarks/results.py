"""The results of a benchmark: rows with their goals, and the samples that charts are drawn from."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Goal:
    """
    A measured value and its limit.

    :param unit: follows the number, such as `% of the time of boto3 alone`
    """

    measured: float
    limit: float
    unit: str

    @property
    def result(self) -> str:
        return "met" if self.measured <= self.limit else "**missed**"


@dataclass(frozen=True)
class Row:
    """
    One measurement of this backend beside one of an alternative, from the same run.

    :param ours: the value of this backend, with its unit
    :param theirs: the value of the alternative, with its unit
    :param seconds: both values, if they are times that the chart and the short table compare
    """

    what: str
    ours: str
    alternative: str
    theirs: str
    goals: tuple[Goal, ...] = ()
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Results:
    """
    The rows of a group of benchmarks.

    :param samples: values for charts, as JSON allows them
    """

    rows: list[Row]
    samples: dict[str, Any] = field(default_factory=dict)


def compare(what: str, ours: float, alternative: str, theirs: float, *goals: Goal) -> Row:
    """Return a row for the chart and the short table; both times are in seconds."""
    return Row(what, with_unit(ours), alternative, with_unit(theirs), goals, (ours, theirs))


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Run the measures alternately, so that a disturbance of the machine affects all. Return the samples of each."""
    samples = [[measure() for measure in measures] for _ in range(rounds)]
    return [list(each) for each in zip(*samples, strict=True)]


def medians(samples: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(each) for each in samples]


def with_unit(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"

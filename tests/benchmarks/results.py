"""The results of a benchmark, and how this backend is compared with an alternative."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Goal:
    """
    A measured value and its limit.

    :param unit: follows the number, such as `% of its time`
    """

    measured: float
    limit: float
    unit: str


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


#: The rows of a group of benchmarks, and the samples that charts are drawn from, by chart.
Results: TypeAlias = tuple[list[Row], dict[str, Any]]


class Pair(NamedTuple):
    """The values of this backend and of an alternative."""

    ours: float
    theirs: float

    @property
    def percent(self) -> float:
        return 100 * self.ours / self.theirs


def measure_pair(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> Pair:
    """Measure both alternately, so that a disturbance of the machine affects both, and return the medians."""
    samples = [(ours(), theirs()) for _ in range(rounds)]
    return Pair(*map(median, zip(*samples, strict=True)))


def compare(what: str, alternative: str, pair: Pair, *goals: Goal, on_chart: bool = False) -> Row:
    """Return the row of two times in seconds."""
    return Row(what, with_unit(pair.ours), alternative, with_unit(pair.theirs), goals, pair if on_chart else None)


def with_unit(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"

"""The metrics on ``docs/metrics.md``, for the tests that compare them with those that are sent and watched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = (Path(__file__).parents[1] / "docs/metrics.md").read_text()


class Metric(NamedTuple):
    """A row of the page's table.

    :param type: ``counter``, ``timer`` or ``gauge``
    """

    type: str
    meaning: str


METRICS = {name: Metric(*row) for name, *row in re.findall(r"^\| `(ecr_\S+)` \| (\w+) \| (.+) \|$", PAGE, re.MULTILINE)}

"""Ten thousand hosts, started within a minute, over three days with outages: how many calls a second ECR gets.

Pure computation, by the package's own tokens, constants and rules. Every host is busy, so each asks AWS as soon as its
token is due, and where AWS fails, as soon as its back-off is over: the worst case.
"""

from __future__ import annotations

import math
import random
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from ecr_secrets_backend.aws import ATTEMPTS
from ecr_secrets_backend.cache import BACK_OFF_SECONDS, RENEWAL_BACK_OFF_SECONDS
from ecr_secrets_backend.settings import DEFAULT_REFRESH_BEFORE_SECONDS
from ecr_secrets_backend.token import EcrToken
from tests.benchmarks.results import Findings, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS = 10_000
START_SECONDS = 60
HOUR = 3600
LIFE_SECONDS = 12 * HOUR
DAYS = 3
QUOTA = 500  # calls a second, per account and region. Source: Amazon ECR's service quotas
#: When AWS fails, from and until: while the tokens of all hosts are due; then until all of them are dead.
OUTAGES = ((10.5 * HOUR, 11.5 * HOUR), (43.0 * HOUR, 46.0 * HOUR))
BIN_SECONDS = 60


def measure() -> Findings:
    spread, together = simulate(jitter=True), simulate(jitter=False)
    rows = [
        Row(
            f"{HOSTS:,} hosts: most calls a second, {when}",
            f"{_peak(spread, *span):,}/s",
            "the same without jitter",
            f"{_peak(together, *span):,}/s",
            (Goal("part of ECR's quota", _peak(spread, *span) / QUOTA, 1),),
        )
        for when, span in (
            ("started within a minute", (0, HOUR)),
            ("an hour's outage that tokens outlive", (10 * HOUR, 13 * HOUR)),
            ("renewals in fair weather", (13 * HOUR, 42 * HOUR)),
            ("three hours' outage that no token outlives", (42 * HOUR, 48 * HOUR)),
        )
    ]
    return Findings(rows, {"fleet": {"jitter": _binned(spread), "no jitter": _binned(together)}})


def simulate(*, jitter: bool) -> list[int]:
    """Tell how many calls ECR gets in each second."""
    chance = random.Random(6)  # noqa: S311 - a simulation, and the same each time
    calls = [0] * (DAYS * 24 * HOUR)
    asking = [
        (chance.uniform(0, START_SECONDS), -math.inf) for _ in range(HOSTS)
    ]  # when, and how long the old token lives
    heapify(asking)
    while asking:
        now, lives_until = heappop(asking)
        second = int(now)
        if second >= len(calls):
            continue
        is_refused = calls[second] >= QUOTA or any(start <= now < end for start, end in OUTAGES)
        calls[second] += ATTEMPTS if is_refused else 1
        if is_refused:
            dead_at = max(now + BACK_OFF_SECONDS, lives_until)
            heappush(asking, (min(now + RENEWAL_BACK_OFF_SECONDS, dead_at), lives_until))
        else:
            token = EcrToken("AWS", "a-password", None, now, now + LIFE_SECONDS, chance.random() if jitter else 0.0)
            due = last_moment(token, partial(token.is_fresh, refresh_before=DEFAULT_REFRESH_BEFORE_SECONDS))
            heappush(asking, (due, last_moment(token, token.is_alive)))
    return calls


def last_moment(token: EcrToken, holds: Callable[[float], bool]) -> float:
    """Tell until when something holds that holds for a new token, by asking the token."""
    yes, no = token.minted_at, token.expires_at
    while no - yes > 0.1:
        middle = (yes + no) / 2
        if holds(middle):
            yes = middle
        else:
            no = middle
    return no


def _peak(calls: list[int], start: float, end: float) -> int:
    return max(calls[int(start) : int(end)])


def _binned(calls: list[int]) -> list[int]:
    """Give the busiest second of each minute."""
    return [max(calls[start : start + BIN_SECONDS]) for start in range(0, len(calls), BIN_SECONDS)]

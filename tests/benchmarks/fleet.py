"""Ten thousand hosts, started within a minute, over three days with outages: how many calls a second ECR gets.

Pure computation, by the package's own tokens, entries and back-off. Each host is busy, so it calls AWS as soon as its
token is due, and if AWS fails, as soon as its back-off is over: the worst case.
"""

from __future__ import annotations

import random
from dataclasses import replace
from heapq import heapify, heappop, heappush

from ecr_secrets_backend.aws import ATTEMPTS
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.settings import DEFAULT_REFRESH_BEFORE_SECONDS
from ecr_secrets_backend.token import EcrToken
from tests.benchmarks.results import Findings, Goal, Row

HOSTS = 10_000
START_SECONDS = 60
HOUR = 3600
LIFETIME_SECONDS = 12 * HOUR
DAYS = 3
QUOTA = 500  # calls a second, per account and region. Source: Amazon ECR's service quotas
#: When AWS fails, from and until: while the tokens of all hosts are due; then until all of them are dead.
OUTAGES = ((10.5 * HOUR, 11.5 * HOUR), (43.0 * HOUR, 46.0 * HOUR))
BIN_SECONDS = 60
REFUSED = TokenFailure("a host", "us-east-1", "ThrottlingException", "refused", "Wait.")


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
    """Return how many calls ECR gets in each second.

    :param jitter: whether renewals and back-offs have any
    """
    chance = random.Random(6)  # noqa: S311 - a simulation, and the same each time
    calls = [0] * (DAYS * 24 * HOUR)
    entries = [Entry(str(host)) for host in range(HOSTS)]
    due = [(chance.uniform(0, START_SECONDS), host) for host in range(HOSTS)]
    heapify(due)
    while due:
        now, host = heappop(due)
        second = int(now)
        if second >= len(calls):
            continue
        entry = entries[host]
        is_refused = calls[second] >= QUOTA or any(start <= now < end for start, end in OUTAGES)
        calls[second] += ATTEMPTS if is_refused else 1
        if is_refused:
            key = str(host) if jitter else ""
            recorded_at = now if jitter else 0.0
            failed = replace(entry, failure=REFUSED, failures=entry.failures + 1, recorded_at=recorded_at, key=key)
            entries[host] = replace(failed, recorded_at=now)
            heappush(due, (now + failed.back_off, host))
        else:
            password = f"{host} {now}" if jitter else ""
            token = EcrToken("AWS", password, None, now, now + LIFETIME_SECONDS)
            entries[host] = Entry(str(host), token=token)
            heappush(due, (token.renewal_at(DEFAULT_REFRESH_BEFORE_SECONDS), host))
    return calls


def _peak(calls: list[int], start: float, end: float) -> int:
    return max(calls[int(start) : int(end)])


def _binned(calls: list[int]) -> list[int]:
    """Give the busiest second of each minute."""
    return [max(calls[start : start + BIN_SECONDS]) for start in range(0, len(calls), BIN_SECONDS)]

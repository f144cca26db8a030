"""Compute how many calls a second ECR receives from 10,000 hosts over three days, two outages included.

The tokens, entries and back-offs are the package's own. Each host is busy, which is the worst case: it calls AWS as
soon as its token is due for renewal, and after a failure as soon as its back-off ends.
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
from tests.benchmarks.results import Goal, Results, Row

HOSTS = 10_000
START_SECONDS = 60
HOUR = 3600
LIFETIME_SECONDS = 12 * HOUR
DAYS = 3
QUOTA = 500  # calls a second, per account and region. Source: Amazon ECR's service quotas
#: AWS fails twice: while all tokens are due for renewal, then until all of them have expired.
OUTAGES = ((10.5 * HOUR, 11.5 * HOUR), (43 * HOUR, 46 * HOUR))
PERIOD_SECONDS = 600  # of the chart
REFUSED = TokenFailure("a host", "us-east-1", "ThrottlingException", "refused", "Wait.")


def measure() -> Results:
    calls, calls_without_jitter = simulate(jitter=True), simulate(jitter=False)
    rows = []
    for when, start, end in (
        ("start", 0, 1),
        ("outage of 1 h", 10, 13),
        ("renewals", 13, 42),
        ("outage of 3 h", 42, 48),
    ):
        busiest, without_jitter = (max(each[start * HOUR : end * HOUR]) for each in (calls, calls_without_jitter))
        what = f"AWS calls of {HOSTS:,} hosts in a second: {when}"
        goal = Goal(100 * busiest / QUOTA, 100, "% of ECR's quota")
        rows.append(Row(what, f"{busiest:,}", "without jitter", f"{without_jitter:,}", (goal,)))
    samples = {"with jitter": calls, "without jitter": calls_without_jitter}
    return rows, {"fleet": {name: _thin(each) for name, each in samples.items()}}


def simulate(*, jitter: bool) -> list[int]:
    """Return the number of calls in each second.

    :param jitter: whether renewals and back-offs have jitter
    """
    chance = random.Random(6)  # noqa: S311 - a simulation that each run repeats
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


def _thin(calls: list[int]) -> list[int]:
    """Return the calls in the busiest second of each period."""
    return [max(calls[start : start + PERIOD_SECONDS]) for start in range(0, len(calls), PERIOD_SECONDS)]

"""Tokens that rotate, processes that start, end and are killed, and AWS with a delay, all at once."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.integration.soak import soak
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

LIFETIME_SECONDS = 3.0  # so that many tokens expire during a test
RENEWED_AFTER_SECONDS = LIFETIME_SECONDS / 2
AWS_SECONDS = 0.2
READERS_SECONDS = 8
BUSY_SECONDS = 15
SOAK_SECONDS = 45
MOST_GROWTH_OBJECTS = 1_000  # a client of boto3 has many more
MOST_GROWTH_KIB = 16 * 1024  # the allocator keeps some of the memory that is freed
FILE_NAME = re.compile(r"[0-9a-f]{32}\.(json|lock|json\.[0-9a-f]{64}\.tmp)")


@pytest.fixture
def aws(loopback_aws: AwsStandIn) -> AwsStandIn:
    loopback_aws.set(token_lifetime=LIFETIME_SECONDS)
    loopback_aws.script(Delay(AWS_SECONDS))
    return loopback_aws


def test_readers_are_served_valid_tokens_while_tokens_rotate(aws: AwsStandIn, tmp_path: Path) -> None:
    """32 threads of 8 processes get whole tokens, without a warning, for one AWS call in half of each lifetime."""
    seen = soak(tmp_path / "cache", READERS_SECONDS, workers=0, steady=8)

    assert (seen["problem"], seen["warning"]) == ([], [])
    assert sum(seen["lookups"]) > 8_000
    calls = aws.calls()
    assert len({*seen["token"]}) == len(calls) >= 4
    assert all(aws.authorise("AWS", token).reason != "unknown" for token in {*seen["token"]})
    assert all(after.time - before.time >= RENEWED_AFTER_SECONDS for before, after in pairwise(calls))


@pytest.mark.timeout(BUSY_SECONDS + 60)
def test_no_lookup_fails_although_renewals_are_slow(aws: AwsStandIn, tmp_path: Path) -> None:
    """Forty threads read without a pause in four processes while others are killed. A late renewal is no failure."""
    seen = soak(tmp_path / "cache", BUSY_SECONDS, workers=2, steady=4, threads=10, pause=0)

    assert seen["problem"] == []
    assert len(seen["killed"]) > 10
    assert len(aws.calls()) <= BUSY_SECONDS / RENEWED_AFTER_SECONDS + 4


@pytest.mark.timeout(SOAK_SECONDS + 60)
def test_a_host_serves_valid_tokens_and_leaks_nothing_while_its_processes_are_killed(
    aws: AwsStandIn, tmp_path: Path
) -> None:
    """No expired token, no failed lookup, at most one AWS call for each half of a lifetime and kill, and no growth."""
    seen = soak(tmp_path / "cache", SOAK_SECONDS)
    tokens = {*seen["token"]}

    assert seen["problem"] == []
    assert all(aws.authorise("AWS", token).reason != "unknown" for token in tokens)

    assert 2 < len(tokens) <= SOAK_SECONDS / RENEWED_AFTER_SECONDS + 1
    assert len(aws.calls()) - len(tokens) <= len(seen["killed"])  # a process may be killed with its new token

    assert max(seen["leftovers"]) <= 1  # of the process that was killed last, or that writes
    assert [name for name in seen["file"] if not FILE_NAME.fullmatch(name)] == []

    third = len(seen["steady"]) // 3
    middle, end = (list(zip(*part, strict=True)) for part in (seen["steady"][third:-third], seen["steady"][-third:]))
    growth = [min(late) - min(early) for early, late in zip(middle, end, strict=True)]
    descriptors, threads, objects, memory = growth
    assert (descriptors, threads) == (0, 0)
    assert objects < MOST_GROWTH_OBJECTS
    assert memory < MOST_GROWTH_KIB

"""The whole at once: tokens that rotate, processes that come, go and are killed, and AWS with a delay."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.soak import soak
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

SOAK_SECONDS = 72
LIFETIME_SECONDS = 3.0  # so that many tokens live in that time
RENEWED_AFTER_SECONDS = LIFETIME_SECONDS / 2
AWS_SECONDS = 0.2
MOST_GROWTH_OBJECTS = 1_000  # a client of boto3 has many more
MOST_GROWTH_KIB = 16 * 1024  # the allocator keeps some of what it has freed
FILE_NAME = re.compile(r"[0-9a-f]{32}\.(json|lock|json\.[0-9a-f]{64}\.tmp)")


READ_SECONDS = 15
READ_LIFETIME_SECONDS = 3.0


@pytest.mark.timeout(READ_SECONDS + 60)
def test_no_lookup_fails_though_renewals_are_slower_than_the_machine_is_busy(aws: AwsStandIn, tmp_path: Path) -> None:
    """Forty threads of four processes read without a pause while others are killed: a late renewal is no failure."""
    aws.set(token_lifetime=READ_LIFETIME_SECONDS)
    aws.script(Delay(AWS_SECONDS))

    seen = soak(tmp_path / "cache", READ_SECONDS, workers=2, steady=4, threads=10, pause=0)

    assert seen.problems == []
    assert seen.killed > 10
    assert len(aws.calls()) <= seen.seconds / (READ_LIFETIME_SECONDS / 2) + 4


@pytest.mark.timeout(SOAK_SECONDS + 60)
def test_a_soak(aws: AwsStandIn, tmp_path: Path) -> None:
    """No dead token, no failed lookup, no more calls than lives and kills, and nothing that piles up."""
    aws.set(token_lifetime=LIFETIME_SECONDS)
    aws.script(Delay(AWS_SECONDS))
    cache_dir = tmp_path / "cache"

    seen = soak(cache_dir, SOAK_SECONDS)

    assert seen.problems == []
    assert all(aws.authorise("AWS", token).reason != "unknown" for token in seen.tokens)

    calls = len(aws.calls())
    assert 2 < len(seen.tokens) <= seen.seconds / RENEWED_AFTER_SECONDS + 1
    assert calls - len(seen.tokens) <= seen.killed  # whoever is killed may have minted, and told nobody

    assert seen.most_leftovers <= 1  # the last one who was killed, or whoever is writing
    assert [name for name in seen.files if not FILE_NAME.fullmatch(name)] == []

    third = len(seen.steady) // 3
    middle, end = (list(zip(*steady, strict=True)) for steady in (seen.steady[third:-third], seen.steady[-third:]))
    growth = [min(late) - min(early) for early, late in zip(middle, end, strict=True)]
    descriptors, threads, objects, memory = growth
    assert (descriptors, threads) == (0, 0)
    assert objects < MOST_GROWTH_OBJECTS
    assert memory < MOST_GROWTH_KIB

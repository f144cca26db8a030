"""Many processes of one host at once, on the real way down to the stand-in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.crowd import crowd
from tests.stand_ins.aws import Delay, Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    """Two connections, in two accounts of one region."""
    hosts = {
        "a": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "b": "210987654321.dkr.ecr.us-east-1.amazonaws.com",
    }
    return {"connections": hosts, "cache_dir": str(tmp_path)}


@pytest.mark.parametrize(("start_method", "processes"), [("fork", 100), ("spawn", 8)])
def test_a_cold_start_of_a_crowd_costs_one_call(
    aws: AwsStandIn, kwargs: dict[str, Any], start_method: str, processes: int
) -> None:
    """All of them get the one token that was minted."""
    aws.script(Delay(1))

    lookups = crowd(kwargs, processes=processes, threads=4, start_method=start_method)

    assert len(lookups) == processes * 4
    assert len({lookup.token for lookup in lookups}) == 1
    assert len(aws.calls()) == 1


def test_a_crowd_renews_once(aws: AwsStandIn, kwargs: dict[str, Any]) -> None:
    """In the second half of a token's life one of them renews; nobody is served a third token."""
    aws.set(token_life=20)
    (first,) = crowd(kwargs, processes=1, threads=1)
    time.sleep(max(0, aws.calls()[0].time + 10 - time.time()))
    aws.set(token_life=3600)

    lookups = crowd(kwargs, processes=50, threads=4)

    renewed = {lookup.token for lookup in lookups} - {first.token}
    assert len(renewed) == 1
    assert len(aws.calls()) == 2


def test_a_crowd_that_fails_has_asked_once(aws: AwsStandIn, kwargs: dict[str, Any]) -> None:
    """All of them are told the same cause."""
    aws.script(Error("AccessDeniedException"))

    lookups = crowd(kwargs, processes=50, threads=4)

    assert all("AccessDeniedException" in lookup.token for lookup in lookups)
    assert len(aws.calls()) == 1

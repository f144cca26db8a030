"""Many processes of one host at once, down to the AWS stand-in."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ecr_secrets_backend.cache import RENEWAL_TIMEOUT_SECONDS
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration.crowd import crowd
from tests.process_helpers import keep_token
from tests.stand_ins.aws import Delay, Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

SLOWEST_COLD_LOOKUP_SECONDS = 3.0
SLOW_REQUEST_SECONDS = 3.0  # less than the read timeout


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    """Two connections, in two accounts of one region."""
    accounts = {"a": "123456789012", "b": "210987654321"}
    hosts = {conn_id: f"{account}.dkr.ecr.us-east-1.amazonaws.com" for conn_id, account in accounts.items()}
    return {"connections": hosts, "cache_dir": str(tmp_path)}


@pytest.mark.parametrize(
    ("start_method", "processes"),
    [
        ("fork", 200),
        ("spawn", 100),  # each costs 0.1 s of CPU before its first lookup; the lookups cost the same
    ],
)
def test_a_cold_start_of_a_crowd_costs_one_call(
    aws: AwsStandIn, kwargs: dict[str, Any], start_method: Literal["fork", "spawn"], processes: int
) -> None:
    """All lookups are served the same token soon after AWS has answered."""
    aws.script(Delay(1))

    lookups = crowd(kwargs, processes=processes, threads=4, start_method=start_method)

    assert len(lookups) == processes * 4
    assert len({lookup.token for lookup in lookups}) == 1
    assert len(aws.calls()) == 1
    assert max(lookup.seconds for lookup in lookups) < SLOWEST_COLD_LOOKUP_SECONDS


def test_a_crowd_renews_once_and_only_the_renewing_lookup_waits(
    aws: AwsStandIn, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """If AWS is slow, all lookups are served the current token, and the next one the new token."""
    aws.set(token_lifetime=1000)
    identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
    current = keep_token(identity, tmp_path, age=600)
    aws.script(Delay(SLOW_REQUEST_SECONDS))

    lookups = crowd(kwargs, processes=200, threads=4)
    (later,) = crowd(kwargs, processes=1, threads=1)

    assert {lookup.token for lookup in lookups} == {sha256(current.password.encode()).hexdigest()} != {later.token}
    assert len(aws.calls()) == 2
    *others, renewing = sorted(lookup.seconds for lookup in lookups)
    assert max(others) < RENEWAL_TIMEOUT_SECONDS
    assert renewing < SLOW_REQUEST_SECONDS / 2


def test_a_crowd_that_is_refused_calls_aws_once(aws: AwsStandIn, kwargs: dict[str, Any]) -> None:
    """All lookups raise the same cause."""
    aws.script(Error("AccessDeniedException"))

    lookups = crowd(kwargs, processes=50, threads=4)

    assert all("AccessDeniedException" in lookup.token for lookup in lookups)
    assert len(aws.calls()) == 1

"""Many processes of one host at once, on the real way down to the stand-in."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ecr_secrets_backend import aws as real_aws
from ecr_secrets_backend.cache import RENEWAL_TIMEOUT_SECONDS, Memory, TokenCache
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration.crowd import crowd
from tests.stand_ins.aws import Delay, Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

SLOWEST_COLD_LOOKUP_SECONDS = 3.0
SLOW_MINT_SECONDS = 3.0  # less than the read timeout


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    """Two connections, in two accounts of one region."""
    hosts = {
        "a": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "b": "210987654321.dkr.ecr.us-east-1.amazonaws.com",
    }
    return {"connections": hosts, "cache_dir": str(tmp_path)}


def make_stale(cache_dir: Path) -> None:
    """Date the host's token back, so that its renewal is due; it lives as long as before."""
    (file,) = cache_dir.rglob("*.json")
    entry = Entry.from_json(file.read_bytes())
    assert entry is not None
    assert entry.token is not None
    old = replace(entry.token, received_at=time.time() - 1.1 * (entry.token.expires_at - time.time()))
    due = replace(entry, token=old)
    HostStore(str(cache_dir)).write(file.name, due.to_json(), due.useful_until)


@pytest.mark.parametrize(
    ("start_method", "room", "processes"),
    [
        ("fork", "backend", 200),
        ("spawn", "cache", 100),  # each costs 0.1 s of CPU before its first lookup; the lookups cost the same
    ],
)
def test_a_cold_start_of_a_crowd_costs_one_call(
    aws: AwsStandIn,
    kwargs: dict[str, Any],
    start_method: Literal["fork", "spawn"],
    room: Literal["backend", "cache"],
    processes: int,
) -> None:
    """All of them get the one token that was minted, soon after AWS has answered."""
    aws.script(Delay(1))

    lookups = crowd(kwargs, processes=processes, threads=4, start_method=start_method, room=room)

    assert len(lookups) == processes * 4
    assert len({lookup.token for lookup in lookups}) == 1
    assert len(aws.calls()) == 1
    assert max(lookup.seconds for lookup in lookups) < SLOWEST_COLD_LOOKUP_SECONDS


def test_a_crowd_renews_once_and_nobody_waits(aws: AwsStandIn, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """The one who renews serves the old token as well when AWS is slow; the new one is there for the next."""
    aws.set(token_lifetime=1000)
    (first,) = crowd(kwargs, processes=1, threads=1)
    make_stale(tmp_path)
    aws.script(Delay(SLOW_MINT_SECONDS))

    lookups = crowd(kwargs, processes=200, threads=4)
    (later,) = crowd(kwargs, processes=1, threads=1)

    assert {lookup.token for lookup in lookups} == {first.token}
    assert later.token != first.token
    assert len(aws.calls()) == 2
    *others, renewing = sorted(lookup.seconds for lookup in lookups)
    assert max(others) < RENEWAL_TIMEOUT_SECONDS
    assert renewing < SLOW_MINT_SECONDS / 2


class LateStore(HostStore):
    """One whose first reader is held up, so that its news are old."""

    def __init__(self, cache_dir: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(cache_dir)
        self._meanwhile: Callable[[], object] | None = meanwhile

    def read(self, name: str) -> bytes | None:
        found = super().read(name)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


def test_whoever_has_the_turn_looks_again(aws: AwsStandIn, tmp_path: Path) -> None:
    """Another process may have minted, and given up the turn, since this one has looked."""
    identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
    request_token = partial(real_aws.request_token, identity)
    early = TokenCache(HostStore(str(tmp_path)), 3600, Memory())
    late = TokenCache(LateStore(str(tmp_path), lambda: early.get(identity, request_token)), 3600, Memory())

    assert late.get(identity, request_token)[0] == early.get(identity, request_token)[0]
    assert len(aws.calls()) == 1


def test_a_crowd_that_fails_has_asked_once(aws: AwsStandIn, kwargs: dict[str, Any]) -> None:
    """All of them are told the same cause."""
    aws.script(Error("AccessDeniedException"))

    lookups = crowd(kwargs, processes=50, threads=4)

    assert all("AccessDeniedException" in lookup.token for lookup in lookups)
    assert len(aws.calls()) == 1

"""Readers while tokens rotate, on the real way down to the stand-in."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import aws as real_aws
from ecr_secrets_backend.cache import RENEWAL_TIMEOUT_SECONDS, Memory, TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration.readers import read
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

LIFETIME_SECONDS = 2.0
RENEWED_AFTER_SECONDS = LIFETIME_SECONDS / 2


@pytest.mark.parametrize(("processes", "threads"), [(1, 20), (8, 4)])
def test_readers_see_whole_and_living_tokens_while_they_rotate(
    aws: AwsStandIn, tmp_path: Path, processes: int, threads: int
) -> None:
    """Each thread reads 4,000 times: no torn token, no dead one, and one call for half of each life."""
    aws.set(token_lifetime=LIFETIME_SECONDS)

    seen = read(str(tmp_path), processes=processes, threads=threads, reads=4_000)

    assert (seen.reads, seen.complaints) == (processes * threads * 4_000, [])
    calls = aws.calls()
    tokens = sorted(seen.last_served, key=lambda token: token[2])
    assert len(tokens) == len(calls) >= 3
    for (username, password, expires_at), call in zip(tokens, calls, strict=True):
        assert aws.authorise(username, password).reason != "unknown"
        assert seen.last_served[username, password, expires_at] < expires_at
        assert call.time + LIFETIME_SECONDS <= expires_at
    for (_, _, expires_at), next_call in zip(tokens, calls[1:], strict=False):
        assert expires_at < next_call.time + LIFETIME_SECONDS
    assert all(after.time - before.time >= RENEWED_AFTER_SECONDS for before, after in pairwise(calls))


def test_a_token_that_dies_while_its_renewal_is_waited_for_is_not_served(aws: AwsStandIn, tmp_path: Path) -> None:
    """It lived when the lookup began; whoever has waited looks again."""
    cache = TokenCache(HostStore(str(tmp_path)), 3600, Memory())
    identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
    request_token = partial(real_aws.request_token, identity)
    aws.set(token_lifetime=3)
    first = cache.get(identity, request_token)[0]
    aws.set(token_lifetime=3600)
    aws.script(Delay(RENEWAL_TIMEOUT_SECONDS + 0.5))

    time.sleep(first.expires_at - RENEWAL_TIMEOUT_SECONDS - time.time())
    served = cache.get(identity, request_token).token

    assert served != first
    assert time.time() < served.expires_at
    assert len(aws.calls()) == 2


def test_a_file_is_read_while_it_is_replaced(tmp_path: Path) -> None:
    """A reader that has opened the file before reads what was in it, and finds no fault with it."""
    store = HostStore(str(tmp_path))
    contents = [b"a" * 4_000, b"b" * 4_000]
    store.write("entry.json", contents[0], time.time() + 60)
    found = set()
    done = threading.Event()

    def replace() -> None:
        for number in range(500):
            store.write("entry.json", contents[number % 2], time.time() + 60)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while not done.is_set():
            found.add(store.read("entry.json"))
    finally:
        writer.join()

    assert found == set(contents)

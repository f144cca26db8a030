"""A fork while other threads of the parent look up: child and parent are served as without it."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import aws as real_aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.token import EcrToken
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ecr_secrets_backend.host_lock import HostLock
    from tests.stand_ins.aws import AwsStandIn

LONGEST_LIFETIME_SECONDS = 10  # of a forked process, even if it hangs
SOON_SECONDS = 5.0
IMPORT_SECONDS = 1.0
FIRST_REQUEST_SECONDS = 0.2
FAKE_LIFETIME_SECONDS = 0.05
MOMENTS = 12
IDENTITY = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
OTHER_IDENTITY = replace(IDENTITY, region="eu-west-1")

request_token = partial(real_aws.request_token, IDENTITY)
request_another_token = partial(real_aws.request_token, OTHER_IDENTITY)


def look_up(store: HostStore | None, request: Callable[[], EcrToken], identity: AwsIdentity = IDENTITY) -> str:
    started_at = time.monotonic()
    token = TokenCache(store, refresh_before=3600).get(identity, request).token.password
    assert time.monotonic() - started_at < SOON_SECONDS
    return token


def in_child(work: Callable[[], Any]) -> Callable[[], Any]:
    """Fork a process, and return a function that waits for its result, and raises EOFError without one."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    if os.fork():
        theirs.close()
        return ours.recv
    signal.alarm(LONGEST_LIFETIME_SECONDS)
    try:
        theirs.send(work())
    finally:
        os._exit(0)


def while_a_thread_requests(cache_dir: str) -> list[str]:
    """The parent's other thread holds the process's refresh and the host's lock; the child waits for its token."""
    requesting, answer, waits = threading.Event(), threading.Event(), multiprocessing.Event()

    class WatchedStore(HostStore):
        def take_lock(self, *arguments: Any) -> HostLock | None:
            lock = super().take_lock(*arguments)
            if lock is None:
                waits.set()
            return lock

    def request_slowly() -> EcrToken:
        requesting.set()
        answer.wait()
        return request_token()

    with ThreadPoolExecutor() as threads:
        in_thread = threads.submit(look_up, HostStore(cache_dir), request_slowly)
        requesting.wait()
        child = in_child(partial(look_up, WatchedStore(cache_dir), request_token))
        is_waiting = waits.wait(SOON_SECONDS)
        answer.set()
        assert is_waiting
        return [in_thread.result(), child()]


def while_a_thread_imports(cache_dir: str) -> list[str]:
    """The parent's other thread is importing boto3; the child, of another identity, needs boto3 also."""
    importing = threading.Event()

    class SlowImport:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "boto3.session" and not importing.is_set():
                importing.set()
                time.sleep(IMPORT_SECONDS)

    sys.meta_path.insert(0, SlowImport)
    with ThreadPoolExecutor() as threads:
        in_thread = threads.submit(look_up, HostStore(cache_dir), request_token)
        importing.wait()
        child = in_child(partial(look_up, HostStore(cache_dir), request_another_token, OTHER_IDENTITY))
        return [in_thread.result(), child()]


def at_any_moment_of_a_first_request(cache_dir: str) -> list[str]:
    """The parent's other thread imports boto3, builds its client and calls AWS; so does the child, without a cache."""
    del cache_dir

    def parent(moment: float) -> list[str]:
        with ThreadPoolExecutor() as threads:
            in_thread = threads.submit(look_up, None, request_token)
            time.sleep(moment)
            child = in_child(partial(look_up, None, request_another_token, OTHER_IDENTITY))
            return [in_thread.result(), child()]

    parents = (in_child(partial(parent, FIRST_REQUEST_SECONDS * moment / MOMENTS)) for moment in range(MOMENTS))
    return [token for result in parents for token in result()]


def while_threads_look_up(cache_dir: str) -> list[str]:
    """The parent's other threads look up without a pause, with tokens that rotate all the time."""
    done = threading.Event()

    def fake_request() -> EcrToken:
        now = time.time()
        return EcrToken("AWS", secrets.token_hex(), None, now, now + FAKE_LIFETIME_SECONDS)

    look_up_fast = partial(look_up, HostStore(cache_dir), fake_request)

    def look_up_without_end() -> None:
        while not done.is_set():
            look_up_fast()

    with ThreadPoolExecutor() as threads:
        readers = [threads.submit(look_up_without_end) for _ in range(4)]
        try:
            return [in_child(look_up_fast)() for _ in range(30)]
        finally:
            done.set()
            for reader in readers:
                reader.result()


@pytest.mark.parametrize(
    ("scenario", "calls"),
    [
        (while_a_thread_requests, 1),
        (while_a_thread_imports, 2),  # for two identities
        (at_any_moment_of_a_first_request, 2 * MOMENTS),  # without a host's cache
        (while_threads_look_up, 0),
    ],
)
def test_a_fork_disturbs_no_lookup(
    aws: AwsStandIn, tmp_path: Path, scenario: Callable[..., list[str]], calls: int
) -> None:
    """Each lookup, of child and parent, is served soon, and costs no more AWS calls than without the fork."""
    tokens = programs.call(scenario, cache_dir=str(tmp_path))

    assert len({*tokens}) == calls or not calls
    assert len(aws.calls()) == calls

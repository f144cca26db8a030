"""A fork while other threads of the parent look up: child and parent are served as without it."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Lookup:
    seconds: float
    token: str


class WatchedStore(HostStore):
    """A store that calls a function when another process holds the host's lock."""

    def __init__(self, cache_dir: str, on_held: Callable[[], object]) -> None:
        super().__init__(cache_dir)
        self._on_held = on_held

    def take_lock(self, *arguments: Any) -> HostLock | None:
        lock = super().take_lock(*arguments)
        if lock is None:
            self._on_held()
        return lock


def look_up(store: HostStore | None, request: Callable[[], EcrToken], identity: AwsIdentity = IDENTITY) -> Lookup:
    started_at = time.monotonic()
    token = TokenCache(store, refresh_before=3600).get(identity, request).token.password
    return Lookup(time.monotonic() - started_at, token)


def start(work: Callable[[], Lookup], lookups: list[Lookup]) -> threading.Thread:
    thread = threading.Thread(target=lambda: lookups.append(work()))
    thread.start()
    return thread


def in_child(work: Callable[[], Any]) -> tuple[int, Callable[[], Any]]:
    """Fork a process. Return its number and a function that waits for its result, and raises EOFError without one."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child:
        theirs.close()
        return child, ours.recv
    signal.alarm(LONGEST_LIFETIME_SECONDS)
    try:
        theirs.send(work())
    finally:
        os._exit(0)


def fake_request() -> EcrToken:
    now = time.time()
    return EcrToken("AWS", secrets.token_hex(), None, now, now + FAKE_LIFETIME_SECONDS)


def while_a_thread_requests(cache_dir: str) -> list[Lookup]:
    """The parent's other thread holds the process's refresh and the host's lock; the child waits for its token."""
    requesting, answer, waits = threading.Event(), threading.Event(), multiprocessing.Event()

    def request_slowly() -> EcrToken:
        requesting.set()
        answer.wait()
        return request_token()

    lookups: list[Lookup] = []
    thread = start(partial(look_up, HostStore(cache_dir), request_slowly), lookups)
    requesting.wait()
    _, result = in_child(partial(look_up, WatchedStore(cache_dir, waits.set), request_token))
    assert waits.wait(SOON_SECONDS)
    answer.set()
    thread.join()
    return [*lookups, result()]


def while_a_thread_waits(cache_dir: str) -> list[Lookup]:
    """The thread that forks holds the host's lock; the other thread, in the process's refresh, waits for it."""
    thread_waits, child_waits = threading.Event(), multiprocessing.Event()
    lookups: list[Lookup] = []
    lock = HostStore(cache_dir).take_lock(IDENTITY.key)
    assert lock is not None
    with lock:
        thread = start(partial(look_up, WatchedStore(cache_dir, thread_waits.set), request_token), lookups)
        thread_waits.wait()
        _, result = in_child(partial(look_up, WatchedStore(cache_dir, child_waits.set), request_token))
        assert child_waits.wait(SOON_SECONDS)
    thread.join()
    return [*lookups, result()]


def while_a_thread_imports(cache_dir: str) -> list[Lookup]:
    """The parent's other thread is importing boto3; the child, of another identity, needs boto3 also."""
    importing = threading.Event()

    class SlowImport:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "boto3.session" and not importing.is_set():
                importing.set()
                time.sleep(IMPORT_SECONDS)

    sys.meta_path.insert(0, SlowImport)
    lookups: list[Lookup] = []
    thread = start(partial(look_up, HostStore(cache_dir), request_token), lookups)
    importing.wait()
    _, result = in_child(partial(look_up, HostStore(cache_dir), request_another_token, OTHER_IDENTITY))
    thread.join()
    return [*lookups, result()]


def at_any_moment_of_a_first_request(cache_dir: str) -> list[Lookup]:
    """The parent's other thread imports boto3, builds its client and calls AWS; so does the child, without a cache."""
    del cache_dir

    def parent(moment: float) -> list[Lookup]:
        lookups: list[Lookup] = []
        thread = start(partial(look_up, None, request_token), lookups)
        time.sleep(moment)
        _, result = in_child(partial(look_up, None, request_another_token, OTHER_IDENTITY))
        thread.join()
        return [*lookups, result()]

    parents = (in_child(partial(parent, FIRST_REQUEST_SECONDS * moment / MOMENTS)) for moment in range(MOMENTS))
    return [lookup for _, result in parents for lookup in result()]


def while_threads_look_up(cache_dir: str) -> list[Lookup]:
    """The parent's other threads look up without a pause, with tokens that rotate all the time."""
    done = threading.Event()
    lookups: list[Lookup] = []
    look_up_fast = partial(look_up, HostStore(cache_dir), fake_request)

    def look_up_without_end() -> None:
        while not done.is_set():
            lookups.append(look_up_fast())

    threads = [threading.Thread(target=look_up_without_end) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        in_children = [in_child(look_up_fast)[1]() for _ in range(30)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return lookups + in_children


@pytest.mark.parametrize(
    ("scenario", "calls"),
    [
        (while_a_thread_requests, 1),
        (while_a_thread_waits, 1),
        (while_a_thread_imports, 2),  # for two identities
        (at_any_moment_of_a_first_request, 2 * MOMENTS),  # without a host's cache
        (while_threads_look_up, 0),
    ],
)
def test_a_fork_disturbs_no_lookup(
    aws: AwsStandIn, tmp_path: Path, scenario: Callable[..., list[Lookup]], calls: int
) -> None:
    """Each lookup, of child and parent, is served soon, and costs no more AWS calls than without the fork."""
    lookups = programs.call(scenario, cache_dir=str(tmp_path))

    assert max(lookup.seconds for lookup in lookups) < SOON_SECONDS
    assert len({lookup.token for lookup in lookups}) == calls or not calls
    assert len(aws.calls()) == calls

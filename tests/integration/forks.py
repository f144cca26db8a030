"""Forks while other threads of the parent are at work: ``python -m tests.integration.forks``, a scenario at a time."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache, _memory
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.token import EcrToken
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.host_lock import HostLock

IDENTITY = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
LONGEST_LIFETIME_SECONDS = 10  # of a forked process, whatever becomes of it
HELD_UP_SECONDS = 1.0
FIRST_MINT_SECONDS = 0.2
FAKE_LIFETIME_SECONDS = 0.05
MOMENTS = 12


@dataclass(frozen=True)
class Lookup:
    """One lookup: how long it took, in seconds, and the token, or what happened instead."""

    seconds: float
    token: str | None
    problem: str | None = None


def fork(scenario: Callable[[str], list[Lookup]], cache_dir: str) -> list[Lookup]:
    """Play a scenario in a process of its own.

    :return: the lookups of child and parent
    """
    lookups = programs.run(__name__, scenario=scenario.__name__, cache_dir=cache_dir)
    return [Lookup(**lookup) for lookup in lookups]


class Pipe:
    """A one-way street between processes; whoever only listens says so first."""

    def __init__(self) -> None:
        self._listener, self._speaker = os.pipe()

    def say(self, message: bytes = b"!") -> None:
        os.write(self._speaker, message)

    def listen(self) -> None:
        os.close(self._speaker)

    def hear(self) -> bytes:
        """Wait for a message; empty when no speaker lives any more."""
        return os.read(self._listener, 65536)


class TellingStore(HostStore):
    """A store that reports when another process holds the host's lock."""

    def __init__(self, cache_dir: str, tell: Callable[[], object]) -> None:
        super().__init__(cache_dir)
        self._tell = tell

    def take_lock(self, *arguments: Any) -> HostLock | None:
        lock = super().take_lock(*arguments)
        if lock is None:
            self._tell()
        return lock


def look_up(store: HostStore | None, request_token: Callable[[], EcrToken], identity: AwsIdentity = IDENTITY) -> Lookup:
    cache = TokenCache(store, refresh_before=3600)
    started_at = time.monotonic()
    try:
        token, problem = cache.get(identity, request_token)[0].password, None
    except Exception as error:  # noqa: BLE001 - the test judges it
        token, problem = None, repr(error)
    return Lookup(time.monotonic() - started_at, token, problem)


def start(work: Callable[[], Lookup], lookups: list[Lookup]) -> threading.Thread:
    thread = threading.Thread(target=lambda: lookups.append(work()))
    thread.start()
    return thread


def child_of_this(work: Callable[[], Lookup], result: Pipe) -> int:
    """Fork a process that does some work and says its result; nobody waits for one that hangs."""
    child = os.fork()
    if child:
        return child
    signal.alarm(LONGEST_LIFETIME_SECONDS)
    try:
        result.say(json.dumps(asdict(work())).encode())
    finally:
        os._exit(0)


def result_of(pipe: Pipe) -> Lookup:
    pipe.listen()
    message = pipe.hear()
    return Lookup(**json.loads(message)) if message else Lookup(LONGEST_LIFETIME_SECONDS, None, "it hung, or died")


def fake_request() -> EcrToken:
    now = time.time()
    return EcrToken("AWS", secrets.token_hex(), None, now, now + FAKE_LIFETIME_SECONDS)


OTHER_IDENTITY = replace(IDENTITY, region="eu-west-1")
request_token = partial(aws.request_token, IDENTITY)
request_another_token = partial(aws.request_token, OTHER_IDENTITY)


def while_a_thread_requests(cache_dir: str) -> list[Lookup]:
    """The parent's other thread holds its process's turn and the host's; the child waits for its token."""
    requesting, answer = threading.Event(), threading.Event()

    def request_slowly() -> EcrToken:
        requesting.set()
        answer.wait()
        return request_token()

    lookups: list[Lookup] = []
    parent = start(partial(look_up, HostStore(cache_dir), request_slowly), lookups)
    requesting.wait()
    taken, result = Pipe(), Pipe()
    child_of_this(partial(look_up, TellingStore(cache_dir, taken.say), request_token), result)
    taken.listen()
    taken.hear()
    answer.set()
    parent.join()
    return [*lookups, result_of(result)]


def while_a_thread_waits(cache_dir: str) -> list[Lookup]:
    """The forking thread itself holds the host's turn, and the other one waits for it, holding its process's."""
    waits = threading.Event()
    lookups: list[Lookup] = []
    taken, result = Pipe(), Pipe()
    lock = HostStore(cache_dir).take_lock(IDENTITY.key)
    assert lock is not None
    with lock:
        parent = start(partial(look_up, TellingStore(cache_dir, waits.set), request_token), lookups)
        waits.wait()
        child_of_this(partial(look_up, TellingStore(cache_dir, taken.say), request_token), result)
        taken.listen()
        taken.hear()
    parent.join()
    return [*lookups, result_of(result)]


def before_the_requesting_parent_is_killed(cache_dir: str) -> list[Lookup]:
    """The host's turn dies with the parent that held it, though its child lives on."""
    taken, result = Pipe(), Pipe()
    requesting = threading.Event()

    def request_forever() -> EcrToken:
        requesting.set()
        signal.pause()
        raise AssertionError

    def parent() -> Lookup:
        start(partial(look_up, HostStore(cache_dir), request_forever), [])
        requesting.wait()
        child_of_this(partial(look_up, TellingStore(cache_dir, taken.say), request_token), result)
        signal.pause()
        raise AssertionError

    killed = child_of_this(parent, result)
    taken.listen()
    taken.hear()
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    return [result_of(result)]


def while_a_thread_imports(cache_dir: str) -> list[Lookup]:
    """The parent's other thread is in the middle of boto3's import; the child, another identity, needs it as well."""
    importing = threading.Event()

    class HoldUp:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "boto3.session" and not importing.is_set():
                importing.set()
                time.sleep(HELD_UP_SECONDS)

    sys.meta_path.insert(0, HoldUp)
    lookups: list[Lookup] = []
    parent = start(partial(look_up, HostStore(cache_dir), request_token), lookups)
    importing.wait()
    result = Pipe()
    child_of_this(partial(look_up, HostStore(cache_dir), request_another_token, OTHER_IDENTITY), result)
    parent.join()
    return [*lookups, result_of(result)]


def at_any_moment_of_a_first_request(_: str) -> list[Lookup]:
    """The parent's other thread loads boto3, builds its client and calls AWS; so does the child, for itself."""

    def parent(moment: float, of_child: Pipe) -> Lookup:
        lookups: list[Lookup] = []
        thread = start(partial(look_up, None, request_token), lookups)
        time.sleep(moment)
        child = child_of_this(partial(look_up, None, request_another_token, OTHER_IDENTITY), of_child)
        thread.join()
        os.waitpid(child, 0)
        return lookups[0]

    lookups = []
    for number in range(MOMENTS):
        of_parent, of_child = Pipe(), Pipe()
        child_of_this(partial(parent, FIRST_MINT_SECONDS * number / MOMENTS, of_child), of_parent)
        lookups += [result_of(of_parent), result_of(of_child)]
    return lookups


def while_a_thread_writes(cache_dir: str) -> list[Lookup]:
    """The parent's other thread changes what the process knows, without a pause."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            _memory.put(Entry("another key", token=fake_request()))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return [_in_child(cache_dir, replace(IDENTITY, profile_name=str(number))) for number in range(30)]
    finally:
        done.set()
        writer.join()


def while_threads_look_up(cache_dir: str) -> list[Lookup]:
    """The parent's other threads are in the middle of anything, with tokens that rotate all the time."""
    done = threading.Event()
    lookups: list[Lookup] = []

    def look_up_without_end() -> None:
        while not done.is_set():
            lookups.append(look_up(HostStore(cache_dir), fake_request))

    threads = [threading.Thread(target=look_up_without_end) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        in_children = [_in_child(cache_dir, IDENTITY) for _ in range(30)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return lookups + in_children


def _in_child(cache_dir: str, identity: AwsIdentity) -> Lookup:
    result = Pipe()
    child_of_this(partial(look_up, HostStore(cache_dir), fake_request, identity), result)
    return result_of(result)


SCENARIOS = (
    while_a_thread_requests,
    while_a_thread_waits,
    before_the_requesting_parent_is_killed,
    while_a_thread_imports,
    at_any_moment_of_a_first_request,
    while_a_thread_writes,
    while_threads_look_up,
)


def main() -> None:
    order: dict[str, Any] = programs.order()
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.__name__ == order["scenario"])
    programs.report([asdict(lookup) for lookup in scenario(order["cache_dir"])])


if __name__ == "__main__":
    main()

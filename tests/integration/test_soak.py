"""
Tokens that rotate, processes that start, end and are killed, and AWS with a delay, all at once.

All processes are forked from one, which never has a second thread. Each appends its events to one file, a line of JSON
each: the line of a process that is killed is written whole or not at all.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration import programs
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stand_ins.aws import AwsStandIn

    #: Kinds of events, each with its values, in order.
    Events = dict[str, list[Any]]

LIFETIME_SECONDS = 3.0  # so that many tokens expire during a test
RENEWED_AFTER_SECONDS = LIFETIME_SECONDS / 2
AWS_SECONDS = 0.2
READERS_SECONDS = 8
BUSY_SECONDS = 15
SOAK_SECONDS = 45
MOST_GROWTH_OBJECTS = 1_000  # a client of boto3 has many more
MOST_GROWTH_KIB = 16 * 1024  # the allocator keeps some of the memory that is freed
FILE_NAME = re.compile(r"[0-9a-f]{32}\.(json|lock|json\.[0-9a-f]{64}\.tmp)")

chance = secrets.SystemRandom()  # a fork does not repeat it

WORKER_THREADS = 2
WORKER_PAUSE_SECONDS = 0.02
LONGEST_WORKER_SECONDS = 3.6
KILL_EVERY_SECONDS = 0.18
#: A worker is killed at its n-th audit event of one kind: it opens a file, takes a lock, calls AWS, writes the cache.
#: n is random, up to this number. None: only the driver kills it, at any moment.
DEATHS = (("open", 100), ("fcntl.flock", 20), ("socket.connect", 1), ("os.rename", 1), ("os.rename", 1), None)


def soak(
    cache_dir: Path, seconds: float, *, workers: int = 12, steady: int = 1, threads: int = 4, pause: float = 0.005
) -> Events:
    """
    Run processes that look up for some seconds.

    :param workers: how many processes that are killed run at once
    :param steady: how many processes run all the time
    :param threads: how many threads each of those has
    :param pause: seconds between two lookups of such a thread
    :return: for each process that was killed, "killed"; for each thread, "lookups", the number; for each new token in a
        process, "token", its password; "problem" for failed lookups and expired tokens; "warning" for log lines; for
        each second of a steady process, "steady", its descriptors, threads, objects, and KiB of memory; "leftovers",
        the number of temporary files in the cache; "file" for each file that is in it at the end
    """
    options = {"workers": workers, "steady": steady, "threads": threads, "pause": pause}
    programs.call(_drive, cache_dir=str(cache_dir), seconds=seconds, **options)
    events: Events = defaultdict(list)
    for line in _journal(cache_dir).read_text().splitlines():
        kind, value = json.loads(line)
        events[kind].append(value)
    return events


def _journal(cache_dir: Path) -> Path:
    return cache_dir.with_name("journal")


class Process:
    """What each of the processes does."""

    def __init__(self, cache_dir: Path, end: float) -> None:
        identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
        cache = TokenCache(HostStore(str(cache_dir)), refresh_before=3600)
        self._look_up = partial(cache.get, identity, partial(aws_module.request_token, identity))
        self._end = end
        self._journal = os.open(_journal(cache_dir), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._tokens: set[str] = set()
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.write("warning", record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("ecr_secrets_backend").addHandler(handler)

    def write(self, kind: str, value: object) -> None:
        os.write(self._journal, json.dumps([kind, value]).encode() + b"\n")

    def _look_up_until(self, end: float, pause: float) -> None:
        lookups = 0
        while time.monotonic() < end:
            lookups += 1
            try:
                token = self._look_up().token
            except Exception as error:  # noqa: BLE001 - the test judges it
                self.write("problem", repr(error))
                continue
            if (late := time.time() - token.expires_at) >= 0:
                self.write("problem", f"a token was served {late:.3f} s after its end")
            if token.password not in self._tokens:
                self._tokens.add(token.password)
                self.write("token", token.password)
            if pause:
                time.sleep(pause * chance.uniform(0.5, 1.5))
        self.write("lookups", lookups)

    def _in_threads(self, number: int, end: float, pause: float) -> None:
        threads = [threading.Thread(target=self._look_up_until, args=(end, pause)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def work(self) -> None:
        death = chance.choice(DEATHS)
        if death is not None:
            event, most = death
            _die_at(event, chance.randint(1, most))
        end = min(self._end, time.monotonic() + chance.uniform(0, LONGEST_WORKER_SECONDS))
        self._in_threads(WORKER_THREADS, end, WORKER_PAUSE_SECONDS)

    def run_steadily(self, threads: int, pause: float) -> None:
        while (now := time.monotonic()) < self._end:
            self._in_threads(threads, min(self._end, now + 1), pause)
            gc.collect()  # objects that only wait for it are no growth
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGESIZE") // 1024
            self.write("steady", [descriptors, threading.active_count(), len(gc.get_objects()), memory])


def _die_at(deadly: str, times: int) -> None:
    """Have this process killed at the last of so many audit events."""
    left = [None] * times

    def hook(event: str, _: object) -> None:
        if event == deadly:
            left.pop()
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _fork(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        run()
    finally:
        os._exit(0)


def _drive(cache_dir: str, seconds: float, workers: int, steady: int, threads: int, pause: float) -> None:
    """Fork the processes, kill some, and wait for the end of all."""
    begin = kill_at = time.monotonic()
    process = Process(Path(cache_dir), begin + seconds)
    folder = Path(cache_dir, FOLDER_NAME.format(uid=os.geteuid()))
    running: set[int] = set()

    def collect(options: int) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, options))[0]:
                running.discard(ended[0])
                if os.WIFSIGNALED(ended[1]):
                    process.write("killed", ended[0])

    for _ in range(steady):
        _fork(lambda: process.run_steadily(threads, pause))
    while time.monotonic() < begin + seconds:
        while len(running) < workers:
            running.add(_fork(process.work))
        if running and time.monotonic() >= kill_at:
            os.kill(chance.choice(sorted(running)), signal.SIGKILL)
            kill_at += KILL_EVERY_SECONDS
        time.sleep(0.02)
        process.write("leftovers", len(list(folder.glob("*.tmp"))))
        collect(os.WNOHANG)
    collect(0)
    for file in folder.iterdir():
        process.write("file", file.name)


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

"""Processes that come and go, and are killed, while tokens rotate: ``python -m tests.integration.soak``.

All of them are forked from this one, which never has a second thread. What they see they tell it, line by line, through
one pipe: the line of a process that is killed arrives whole or not at all, as long as it is no longer than PIPE_BUF.
"""

from __future__ import annotations

import gc
import json
import os
import secrets
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration import programs

if TYPE_CHECKING:
    from collections.abc import Callable

chance = secrets.SystemRandom()  # a fork does not repeat it

WORKERS = 12
THREADS = 2
LONGEST_LIFETIME_SECONDS = 3.6
LOOK_EVERY_SECONDS = 0.02
KILL_EVERY_SECONDS = 0.18
#: What a worker is about to do when it is killed, by the name of Python's audit event, and at most how often it may
#: begin to: open something, take a turn, mint, write the cache. Whatever its fate, the killer may be first.
FATES = (("open", 100), ("fcntl.flock", 20), ("socket.connect", 1), ("os.rename", 1), ("os.rename", 1), None)


@dataclass
class Soak:
    """What was seen.

    :param seconds: how long it took
    :param killed: how many processes were killed, by themselves or by the killer
    :param ended: how many ended in good order
    :param tokens: the passwords that were served
    :param problems: failed lookups, and dead tokens that were served
    :param most_leftovers: the largest number of temporary files seen in the cache at once
    :param files: the names of the cache's files at the end
    :param steady: of one process that lives all the time, every second: its descriptors, threads, objects, and KiB
    """

    seconds: float = 0.0
    killed: int = 0
    ended: int = 0
    tokens: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    most_leftovers: int = 0
    files: list[str] = field(default_factory=list)
    steady: list[list[int]] = field(default_factory=list)


def soak(
    cache_dir: Path, seconds: float, *, workers: int = WORKERS, steady: int = 1, threads: int = 4, pause: float = 0.005
) -> Soak:
    """Let processes come, look up, and go, for so many seconds.

    :param workers: how many at a time, which are killed
    :param steady: how many processes live all the time
    :param threads: how many threads each of those has
    :param pause: seconds between two lookups of such a thread
    """
    steadies = {"steady": steady, "threads": threads, "pause": pause}
    return Soak(**programs.run(__name__, cache_dir=str(cache_dir), seconds=seconds, workers=workers, **steadies))


class Process:
    """One of the processes, and what it does from its birth to its end.

    :param cache_dir: the host's cache
    :param journal: where to tell what it sees
    """

    def __init__(self, cache_dir: str, journal: int) -> None:
        identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
        cache = TokenCache(HostStore(cache_dir), refresh_before=3600)
        self._look_up = partial(cache.get, identity, partial(aws.request_token, identity))
        self._journal = journal
        self._tokens: set[str] = set()

    def say(self, kind: str, value: object) -> None:
        os.write(self._journal, json.dumps([kind, value]).encode() + b"\n")

    def look_up_until(self, end: float, pause: float) -> None:
        while time.monotonic() < end:
            try:
                token = self._look_up().token
            except Exception as error:  # noqa: BLE001 - the test judges it
                self.say("problem", repr(error)[:1000])
            else:
                late = time.time() - token.expires_at
                if late >= 0:
                    self.say("problem", f"a token was served {late:.3f} s after its end")
                if token.password not in self._tokens:
                    self._tokens.add(token.password)
                    self.say("token", token.password)
            if pause:
                time.sleep(pause * chance.uniform(0.5, 1.5))

    def be_a_worker(self, end: float) -> None:
        fate = chance.choice(FATES)
        if fate is not None:
            event, most = fate
            die_at(event, chance.randint(1, most))
        end = min(end, time.monotonic() + chance.uniform(0, LONGEST_LIFETIME_SECONDS))
        self._in_threads(THREADS, end, LOOK_EVERY_SECONDS)

    def be_steady(self, end: float, threads: int, pause: float) -> None:
        while time.monotonic() < end:
            self._in_threads(threads, min(end, time.monotonic() + 1), pause)
            gc.collect()  # what only waits to be collected is no growth
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGESIZE") // 1024
            self.say("steady", [descriptors, threading.active_count(), len(gc.get_objects()), memory])

    def _in_threads(self, number: int, end: float, pause: float) -> None:
        threads = [threading.Thread(target=self.look_up_until, args=(end, pause)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def die_at(deadly: str, times: int) -> None:
    """Have this process killed when it is about to do something for the last of so many times."""
    left = [None] * times

    def hook(event: str, _: object) -> None:
        if event == deadly:
            left.pop()
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def fork(live: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        live()
    finally:
        os._exit(0)


class Driver:
    """Whoever forks, kills and buries the processes, and listens to them."""

    def __init__(self, cache_dir: str, seconds: float, workers: int, steady: int, threads: int, pause: float) -> None:
        self._workers_wanted, self._steady = workers, (steady, threads, pause)
        self._listener, journal = os.pipe()
        os.set_blocking(self._listener, False)
        self._unread = b""
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._folder = Path(cache_dir, FOLDER_NAME.format(uid=os.geteuid()))
        self._process = Process(cache_dir, journal)
        self._workers: set[int] = set()
        self._seen = Soak()

    def run(self) -> Soak:
        number, threads, pause = self._steady
        steady = [fork(lambda: self._process.be_steady(self._end, threads, pause)) for _ in range(number)]
        kill_at = self._begin
        while time.monotonic() < self._end:
            while len(self._workers) < self._workers_wanted:
                self._workers.add(fork(lambda: self._process.be_a_worker(self._end)))
            if time.monotonic() >= kill_at:
                os.kill(chance.choice(sorted(self._workers)), signal.SIGKILL)
                kill_at += KILL_EVERY_SECONDS
            time.sleep(0.02)
            self._listen()
            self._bury(os.WNOHANG)
            self._seen.most_leftovers = max(self._seen.most_leftovers, len(list(self._folder.glob("*.tmp"))))
        self._bury(0)
        for process in steady:
            os.waitpid(process, 0)
        self._listen()
        self._seen.seconds = time.monotonic() - self._begin
        self._seen.files = sorted(file.name for file in self._folder.iterdir())
        return self._seen

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._unread += os.read(self._listener, 65536)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            kind, value = json.loads(line)
            if kind == "steady":
                self._seen.steady.append(value)
            elif kind == "problem":
                self._seen.problems.append(value)
            elif value not in self._seen.tokens:
                self._seen.tokens.append(value)

    def _bury(self, options: int) -> None:
        for worker in list(self._workers):
            pid, status = os.waitpid(worker, options)
            if pid:
                self._workers.remove(pid)
                if os.WIFSIGNALED(status):
                    self._seen.killed += 1
                else:
                    self._seen.ended += 1


if __name__ == "__main__":
    programs.report(vars(Driver(**programs.order()).run()))

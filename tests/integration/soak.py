"""
Processes that start, look up, end and are killed, while tokens rotate.

All of them are forked from one process, which never has a second thread. Each writes its events, a line of JSON each,
to one pipe: the line of a process that is killed arrives whole or not at all, as it is shorter than PIPE_BUF.
"""

from __future__ import annotations

import gc
import json
import logging
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

WORKER_THREADS = 2
WORKER_PAUSE_SECONDS = 0.02
LONGEST_WORKER_SECONDS = 3.6
KILL_EVERY_SECONDS = 0.18
#: A worker is killed at its n-th audit event of one kind: it opens a file, takes a lock, calls AWS, writes the cache.
#: n is random, up to this number. None: only the driver kills it, at any moment.
DEATHS = (("open", 100), ("fcntl.flock", 20), ("socket.connect", 1), ("os.rename", 1), ("os.rename", 1), None)


@dataclass
class Soak:
    """
    The events of a soak.

    :param seconds: how long it took
    :param killed: how many workers were killed, by themselves or by the driver
    :param ended: how many workers ended by themselves
    :param lookups: how many lookups the steady processes made
    :param tokens: the passwords that were served, in order, with the time of the first lookup of each
    :param problems: failed lookups, and expired tokens that were served
    :param warnings: log lines at WARNING and above
    :param most_leftovers: the largest number of temporary files in the cache at once
    :param files: the names of the cache's files at the end
    :param steady: of each second of a steady process: its descriptors, threads, objects, and KiB of memory
    """

    seconds: float = 0.0
    killed: int = 0
    ended: int = 0
    lookups: int = 0
    tokens: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    most_leftovers: int = 0
    files: list[str] = field(default_factory=list)
    steady: list[list[int]] = field(default_factory=list)


def soak(
    cache_dir: Path, seconds: float, *, workers: int = 12, steady: int = 1, threads: int = 4, pause: float = 0.005
) -> Soak:
    """
    Run processes that look up for some seconds.

    :param workers: how many processes that are killed run at once
    :param steady: how many processes run all the time
    :param threads: how many threads each of those has
    :param pause: seconds between two lookups of such a thread
    """
    options = {"workers": workers, "steady": steady, "threads": threads, "pause": pause}
    return programs.call(_drive, cache_dir=str(cache_dir), seconds=seconds, **options)


class Process:
    """
    One of the processes.

    :param journal: the pipe for its events
    """

    def __init__(self, cache_dir: str, journal: int) -> None:
        identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
        cache = TokenCache(HostStore(cache_dir), refresh_before=3600)
        self._look_up = partial(cache.get, identity, partial(aws.request_token, identity))
        self._journal = journal
        self._tokens: set[str] = set()
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self._write("warning", record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("ecr_secrets_backend").addHandler(handler)

    def _write(self, kind: str, value: object) -> None:
        os.write(self._journal, json.dumps([kind, value]).encode() + b"\n")

    def _look_up_until(self, end: float, pause: float) -> None:
        lookups = 0
        while time.monotonic() < end:
            lookups += 1
            try:
                token = self._look_up().token
            except Exception as error:  # noqa: BLE001 - the test judges it
                self._write("problem", repr(error)[:1000])
            else:
                now = time.time()
                if now >= token.expires_at:
                    self._write("problem", f"a token was served {now - token.expires_at:.3f} s after its end")
                if token.password not in self._tokens:
                    self._tokens.add(token.password)
                    self._write("token", [token.password, now])
            if pause:
                time.sleep(pause * chance.uniform(0.5, 1.5))
        self._write("lookups", lookups)

    def work(self, end: float) -> None:
        death = chance.choice(DEATHS)
        if death is not None:
            event, most = death
            _die_at(event, chance.randint(1, most))
        end = min(end, time.monotonic() + chance.uniform(0, LONGEST_WORKER_SECONDS))
        self._in_threads(WORKER_THREADS, end, WORKER_PAUSE_SECONDS)

    def run_steadily(self, end: float, threads: int, pause: float) -> None:
        while time.monotonic() < end:
            self._in_threads(threads, min(end, time.monotonic() + 1), pause)
            gc.collect()  # objects that only wait for it are no growth
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * os.sysconf("SC_PAGESIZE") // 1024
            self._write("steady", [descriptors, threading.active_count(), len(gc.get_objects()), memory])

    def _in_threads(self, number: int, end: float, pause: float) -> None:
        threads = [threading.Thread(target=self._look_up_until, args=(end, pause)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


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


class Driver:
    """Forks the processes, kills some, reads their events, and collects their exit codes."""

    def __init__(self, cache_dir: str, seconds: float, workers: int) -> None:
        self._workers_wanted = workers
        self._journal, journal = os.pipe()
        os.set_blocking(self._journal, False)
        self._unread = b""
        self._begin = time.monotonic()
        self._end = self._begin + seconds
        self._folder = Path(cache_dir, FOLDER_NAME.format(uid=os.geteuid()))
        self._process = Process(cache_dir, journal)
        self._workers: set[int] = set()
        self._seen = Soak()

    def run(self, steady: int, threads: int, pause: float) -> Soak:
        steadies = [_fork(lambda: self._process.run_steadily(self._end, threads, pause)) for _ in range(steady)]
        kill_at = self._begin
        while time.monotonic() < self._end:
            while len(self._workers) < self._workers_wanted:
                self._workers.add(_fork(lambda: self._process.work(self._end)))
            if self._workers and time.monotonic() >= kill_at:
                os.kill(chance.choice(sorted(self._workers)), signal.SIGKILL)
                kill_at += KILL_EVERY_SECONDS
            time.sleep(0.02)
            self._read()
            self._collect(os.WNOHANG)
            self._seen.most_leftovers = max(self._seen.most_leftovers, len(list(self._folder.glob("*.tmp"))))
        self._collect(0)
        for process in steadies:
            os.waitpid(process, 0)
        self._read()
        self._seen.seconds = time.monotonic() - self._begin
        self._seen.files = sorted(file.name for file in self._folder.iterdir())
        return self._seen

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._unread += os.read(self._journal, 65536)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            kind, value = json.loads(line)
            if kind == "token":
                self._seen.tokens.setdefault(*value)
            elif kind == "lookups":
                self._seen.lookups += value
            elif kind == "steady":
                self._seen.steady.append(value)
            else:
                (self._seen.problems if kind == "problem" else self._seen.warnings).append(value)

    def _collect(self, options: int) -> None:
        for worker in list(self._workers):
            pid, status = os.waitpid(worker, options)
            if pid:
                self._workers.remove(pid)
                if os.WIFSIGNALED(status):
                    self._seen.killed += 1
                else:
                    self._seen.ended += 1


def _drive(cache_dir: str, seconds: float, workers: int, **steady: float) -> Soak:
    return Driver(cache_dir, seconds, workers).run(**steady)  # type: ignore[arg-type]

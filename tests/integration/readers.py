"""Threads of several processes that read a token while it rotates: ``python -m tests.integration.readers``."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ecr_secrets_backend import aws
from ecr_secrets_backend.cache import TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration import programs

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier

    from ecr_secrets_backend.token import EcrToken

#: Reads come in bursts with a pause between them, so that they last for some lives and leave the processor to others.
BURST = 40
PAUSE_SECONDS = 0.1


@dataclass
class Sightings:
    """What one thread, or all, have seen.

    :param reads: how many lookups gave a token
    :param last_served: for each token, as a tuple of user name, password and expiry, when it was served last
    :param complaints: exceptions, and what was logged as a warning
    """

    reads: int = 0
    last_served: dict[tuple[str, str, float], float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def note(self, token: EcrToken, now: float) -> None:
        self.reads += 1
        self.last_served[token.username, token.password, token.expires_at] = now

    def add(self, other: Sightings) -> None:
        self.reads += other.reads
        self.complaints += other.complaints
        for token, served_at in other.last_served.items():
            self.last_served[token] = max(served_at, self.last_served.get(token, 0))


def read(cache_dir: str, *, processes: int, threads: int, reads: int) -> Sightings:
    """Let every thread of every process look the token up again and again, all beginning at once."""
    seen = programs.run(__name__, cache_dir=cache_dir, processes=processes, threads=threads, reads=reads)
    return Sightings(
        seen["reads"], {tuple(token): served_at for token, served_at in seen["last_served"]}, seen["complaints"]
    )


class _Complaints(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(record.getMessage())


def _thread(cache: TokenCache, reads: int, seen: Sightings) -> None:
    identity = AwsIdentity("ecr", "us-east-1").in_environment(os.environ)
    request_token = partial(aws.request_token, identity)
    try:
        for _ in range(reads // BURST):
            for _ in range(BURST):
                token = cache.get(identity, request_token)[0]
                seen.note(token, time.time())
            time.sleep(PAUSE_SECONDS)
    except Exception as error:  # noqa: BLE001 - the test judges it
        seen.complaints.append(repr(error))


def _process(order: dict[str, Any], everybody: Barrier, results: SimpleQueue[Sightings]) -> None:
    cache = TokenCache(HostStore(order["cache_dir"]), refresh_before=3600)
    all_seen, *each_seen = [Sightings() for _ in range(1 + order["threads"])]
    logging.getLogger("ecr_secrets_backend").addHandler(_Complaints(all_seen.complaints))
    threads = [threading.Thread(target=_thread, args=(cache, order["reads"], seen)) for seen in each_seen]
    everybody.wait()
    for thread in threads:
        thread.start()
    for thread, seen in zip(threads, each_seen, strict=True):
        thread.join()
        all_seen.add(seen)
    results.put(all_seen)


def main() -> None:
    order = programs.order()
    context = multiprocessing.get_context("fork")
    everybody, results = context.Barrier(order["processes"]), context.SimpleQueue()
    processes = [context.Process(target=_process, args=(order, everybody, results)) for _ in range(order["processes"])]
    for process in processes:
        process.start()
    seen = Sightings()
    for _ in processes:
        seen.add(results.get())
    for process in processes:
        process.join()
    programs.report({**asdict(seen), "last_served": list(seen.last_served.items())})


if __name__ == "__main__":
    main()

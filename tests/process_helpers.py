"""
Processes of one host, each with a user, a umask and an environment of its own.

They are forked from a process that has no other threads, and has already imported and read all that a lookup needs. So
one more costs milliseconds, and it may become a user who is not allowed to read this project or its Python.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.loaders
import botocore.session

from ecr_secrets_backend import EcrSecretsBackend, aws
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.settings import Settings
from tests.airflow_version import TaskConnection, put_into_task
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.stand_ins.aws import AwsStandIn

Result = TypeVar("Result")

PROJECT = Path(__file__).parents[1]
PATIENCE_SECONDS = 30.0
LONGEST_LIFETIME_SECONDS = 60  # whatever becomes of the tests
BOUND_SECONDS = 5.0  # a lookup with a mint takes a tenth of a second; a busy machine is granted more
LARGEST_ORDER_BYTES = 128 * 1024  # far above a function's name, its arguments and an environment


class Process:
    """One of the processes. It lives until it is ended, so what it holds stays held."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pid: int = self._receive()

    def result(self) -> Any:
        """Wait for what its function returns."""
        problem, result = self._receive()
        assert problem is None, problem
        return result

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def _receive(self) -> Any:
        assert self._connection.poll(PATIENCE_SECONDS), "the process is silent"
        return self._connection.recv()

    def end(self) -> None:
        """End it, whatever it does, and wait until it is gone."""
        with self._connection, suppress(EOFError, OSError):
            while self._connection.poll():
                self._receive()  # or nothing, if it is gone already and its number may be another's
            self.signal(signal.SIGKILL)
            while True:
                self._receive()


class Processes:
    """A handle on the process that all others are forked from."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders

    @classmethod
    @contextmanager
    def running(cls, environment: Mapping[str, str]) -> Iterator[Processes]:
        """
        Start it; it ends with the block, or with this process, however that dies.

        :param environment: leads boto3 to a stand-in for AWS, which is asked for one token
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                command = [sys.executable, "-m", "tests.process_helpers"]
                process = subprocess.Popen(
                    command, stdin=theirs.fileno(), cwd=PROJECT, env={**os.environ, **environment}
                )
            with process:
                try:
                    assert ours.recv(1), "see its standard error"
                    yield cls(ours)
                finally:
                    ours.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def start(
        self, function: Callable[..., object], *arguments: object, user: int | None = None, umask: int = 0o022
    ) -> Iterator[Process]:
        """
        Fork a process that calls a function, with the environment that this process has now; it ends with the block.

        :param function: of a module, because only its name is sent
        :param arguments: the function's
        :param user: the number of a user and of a group for it to become; None: whoever runs this
        :param umask: which permissions its new files have not
        """
        ours, theirs = Pipe()
        with theirs:
            order = pickle.dumps((function, arguments, user, umask, dict(os.environ)))
            socket.send_fds(self._orders, [order], [theirs.fileno()])
        process = Process(ours)
        try:
            yield process
        finally:
            process.end()

    def run(
        self, function: Callable[..., Result], *arguments: object, user: int | None = None, umask: int = 0o022
    ) -> Result:
        """Call a function in a process of its own, as :meth:`start` does, and give what it returns."""
        with self.start(function, *arguments, user=user, umask=umask) as process:
            result: Result = process.result()
        return result


@dataclass(frozen=True)
class Lookups:
    """
    What one process met.

    :param tokens: what it was served, in order
    :param seconds: how long the longest lookup took
    :param warnings: what was logged at WARNING and above
    """

    tokens: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]


def look_up(kwargs: dict[str, Any], times: int = 1) -> Lookups:
    """
    Look the connection `docker_default` up, as a task does.

    :param kwargs: the backend's
    :param times: how often
    """
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ecr_secrets_backend").addHandler(handler)
    backend = EcrSecretsBackend(**kwargs)
    put_into_task(backend)
    tokens, seconds = [], []
    for _ in range(times):
        started_at = time.monotonic()
        tokens.append(backend.get_connection("docker_default").password)
        seconds.append(time.monotonic() - started_at)
    return Lookups(tuple(tokens), max(seconds), tuple(warnings))


@dataclass(frozen=True)
class Host:
    """
    What the processes of one user share: a cache, and AWS.

    :param cache_dir: the kwarg of that name
    :param user: who looks up; None: whoever runs this
    """

    aws: AwsStandIn
    processes: Processes
    cache_dir: Path
    user: int | None

    @property
    def kwargs(self) -> dict[str, Any]:
        hosts = {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}
        return {"connections": hosts, "cache_dir": str(self.cache_dir)}

    @property
    def folder(self) -> Path:
        return self.cache_dir / FOLDER_NAME.format(uid=os.geteuid() if self.user is None else self.user)

    @property
    def identity(self) -> AwsIdentity:
        (mapped,) = Settings.parse(self.kwargs).connections.values()
        return mapped.identity.in_environment(os.environ)

    @property
    def entry(self) -> Path:
        return self.folder / f"{self.identity.key}.json"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.identity.key}.lock"

    @property
    def token_requests(self) -> int:
        return len(self.aws.calls())

    def look_up(self, times: int = 1, **options: Any) -> Lookups:
        """Look up in a new process, and see that what it was served is a live token."""
        return self.judge(self.processes.run(look_up, self.kwargs, times, user=self.user, **options))

    def judge(self, lookups: Lookups) -> Lookups:
        """See that live tokens were served, and soon."""
        assert all(self.aws.authorise("AWS", token).valid for token in {*lookups.tokens})
        assert lookups.seconds < BOUND_SECONDS
        return lookups


def get_token(identity: AwsIdentity, cache_dir: Path, password: str) -> str:
    """
    Get a token as a new process does, but one that does without Airflow, and AWS.

    :param password: of the token that is minted, if one is
    :return: the password of the token that is served
    """
    token_cache = TokenCache(HostStore(str(cache_dir)), refresh_before=60, memory=Memory())
    return token_cache.get(identity, lambda: build_token(received_at=time.time(), password=password))[0].password


def get_tokens_for(seconds: float, identity: AwsIdentity, cache_dir: Path, password: str) -> set[str]:
    """Do so again and again, and each time soon; what was served is returned."""
    served = set()
    ends_at = time.monotonic() + seconds
    while (now := time.monotonic()) < ends_at:
        served.add(get_token(identity, cache_dir, password))
        assert time.monotonic() - now < BOUND_SECONDS
    return served


def delete_for_ever(folder: Path) -> None:
    while True:
        shutil.rmtree(folder, ignore_errors=True)


def _live(connection: Connection, order: bytes) -> None:
    function, arguments, user, umask, environment = pickle.loads(order)  # noqa: S301 - from the one who forked us
    connection.send(os.getpid())
    signal.alarm(LONGEST_LIFETIME_SECONDS)
    answer: tuple[str | None, Any]
    try:
        os.umask(umask)
        os.environ.clear()
        os.environ.update(environment)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        answer = (None, function(*arguments))
    except BaseException:  # noqa: BLE001 - the test's to judge
        answer = (traceback.format_exc(), None)
    connection.send(answer)
    with suppress(EOFError, ConnectionError):
        connection.recv()  # until nobody holds the other end


def _prepare() -> None:
    """Import and read what a lookup needs; what botocore has read once it is made to keep."""
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    aws.request_token(AwsIdentity("ecr", "us-east-1"))
    TaskConnection(conn_id="docker_default", conn_type="docker")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that have ended
    _prepare()
    orders = socket.socket(fileno=sys.stdin.fileno())
    orders.send(b"!")
    while True:
        order, descriptors, *_ = socket.recv_fds(orders, LARGEST_ORDER_BYTES, 1)
        if not order:
            os._exit(0)  # Airflow's tidy exit takes a second
        pickle.loads(order)  # noqa: S301 - imports the function's module, which the child may not be allowed to
        with Connection(descriptors[0]) as connection:
            if os.fork() == 0:
                _live(connection, order)
                os._exit(0)


if __name__ == "__main__":
    main()

"""
Processes of one host, each with a user, a umask and an environment of its own.

They are forked from a process that has one thread, and has already imported and read what a lookup needs. So one more
costs milliseconds, and it can become a user that may not read this project or its Python.
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
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import botocore.loaders
import botocore.session

from ecr_secrets_backend import EcrSecretsBackend, aws
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.errors import ConnectionUnavailableError
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.settings import Settings
from tests.airflow_version import TaskConnection, put_into_task
from tests.stand_ins.aws import PROJECT
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

Result = TypeVar("Result")

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ANSWER_TIMEOUT_SECONDS = 30.0
LONGEST_LIFETIME_SECONDS = 60  # of a process, even if the tests do not end it
BOUND_SECONDS = 5.0  # a lookup that requests a token takes a tenth of a second; a busy machine may need more
PAUSE_SECONDS = 0.02  # between two lookups of a process
LARGEST_ORDER_BYTES = 128 * 1024  # far above a function's name, its arguments and an environment


class Process:
    """One of the processes. It runs until it is ended, so its locks and files stay open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.pid: int = self._receive()

    def result(self) -> Any:
        """Wait for its function, and return the function's result."""
        problem, result = self._receive()
        assert problem is None, problem
        return result

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _receive(self) -> Any:
        assert self._connection.poll(ANSWER_TIMEOUT_SECONDS), "the process does not answer"
        return self._connection.recv()

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        with self._connection, suppress(EOFError, OSError):
            while self._connection.poll():
                self._receive()  # raises if it has ended already, as its number may be another process's then
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
        Start it; it ends with the block, and if this process is killed.

        :param environment: leads boto3 to a stand-in for AWS, from which it requests one token
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
        :param user: the number of a user and of a group for it to become; None: the user of this process
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

    def run(self, function: Callable[..., Result], *arguments: object, **options: Any) -> Result:
        """Call a function in a process of its own, as :meth:`start` does, and return its result."""
        with self.start(function, *arguments, **options) as process:
            result: Result = process.result()
        return result


@dataclass(frozen=True)
class Lookup:
    """
    One lookup of `docker_default`.

    :param token: None if none was served
    :param valid: whether the registry accepted the token when it was served
    :param error: the exception's text
    """

    token: str | None
    valid: bool
    error: str | None
    seconds: float


@dataclass(frozen=True)
class Lookups:
    """
    The lookups of one process, in order.

    :param token_requests: how often the process requested a token from AWS
    :param lines: the level and the text of each log line of the package
    """

    lookups: tuple[Lookup, ...]
    token_requests: int
    lines: tuple[tuple[int, str], ...]

    @property
    def tokens(self) -> list[str | None]:
        return [lookup.token for lookup in self.lookups]

    @property
    def seconds(self) -> float:
        """The time of the longest lookup."""
        return max(lookup.seconds for lookup in self.lookups)

    @property
    def warnings(self) -> list[str]:
        """The lines at WARNING and above."""
        return [line for level, line in self.lines if level >= logging.WARNING]


def look_up(
    kwargs: dict[str, Any],
    registry: AwsStandIn,
    times: int = 1,
    until_renewed: float = 0,
    replaced: Mapping[str, object] | None = None,
) -> Lookups:
    """
    Look `docker_default` up, as a task does.

    :param kwargs: the backend's
    :param registry: judges each token
    :param times: the least number of lookups
    :param until_renewed: seconds for which it continues, unless it is served another token than at first
    :param replaced: names, and what replaces them in this process, which ends with this function
    """
    lines: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("ecr_secrets_backend")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # as Airflow has it
    for name, replacement in (replaced or {}).items():
        mock.patch(name, replacement).start()
    request_token = mock.patch.object(aws, "request_token", wraps=aws.request_token).start()
    backend = EcrSecretsBackend(**kwargs)
    put_into_task(backend)
    lookups: list[Lookup] = []
    ends_at = time.monotonic() + until_renewed
    while len(lookups) < times or (time.monotonic() < ends_at and lookups[-1].token == lookups[0].token):
        lookups.append(_look_up_once(backend, registry))
        time.sleep(PAUSE_SECONDS)
    return Lookups(tuple(lookups), request_token.call_count, tuple(lines))


def _look_up_once(backend: EcrSecretsBackend, registry: AwsStandIn) -> Lookup:
    token = error = None
    started_at = time.monotonic()
    try:
        connection = backend.get_connection("docker_default")
    except ConnectionUnavailableError as denied:
        error = str(denied)
    else:
        token = None if connection is None else connection.password
    seconds = time.monotonic() - started_at
    return Lookup(token, token is not None and registry.authorise("AWS", token).valid, error, seconds)


@dataclass(frozen=True)
class Host:
    """
    The cache and the AWS that the processes of one user share.

    :param cache_dir: the kwarg of that name
    :param user: the user of the processes; None: the user of this process
    """

    aws: AwsStandIn
    processes: Processes
    cache_dir: Path
    user: int | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        return {"connections": {"docker_default": REGISTRY}, "cache_dir": str(self.cache_dir)}

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

    def start(self, *arguments: Any, **kwargs: Any) -> AbstractContextManager[Process]:
        """Start a process that looks up; the arguments are those of :func:`look_up`, the kwargs the backend's."""
        return self.processes.start(look_up, {**self.kwargs, **kwargs}, self.aws, *arguments, user=self.user)

    def run(self, *arguments: Any, **kwargs: Any) -> Lookups:
        """Look up in a new process, as :meth:`start` does."""
        with self.start(*arguments, **kwargs) as process:
            lookups: Lookups = process.result()
        return lookups

    def look_up(self, times: int = 1, *, umask: int = 0o022) -> Lookups:
        """Look up in a new process, and check the lookups."""
        return check(self.processes.run(look_up, self.kwargs, self.aws, times, user=self.user, umask=umask))


def check(lookups: Lookups) -> Lookups:
    """Check that each lookup was served a valid token soon."""
    assert all(lookup.valid for lookup in lookups.lookups), lookups
    assert lookups.seconds < BOUND_SECONDS
    return lookups


def get_token(identity: AwsIdentity, cache_dir: Path, password: str) -> str:
    """
    Return the password of the token that a new process is served, without Airflow and AWS.

    :param password: of the new token, if one is requested
    """
    token_cache = TokenCache(HostStore(str(cache_dir)), refresh_before=60, memory=Memory())
    return token_cache.get(identity, lambda: build_token(received_at=time.time(), password=password)).token.password


def get_tokens_for(seconds: float, identity: AwsIdentity, cache_dir: Path, password: str) -> set[str]:
    """Get tokens without a pause, check that each comes soon, and return their passwords."""
    served = set()
    ends_at = time.monotonic() + seconds
    while (now := time.monotonic()) < ends_at:
        served.add(get_token(identity, cache_dir, password))
        assert time.monotonic() - now < BOUND_SECONDS
    return served


def delete_for_ever(folder: Path) -> None:
    while True:
        shutil.rmtree(folder, ignore_errors=True)


def _run(connection: Connection, order: bytes) -> None:
    function, arguments, user, umask, environment = pickle.loads(order)  # noqa: S301 - from the process that forked us
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
    except BaseException:  # noqa: BLE001 - the test judges it
        answer = (traceback.format_exc(), None)
    connection.send(answer)
    with suppress(EOFError, ConnectionError):
        connection.recv()  # until the other end is closed


def _prepare() -> None:
    """Import and read what a lookup needs; botocore keeps what it has read."""
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    aws.request_token(AwsIdentity("ecr", "us-east-1"))
    TaskConnection(conn_id="docker_default", conn_type="docker")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes the processes that have ended
    _prepare()
    orders = socket.socket(fileno=sys.stdin.fileno())
    orders.send(b"!")
    while True:
        order, descriptors, *_ = socket.recv_fds(orders, LARGEST_ORDER_BYTES, 1)
        if not order:
            os._exit(0)  # Airflow's own exit takes a second
        pickle.loads(order)  # noqa: S301 - imports the function's module, which the child may not be allowed to read
        with Connection(descriptors[0]) as connection:
            if os.fork() == 0:
                _run(connection, order)
                os._exit(0)


if __name__ == "__main__":
    main()

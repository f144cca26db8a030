"""
Processes of one host, each with a user and an environment of its own.

They are forks of a process that has imported and read what a lookup needs. So one more costs milliseconds, and it can
become a user that may not read this project or its Python.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from unittest import mock

from ecr_secrets_backend import EcrSecretsBackend, aws
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.entry import Entry, uptime
from ecr_secrets_backend.errors import ConnectionUnavailableError
from ecr_secrets_backend.host_store import FOLDER_NAME, HostStore
from ecr_secrets_backend.settings import Settings
from tests.airflow_version import put_into_task
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ecr_secrets_backend.identity import AwsIdentity
    from ecr_secrets_backend.token import EcrToken
    from tests.stand_ins.aws import AwsStandIn

Result = TypeVar("Result")

FORKS = get_context("forkserver")
REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ANSWER_TIMEOUT_SECONDS = 50.0
LONGEST_LIFETIME_SECONDS = 60  # of a process, even if the tests do not end it
CLONE_NEWNS = 0x20000  # os.CLONE_NEWNS from Python 3.12 on
BOUND_SECONDS = 5.0  # a lookup that requests a token takes a tenth of a second; a busy machine may need more
PAUSE_SECONDS = 0.02  # between two lookups of a process


@dataclass(frozen=True)
class Process:
    pid: int
    _answers: Connection

    def result(self) -> Any:
        """Wait for its function, and return the function's result."""
        assert self._answers.poll(ANSWER_TIMEOUT_SECONDS), "the process does not answer"
        problem, result = self._answers.recv()
        assert problem is None, problem
        return result


class Processes:
    @classmethod
    @contextmanager
    def running(cls, environment: Mapping[str, str]) -> Iterator[Processes]:
        """
        Start the process of which all others are forks; it ends with this one.

        :param environment: leads boto3 to a stand-in for AWS, from which it requests one token
        """
        FORKS.set_forkserver_preload(["tests.preloaded"])
        with mock.patch.dict(os.environ, environment):
            cls().run(os.getpid)  # waits until all is imported
        yield cls()

    @contextmanager
    def start(self, function: Callable[..., object], *arguments: object, user: int | None = None) -> Iterator[Process]:
        """
        Fork a process that calls a function, with the environment that this process has now.

        It runs until the block ends, so its locks and files stay open.

        :param user: the number of a user and of a group for it to become; None: the user of this process
        """
        answers, answer = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_run, args=(answer, dict(os.environ), user, function, arguments), daemon=True)
        with answers:
            with answer:
                process.start()
            assert process.pid is not None
            try:
                yield Process(process.pid, answers)
            finally:
                if process.is_alive():  # otherwise its number may be another process's
                    process.kill()
                process.join()

    def run(self, function: Callable[..., Result], *arguments: object, **options: Any) -> Result:
        """Call a function in a process of its own, as :meth:`start` does, and return its result."""
        with self.start(function, *arguments, **options) as process:
            result: Result = process.result()
        return result


def _run(
    answer: Connection,
    environment: dict[str, str],
    user: int | None,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    signal.alarm(LONGEST_LIFETIME_SECONDS)
    try:
        os.environ.clear()
        os.environ.update(environment)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        answer.send((None, function(*arguments)))
    except BaseException:  # noqa: BLE001 - the test judges it
        answer.send((traceback.format_exc(), None))
    signal.pause()


class Lookup(NamedTuple):
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


class Lookups(NamedTuple):
    """
    The lookups of one process, in order.

    :param token_requests: how often the process requested a token from AWS
    :param lines: the level and the text of each log line of the package
    """

    lookups: list[Lookup]
    token_requests: int
    lines: list[tuple[int, str]]

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
    return Lookups(lookups, request_token.call_count, lines)


def _look_up_once(backend: EcrSecretsBackend, registry: AwsStandIn) -> Lookup:
    token = error = None
    started_at = time.monotonic()
    try:
        token = backend.get_connection("docker_default").password
    except ConnectionUnavailableError as denied:
        error = str(denied)
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

    def look_up(self, times: int = 1) -> Lookups:
        """Look up in a new process, and check the lookups."""
        return check(self.run(times))


def check(lookups: Lookups) -> Lookups:
    """Check that each lookup was served a valid token soon."""
    assert all(lookup.valid for lookup in lookups.lookups), lookups
    assert lookups.seconds < BOUND_SECONDS
    return lookups


def get_tokens(identity: AwsIdentity, cache_dir: Path, password: str, seconds: float = 0) -> set[str]:
    """
    Get tokens without a pause, each as a new process without Airflow and AWS, and return their passwords.

    :param password: of the new tokens, if one is requested
    """
    served: set[str] = set()
    ends_at = time.monotonic() + seconds
    while not served or time.monotonic() < ends_at:
        began = time.monotonic()
        token_cache = TokenCache(HostStore(str(cache_dir)), refresh_before=60, memory=Memory())
        token = token_cache.get(identity, lambda: build_token(received_at=time.time(), password=password)).token
        served.add(token.password)
        assert time.monotonic() - began < BOUND_SECONDS
    return served


def keep_token(identity: AwsIdentity, cache_dir: Path, *, age: float) -> EcrToken:
    """Request a token, put it into the host's cache as if it had been received some seconds ago, and return it."""
    token = aws.request_token(identity)
    token = replace(token, received_at=token.received_at - age, expires_at=token.expires_at - age)
    entry = Entry(identity.key, token=token, recorded_at=token.received_at, uptime=uptime() - age)
    HostStore(str(cache_dir)).write(f"{identity.key}.json", entry.to_json(), entry.expires_at)
    return token


def unshare_mounts() -> None:
    """Make this process's mounts its own, as in a new container."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def delete_for_ever(folder: Path) -> None:
    while True:
        shutil.rmtree(folder, ignore_errors=True)

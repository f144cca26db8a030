"""Processes that look up, and what each of them met."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from ecr_secrets_backend import EcrSecretsBackend, aws
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.stand_ins.aws import AwsStandIn


PAUSE_SECONDS = 0.02  # between two lookups of a process


@dataclass(frozen=True)
class Lookup:
    """
    One lookup of `docker_default`.

    :param token: what was served; None: nothing
    :param valid: whether the registry accepted it when it was served
    :param error: what was raised instead
    :param seconds: how long it took
    """

    token: str | None
    valid: bool
    error: str | None
    seconds: float


@dataclass(frozen=True)
class Experience:
    """
    What a process met.

    :param lookups: in order
    :param mints: how often it asked AWS
    :param lines: the level and the text of what the package logged
    """

    lookups: tuple[Lookup, ...]
    token_requests: int
    lines: tuple[tuple[int, str], ...]


def look_up(
    kwargs: dict[str, Any],
    registry: AwsStandIn,
    times: int = 1,
    until_renewed: float = 0,
    replaced: Mapping[str, object] | None = None,
) -> Experience:
    """
    Look `docker_default` up, as a task does; only what Airflow passes on to the task may be raised.

    :param kwargs: the backend's
    :param registry: judges what is served
    :param times: how often, at least
    :param until_renewed: seconds for which it goes on, unless it is served another token than at first
    :param replaced: names of what this process, which ends with this function, finds replaced
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
        lookups.append(_lookup(backend, registry))
        time.sleep(PAUSE_SECONDS)
    return Experience(tuple(lookups), request_token.call_count, tuple(lines))


def _lookup(backend: EcrSecretsBackend, registry: AwsStandIn) -> Lookup:
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

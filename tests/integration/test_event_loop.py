"""An event loop that looks up, through threads as Airflow's triggerer does, or directly."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from asgiref.sync import sync_to_async

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task
from tests.process_helpers import REGISTRY
from tests.stand_ins.aws import LONGEST_HANG_SECONDS, Delay, Hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from airflow.sdk import Connection

    from tests.stand_ins.aws import AwsStandIn

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-south-1")  # one identity for each
REQUEST_SECONDS = 1.0
LONGEST_GAP_SECONDS = REQUEST_SECONDS / 2
LOOKUPS = 200
LOOKUP_BOUND_SECONDS = 30.0
LEAST_HANG_SECONDS = 4.0  # boto3 waits at least so long for an answer


@pytest.fixture
def backend(aws: AwsStandIn, tmp_path: Path) -> EcrSecretsBackend:
    aws.script(Delay(REQUEST_SECONDS))
    backend = EcrSecretsBackend(connections={"docker_default": REGISTRY}, cache_dir=str(tmp_path))
    put_into_task(backend)
    return backend


def in_threads(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return asyncio.to_thread(backend.get_connection, "docker_default")


def in_one_thread(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return sync_to_async(backend.get_connection)("docker_default")  # triggers use this if there is no coroutine


def in_a_coroutine(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return backend.aget_connection("docker_default")  # triggers use this from Airflow 3.1 on


@pytest.mark.parametrize("look_up", [in_threads, in_one_thread, in_a_coroutine])
def test_a_loop_runs_other_tasks_while_its_lookups_wait(
    aws: AwsStandIn, backend: EcrSecretsBackend, look_up: Callable[[EcrSecretsBackend], Awaitable[Connection]]
) -> None:
    """Many lookups at once wait for one AWS call, and do not block the loop."""
    ran_at: list[float] = []

    async def run_other_task() -> None:
        while True:
            await asyncio.sleep(0.01)
            ran_at.append(time.time())

    async def main() -> list[Connection]:
        other_task = asyncio.create_task(run_other_task())
        connections = await asyncio.gather(*(look_up(backend) for _ in range(LOOKUPS)))
        other_task.cancel()
        return connections

    tokens = [connection.password for connection in asyncio.run(main())]

    assert (len(tokens), len(set(tokens))) == (LOOKUPS, 1)
    (call,) = aws.calls()
    answered_at = call.time + REQUEST_SECONDS
    meanwhile = [call.time, *(at for at in ran_at if call.time < at < answered_at), answered_at]
    assert max(after - before for before, after in pairwise(meanwhile)) < LONGEST_GAP_SECONDS


def wait_for_calls(aws: AwsStandIn, number: int) -> None:
    while len(aws.calls()) < number:
        time.sleep(0.02)


def test_lookups_wait_for_a_hanging_aws_at_the_same_time_and_do_not_block_other_code(
    aws: AwsStandIn, tmp_path: Path
) -> None:
    """With the timeouts of users, five lookups end within the bound of one, and other code has its thread meanwhile."""
    aws.script(Hang(LONGEST_HANG_SECONDS))
    hosts = {region: f"123456789012.dkr.ecr.{region}.amazonaws.com" for region in REGIONS}
    backend = EcrSecretsBackend(connections=hosts, cache_dir=str(tmp_path))

    async def look_up(conn_id: str) -> None:
        with pytest.raises(ConnectionUnavailableError, match="ReadTimeoutError"):
            await backend.aget_connection(conn_id)

    async def main() -> float:
        lookups = asyncio.gather(*(look_up(conn_id) for conn_id in hosts))
        await asyncio.to_thread(wait_for_calls, aws, len(REGIONS))
        await sync_to_async(time.sleep)(0)
        other_code_ran_at = time.monotonic()
        await lookups
        return time.monotonic() - other_code_ran_at

    started_at = time.monotonic()

    assert asyncio.run(main()) > LEAST_HANG_SECONDS / 2
    assert LEAST_HANG_SECONDS < time.monotonic() - started_at < LOOKUP_BOUND_SECONDS


def test_a_loop_may_look_up_directly(aws: AwsStandIn, backend: EcrSecretsBackend) -> None:
    """The loop is blocked until there is a token, also if one of its threads is requesting that, and no longer."""

    async def main() -> list[str | None]:
        requesting = asyncio.create_task(asyncio.to_thread(backend.get_connection, "docker_default"))
        await asyncio.to_thread(wait_for_calls, aws, 1)
        tokens = [backend.get_connection("docker_default").password for _ in range(LOOKUPS)]
        return [*tokens, (await requesting).password]

    tokens = asyncio.run(main())

    assert (len(tokens), len(set(tokens))) == (1 + LOOKUPS, 1)
    assert len(aws.calls()) == 1

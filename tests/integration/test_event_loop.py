"""An event loop that looks up, through threads as Airflow's triggerer does, or by itself."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from airflow.sdk import Connection
from asgiref.sync import sync_to_async

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.stand_ins.aws import LONGEST_HANG_SECONDS, Delay, Hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "ap-south-1")  # each is an identity of its own
REQUEST_SECONDS = 1.0
LONGEST_GAP_SECONDS = REQUEST_SECONDS / 2
LOOKUPS = 200
LOOKUP_BOUND_SECONDS = 30.0
LEAST_HANG_SECONDS = 4.0  # boto3 waits at least so long for an answer


@pytest.fixture
def backend(aws: AwsStandIn, tmp_path: Path) -> EcrSecretsBackend:
    aws.script(Delay(REQUEST_SECONDS))
    hosts = {"docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com"}
    backend = EcrSecretsBackend(connections=hosts, cache_dir=str(tmp_path))
    backend._set_connection_class(Connection)
    return backend


@pytest.fixture
def look_up(backend: EcrSecretsBackend) -> Callable[[], str]:
    return lambda: str(backend.get_connection("docker_default").password)


def to_thread(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return asyncio.to_thread(backend.get_connection, "docker_default")


def to_the_one_thread(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return sync_to_async(backend.get_connection)("docker_default")  # what triggers use where there is no coroutine


def as_a_coroutine(backend: EcrSecretsBackend) -> Awaitable[Connection]:
    return backend.aget_connection("docker_default")  # what triggers use from Airflow 3.1 on


@pytest.mark.parametrize("hand_over", [to_thread, to_the_one_thread, as_a_coroutine])
def test_a_loop_that_looks_up_through_threads_goes_on_turning(
    aws: AwsStandIn, backend: EcrSecretsBackend, hand_over: Callable[[EcrSecretsBackend], Awaitable[Connection]]
) -> None:
    """Many at once wait for one call, and meanwhile the loop does other things."""
    turns: list[float] = []

    async def turn() -> None:
        while True:
            await asyncio.sleep(0.01)
            turns.append(time.time())

    async def main() -> list[Connection]:
        turning = asyncio.create_task(turn())
        connections = await asyncio.gather(*(hand_over(backend) for _ in range(LOOKUPS)))
        turning.cancel()
        return connections

    tokens = [connection.password for connection in asyncio.run(main())]

    assert (len(tokens), len(set(tokens))) == (LOOKUPS, 1)
    (call,) = aws.calls()
    answered_at = call.time + REQUEST_SECONDS
    meanwhile = [call.time, *(at for at in turns if call.time < at < answered_at), answered_at]
    assert max(after - before for before, after in pairwise(meanwhile)) < LONGEST_GAP_SECONDS


def test_lookups_of_a_hanging_aws_wait_side_by_side_and_block_nobody(aws: AwsStandIn, tmp_path: Path) -> None:
    """Five lookups end within the bound of one, and other code of the loop has its thread meanwhile."""
    aws.script(Hang(LONGEST_HANG_SECONDS))
    hosts = {region: f"123456789012.dkr.ecr.{region}.amazonaws.com" for region in REGIONS}
    backend = EcrSecretsBackend(connections=hosts, cache_dir=str(tmp_path))

    async def look_up(conn_id: str) -> None:
        with pytest.raises(ConnectionUnavailableError):
            await backend.aget_connection(conn_id)

    def wait_for_the_calls() -> None:
        while {call.region for call in aws.calls()} != set(REGIONS):
            time.sleep(0.1)

    async def main() -> float:
        lookups = asyncio.gather(*(look_up(conn_id) for conn_id in hosts))
        await asyncio.to_thread(wait_for_the_calls)
        await sync_to_async(time.sleep)(0)
        other_code_ran_at = time.monotonic()
        await lookups
        return time.monotonic() - other_code_ran_at

    started_at = time.monotonic()

    assert asyncio.run(main()) > LEAST_HANG_SECONDS / 2
    assert LEAST_HANG_SECONDS < time.monotonic() - started_at < LOOKUP_BOUND_SECONDS


def test_a_loop_may_look_up_by_itself(aws: AwsStandIn, look_up: Callable[[], str]) -> None:
    """It stands still until there is a token, also when one of its threads is minting that; and no longer."""

    async def look_up_on_the_loop() -> str:
        return look_up()

    def wait_for_the_call() -> None:
        while not aws.calls():
            time.sleep(0.01)

    async def main() -> list[str]:
        requesting = asyncio.create_task(asyncio.to_thread(look_up))
        await asyncio.to_thread(wait_for_the_call)
        return await asyncio.gather(requesting, *(look_up_on_the_loop() for _ in range(LOOKUPS)))

    tokens = asyncio.run(main())

    assert (len(tokens), len(set(tokens))) == (1 + LOOKUPS, 1)
    assert len(aws.calls()) == 1

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
from tests.stand_ins.aws import Delay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

MINT_SECONDS = 1.0
LONGEST_GAP_SECONDS = MINT_SECONDS / 2
LOOKUPS = 200


@pytest.fixture
def backend(aws: AwsStandIn, tmp_path: Path) -> EcrSecretsBackend:
    aws.script(Delay(MINT_SECONDS))
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
    answered_at = call.time + MINT_SECONDS
    meanwhile = [call.time, *(at for at in turns if call.time < at < answered_at), answered_at]
    assert max(after - before for before, after in pairwise(meanwhile)) < LONGEST_GAP_SECONDS


def test_a_loop_may_look_up_by_itself(aws: AwsStandIn, look_up: Callable[[], str]) -> None:
    """It stands still until there is a token, also when one of its threads is minting that; and no longer."""

    async def look_up_on_the_loop() -> str:
        return look_up()

    def wait_for_the_call() -> None:
        while not aws.calls():
            time.sleep(0.01)

    async def main() -> list[str]:
        minting = asyncio.create_task(asyncio.to_thread(look_up))
        await asyncio.to_thread(wait_for_the_call)
        return await asyncio.gather(minting, *(look_up_on_the_loop() for _ in range(LOOKUPS)))

    tokens = asyncio.run(main())

    assert (len(tokens), len(set(tokens))) == (1 + LOOKUPS, 1)
    assert len(aws.calls()) == 1

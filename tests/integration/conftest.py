from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def aws(aws_server: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> AwsStandIn:
    """The stand-in, as new, with an environment that leads there; each test is an identity of its own."""
    aws_server.reset()
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + secrets.token_hex(8).upper())
    return aws_server

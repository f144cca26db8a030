from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.errors import CredentialSource, TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Close, Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn, Fault

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"


def test_the_source_and_the_arn_are_told(aws: AwsStandIn) -> None:
    """Where boto3 found the credentials, and whose they are."""
    del aws
    found = identify(IDENTITY)

    assert found.message == "environment, arn:aws:sts::123456789012:user/moto"
    assert found.sources == (CredentialSource("environment", "has credentials", None),)


def test_a_role_is_assumed_first(aws: AwsStandIn) -> None:
    """The ARN is the role's."""
    found = identify(replace(IDENTITY, role_arn=ROLE))

    assert "arn:aws:sts::210987654321:assumed-role/pull/" in found.message
    assert [call.operation for call in aws.calls()] == ["AssumeRole", "GetCallerIdentity"]


@pytest.mark.parametrize("fault", [Error("AccessDenied", status=403), Close()])
def test_an_arn_that_sts_does_not_tell_is_none(aws: AwsStandIn, fault: Fault) -> None:
    """A pull does not need it."""
    aws.script(fault)

    assert "whose ARN STS does not return" in identify(IDENTITY).message


@pytest.mark.parametrize(
    ("identity", "code", "fix"),
    [
        (replace(IDENTITY, profile_name="nobody"), "ProfileNotFound", "profile_name"),
        (replace(IDENTITY, role_arn=ROLE), "AccessDenied", f"Allow sts:AssumeRole on {ROLE}"),
    ],
)
def test_what_keeps_credentials_away_is_told(aws: AwsStandIn, identity: AwsIdentity, code: str, fix: str) -> None:
    """As a mint would tell it."""
    aws.script(Error("AccessDenied", operation="AssumeRole", status=403))
    with pytest.raises(TokenError) as caught:
        identify(identity)

    assert caught.value.failure.code == code
    assert fix in caught.value.failure.fix


def test_none_at_all_are_told(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found by boto3's chain."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(TokenError, match="NoCredentialsError"):
        identify(IDENTITY)
    assert aws.calls() == []

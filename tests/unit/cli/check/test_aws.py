from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.aws import call_aws
from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.errors import CredentialSource
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Close, Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn, Fault

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"


def test_the_identity_is_shown_by_its_source_and_the_arn_of_its_role(aws: AwsStandIn) -> None:
    found = call_aws(identify, IDENTITY)
    by_role = call_aws(identify, replace(IDENTITY, role_arn=ROLE))

    assert found.message == "environment, arn:aws:sts::123456789012:user/moto"
    assert found.sources == (CredentialSource("environment", "has credentials", None),)
    assert "arn:aws:sts::210987654321:assumed-role/pull/" in by_role.message
    assert [call.operation for call in aws.calls()] == ["GetCallerIdentity", "AssumeRole", "GetCallerIdentity"]


@pytest.mark.parametrize("fault", [Error("AccessDenied", status=403), Close()], ids=["denied", "closed"])
def test_an_identity_passes_without_an_arn(aws: AwsStandIn, fault: Fault) -> None:
    aws.script(fault)

    assert "ARN not returned by STS" in call_aws(identify, IDENTITY).message

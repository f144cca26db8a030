"""What no other test would notice if the AWS stand-in lacked it: refused logins, and known secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import boto3
import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Verdict
from tests.stand_ins.faults import basic

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

IDENTITY = AwsIdentity("ecr", "us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"


@pytest.mark.parametrize(
    "wrong", [{"username": "aws"}, {"password": "no token"}, {"region": "us-east-2"}, {"service": "ecr-public"}]
)
def test_a_login_that_is_wrong_in_one_point_is_unknown(aws: AwsStandIn, wrong: dict[str, str]) -> None:
    login = {"username": "AWS", "password": request_token(IDENTITY).password, "region": "us-east-1", "service": "ecr"}

    assert aws.authorise(**(login | wrong)) == Verdict(valid=False, reason="unknown")


def test_each_secret_that_was_sent_is_known(aws: AwsStandIn) -> None:
    """Also after a reset."""
    token = request_token(IDENTITY)
    keys = boto3.client("sts", region_name="us-east-1").assume_role(RoleArn=ROLE, RoleSessionName="me")["Credentials"]
    aws.reset()

    sent = {token.password, basic(f"AWS:{token.password}"), keys["SecretAccessKey"], keys["SessionToken"]}
    assert aws.secrets() >= {*sent, os.environ["AWS_SECRET_ACCESS_KEY"]}

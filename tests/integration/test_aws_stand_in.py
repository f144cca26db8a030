"""The behaviour of the AWS stand-in that the other tests and the demo rely on, with real boto3 clients."""

from __future__ import annotations

import base64
import os
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.stand_ins.aws import Delay, Error, Reply, Reset, Verdict

if TYPE_CHECKING:
    from types_boto3_ecr import ECRClient
    from types_boto3_ecr.type_defs import GetAuthorizationTokenResponseTypeDef
    from types_boto3_sts import STSClient

    from tests.stand_ins.aws import AwsStandIn

ACCOUNT = "123456789012"  # moto's own
ROLE_ARN = "arn:aws:iam::210987654321:role/puller"


@pytest.fixture
def aws(loopback_aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> AwsStandIn:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
    return loopback_aws


def build_ecr(region_name: str | None = None, attempts: int = 1) -> ECRClient:
    config = Config(retries={"total_max_attempts": attempts}, user_agent_extra="me/1.0")
    return boto3.client("ecr", region_name=region_name, config=config)


def build_sts() -> STSClient:
    return boto3.client("sts", config=Config(retries={"total_max_attempts": 1}))


def password_in(token: GetAuthorizationTokenResponseTypeDef) -> str:
    login = base64.b64decode(token["authorizationData"][0]["authorizationToken"]).decode()
    username, _, password = login.partition(":")
    assert username == "AWS"
    return password


def request_token(region_name: str | None = None) -> str:
    return password_in(build_ecr(region_name).get_authorization_token())


@pytest.mark.parametrize(
    ("region", "suffix", "lifetime", "offset"),
    [("eu-west-3", "amazonaws.com", None, 0), ("cn-north-1", "amazonaws.com.cn", -60, 3600)],
)
def test_a_token_has_the_form_of_ecr_and_opens_the_registry_of_its_region_until_it_expires(
    aws: AwsStandIn, region: str, suffix: str, lifetime: float | None, offset: float
) -> None:
    """By the clock of the host. expiresAt is by AWS's clock. The lifetime is twelve hours at first."""
    aws.set(token_lifetime=lifetime, clock_offset=offset)
    answer = build_ecr(region).get_authorization_token()
    date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    expires_at = answer["authorizationData"][0]["expiresAt"]

    assert answer["authorizationData"][0]["proxyEndpoint"] == f"https://{ACCOUNT}.dkr.ecr.{region}.{suffix}"
    assert 2300 <= len(password_in(answer)) <= 2900
    assert date.timestamp() == pytest.approx(time.time() + offset, abs=2)
    assert (expires_at - date).total_seconds() == pytest.approx(lifetime or 12 * 3600, abs=2)
    verdict = Verdict(valid=True) if lifetime is None else Verdict(valid=False, reason="expired")
    assert aws.authorise("AWS", password_in(answer), region=region, service="ecr") == verdict


@pytest.mark.parametrize(
    "wrong", [{"username": "aws"}, {"password": "no token"}, {"region": "us-east-2"}, {"service": "ecr-public"}]
)
def test_a_login_that_is_wrong_in_one_point_is_unknown(aws: AwsStandIn, wrong: dict[str, str]) -> None:
    login = {"username": "AWS", "password": request_token(), "region": "us-east-1", "service": "ecr"}

    assert aws.authorise(**(login | wrong)) == Verdict(valid=False, reason="unknown")


def test_an_error_has_the_form_of_its_service(aws: AwsStandIn) -> None:
    """XML from STS, JSON from all others; a reply reaches the client as it is."""
    aws.script(Error("First", "Not <you>, & not now.", 403, times=2), Reply("Bad gateway", 502, "text/html"))
    for call in (request_token, build_sts().get_caller_identity):
        with pytest.raises(ClientError) as caught:
            call()
        response = caught.value.response
        assert (response["Error"]["Code"], response["Error"]["Message"]) == ("First", "Not <you>, & not now.")
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ClientError) as caught:
        request_token()
    metadata = caught.value.response["ResponseMetadata"]
    assert (metadata["HTTPStatusCode"], metadata["HTTPHeaders"]["content-type"]) == (502, "text/html")


def test_rules_apply_in_their_order_and_as_often_as_they_say(aws: AwsStandIn) -> None:
    """
    A delay leaves the decision to the next rule; a rule without a number applies until the script ends.

    A rule may be for one operation or region.
    """
    aws.script(Error("First", times=2), Delay(0.1, times=2), Delay(0.1, times=1), Error("Last", region="us-east-1"))
    for code, delay in (("First", 0.0), ("First", 0.0), ("Last", 0.2), ("Last", 0.1)):
        begin = time.monotonic()
        with pytest.raises(ClientError, match=code):
            request_token()
        assert time.monotonic() - begin >= delay
    assert request_token("eu-west-3")
    aws.settle()
    aws.script(Error("ServerException", operation="AssumeRole"))

    assert request_token()


def test_each_call_and_retry_is_recorded_with_its_client_and_parameters(aws: AwsStandIn) -> None:
    """Calls can be selected by operation, service and region."""
    begin = time.time()
    aws.script(Reset(times=1))
    build_ecr(attempts=2).get_authorization_token(registryIds=[ACCOUNT])
    request_token("eu-west-3")
    build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="me", ExternalId="a&b", DurationSeconds=900)
    (assume,) = aws.calls(operation="AssumeRole")
    first, second, other = aws.calls(service="ecr")

    assert (second.operation, second.service, second.region) == ("GetAuthorizationToken", "ecr", "us-east-1")
    assert (second.access_key_id, second.account) == (os.environ["AWS_ACCESS_KEY_ID"], ACCOUNT)
    assert second.user_agent.endswith("me/1.0")
    assert begin <= first.time <= second.time <= time.time()
    assert second.parameters == {"registryIds": [ACCOUNT]}
    assert aws.calls(region="eu-west-3") == [other]
    expected = {"RoleArn": ROLE_ARN, "RoleSessionName": "me", "ExternalId": "a&b", "DurationSeconds": "900"}
    assert (assume.service, assume.parameters) == ("sts", expected)


def test_a_reset_forgets_calls_script_and_settings_but_no_secret(aws: AwsStandIn) -> None:
    token = build_ecr().get_authorization_token()
    keys = build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="me")["Credentials"]
    aws.script(Error("ServerException"))
    aws.set(token_lifetime=-1, clock_offset=-1)
    aws.reset()

    assert aws.calls() == []
    assert aws.authorise("AWS", request_token()).valid
    assert aws.authorise("AWS", password_in(token)).valid
    sent = {password_in(token), token["authorizationData"][0]["authorizationToken"]}
    assert aws.secrets() >= {*sent, keys["SecretAccessKey"], keys["SessionToken"], os.environ["AWS_SECRET_ACCESS_KEY"]}

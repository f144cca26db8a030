"""The behaviour of the AWS stand-in that the other tests and the demo rely on, with real boto3 clients."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from tests.stand_ins.aws import PROJECT, AwsStandIn, Close, Delay, Error, Hang, Reply, Reset, Verdict

if TYPE_CHECKING:
    from types_boto3_ecr import ECRClient
    from types_boto3_ecr.type_defs import GetAuthorizationTokenResponseTypeDef
    from types_boto3_sts import STSClient

OWNER = """
import signal
from tests.stand_ins.aws import AwsStandIn
with AwsStandIn.running() as aws:
    print(aws.url, flush=True)
    signal.pause()
"""
ACCOUNT = "123456789012"  # moto's own
ROLE_ARN = "arn:aws:iam::210987654321:role/puller"


@pytest.fixture
def aws(loopback_aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> AwsStandIn:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
    return loopback_aws


def build_ecr(region_name: str | None = None, attempts: int = 1, **options: object) -> ECRClient:
    config = Config(retries={"total_max_attempts": attempts}, **options)  # type: ignore[arg-type]
    return boto3.client("ecr", region_name=region_name, config=config)


def build_sts() -> STSClient:
    return boto3.client("sts", config=Config(retries={"total_max_attempts": 1}))


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port or 0), timeout=5)


def password_in(token: GetAuthorizationTokenResponseTypeDef) -> str:
    login = base64.b64decode(token["authorizationData"][0]["authorizationToken"]).decode()
    username, _, password = login.partition(":")
    assert username == "AWS"
    return password


def request_token(region_name: str | None = None) -> str:
    return password_in(build_ecr(region_name).get_authorization_token())


@pytest.mark.parametrize(("region", "suffix"), [("eu-west-3", "amazonaws.com"), ("cn-north-1", "amazonaws.com.cn")])
def test_a_token_is_as_long_as_those_of_ecr_and_opens_the_registry_of_its_region(
    aws: AwsStandIn, region: str, suffix: str
) -> None:
    answer = build_ecr(region).get_authorization_token()

    assert answer["authorizationData"][0]["proxyEndpoint"] == f"https://{ACCOUNT}.dkr.ecr.{region}.{suffix}"
    assert 2300 <= len(password_in(answer)) <= 2900
    assert aws.authorise("AWS", password_in(answer), region=region, service="ecr") == Verdict(valid=True)


@pytest.mark.parametrize(("lifetime", "offset"), [(None, 0), (-60, 3600)])
def test_a_token_expires_by_the_clock_of_the_host_and_says_when_by_that_of_aws(
    aws: AwsStandIn, lifetime: float | None, offset: float
) -> None:
    """The lifetime is twelve hours at first."""
    aws.set(token_lifetime=lifetime, clock_offset=offset)
    answer = build_ecr().get_authorization_token()
    date = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    expires_at = answer["authorizationData"][0]["expiresAt"]

    assert date.timestamp() == pytest.approx(time.time() + offset, abs=2)
    assert (expires_at - date).total_seconds() == pytest.approx(lifetime or 12 * 3600, abs=2)
    assert aws.authorise("AWS", password_in(answer)).reason == (None if lifetime is None else "expired")


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


def test_a_hang_ends_without_an_answer_and_only_a_reset_is_one_of_tcp(aws: AwsStandIn) -> None:
    aws.script(Hang(5, times=1), Hang(0.1, times=1), Close(times=1), Reset(times=1))
    with pytest.raises(ReadTimeoutError):
        build_ecr(read_timeout=0.3).get_authorization_token()
    with pytest.raises(ConnectionClosedError):
        request_token()
    with connect(aws.url) as closed:
        closed.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert closed.recv(1) == b""
    with connect(aws.url) as reset, pytest.raises(ConnectionResetError):  # noqa: PT012
        reset.sendall(b"GET / HTTP/1.0\r\n\r\n")
        reset.recv(1)


def test_rules_apply_in_their_order_and_as_often_as_they_say(aws: AwsStandIn) -> None:
    """A delay leaves the decision to the next rule; a rule without a number applies until the script ends."""
    aws.script(Error("First", times=2), Delay(0.1, times=2), Delay(0.1, times=1), Error("Last"))
    for code, delay in (("First", 0.0), ("First", 0.0), ("Last", 0.2), ("Last", 0.1)):
        begin = time.monotonic()
        with pytest.raises(ClientError, match=code):
            request_token()
        assert time.monotonic() - begin >= delay
    aws.settle()

    assert request_token()


def test_a_rule_may_be_for_one_operation_or_region(aws: AwsStandIn) -> None:
    aws.script(Error("AccessDenied", operation="AssumeRole"), Error("ServerException", region="us-east-1"))

    assert request_token("eu-west-3")
    with pytest.raises(ClientError, match="AccessDenied"):
        build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="test")
    with pytest.raises(ClientError, match="ServerException"):
        request_token("us-east-1")


def test_a_call_is_recorded_with_its_client_and_parameters(aws: AwsStandIn) -> None:
    begin = time.time()
    build_ecr(user_agent_extra="me/1.0").get_authorization_token(registryIds=[ACCOUNT])
    build_sts().assume_role(RoleArn=ROLE_ARN, RoleSessionName="me", ExternalId="a&b", DurationSeconds=900)
    token, assume = aws.calls()

    assert (token.operation, token.service, token.region) == ("GetAuthorizationToken", "ecr", "us-east-1")
    assert (token.access_key_id, token.account) == (os.environ["AWS_ACCESS_KEY_ID"], ACCOUNT)
    assert token.user_agent.endswith("me/1.0")
    assert begin <= token.time <= time.time()
    assert token.parameters == {"registryIds": [ACCOUNT]}
    expected = {"RoleArn": ROLE_ARN, "RoleSessionName": "me", "ExternalId": "a&b", "DurationSeconds": "900"}
    assert assume.parameters == expected


def test_each_call_and_retry_is_recorded_and_can_be_selected(aws: AwsStandIn) -> None:
    """By operation, service and region, in order."""
    aws.script(Reset(times=1))
    build_ecr(attempts=2).get_authorization_token()
    request_token("eu-west-3")
    build_sts().get_caller_identity()

    assert [call.region for call in aws.calls(service="ecr")] == ["us-east-1", "us-east-1", "eu-west-3"]
    assert len(aws.calls(region="eu-west-3")) == 1
    assert [call.service for call in aws.calls(operation="GetCallerIdentity")] == ["sts"]


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


def test_the_server_ends_if_its_owner_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=PROJECT, text=True, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        with connect(owner.stdout.readline().strip()) as connection:
            owner.send_signal(signal.SIGKILL)
            with suppress(ConnectionResetError):  # that, or an orderly end, but no timeout
                assert connection.recv(1) == b""

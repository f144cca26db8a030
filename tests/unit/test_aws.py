"""Real boto3 against the stand-in for AWS: the requests, the token that comes of an answer, and the failures."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.connection import Connection
from werkzeug.wrappers import Request, Response

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend.aws import call_aws, request_token
from ecr_secrets_backend.errors import TokenError, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Error
from tests.stand_ins.faults import FAULTS, private_answer
from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from ecr_secrets_backend.aws import AwsSession
    from ecr_secrets_backend.registry import Service
    from tests.stand_ins.aws import AwsStandIn

US_HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"


def failure_of(**fields: Any) -> TokenFailure:
    with pytest.raises(TokenError) as caught:
        request_token(replace(IDENTITY, **fields))
    return caught.value.failure


@pytest.mark.parametrize(("service", "registry"), [("ecr", US_HOST), ("ecr-public", None)])
def test_a_token_has_the_values_of_the_answer(aws: AwsStandIn, service: Service, registry: str | None) -> None:
    """The answer of ECR Public has another shape and names no registry. The request names this package."""
    token = request_token(replace(IDENTITY, service=service))

    assert aws.authorise(token.username, token.password, service=service).valid
    assert (token.username, token.registry) == ("AWS", registry)
    assert token.lifetime == pytest.approx(43_200, abs=2)
    (call,) = aws.calls()
    assert f" {aws_module.USER_AGENT}" in call.user_agent


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254/",
        None,
        f"https://{US_HOST}.evil.example",
        "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "https://public.ecr.aws",
        "https://000000000000.dkr.ecr.us-east-1.localhost.localstack.cloud:4566",
    ],
)
def test_only_a_registry_of_that_region_is_taken_from_an_answer(aws: AwsStandIn, endpoint: str | None) -> None:
    """The token of an emulator is sent to the registry that is configured, and to no other."""
    aws.script(private_answer(proxyEndpoint=endpoint))

    assert request_token(IDENTITY).registry is None


@pytest.mark.usefixtures("aws")
def test_a_call_with_temporary_keys_sends_their_session_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session")

    def sign(session: AwsSession) -> str:
        with session.client("ecr") as client:
            return str(client.generate_presigned_url("get_authorization_token"))

    assert "X-Amz-Security-Token=a-session" in call_aws(sign, IDENTITY)


def test_a_lifetime_is_at_most_twelve_hours(aws: AwsStandIn) -> None:
    """The clocks of AWS and of this host may differ by five minutes."""
    aws.set(token_lifetime=30 * 24 * 3600)

    assert request_token(IDENTITY).lifetime == 12 * 3600 + 300


def test_the_default_region_is_that_of_boto3(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    token = request_token(replace(IDENTITY, region=None))

    assert [call.region for call in aws.calls()] == ["eu-west-3"]
    assert token.registry == "123456789012.dkr.ecr.eu-west-3.amazonaws.com"


def test_a_role_is_assumed_with_its_arguments_and_a_session_that_names_this_package(aws: AwsStandIn) -> None:
    """CloudTrail shows the name. The token is that of the role's account."""
    arguments = json.dumps({"ExternalId": "an-id", "DurationSeconds": 900})
    token = request_token(replace(IDENTITY, region="eu-west-1", role_arn=ROLE, assume_role_kwargs=arguments))

    (call,) = aws.calls(operation="AssumeRole")
    assert call.parameters == {
        "RoleArn": ROLE,
        "RoleSessionName": "airflow-ecr-secrets-backend",
        "ExternalId": "an-id",
        "DurationSeconds": "900",
    }
    assert call.region == "eu-west-1"
    assert token.registry == "210987654321.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("fields", "variable", "host"),
    [
        ({}, "AWS_UNRELATED", "ecr.us-east-1.amazonaws.com"),
        ({}, "AWS_USE_FIPS_ENDPOINT", "ecr-fips.us-east-1.amazonaws.com"),
        ({"use_fips": True}, "AWS_UNRELATED", "ecr-fips.us-east-1.amazonaws.com"),
        ({"use_fips": True, "use_dual_stack": True}, "AWS_UNRELATED", "ecr-fips.us-east-1.api.aws"),
        ({"service": "ecr-public", "use_dual_stack": True}, "AWS_UNRELATED", "ecr-public.us-east-1.api.aws"),
    ],
)
@pytest.mark.usefixtures("aws")
def test_the_registry_and_the_environment_choose_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], variable: str, host: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(variable, "true")
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.environ["RAW_URI"])
        return Response(status=502)

    with serving(http_server(answer)) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        failure_of(**fields)

    # Older releases of botocore use the FIPS endpoint without "api.".
    assert {target.removeprefix("api.") for target in asked} == {f"{host}:443"}


def test_a_configured_endpoint_wins_over_fips_and_dual_stack(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a variable or ``endpoint_url`` sets it."""
    request_token(replace(IDENTITY, use_fips=True, use_dual_stack=True))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    request_token(replace(IDENTITY, use_fips=True, use_dual_stack=True, endpoint_url=aws.url))

    assert len(aws.calls()) == 2


def test_a_throttled_call_is_retried(aws: AwsStandIn) -> None:
    aws.script(Error("ThrottlingException", times=1))

    assert request_token(IDENTITY).is_servable(time.time())
    assert len(aws.calls()) == 2


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_has_the_code_of_aws_the_region_the_identity_and_a_fix(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(aws_module, "ATTEMPTS", 1)
    fault, code, fix = FAULTS[name]
    aws.script(fault)

    failure = failure_of()

    assert (failure.code, failure.region, failure.identity) == (code, "us-east-1", "boto3's default credentials")
    assert fix in failure.fix


@pytest.mark.parametrize(
    ("fields", "code", "reason", "fix"),
    [
        ({"profile_name": "no-such-profile"}, "ProfileNotFound", "no-such-profile", "Set profile_name"),
        ({"region": None}, "NoRegionError", "region", "Set region_name"),
        ({"role_arn": ROLE, "assume_role_kwargs": '{"Tags": 1}'}, "ParamValidationError", "Tags", "assume_role_kwargs"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(
    aws: AwsStandIn, fields: dict[str, Any], code: str, reason: str, fix: str
) -> None:
    failure = failure_of(**fields)

    assert (failure.code, failure.region) == (code, fields.get("region", "us-east-1") or "none")
    assert reason in failure.reason
    assert fix in failure.fix
    assert aws.calls() == []


def test_a_missing_amazon_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only aws_conn_id needs it."""
    monkeypatch.setitem(sys.modules, "airflow.providers.amazon.aws.hooks.base_aws", None)
    with pytest.raises(TokenError, match=r"aws_conn_id needs Airflow's amazon provider.* pip install") as caught:
        request_token(replace(IDENTITY, aws_conn_id="aws_ecr"), Connection())

    assert caught.value.failure.code == "ModuleNotFoundError"


def test_a_refused_role_is_reported_with_the_answer_of_sts(aws: AwsStandIn) -> None:
    aws.script(Error("AccessDenied", "Not <you>, & not now.", 403))
    failure = failure_of(role_arn=ROLE)

    assert (failure.code, failure.reason) == ("AccessDenied", "Not <you>, & not now")
    assert f"Allow sts:AssumeRole on {ROLE}" in failure.fix

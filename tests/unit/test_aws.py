"""Real boto3 against the stand-in: what a mint asks, what it makes of the answer, and how it fails."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.errors import TokenError, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.aws import Delay, Error
from tests.stand_ins.credentials import Proxy
from tests.stand_ins.faults import FAULTS, private_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecr_secrets_backend.registry import Service
    from tests.stand_ins.aws import AwsStandIn

US_HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"
SAME_SERVICE = "api."  # older releases of botocore ask the FIPS endpoint without it


def failure_of(identity: AwsIdentity = IDENTITY) -> TokenFailure:
    with pytest.raises(TokenError) as caught:
        request_token(identity)
    return caught.value.failure


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An HTTPS proxy that connects to nowhere; yields the hosts that it was asked for."""
    with Proxy.running() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy.asked


def test_a_token_is_what_aws_says(aws: AwsStandIn) -> None:
    """User name, password, registry and life."""
    token = request_token(IDENTITY)

    assert aws.authorise(token.username, token.password, region="us-east-1").valid
    assert token.username == "AWS"
    assert token.registry == "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    assert token.lifetime == pytest.approx(43_200, abs=2)


def test_a_token_of_ecr_public_names_no_registry(aws: AwsStandIn) -> None:
    """Its answer has another shape."""
    token = request_token(replace(IDENTITY, service="ecr-public"))

    assert aws.authorise(token.username, token.password, service="ecr-public").valid
    assert token.registry is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254/",
        "https://169.254.169.254",
        "",
        None,
        f"https://{US_HOST}\nevil.example",
        f"https://{US_HOST}.evil.example",
        f"https://user@{US_HOST}",
        "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "https://public.ecr.aws",
        "https://000000000000.dkr.ecr.us-east-1.localhost.localstack.cloud:4566",
    ],
)
def test_a_host_that_is_no_registry_of_that_region_is_not_taken_from_an_answer(
    aws: AwsStandIn, endpoint: str | None
) -> None:
    """An emulator's token serves the registry that is configured, and no other."""
    aws.script(private_answer(proxyEndpoint=endpoint))

    assert request_token(IDENTITY).registry is None


@pytest.mark.parametrize("service", ["ecr", "ecr-public"])
def test_a_lifetime_beyond_twelve_hours_is_not_believed(aws: AwsStandIn, service: Service) -> None:
    """But for what the clocks of AWS and of this host may differ."""
    aws.set(token_lifetime=30 * 24 * 3600)

    assert request_token(replace(IDENTITY, service=service)).lifetime == 12 * 3600 + 300


def test_aws_sees_who_asks(aws: AwsStandIn) -> None:
    """The user agent names this package and its version."""
    request_token(IDENTITY)

    (call,) = aws.calls()
    assert f" {aws_module.USER_AGENT}" in call.user_agent


def test_the_region_comes_from_the_configuration_where_it_is_not_named(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As boto3 finds it."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    request_token(replace(IDENTITY, region=None))

    assert [call.region for call in aws.calls()] == ["eu-west-3"]


def test_a_role_is_assumed_with_all_its_arguments(aws: AwsStandIn) -> None:
    """The token is that of the role's account."""
    arguments = {"ExternalId": "an-id", "DurationSeconds": 900, "RoleSessionName": "airflow"}
    token = request_token(replace(IDENTITY, role_arn=ROLE, assume_role_kwargs=json.dumps(arguments)))

    (call,) = aws.calls(operation="AssumeRole")
    assert arguments.items() <= {**call.parameters, "DurationSeconds": int(call.parameters["DurationSeconds"])}.items()
    assert call.region == "us-east-1"
    assert token.registry == "210987654321.dkr.ecr.us-east-1.amazonaws.com"


def test_cloudtrail_can_tell_the_session_of_an_assumed_role(aws: AwsStandIn) -> None:
    """It is named for this package, unless configured otherwise."""
    request_token(replace(IDENTITY, role_arn=ROLE))

    (call,) = aws.calls(operation="AssumeRole")
    assert call.parameters["RoleSessionName"] == "airflow-ecr-secrets-backend"


@pytest.mark.parametrize(
    ("service", "use_fips", "use_dual_stack", "host"),
    [
        ("ecr", False, False, "ecr.us-east-1.amazonaws.com"),
        ("ecr", True, False, "ecr-fips.us-east-1.amazonaws.com"),
        ("ecr", False, True, "ecr.us-east-1.api.aws"),
        ("ecr", True, True, "ecr-fips.us-east-1.api.aws"),
        ("ecr-public", False, True, "ecr-public.us-east-1.api.aws"),
    ],
)
def test_the_endpoint_follows_the_registry(
    monkeypatch: pytest.MonkeyPatch, proxy: list[str], service: Service, use_fips: bool, use_dual_stack: bool, host: str
) -> None:
    """FIPS and dual stack lead to AWS's endpoints for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")

    failure_of(AwsIdentity(service, "us-east-1", use_fips=use_fips, use_dual_stack=use_dual_stack))

    assert {target.removeprefix(SAME_SERVICE) for target in proxy} == {f"{host}:443"}


def test_the_environments_flags_of_endpoints_stay_in_force(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, proxy: list[str]
) -> None:
    """A host that is to use FIPS endpoints only, does so for a plain registry as well."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

    failure_of()

    assert {target.removeprefix(SAME_SERVICE) for target in proxy} == {"ecr-fips.us-east-1.amazonaws.com:443"}
    assert aws.calls() == []


def test_an_explicit_endpoint_wins_over_fips_and_dual_stack(aws: AwsStandIn) -> None:
    """Where the environment names an endpoint, it is asked, whatever the registry's host says."""
    assert request_token(replace(IDENTITY, use_fips=True, use_dual_stack=True)).is_servable(time.time())
    assert len(aws.calls()) == 1


def test_the_endpoint_may_be_configured(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``endpoint_url``."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")

    request_token(replace(IDENTITY, endpoint_url=aws.url))

    assert len(aws.calls()) == 1


def test_a_throttled_call_is_tried_again(aws: AwsStandIn) -> None:
    """Once: boto3's standard retries."""
    aws.script(Error("ThrottlingException", times=1))

    assert request_token(IDENTITY).is_servable(time.time())
    assert len(aws.calls()) == 2


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_of_aws_becomes_ours(aws: AwsStandIn, name: str) -> None:
    """It has AWS's code, the region, the identity and a remedy, in one line."""
    fault, code, fix = FAULTS[name]
    aws.script(fault)

    failure = failure_of()

    assert (failure.code, failure.region, failure.identity) == (code, "us-east-1", "boto3's default credentials")
    assert fix in failure.fix
    assert len(str(failure).splitlines()) == 1


def test_a_role_that_may_not_be_assumed_is_named(aws: AwsStandIn) -> None:
    """With the action that is missing."""
    aws.script(Error("AccessDenied", "not authorized to perform: sts:AssumeRole", status=403, operation="AssumeRole"))

    failure = failure_of(replace(IDENTITY, role_arn=ROLE))

    assert failure.code == "AccessDenied"
    assert f"sts:AssumeRole on {ROLE}" in failure.fix


def test_ecr_public_needs_two_permissions(aws: AwsStandIn) -> None:
    """Both are named."""
    aws.script(Error("AccessDeniedException"))

    fix = failure_of(replace(IDENTITY, service="ecr-public")).fix

    assert "ecr-public:GetAuthorizationToken" in fix
    assert "sts:GetServiceBearerToken" in fix


@pytest.mark.parametrize("identity", [IDENTITY, replace(IDENTITY, role_arn=ROLE)])
def test_missing_credentials_are_told(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, identity: AwsIdentity) -> None:
    """With what could give them."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    failure = failure_of(identity)

    assert failure.code == "NoCredentialsError"
    assert "AWS_PROFILE" in failure.fix
    assert aws.calls() == []


@pytest.mark.usefixtures("aws")
def test_an_unknown_profile_is_told() -> None:
    """By its name."""
    failure = failure_of(replace(IDENTITY, profile_name="no-such-profile"))

    assert failure.code == "ProfileNotFound"
    assert "no-such-profile" in failure.reason


@pytest.mark.usefixtures("aws")
def test_a_missing_region_is_told() -> None:
    """With the setting that gives it."""
    failure = failure_of(replace(IDENTITY, region=None))

    assert (failure.code, failure.region) == ("NoRegionError", "none")
    assert "region_name" in failure.fix


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:9", "EndpointConnectionError"),
        ("http://no-such-name.invalid", "EndpointConnectionError"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_named(aws: AwsStandIn, url: str, code: str) -> None:
    """Refused, or not found."""
    failure = failure_of(replace(IDENTITY, endpoint_url=url))

    assert failure.code == code
    assert url in failure.reason
    assert aws.calls() == []


def test_a_failing_tls_is_told(aws: AwsStandIn) -> None:
    """With the setting that names the CA."""
    failure = failure_of(replace(IDENTITY, endpoint_url=aws.url.replace("http:", "https:")))

    assert failure.code == "SSLError"
    assert "verify" in failure.fix


def test_a_secret_that_aws_repeats_is_cut(aws: AwsStandIn) -> None:
    """AWS's longest message quotes, from its second line on, what was signed."""
    message = "The signature does not match.\n\nThe Canonical String was\nx-amz-security-token:s3cret"
    aws.script(Error("SignatureDoesNotMatch", message))

    assert failure_of().reason == "The signature does not match"


def test_other_threads_keep_their_lines(aws: AwsStandIn, caplog: pytest.LogCaptureFixture) -> None:
    """Only the minting thread's talk with AWS is hushed."""
    aws.script(Delay(0.5))
    caplog.set_level(logging.DEBUG)
    renewal = threading.Thread(target=request_token, args=(IDENTITY,))
    renewal.start()
    while renewal.is_alive():
        logging.getLogger("botocore.parsers").debug("another thread's line")
        renewal.join(0.05)

    lines = {record.message for record in caplog.records if record.name.startswith("botocore")}
    assert lines == {"another thread's line"}

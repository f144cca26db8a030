from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
)

from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe, message_of
from ecr_secrets_backend.identity import AwsIdentity

IDENTITY = AwsIdentity("ecr", "eu-west-2")
NO_FIPS = "EndpointConnectionError: ECR may have no FIPS endpoint in eu-west-2"
SECRET = "an-undisclosed-session-token"


def client_error(code: str, message: str = "", operation: str = "GetAuthorizationToken") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def unreachable(host: str) -> EndpointConnectionError:
    return EndpointConnectionError(endpoint_url=f"https://{host}.eu-west-2.amazonaws.com/")


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url=f"http://user:{SECRET}@host/"),
        client_error("Denied", f"see https://user:{SECRET}@host/"),
        client_error("407", SECRET),
        client_error("SignatureDoesNotMatch", f"It does not match.\n{SECRET}"),
        HTTPClientError(error=SECRET),
        CredentialRetrievalError(provider="custom-process", error_msg=SECRET),
        CredentialRetrievalError(provider="container-role", error_msg=SECRET),
        ParamValidationError(report=f"Invalid type for parameter Tags, value: {SECRET}"),
        KeyError(SECRET),
        ValueError(SECRET),
        EOFError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_message_that_may_hold_a_secret_is_not_shown(error: Exception) -> None:
    assert SECRET not in str(describe(IDENTITY, error))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (client_error("AccessDenied", "User: a is not authorized."), "User: a is not authorized"),
        (ProfileNotFound(profile="dev"), "The config profile (dev) could not be found"),
        (OSError(13, "Permission denied", "/a/file"), "[Errno 13] Permission denied: '/a/file'"),
        (UnusableAnswerError("the answer holds no token"), "the answer holds no token"),
        (CredentialRetrievalError(provider="sso", error_msg="x"), "Error when retrieving credentials from sso: x"),
        (ParamValidationError(report="parameter Tags, parameter in A[0]"), "boto3 rejects the argument Tags, A[0]"),
        (ParamValidationError(report=""), "boto3 rejects the argument of a call"),
    ],
)
def test_any_other_message_is_shown_without_its_full_stop(error: Exception, message: str) -> None:
    assert message_of(error) == message


@pytest.mark.parametrize(
    ("error", "fields", "code_and_fix"),
    [
        (
            client_error("AccessDenied", operation="AssumeRole"),
            {"role_arn": "a"},
            "AccessDenied: Allow sts:AssumeRole on a",
        ),
        (client_error("AccessDeniedException"), {}, "AccessDeniedException: Allow ecr:GetAuthorizationToken on"),
        (
            client_error("AccessDeniedException"),
            {"service": "ecr-public"},
            "AccessDeniedException: Allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on",
        ),
        (NoCredentialsError(), {}, "NoCredentialsError: Provide credentials"),
        (SSLError(endpoint_url="", error=OSError()), {}, "SSLError: Set verify to the CA bundle"),
        (client_error("ThrottlingException"), {}, "ThrottlingException: Wait"),
        (ProxyConnectionError(proxy_url=""), {}, "ProxyConnectionError: Let this host reach that endpoint"),
        (KeyError("AccessKeyId"), {}, "KeyError: Correct the AWS settings"),
        (TimeoutError(), {}, "TimedOut: Correct the AWS settings"),
        (RuntimeError("refreshed, but are still expired."), {}, "ExpiredCredentials: Set the clock"),
        (unreachable("api.ecr"), {"use_fips": True}, "EndpointConnectionError: Let this host reach that endpoint"),
        (unreachable("api.ecr-fips"), {"use_fips": True}, f"{NO_FIPS}, and the host of the registry asks for one"),
        (unreachable("api.ecr-fips"), {}, f"{NO_FIPS}, and use_fips_endpoint in the profile, or an endpoint URL"),
    ],
)
def test_a_failure_has_the_code_of_its_cause_and_a_fix(
    error: Exception, fields: dict[str, Any], code_and_fix: str
) -> None:
    """Also if a source of credentials failed by it, and has no fix of its own."""
    identity = replace(IDENTITY, **fields)
    failure = describe(identity, CredentialsError(error, (), "no source has credentials", None))

    assert f"{failure.code}: {failure.fix}".startswith(code_and_fix)
    assert failure == replace(describe(identity, error), reason="no source has credentials")


@pytest.mark.parametrize("service", ["ecr", "sts"])
def test_a_variable_that_asks_for_a_fips_endpoint_is_named(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """A region without one has no DNS record for it. test_aws.py has the hosts that boto3 uses."""
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    failure = describe(replace(IDENTITY, use_fips=service == "sts"), unreachable(f"{service}-fips"))

    assert failure.fix.startswith(f"{service.upper()} may have no FIPS endpoint in eu-west-2, and AWS_USE_FIPS")
    assert "Unset it, or let this host reach that endpoint" in failure.fix

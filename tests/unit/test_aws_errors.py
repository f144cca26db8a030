from __future__ import annotations

from dataclasses import replace

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
)

from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe, message_of
from ecr_secrets_backend.identity import AwsIdentity

IDENTITY = AwsIdentity("ecr", "eu-west-2")
SECRET = "an-undisclosed-session-token"


def client_error(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetAuthorizationToken")


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
        (
            ParamValidationError(report="parameter Tags, parameter in Tags[0]"),
            "boto3 rejects the argument Tags, Tags[0]",
        ),
        (ParamValidationError(report=""), "boto3 rejects the argument of a call"),
    ],
)
def test_any_other_message_is_shown_without_its_full_stop(error: Exception, message: str) -> None:
    assert message_of(error) == message


@pytest.mark.parametrize(
    ("error", "code", "fix"),
    [
        (NoCredentialsError(), "NoCredentialsError", "AWS_PROFILE"),
        (KeyError("AccessKeyId"), "KeyError", "Correct the AWS settings"),
        (TimeoutError(), "TimedOut", "Correct the AWS settings"),
        (RuntimeError("Credentials were refreshed, but are still expired."), "ExpiredCredentials", "Set the clock"),
    ],
)
def test_missing_credentials_are_reported_with_the_code_of_the_cause(error: Exception, code: str, fix: str) -> None:
    """The fix is the cause's, too, if the source of credentials has none."""
    failure = describe(IDENTITY, CredentialsError(error, (), "no source has credentials", None))

    assert (failure.code, failure.reason) == (code, "no source has credentials")
    assert fix in failure.fix


@pytest.mark.parametrize(
    ("use_fips", "variable", "host", "fix"),
    [
        (True, "", "api.ecr-fips", "ECR may have no FIPS endpoint in eu-west-2, and the host of the registry asks for"),
        (
            False,
            "true",
            "api.ecr-fips",
            "ECR may have no FIPS endpoint in eu-west-2, and AWS_USE_FIPS_ENDPOINT asks for",
        ),
        (False, "", "api.ecr-fips", "ECR may have no FIPS endpoint in eu-west-2, and use_fips_endpoint in the profile"),
        (True, "true", "sts-fips", "STS may have no FIPS endpoint in eu-west-2, and AWS_USE_FIPS_ENDPOINT asks for"),
        (True, "true", "api.ecr", "Let this host reach that endpoint"),
    ],
)
def test_an_unreachable_fips_endpoint_names_the_setting_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, use_fips: bool, variable: str, host: str, fix: str
) -> None:
    """A region without one has no DNS record for it. test_aws.py has the hosts that boto3 uses."""
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", variable)
    error = EndpointConnectionError(endpoint_url=f"https://{host}.eu-west-2.amazonaws.com/")
    failure = describe(replace(IDENTITY, use_fips=use_fips), error)

    assert failure.fix.startswith(fix)
    assert "et this host reach that endpoint" in failure.fix

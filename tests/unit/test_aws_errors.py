from __future__ import annotations

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ProfileNotFound,
)

from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe, words_of
from ecr_secrets_backend.identity import AwsIdentity

IDENTITY = AwsIdentity("ecr", "eu-west-2")
SECRET = "an-undisclosed-session-token"


def client_error(code: str, message: str = "not allowed") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetAuthorizationToken")


@pytest.mark.parametrize("code", ["Foo\n2026-11-27 CRITICAL forged", "\x1b[2J", "A" * 200_000])
def test_a_code_of_aws_is_one_bounded_printable_line(code: str) -> None:
    """It is written into logs, and to the terminal."""
    failure = describe(IDENTITY, client_error(code))

    assert failure.code.isprintable()
    assert len(failure.code) <= 100


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
        KeyError(SECRET),
        ValueError(SECRET),
        EOFError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_hold_a_secret_is_not_repeated(error: Exception) -> None:
    """Neither by a failed request nor by a source of credentials that failed."""
    assert SECRET not in str(describe(IDENTITY, error))
    assert SECRET not in str(describe(IDENTITY, CredentialsError(error, ())))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (client_error("AccessDenied", "User: a is not authorized."), "User: a is not authorized"),
        (ProfileNotFound(profile="dev"), "The config profile (dev) could not be found"),
        (OSError(13, "Permission denied", "/a/file"), "[Errno 13] Permission denied: '/a/file'"),
        (UnusableAnswerError("the answer holds no token"), "the answer holds no token"),
        (CredentialRetrievalError(provider="sso", error_msg="x"), "Error when retrieving credentials from sso: x"),
    ],
)
def test_other_words_are_repeated(error: Exception, words: str) -> None:
    """In one line, without a full stop."""
    assert words_of(error) == words


def test_what_a_source_said_takes_the_place_of_its_exceptions_words() -> None:
    """The code is that of the exception, and the fix, if the source has none."""
    error = CredentialsError(NoCredentialsError(), (), ("no source has credentials", None))
    failure = describe(IDENTITY, error)

    assert (failure.code, failure.reason) == ("NoCredentialsError", "no source has credentials")
    assert failure.fix == describe(IDENTITY, NoCredentialsError()).fix


def test_credentials_that_cannot_be_loaded_are_no_answer_of_aws() -> None:
    """Whatever was raised: an answer is what came over the wire."""
    assert describe(IDENTITY, CredentialsError(KeyError("AccessKeyId"), ())).code == "KeyError"
    assert describe(IDENTITY, CredentialsError(TimeoutError(), ())).code == "TimedOut"


@pytest.mark.parametrize(
    ("host", "is_fips"),
    [
        ("ecr-fips.eu-west-2.amazonaws.com", True),
        ("api.ecr-fips.eu-west-2.amazonaws.com", True),
        ("ecr-fips.eu-west-2.api.aws", True),
        ("api.ecr.eu-west-2.amazonaws.com", False),
    ],
)
def test_an_endpoint_for_fips_may_not_exist(host: str, is_fips: bool) -> None:
    """In any of botocore's forms."""
    failure = describe(IDENTITY, EndpointConnectionError(endpoint_url=f"https://{host}/"))

    assert ("ECR may have no FIPS endpoint in eu-west-2" in failure.fix) is is_fips
    assert "et this host reach that endpoint" in failure.fix

"""Failures of requests to AWS: the code of each, its reason in one line, and the fix."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ecr_secrets_backend.errors import CredentialSource, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity


class UnusableAnswerError(Exception):
    """An answer is not one that AWS documents. The message never quotes it."""


@dataclass(eq=False)
class CredentialsError(Exception):
    """No credentials could be loaded.

    :param cause: the exception of botocore, of a source of credentials, or of the timeout
    :param sources: the sources of credentials that were tried
    :param fix: how to fix it; None: the fix of the cause
    """

    cause: Exception
    sources: tuple[CredentialSource, ...]
    reason: str
    fix: str | None


CREDENTIALS_FIX: Final = "Provide credentials: a role of this host, pod or task, AWS_PROFILE or profile_name."
#: The fix for each code. Codes are without the ending "Exception", which some of AWS's services add.
_FIXES: Final[Mapping[tuple[str, ...], str]] = {
    ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"): CREDENTIALS_FIX,
    ("ProfileNotFound", "ConfigNotFound"): "Set profile_name, or AWS_PROFILE, to a profile of this user's AWS files.",
    ("NoRegionError",): "Set region_name in backend_kwargs, or AWS_DEFAULT_REGION for this process.",
    ("ExpiredCredentials",): "Set the clock of this host, or renew the credentials, which seem to have expired.",
    ("ExpiredToken",): "Renew the credentials of this process: they have expired.",
    ("InvalidClientTokenId", "UnrecognizedClient"): "Replace the access key of this process: AWS does not know it.",
    ("SignatureDoesNotMatch", "InvalidSignature"): (
        "Check the secret key of this process, and set the clock of this host."
    ),
    ("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"): (
        "Set the clock of this host: AWS rejects requests signed more than 5 minutes off."
    ),
    ("Throttling", "TooManyRequests"): (
        "Wait: lookups call AWS again after a pause. If throttling goes on, raise the quota."
    ),
    ("HTTPClientError",): "Check the credentials of this process for a line break, and the URL of its proxy.",
    ("SSLError",): "Set verify to the CA bundle of the proxy in front of AWS, or fix that proxy's certificate.",
    ("LoginTokenLoadError", "LoginRefreshRequired"): (
        "Run aws login as this user. A service needs another source than a login, such as a role."
    ),
    ("InvalidIdentityToken",): "Create the OIDC provider of the cluster in IAM, and trust it in the role.",
    ("ParamValidationError",): "Correct assume_role_kwargs in backend_kwargs: STS AssumeRole rejects that value.",
    ("UnusableAnswer",): "Check which server answers in place of AWS: a proxy, or an endpoint_url that is not ECR's.",
}
_CONNECTION_FIX: Final = (
    "Let this host reach that endpoint: its route, proxy or security group, or a VPC endpoint for ECR's API"
    " (com.amazonaws.<region>.ecr.api) and STS."
)
_SERVICE_FIX: Final = "Check AWS's health for that region, and any proxy in between. Lookups retry after a pause."
#: Messages about these sources may quote a program's output or an agent's answer, which may have secrets.
_SECRET_SOURCES: Final = frozenset({"custom-process", "container-role"})


def describe(identity: AwsIdentity, error: Exception) -> TokenFailure:
    """Return the failure that an exception of the AWS libraries means, with its fix."""
    from botocore import exceptions

    if isinstance(error, CredentialsError):
        failure = describe(identity, error.cause)
        return replace(failure, reason=error.reason, fix=error.fix or failure.fix)
    code, default = type(error).__name__, "Correct the AWS settings of this process."
    if isinstance(error, UnusableAnswerError):
        code = "UnusableAnswer"
    elif isinstance(error, exceptions.ClientError):
        code, default = str(error.response.get("Error", {}).get("Code", "Unknown")), _SERVICE_FIX
        if code.startswith("AccessDenied"):
            default = _permission_fix(identity, error.operation_name)
    elif "still expired" in str(error):  # botocore raises a RuntimeError for credentials that it has just fetched
        code = "ExpiredCredentials"
    elif isinstance(error, TimeoutError):
        code = "TimedOut"
    elif isinstance(error, exceptions.EndpointConnectionError):
        default = _unreachable_fix(identity, str(error.kwargs.get("endpoint_url")))
    elif isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        default = _CONNECTION_FIX
    name = code.removesuffix("Exception")
    fix = next((fix for codes, fix in _FIXES.items() if name in codes), default)
    return identity.failure(code, message_of(error), fix)


def message_of(error: Exception) -> str:
    """Return an exception's message in one line without a full stop, or a replacement if it may have a secret."""
    from botocore import exceptions

    message = str(error)
    if isinstance(error, exceptions.ClientError):
        answer = error.response.get("Error", {})
        # If the code is an HTTP status, the message is a page, such as a proxy's, which may quote the request.
        is_page = str(answer.get("Code")).isdigit()
        message = "the answer is not from AWS" if is_page else str(answer.get("Message") or message)
    elif isinstance(error, exceptions.ParamValidationError):  # botocore quotes the value
        names = re.findall(r"parameter (?:in )?([\w.\[\]]+)", message)
        message = f"boto3 rejects the argument {', '.join(dict.fromkeys(names)) or 'of a call'}"
    elif (
        type(error) is exceptions.HTTPClientError
        or (isinstance(error, exceptions.CredentialRetrievalError) and error.kwargs["provider"] in _SECRET_SOURCES)
        or not isinstance(error, (exceptions.BotoCoreError, OSError, RuntimeError, UnusableAnswerError))
    ):
        message = "the message is not shown, because it may hold a secret"
    # From the second line on, AWS's longer messages quote the signed request, with the session token.
    return (message.strip().splitlines() or [""])[0].rstrip(". ")


def _unreachable_fix(identity: AwsIdentity, endpoint_url: str) -> str:
    """Return the fix for an endpoint that cannot be reached. Many regions have no FIPS endpoint."""
    host = re.search(r"([\w-]+)-fips\.", endpoint_url)
    if host is None:
        return _CONNECTION_FIX
    service = host[1].upper()
    setting, fix = "use_fips_endpoint in the profile, or an endpoint URL", "Remove it"
    if identity.use_fips and service == "ECR":
        setting, fix = "the host of the registry", "Write the host without -fips"
    elif os.environ.get("AWS_USE_FIPS_ENDPOINT"):
        setting, fix = "AWS_USE_FIPS_ENDPOINT", "Unset it"
    problem = f"{service} may have no FIPS endpoint in {identity.region or 'that region'}, and {setting} asks for one."
    return f"{problem} {fix}, or {_CONNECTION_FIX[0].lower()}{_CONNECTION_FIX[1:]}"


def _permission_fix(identity: AwsIdentity, operation: str) -> str:
    if operation.startswith("AssumeRole"):
        role = identity.role_arn or "the role"
        return f"Allow sts:{operation} on {role} to this identity, in its own policy and in the role's trust policy."
    if identity.service == "ecr-public":
        return 'Allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on Resource "*" to this identity.'
    return 'Allow ecr:GetAuthorizationToken on Resource "*" to this identity.'

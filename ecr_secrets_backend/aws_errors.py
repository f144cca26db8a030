"""What goes wrong between this process and AWS: each failure's code, its reason in one line, and how to fix it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ecr_secrets_backend.errors import CredentialSource, TokenFailure
from ecr_secrets_backend.identity import AwsIdentity


class UnusableAnswerError(Exception):
    """An answer over the wire that is not what AWS's API documents. It never quotes the answer."""


@dataclass(eq=False)
class CredentialsError(Exception):
    """No credentials could be loaded.

    :param cause: what was raised
    :param sources: what each source of credentials reported
    :param explanation: the reason and how to fix it; None: those of the cause
    """

    cause: Exception
    sources: tuple[CredentialSource, ...]
    explanation: tuple[str, str | None] | None = None


CREDENTIALS_FIX: Final = "Give this process credentials: a role of its host, pod or task, AWS_PROFILE or profile_name."
#: By the codes of a failure, all without "Exception", with which AWS's services end some of them.
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
    ("Throttling", "TooManyRequests"): "Wait: AWS is called again after a pause. If it lasts, raise the quota.",
    ("HTTPClientError",): "Check the credentials of this process for a line break, and the URL of its proxy.",
    ("SSLError",): "Set verify to the CA bundle of the proxy in front of AWS, or fix that proxy's certificate.",
    ("LoginTokenLoadError", "LoginRefreshRequired"): (
        "Run aws login as this user. A service needs another source than a login, such as a role."
    ),
    ("InvalidIdentityToken",): "Create the OIDC provider of the cluster in IAM, and trust it in the role.",
    ("ParamValidationError",): "Correct assume_role_kwargs in backend_kwargs: STS AssumeRole does not take that value.",
    ("UnusableAnswer",): "Check what answers in place of AWS: a proxy, or an endpoint_url that is not ECR's.",
}
_CONNECTION_FIX: Final = (
    "Let this host reach that endpoint: its route, proxy or security group, or a VPC endpoint for ECR's API"
    " (com.amazonaws.<region>.ecr.api) and STS."
)
_SERVICE_FIX: Final = "Check AWS's health for that region, and any proxy on the way; AWS is called again after a pause."
#: Sources whose words may hold what a program printed, or what an agent answered.
_SECRETIVE_SOURCES: Final = frozenset({"custom-process", "container-role"})


def describe(identity: AwsIdentity, error: Exception) -> TokenFailure:
    """Return an exception of the AWS libraries as a value: its code, AWS's reason, and how to fix it."""
    from botocore import exceptions

    if isinstance(error, CredentialsError):
        failure = describe(identity, error.cause)
        reason, fix = error.explanation or (failure.reason, None)
        return replace(failure, reason=reason, fix=fix or failure.fix)
    code, default = type(error).__name__, "Correct the AWS settings of this process."
    if isinstance(error, UnusableAnswerError):
        code = "UnusableAnswer"
    elif isinstance(error, exceptions.ClientError):
        code, default = str(error.response.get("Error", {}).get("Code", "Unknown")), _SERVICE_FIX
        if code.startswith("AccessDenied"):
            default = _permission_fix(identity, error.operation_name)
    elif "still expired" in str(error):  # a plain RuntimeError of botocore, about what it has just fetched
        code = "ExpiredCredentials"
    elif isinstance(error, TimeoutError):
        code = "TimedOut"
    elif isinstance(error, exceptions.EndpointConnectionError):
        default = _unreachable_fix(identity, str(error.kwargs.get("endpoint_url")))
    elif isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        default = _CONNECTION_FIX
    cause = code.removesuffix("Exception")
    fix = next((fix for codes, fix in _FIXES.items() if cause in codes), default)
    return identity.failure(code, words_of(error), fix)


def words_of(error: Exception) -> str:
    """Return what may be repeated of an exception's own words: a line without a full stop."""
    from botocore import exceptions

    words = str(error)
    if isinstance(error, exceptions.ClientError):
        answer = error.response.get("Error", {})
        is_status = str(answer.get("Code")).isdigit()  # of a proxy's page, for instance, which may quote what was sent
        words = "the answer is not AWS's" if is_status else str(answer.get("Message") or words)
    elif isinstance(error, exceptions.ParamValidationError):  # botocore's words quote the value
        names = re.findall(r"parameter (?:in )?([\w.\[\]]+)", words)
        words = f"boto3 rejects the argument {', '.join(dict.fromkeys(names)) or 'of a call'}"
    elif (
        type(error) is exceptions.HTTPClientError
        or (isinstance(error, exceptions.CredentialRetrievalError) and error.kwargs["provider"] in _SECRETIVE_SOURCES)
        or not isinstance(error, (exceptions.BotoCoreError, OSError, RuntimeError, UnusableAnswerError))
    ):
        words = "the message is not repeated, because it may quote what was sent"
    # AWS's longer messages repeat what was signed, session token included, from the second line on.
    return (words.strip().splitlines() or [""])[0].rstrip(". ")


def _unreachable_fix(identity: AwsIdentity, endpoint_url: str) -> str:
    """Return what to do about an endpoint that cannot be reached: many regions have none for FIPS."""
    host = re.search(r"([\w-]+)-fips\.", endpoint_url)
    if host is None:
        return _CONNECTION_FIX
    service = host[1].upper()
    asker, fix = "use_fips_endpoint in the profile, or an endpoint URL", "Remove it"
    if identity.use_fips and service == "ECR":
        asker, fix = "the host of the registry", "Write the host without -fips"
    elif os.environ.get("AWS_USE_FIPS_ENDPOINT"):
        asker, fix = "AWS_USE_FIPS_ENDPOINT", "Unset it"
    problem = f"{service} may have no FIPS endpoint in {identity.region or 'that region'}, and {asker} asks for one."
    return f"{problem} {fix}, or {_CONNECTION_FIX[0].lower()}{_CONNECTION_FIX[1:]}"


def _permission_fix(identity: AwsIdentity, operation: str) -> str:
    if operation.startswith("AssumeRole"):
        role = identity.role_arn or "the role"
        return f"Allow sts:{operation} on {role} to this identity, in its own policy and in the role's trust policy."
    if identity.service == "ecr-public":
        return 'Allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on Resource "*" to this identity.'
    return 'Allow ecr:GetAuthorizationToken on Resource "*" to this identity.'

"""What goes wrong between this process and AWS: each failure's code, its reason in one line, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecr_secrets_backend.errors import MintFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecr_secrets_backend.identity import AwsIdentity

#: A reason ends here: AWS's longer messages repeat what was signed, session token included, from the second line on.
LONGEST_REASON: Final = 600


class UnusableAnswerError(Exception):
    """An answer over the wire that is not what AWS's API documents. It never quotes the answer."""


_NO_CREDENTIALS: Final = "Give this process credentials: a role of its host, pod or task, AWS_PROFILE or profile_name."
_FIXES: Final[Mapping[str, str]] = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "ProfileNotFound": "Set profile_name, or AWS_PROFILE, to a profile of this user's AWS configuration.",
    "NoRegionError": "Set region_name in backend_kwargs, or AWS_DEFAULT_REGION for this process.",
    "ExpiredCredentials": "Set the clock of this host, or renew the credentials, which seem to have expired.",
    "ExpiredToken": "Renew the credentials of this process: they have expired.",
    "InvalidClientTokenId": "Replace the access key of this process: AWS does not know it.",
    "SignatureDoesNotMatch": "Check the secret key of this process, and set the clock of this host.",
    "RequestExpired": "Set the clock of this host: AWS rejects requests signed more than 5 minutes off.",
    "ThrottlingException": "Wait: AWS is called again after a pause. If it lasts, raise the quota.",
    "HTTPClientError": "Check the credentials of this process for a line break, and the URL of its proxy.",
    "SSLError": "Set verify to the CA bundle of the proxy in front of AWS, or fix that proxy's certificate.",
    "ParamValidationError": "Correct assume_role_kwargs in backend_kwargs.",
    "UnusableAnswer": "Check what answers in place of AWS: a proxy, or an endpoint_url that is not ECR's.",
}
#: Other names that AWS's services give to the same cause.
_ALIASES: Final[Mapping[str, str]] = {
    "ExpiredTokenException": "ExpiredToken",
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "RequestInTheFuture": "RequestExpired",
    "RequestTimeTooSkewed": "RequestExpired",
    "Throttling": "ThrottlingException",
    "TooManyRequestsException": "ThrottlingException",
    "ConfigNotFound": "ProfileNotFound",
}
_CONNECTION_FIX: Final = (
    "Let this host reach that endpoint: its route, proxy or security group, or a VPC endpoint for ECR's API"
    " (com.amazonaws.<region>.ecr.api) and STS."
)
_SERVICE_FIX: Final = "Check AWS's health for that region, and any proxy on the way; AWS is called again after a pause."
_SETTINGS_FIX: Final = "Correct the AWS settings of this process."
#: What botocore says, in a plain RuntimeError, of credentials that it has just fetched and that seem to have expired.
_STILL_EXPIRED: Final = "still expired"


def describe(identity: AwsIdentity, region: str | None, error: Exception) -> MintFailure:
    """Return an exception of the AWS libraries as a value: its code, AWS's reason, and how to fix it.

    :param identity: whose request failed
    :param region: where; None if it is not known
    :param error: what was raised while credentials were loaded, or AWS was called
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,  # noqa: A004
        HTTPClientError,
        ParamValidationError,
    )

    reason = str(error)
    if isinstance(error, UnusableAnswerError):
        code = "UnusableAnswer"
        fix = _FIXES[code]
    elif isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", "Unknown"))
        reason = str(answer.get("Message") or reason)
        fix = _FIXES.get(_ALIASES.get(code, code), _SERVICE_FIX)
        if code.startswith("AccessDenied"):
            fix = _permission_fix(identity, error.operation_name)
        elif code.isdigit():  # an HTTP status: a proxy's page, for instance, which may quote what was sent
            reason = "the answer is not AWS's"
    else:
        code = "ExpiredCredentials" if _STILL_EXPIRED in reason else type(error).__name__
        is_unreachable = isinstance(error, (ConnectionError, HTTPClientError))
        fix = _FIXES.get(_ALIASES.get(code, code), _CONNECTION_FIX if is_unreachable else _SETTINGS_FIX)
        if isinstance(error, ParamValidationError):  # its first line says nothing
            reason = reason.partition("\n")[2].replace("\n", "; ")
        elif type(error) is HTTPClientError or not isinstance(error, (BotoCoreError, OSError, RuntimeError)):
            reason = "the message is not repeated, because it may quote what was sent"
    lines = reason.strip().splitlines() or [""]
    return MintFailure(str(identity), region or "none", code, lines[0][:LONGEST_REASON].rstrip(". "), fix)


def _permission_fix(identity: AwsIdentity, operation: str) -> str:
    if operation.startswith("AssumeRole"):
        role = identity.role_arn or "the role"
        return f"Allow sts:{operation} on {role} to this identity, in its own policy and in the role's trust policy."
    if identity.service == "ecr-public":
        return 'Allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on Resource "*" to this identity.'
    return 'Allow ecr:GetAuthorizationToken on Resource "*" to this identity.'

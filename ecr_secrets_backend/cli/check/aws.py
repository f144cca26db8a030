"""Check a connection's AWS credentials and token."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ecr_secrets_backend.aws import AwsSession, call_aws
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.cli.configuration import Configuration
from ecr_secrets_backend.cli.output import duration
from ecr_secrets_backend.errors import ConnectionUnavailableError, TokenError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.settings import MappedConnection


def check_identity(configured: Configuration, mapped: MappedConnection) -> StepResult:
    """Load the credentials of a connection, and request their ARN from STS."""
    try:
        found = call_aws(identify, *configured.logins.resolve(mapped))
    except TokenError as error:
        failure = error.failure
        message = f"{failure.code}: {failure.reason} ({failure.identity})"
        raise CheckFailed("no-credentials", message, failure.fix, error.sources) from None
    return replace(found, message=f"{mapped.identity}: {found.message}")


def identify(session: AwsSession) -> StepResult:
    """Return the source of the credentials and their ARN."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with session.client("sts") as client:
            arn = client.get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError, KeyError):  # a pull needs neither the permission nor the route
        arn = "ARN not returned by STS (a pull does not need it)"
    return StepResult(f"{session.sources[-1].source}, {arn}", sources=session.sources)


def check_token(configured: Configuration, mapped: MappedConnection, received: Callable[[Login], None]) -> StepResult:
    """Get the login of a connection from the cache or AWS, and pass it to ``received``."""
    try:
        login = configured.login(mapped)
    except ConnectionUnavailableError as error:
        failure = error.failure
        message = f"{failure.code}: {failure.reason} (identity: {failure.identity}, region: {failure.region})"
        raise CheckFailed("no-token", message, failure.fix) from None
    received(login)
    source = "requested now" if login.source == "mint" else "from the cache"
    message = f"{source}, {duration(login.token.expires_at - time.time())} left"
    if login.source != "stale":
        return StepResult(message)
    fix = "Run ecr-secrets-backend status: it shows the last failure."
    return StepResult(f"{message}, and not renewed yet", "warning", "token-not-renewed", fix)

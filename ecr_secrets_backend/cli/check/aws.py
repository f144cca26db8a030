"""AWS: whose credentials request a connection's token, and whether there is one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from ecr_secrets_backend.aws import AwsSession, call_aws
from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.cli.configuration import Configuration
from ecr_secrets_backend.cli.output import duration
from ecr_secrets_backend.cli.status import state_of
from ecr_secrets_backend.errors import ConnectionUnavailableError, TokenError
from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.settings import MappedConnection

#: Loading credentials, assuming a role and a request to STS may each take AWS's timeouts.
IDENTITY_SECONDS: Final = 30.0


def check_identity(configured: Configuration, mapped: MappedConnection) -> StepResult:
    """Load the credentials of a connection, and ask STS whose they are."""
    try:
        found = within(IDENTITY_SECONDS, lambda: identify(*configured.logins.resolve(mapped)))
    except TokenError as error:
        failure = error.failure
        message = f"{failure.code}: {failure.reason} ({failure.identity})"
        raise CheckFailed("no-credentials", message, failure.fix, error.sources) from None
    except TimeoutError:
        fix = "Look for what hangs: the network, a name server or proxy, or a source of credentials."
        raise CheckFailed("no-credentials", f"no credentials within {IDENTITY_SECONDS:.0f} s", fix) from None
    return replace(found, message=f"{mapped.identity}: {found.message}")


def identify(identity: AwsIdentity, connection: AwsConnection | None = None) -> StepResult:
    """Return where boto3 found the credentials of an identity, and their ARN.

    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :raises TokenError: there are no credentials, or the role cannot be assumed
    """
    outcome = call_aws(identity, connection, _identify)
    if isinstance(outcome, TokenError):  # raised here, where no local variable holds what AWS sent
        raise outcome
    return outcome


def _identify(session: AwsSession) -> StepResult:
    from botocore.exceptions import BotoCoreError, ClientError

    client = session.client("sts")
    try:
        arn = client.get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError, KeyError):  # a pull needs neither the permission nor the route
        arn = "whose ARN STS does not return (a pull does not need it)"
    return StepResult(f"{session.sources[-1].source}, {arn}", sources=session.sources)


def get_login(configured: Configuration, mapped: MappedConnection) -> tuple[Login, StepResult]:
    """Return the login of a connection, from the cache or AWS, and what is to be reported of it."""
    started_at = time.time()
    try:
        login = configured.login(mapped)
    except ConnectionUnavailableError as error:
        failure = error.failure
        reason = f"{failure.code}: {failure.reason} (identity: {failure.identity}, region: {failure.region})"
        raise CheckFailed("no-token", reason, failure.fix) from None
    token, now = login.token, time.time()
    source = "requested now" if token.received_at >= started_at else "from the cache"
    message = f"{source}, {duration(token.expires_at - now)} left"
    if state_of(token, now, configured.settings.refresh_before) == "fresh":
        return login, StepResult(message)
    fix = "ecr-secrets-backend status shows what failed last."
    return login, StepResult(f"{message}, but AWS has not renewed it", "warning", "token-not-renewed", fix)

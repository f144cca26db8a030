"""The AWS principal that requests a connection's token, as far as AWS identifies it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ecr_secrets_backend.aws import request
from ecr_secrets_backend.errors import MintError

if TYPE_CHECKING:
    from ecr_secrets_backend.aws import AwsSession
    from ecr_secrets_backend.credentials import Source
    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity


class Caller(NamedTuple):
    """An AWS principal.

    :param source: where boto3 found the credentials, such as ``environment`` or ``instance metadata``
    :param arn: the answer of STS GetCallerIdentity; None if there was none
    :param sources: what each source of credentials said
    """

    source: str
    arn: str | None
    sources: tuple[Source, ...] = ()


def caller(identity: AwsIdentity, connection: AwsConnection | None = None) -> Caller:
    """Load the credentials of an identity, and ask STS for their ARN.

    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :raises MintError: there are no credentials, or the role cannot be assumed
    """
    outcome = request(identity, connection, _caller)
    if isinstance(outcome, MintError):  # raised here, where no local variable holds what AWS sent
        raise outcome
    return outcome


def _caller(session: AwsSession) -> Caller:
    from botocore.exceptions import BotoCoreError, ClientError

    client = session.client("sts")
    try:
        arn = client.get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError, KeyError):  # a pull needs neither the permission nor the route
        arn = None
    return Caller(session.sources[-1].source, arn, session.sources)

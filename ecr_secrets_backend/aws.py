"""From an identity to a token: boto3's session, one call, and AWS's failures in words that help."""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecr_secrets_backend import __version__
from ecr_secrets_backend.errors import MintError, MintFailure
from ecr_secrets_backend.registry import PUBLIC_REGION
from ecr_secrets_backend.token import EcrToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import botocore.session

    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity

USER_AGENT: Final = f"airflow-ecr-secrets-backend/{__version__}"
ROLE_SESSION_NAME: Final = "airflow-ecr-secrets-backend"  # how CloudTrail calls us

#: A task waits for this. Attempts x (connect + read) and the pause between them come to 13 s at the most for each call,
#: and there are two calls at the most: AssumeRole, whose failure ends the mint, and GetAuthorizationToken.
CONNECT_TIMEOUT_SECONDS: Final = 2
READ_TIMEOUT_SECONDS: Final = 4
ATTEMPTS: Final = 2

#: How far AWS's clock, read off an answer's Date header, may be from ours before it is believed rather than ours. The
#: header tells whole seconds and was written some time after the request was sent.
CLOCK_DOUBT_SECONDS: Final = 10.0

#: A reason ends here: AWS's longer messages repeat what was signed, session token included, from the second line on.
_LONGEST_REASON: Final = 600


def mint(
    identity: AwsIdentity, clock: Callable[[], float] = time.time, connection: AwsConnection | None = None
) -> EcrToken:
    """Ask AWS for a new token.

    ``expires_at`` is told by this host's clock: where AWS's own clock, read off its answer, differs from it, the
    difference is taken out, so that a host whose clock is wrong neither serves a dead token nor mints without end.

    :param identity: who asks, and where
    :param clock: seconds since the epoch
    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :return: a token that is alive
    :raises MintError: AWS gave none, or one that cannot be used
    """
    outcome = _mint(identity, clock, connection)
    if isinstance(outcome, MintFailure):  # raised from here, where no local variable holds what AWS sent
        raise MintError(outcome)
    return outcome


def _mint(
    identity: AwsIdentity, clock: Callable[[], float], connection: AwsConnection | None
) -> EcrToken | MintFailure:
    if (missing := _prepare(identity, connection)) is not None:  # first, so that all loggers are there to be hushed
        return missing
    from botocore.exceptions import BotoCoreError, ClientError

    region, client = identity.region, None
    try:
        with _hushed():
            session, identity = _session(identity, connection)
            region = region or session.get_config_variable("region")
            client = _client(session, identity)
            sent_at = clock()
            answer = client.get_authorization_token()
            return _token(answer, sent_at, clock())
    except Exception as error:  # noqa: BLE001 - whatever the AWS libraries raise, a lookup fails with our exception
        if isinstance(error, _UnusableAnswerError):
            reason = str(error)
        elif client is None or isinstance(error, (BotoCoreError, ClientError, OSError)) or _STILL_EXPIRED in str(error):
            return _failure(identity, region or "none", error)
        else:  # botocore, or we, stumbled over an answer of another shape; the error may quote it
            reason = "the answer has not the shape that AWS documents"
        remedy = "Look at what answers in place of AWS: a proxy, or an endpoint_url that is not ECR's."
        return MintFailure(str(identity), region or "none", "UnusableAnswer", reason, remedy)


class Caller(NamedTuple):
    """Who asks AWS, as far as it tells.

    :param source: where boto3 found the credentials, in botocore's word for it, such as ``env`` or ``iam-role``
    :param arn: what STS GetCallerIdentity tells; None: it does not
    """

    source: str
    arn: str | None


def caller(identity: AwsIdentity, connection: AwsConnection | None = None) -> Caller:
    """Find the credentials of an identity, and ask STS whose they are.

    :param identity: who asks, and where
    :param connection: as for :func:`mint`
    :raises MintError: there are no credentials, or the role cannot be assumed
    """
    outcome = _caller(identity, connection)
    if isinstance(outcome, MintFailure):
        raise MintError(outcome)
    return outcome


def _caller(identity: AwsIdentity, connection: AwsConnection | None) -> Caller | MintFailure:
    if (missing := _prepare(identity, connection)) is not None:
        return missing
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    region = identity.region or "none"
    try:
        with _hushed():
            session, identity = _session(identity, connection)
            credentials = session.get_credentials()
            if credentials is None or not credentials.get_frozen_credentials().access_key:
                return _failure(identity, region, NoCredentialsError())
            source = str(credentials.method)
            try:
                where = identity.region or session.get_config_variable("region") or PUBLIC_REGION
                client: Any = session.create_client("sts", region_name=where, verify=identity.verify)
                return Caller(source, client.get_caller_identity()["Arn"])
            except (BotoCoreError, ClientError, KeyError):  # it need not be allowed, nor reachable, for a pull
                return Caller(source, None)
    except Exception as error:  # noqa: BLE001 - whatever the AWS libraries raise
        return _failure(identity, region, error)


#: Held while boto3 is imported and OpenSSL begins, and while a process forks: a child that is forked in the middle of
#: either finds half of it, or a lock of OpenSSL taken, and nobody to go on.
_beginning: Final = threading.Lock()
os.register_at_fork(before=_beginning.acquire, after_in_parent=_beginning.release, after_in_child=_beginning.release)


def _begin(*names: str) -> None:
    """Import all that a mint needs, down to what Python's sockets import at their first use."""
    with _beginning:
        for name in ("boto3.session", "botocore.session", "encodings.idna", *names):
            import_module(name)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ssl.RAND_bytes(1)


def _prepare(identity: AwsIdentity, connection: AwsConnection | None) -> MintFailure | None:
    """Import all that this identity's session needs; tell what is not installed."""
    try:
        _begin(*(() if connection is None else _AMAZON_PROVIDER))
    except ImportError as error:
        reason = f"Airflow's amazon provider is needed for aws_conn_id, and cannot be imported: {error}"
        remedy = 'Install it where this process runs: pip install "airflow-ecr-secrets-backend[amazon]".'
        return MintFailure(str(identity), identity.region or "none", type(error).__name__, reason, remedy)
    return None


#: What reads an AWS connection of Airflow.
_AMAZON_PROVIDER: Final = (
    "airflow.providers.amazon.aws.hooks.base_aws",
    "airflow.providers.amazon.aws.utils.connection_wrapper",
)


def _session(identity: AwsIdentity, connection: AwsConnection | None) -> tuple[botocore.session.Session, AwsIdentity]:
    """Build the session of an identity: boto3's own chain or an Airflow connection, and perhaps a role on top of it.

    :return: the session, and the identity with what the Airflow connection says of endpoints
    """
    import botocore.session
    from botocore.config import Config
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.exceptions import NoCredentialsError

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        user_agent_extra=USER_AGENT,
    )
    sts_url = None
    if connection is None:
        session = botocore.session.Session(profile=identity.profile_name)
    else:
        from airflow.providers.amazon.aws.hooks.base_aws import resolve_session_factory
        from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

        either: Any = connection  # one of Airflow's two classes
        wrapper = AwsConnectionWrapper(either, region_name=identity.region, verify=identity.verify)
        config = config.merge(wrapper.botocore_config or Config())
        factory = resolve_session_factory()(wrapper, region_name=identity.region, config=config)
        session = factory.create_session()._session  # noqa: SLF001 - boto3 has no public door to it
        sts_url = wrapper.get_service_endpoint_url("sts", sts_connection_assume=True)
        endpoint_url = identity.endpoint_url or wrapper.get_service_endpoint_url(identity.service)
        identity = replace(identity, endpoint_url=endpoint_url, verify=wrapper.verify)
    session.set_default_client_config(config)  # for the clients, too, that botocore builds to find credentials
    if identity.role_arn:
        source = session.get_credentials()
        if source is None:
            raise NoCredentialsError
        arguments = {"RoleSessionName": ROLE_SESSION_NAME, **json.loads(identity.assume_role_kwargs or "{}")}
        role = AssumeRoleCredentialFetcher(
            partial(session.create_client, region_name=identity.region, verify=identity.verify, endpoint_url=sts_url),
            source,
            identity.role_arn,
            extra_args=arguments,
        )
        # Where everybody puts them, Airflow's amazon provider among them: botocore has no public door for it.
        credentials = DeferredRefreshableCredentials(role.fetch_credentials, "assume-role")
        session._credentials = credentials  # type: ignore[attr-defined]  # noqa: SLF001
    return session, identity


def _client(session: botocore.session.Session, identity: AwsIdentity) -> Any:  # noqa: ANN401 - of either service
    import boto3
    from botocore.config import Config

    return boto3.session.Session(botocore_session=session, region_name=identity.region).client(
        identity.service,
        endpoint_url=identity.endpoint_url,
        verify=identity.verify,
        # None leaves AWS_USE_FIPS_ENDPOINT and its like in force. An explicit endpoint wins over both.
        config=Config(
            use_fips_endpoint=identity.use_fips or None,
            use_dualstack_endpoint=identity.use_dual_stack or None,
        ),
    )


class _UnusableAnswerError(Exception):
    """An answer that is not what ECR's API documents; it never quotes the answer."""


def _token(answer: Mapping[str, Any], sent_at: float, received_at: float) -> EcrToken:
    data = answer.get("authorizationData")
    if isinstance(data, list):  # ECR answers with a list, ECR Public with its one element
        data = data[0] if data else None
    if not data or not data.get("authorizationToken") or not data.get("expiresAt"):
        raise _UnusableAnswerError("the answer has no authorizationData")
    try:
        username, colon, password = base64.b64decode(data["authorizationToken"], validate=True).decode().partition(":")
    except ValueError:
        raise _UnusableAnswerError("the authorizationToken is not base64") from None
    if not (username and colon and password):
        raise _UnusableAnswerError("the authorizationToken is not a user name and a password")
    token = EcrToken(
        username=username,
        password=password,
        registry=data["proxyEndpoint"].removeprefix("https://") if data.get("proxyEndpoint") else None,
        minted_at=received_at,
        expires_at=data["expiresAt"].timestamp() - _clock_difference(answer, min(sent_at, received_at)),
        jitter=random.random(),  # noqa: S311 - spreads load, guards nothing
    )
    if not token.is_alive(received_at):
        raise _UnusableAnswerError("the token had expired before it was received")
    return token


def _clock_difference(answer: Mapping[str, Any], sent_at: float) -> float:
    """Tell by how many seconds at most AWS's clock is ahead of ours; none where they agree as far as can be told."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    try:
        ahead = parsedate_to_datetime(date).timestamp() + 1 - sent_at  # + 1: it may have been the end of that second
    except (TypeError, ValueError):
        return 0.0
    return ahead if abs(ahead) > CLOCK_DOUBT_SECONDS else 0.0


_NO_CREDENTIALS: Final = "Give this process credentials: a role of its host, pod or task, AWS_PROFILE or profile_name."
_REMEDIES: Final[Mapping[str, str]] = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "ProfileNotFound": "Set profile_name, or AWS_PROFILE, to a profile of this user's AWS configuration.",
    "NoRegionError": "Set region_name in backend_kwargs, or AWS_DEFAULT_REGION for this process.",
    "ExpiredCredentials": "Set the clock of this host, or renew the credentials, which seem to have expired.",
    "ExpiredToken": "Renew the credentials of this process: they have expired.",
    "InvalidClientTokenId": "Replace the access key of this process: AWS does not know it.",
    "SignatureDoesNotMatch": "Check the secret key of this process, and the clock of this host.",
    "RequestExpired": "Set the clock of this host: AWS refuses requests from more than some minutes away.",
    "ThrottlingException": "Nothing to set: AWS is asked again after a pause. Raise the quota if it lasts.",
    "HTTPClientError": "Look for a line break in the credentials of this process, and at the URL of its proxy.",
    "SSLError": "Set verify to the CA bundle of the proxy that stands before AWS, or mend its certificate.",
}
#: Other names that AWS's services give to one cause.
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
_CONNECTION_REMEDY: Final = (
    "Let this host reach that endpoint: its route, proxy or security group, or a VPC endpoint for ECR's API"
    " (com.amazonaws.<region>.ecr.api) and STS."
)
_SERVICE_REMEDY: Final = (
    "Look at AWS's health for that region, and at any proxy on the way; AWS is asked again after a pause."
)
#: What botocore says, in a plain RuntimeError, of credentials that it has just got and that seem to have expired.
_STILL_EXPIRED: Final = "still expired"


def _failure(identity: AwsIdentity, region: str, error: Exception) -> MintFailure:
    """Put an exception of the AWS libraries into words: its code, what AWS says, and what to do about it."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # noqa: A004

    reason = str(error)
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        code = str(told.get("Code", "Unknown"))
        reason = str(told.get("Message") or reason)
        remedy = _REMEDIES.get(_ALIASES.get(code, code), _SERVICE_REMEDY)
        if code.startswith("AccessDenied"):
            remedy = _permission_remedy(identity, error.operation_name)
        elif code.isdigit():  # an HTTP status: whatever has answered, a proxy's page perhaps, may quote what was sent
            reason = "the answer is not AWS's"
    else:
        code = "ExpiredCredentials" if _STILL_EXPIRED in reason else type(error).__name__
        unreachable = isinstance(error, (ConnectionError, HTTPClientError))
        unknown = _CONNECTION_REMEDY if unreachable else "Correct the AWS settings of this process."
        remedy = _REMEDIES.get(_ALIASES.get(code, code), unknown)
        if type(error) is HTTPClientError or not isinstance(error, (BotoCoreError, OSError, RuntimeError)):
            reason = "it is not repeated what was said, because that may quote what was sent"
    lines = reason.strip().splitlines() or [""]
    return MintFailure(str(identity), region, code, lines[0][:_LONGEST_REASON].rstrip(". "), remedy)


def _permission_remedy(identity: AwsIdentity, operation: str) -> str:
    if operation.startswith("AssumeRole"):
        role = identity.role_arn or "the role"
        return f"Allow sts:{operation} on {role} to this identity, in its own policy and in the role's trust policy."
    if identity.service == "ecr-public":
        return 'Allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on Resource "*" to this identity.'
    return 'Allow ecr:GetAuthorizationToken on Resource "*" to this identity.'


#: Whose lines hold what AWS was sent or has answered, tokens included: at DEBUG as text, and at WARNING in the local
#: variables of a traceback.
_TALKATIVE: Final = ("boto3", "botocore", "urllib3")
_hush: Final = threading.local()


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep this thread's talk with AWS out of every log, whatever its level; what fails is told by us.

    By a filter on each logger, and not by a level, because other threads may well want their lines. The filter stays:
    logging does not bear one that goes while another thread's line passes it.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _TALKATIVE:
            logger.addFilter(_is_speakable)
    _hush.is_on = True
    try:
        yield
    finally:
        _hush.is_on = False


def _is_speakable(_record: logging.LogRecord) -> bool:
    return not getattr(_hush, "is_on", False)

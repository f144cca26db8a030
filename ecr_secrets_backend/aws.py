"""From an identity to a token: a boto3 session, one call, and a token or a failure that says what to do."""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecr_secrets_backend import __version__
from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe
from ecr_secrets_backend.errors import InvalidRegistryError, MintError, MintFailure
from ecr_secrets_backend.registry import PUBLIC_REGION, Registry
from ecr_secrets_backend.token import EcrToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from boto3.session import Session
    from botocore.config import Config
    from botocore.credentials import ReadOnlyCredentials

    from ecr_secrets_backend.credential_sources import Loaded, Source
    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity

USER_AGENT: Final = f"airflow-ecr-secrets-backend/{__version__}"
ROLE_SESSION_NAME: Final = "airflow-ecr-secrets-backend"  # the session's name in CloudTrail

#: A task waits for these. Attempts x (connect + read) and the pause between them come to 13 s at most for each call.
CONNECT_TIMEOUT_SECONDS: Final = 2
READ_TIMEOUT_SECONDS: Final = 4
ATTEMPTS: Final = 2

#: A token of ECR is valid for 12 h; AWS rejects requests from hosts whose clock is more than 5 minutes off. What an
#: answer promises beyond that is not believed.
LONGEST_LIFETIME_SECONDS: Final = 12 * 3600 + 300

#: Modules of the amazon provider that read an AWS connection of Airflow.
_AMAZON_PROVIDER: Final = (
    "airflow.providers.amazon.aws.hooks.base_aws",
    "airflow.providers.amazon.aws.utils.connection_wrapper",
)


def mint(identity: AwsIdentity, connection: AwsConnection | None = None) -> EcrToken:
    """Request a new token from AWS.

    :param identity: whose token, and where
    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :return: a token that has not expired
    :raises MintError: AWS returned none, or none that can be used
    """
    outcome = _mint(identity, connection)
    if isinstance(outcome, MintFailure):  # raised here, where no local variable holds what AWS sent
        raise MintError(outcome)
    return outcome


def _mint(identity: AwsIdentity, connection: AwsConnection | None) -> EcrToken | MintFailure:
    if (missing := _prepare(identity, connection)) is not None:  # first, so that every logger exists to be suppressed
        return missing
    region = identity.region
    try:
        with suppress_sdk_logs():
            source = _source(identity, connection)
            region = source.region
            client = source.client(identity.service, source.credentials().keys)
            return _token(_answer_of(client.get_authorization_token), time.time(), source.region)
    except Exception as error:  # noqa: BLE001 - whatever the AWS libraries raise, a lookup fails with our exception
        return describe(identity, region, error)


class Caller(NamedTuple):
    """An AWS principal, as far as AWS identifies it.

    :param source: where boto3 found the credentials, such as ``environment`` or ``instance metadata``
    :param arn: the answer of STS GetCallerIdentity; None if there was none
    :param sources: what each source of credentials said
    """

    source: str
    arn: str | None
    sources: tuple[Source, ...] = ()


def caller(identity: AwsIdentity, connection: AwsConnection | None = None) -> Caller:
    """Load the credentials of an identity, and ask STS for their ARN.

    :param identity: whose credentials
    :param connection: as for :func:`mint`
    :raises MintError: there are no credentials, or the role cannot be assumed
    """
    outcome = _caller(identity, connection)
    if isinstance(outcome, MintError):
        raise outcome
    return outcome


def _caller(identity: AwsIdentity, connection: AwsConnection | None) -> Caller | MintError:
    if (missing := _prepare(identity, connection)) is not None:
        return MintError(missing)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with suppress_sdk_logs():
            source = _source(identity, connection)
            credentials = source.credentials()
            client = source.client("sts", credentials.keys)
            try:
                arn = client.get_caller_identity()["Arn"]
            except (BotoCoreError, ClientError, KeyError):  # a pull needs neither the permission nor the route
                arn = None
            return Caller(credentials.source, arn, credentials.sources)
    except Exception as error:  # noqa: BLE001 - as above
        sources = error.sources if isinstance(error, CredentialsError) else ()
        return MintError(describe(identity, identity.region, error), sources=sources)


#: Held while boto3 is imported and OpenSSL starts, and while a process forks. A child that is forked in the middle of
#: either finds half of a module, or a lock of OpenSSL that nothing releases.
_importing: Final = threading.Lock()
os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)


def _prepare(identity: AwsIdentity, connection: AwsConnection | None) -> MintFailure | None:
    """Import all that a request needs, down to what Python's sockets import at their first use."""
    provider = () if connection is None else _AMAZON_PROVIDER
    try:
        with _importing:
            ours = "ecr_secrets_backend.credential_sources"
            for name in ("boto3.session", "botocore.session", "encodings.idna", ours, *provider):
                import_module(name)
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            ssl.RAND_bytes(1)
            _quieten_connections()
    except ImportError as error:
        reason = f"aws_conn_id needs Airflow's amazon provider, which cannot be imported: {error}"
        fix = 'Install it where this process runs: pip install "airflow-ecr-secrets-backend[amazon]".'
        return identity.failure(type(error).__name__, reason, fix)
    return None


class _Source(NamedTuple):
    """A boto3 session, what its clients are built with, and what loads its credentials."""

    session: Session
    identity: AwsIdentity
    config: Config
    sts_url: str | None
    load: Callable[[], Loaded]

    @property
    def region(self) -> str | None:
        return self.identity.region or self.session.region_name

    def credentials(self) -> Loaded:
        """Load the credentials, and assume the role if there is one.

        :raises CredentialsError: they cannot be loaded
        """
        from botocore.credentials import ReadOnlyCredentials

        loaded = self.load()
        if not self.identity.role_arn:
            return loaded
        arguments = {"RoleSessionName": ROLE_SESSION_NAME, **json.loads(self.identity.assume_role_kwargs or "{}")}
        sts = self.client("sts", loaded.keys)
        answer = _answer_of(sts.assume_role, RoleArn=self.identity.role_arn, **arguments)
        try:
            role = answer["Credentials"]
            keys = ReadOnlyCredentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])
        except (KeyError, TypeError):
            raise UnusableAnswerError("STS returned no credentials") from None
        return loaded._replace(keys=keys, source="a role that was assumed")

    def client(self, service: str, keys: ReadOnlyCredentials) -> Any:  # noqa: ANN401 - boto3 builds its classes at run time
        """Return a client that never loads credentials by itself: whatever its calls raise came over the wire."""
        from botocore.config import Config

        identity, config, endpoint_url = self.identity, self.config, self.sts_url
        if service == identity.service:
            endpoint_url = identity.endpoint_url
            # None leaves AWS_USE_FIPS_ENDPOINT and its like in force. An explicit endpoint wins over both.
            config = config.merge(
                Config(
                    use_fips_endpoint=identity.use_fips or None, use_dualstack_endpoint=identity.use_dual_stack or None
                )
            )
        any_service: Any = service
        return self.session.client(
            any_service,
            region_name=self.region if service == identity.service else self.region or PUBLIC_REGION,
            endpoint_url=endpoint_url,
            verify=identity.verify,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            aws_session_token=keys.token,
            config=config,
        )


def _source(identity: AwsIdentity, connection: AwsConnection | None) -> _Source:
    """Build the session of an identity, from boto3's own chain of sources or from an Airflow connection."""
    import boto3.session
    import botocore.session
    from botocore.config import Config

    from ecr_secrets_backend.credential_reasons import refuse_mfa
    from ecr_secrets_backend.credential_sources import explain_failure, load

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        user_agent_extra=USER_AGENT,
    )
    if connection is None:
        chain = botocore.session.Session(profile=identity.profile_name)
        chain.set_default_client_config(config)  # for the clients, too, that botocore builds to load credentials
        session = boto3.session.Session(botocore_session=chain, region_name=identity.region)
        return _Source(session, identity, config, None, partial(load, chain))
    from airflow.providers.amazon.aws.hooks.base_aws import resolve_session_factory
    from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

    either: Any = connection  # one of Airflow's two classes
    wrapper = AwsConnectionWrapper(either, region_name=identity.region, verify=identity.verify)
    config = config.merge(wrapper.botocore_config or Config())
    factory = resolve_session_factory()(wrapper, region_name=identity.region, config=config)
    chain = botocore.session.Session(profile=wrapper.profile_name)

    def create_session() -> Session:
        if not wrapper.aws_access_key_id:
            refuse_mfa(chain)
        session: Session = factory.create_session()
        return session

    session = explain_failure(chain, create_session)
    endpoint_url = identity.endpoint_url or wrapper.get_service_endpoint_url(identity.service)
    return _Source(
        session,
        replace(identity, endpoint_url=endpoint_url, verify=wrapper.verify),
        config,
        wrapper.get_service_endpoint_url("sts", sts_connection_assume=True),
        lambda: explain_failure(chain, partial(_load, session)),
    )


def _load(session: Session) -> Loaded:
    """Load the credentials of a session that was not built here.

    :raises NoCredentialsError: there are none
    """
    from botocore.exceptions import NoCredentialsError

    from ecr_secrets_backend.credential_reasons import name_of
    from ecr_secrets_backend.credential_sources import Loaded

    credentials = session.get_credentials()
    keys = credentials.get_frozen_credentials() if credentials else None
    if credentials is None or keys is None or not keys.access_key:
        raise NoCredentialsError
    return Loaded(keys, name_of(credentials.method))


def _answer_of(operation: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401 - of the operation's shape
    """Call AWS.

    :raises UnusableAnswerError: botocore cannot read the answer
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return operation(**arguments)
    except (BotoCoreError, ClientError, OSError):
        raise
    except Exception:  # noqa: BLE001 - raised by botocore's parsers, whose words may quote the answer
        raise UnusableAnswerError("the answer does not have the shape that AWS documents") from None


def _token(answer: Mapping[str, Any], received_at: float, region: str | None) -> EcrToken:
    """Read the answer of GetAuthorizationToken.

    :param region: where the token is valid
    :raises UnusableAnswerError: it holds no token, or one that has expired
    """
    try:
        data = answer["authorizationData"]
        if isinstance(data, list):  # ECR returns a list, ECR Public its one element
            data = data[0]
        username, _, password = base64.b64decode(data["authorizationToken"], validate=True).decode().partition(":")
        expires_at = min(data["expiresAt"].timestamp(), received_at + LONGEST_LIFETIME_SECONDS)
        registry = _registry(data.get("proxyEndpoint"), region)
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError):
        raise UnusableAnswerError("the answer holds no authorizationData that can be read") from None
    if not (username and password):
        raise UnusableAnswerError("the authorizationToken is not a user name and a password")
    token = EcrToken(username, password, registry, received_at, expires_at)
    if not token.is_servable(received_at):
        raise UnusableAnswerError("the token had expired before it was received")
    return token


def _registry(endpoint: str | None, region: str | None) -> str | None:
    """Return the host of the registry that an answer names; None if it names none of ECR in that region.

    An emulator, or a proxy in front of AWS, may name another host, which is never served as one of ECR's.
    """
    try:
        registry = Registry.parse(endpoint or "")
    except InvalidRegistryError:
        return None
    return registry.host if (registry.service, registry.region) == ("ecr", region) else None


#: Loggers that write what AWS was sent or has answered, tokens included: at DEBUG as text, and at WARNING in the local
#: variables of a traceback.
_SDK_LOGGERS: Final = ("boto3", "botocore", "urllib3")
_is_requesting: Final = ContextVar("ecr_secrets_backend_is_requesting", default=False)


@contextmanager
def suppress_sdk_logs() -> Iterator[None]:
    """Keep every line of the AWS libraries out of every log, whatever its level, within this context.

    A filter on each logger does so, and not a level, because other threads and greenlets may want their lines. The
    filter stays: logging does not support removing one while another thread's line passes it.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _SDK_LOGGERS:
            logger.addFilter(_is_wanted)
    token = _is_requesting.set(True)
    try:
        yield
    finally:
        _is_requesting.reset(token)


def _is_wanted(_record: logging.LogRecord) -> bool:
    return not _is_requesting.get()


class _DebugLevel:
    """The level at which a connection of botocore prints its traffic: none while a token is requested."""

    def __get__(self, connection: object, owner: type) -> int:
        from http.client import HTTPConnection

        return 0 if _is_requesting.get() else HTTPConnection.debuglevel


def _quieten_connections() -> None:
    """Keep ``http.client.HTTPConnection.debuglevel`` from printing what AWS was sent and has answered."""
    from botocore import awsrequest

    level: Any = _DebugLevel()  # looked up at each use, so that other requests are printed as ever
    for connection in (awsrequest.AWSHTTPConnection, awsrequest.AWSHTTPSConnection):
        connection.debuglevel = level

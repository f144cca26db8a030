"""Request a token from AWS: a boto3 session for an identity, one call, and the token or a failure with its fix."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ecr_secrets_backend import __version__
from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe
from ecr_secrets_backend.errors import CredentialSource, TokenError
from ecr_secrets_backend.identity import AwsConnection, AwsIdentity
from ecr_secrets_backend.registry import PUBLIC_REGION, Registry
from ecr_secrets_backend.sdk import import_sdk, suppress_sdk_logs
from ecr_secrets_backend.token import EcrToken

if TYPE_CHECKING:
    from botocore.credentials import Credentials, ReadOnlyCredentials

Result = TypeVar("Result")

USER_AGENT: Final = f"airflow-ecr-secrets-backend/{__version__}"

#: A task waits for a call, so a call takes at most 13 s: attempts x (connect + read), and the pause between attempts.
CONNECT_TIMEOUT_SECONDS: Final = 2
READ_TIMEOUT_SECONDS: Final = 4
ATTEMPTS: Final = 2

#: ECR's tokens are valid for 12 h, and AWS tolerates clocks that are off by 5 minutes. A longer lifetime is not used.
LONGEST_LIFETIME_SECONDS: Final = 12 * 3600 + 300


def request_token(identity: AwsIdentity, connection: AwsConnection | None = None) -> EcrToken:
    """Request a new token from AWS.

    :param connection: the Airflow connection of the identity's ``aws_conn_id``
    :raises TokenError: AWS returned no token, or none that is valid
    """
    return call_aws(_request_token, identity, connection)


def call_aws(
    call: Callable[[AwsSession], Result], identity: AwsIdentity, connection: AwsConnection | None = None
) -> Result:
    """Load the credentials of an identity, and return the result of a function that calls AWS with them.

    :raises TokenError: there are no credentials, or the function raised an exception
    """
    result = _try_call(call, identity, connection)
    if isinstance(result, TokenError):  # raised here, where no local variable has a secret of AWS
        raise result
    return result


def _try_call(
    call: Callable[[AwsSession], Result], identity: AwsIdentity, connection: AwsConnection | None
) -> Result | TokenError:
    provider = [] if connection is None else ["airflow.providers.amazon.aws.hooks.base_aws"]
    try:
        import_sdk("ecr_secrets_backend.credentials", *provider)  # creates all loggers that are suppressed below
    except ImportError as error:
        reason = f"aws_conn_id needs Airflow's amazon provider, which cannot be imported: {error}"
        fix = 'Install it where this process runs: pip install "airflow-ecr-secrets-backend[amazon]".'
        return TokenError(identity.failure(type(error).__name__, reason, fix))
    try:
        with suppress_sdk_logs():
            session = AwsSession(identity, connection)
            identity = session.identity
            session.load_credentials()
            return call(session)
    except Exception as error:  # noqa: BLE001 - the AWS libraries may raise any exception
        sources = error.sources if isinstance(error, CredentialsError) else ()
        return TokenError(describe(identity, error), sources=sources)


class AwsSession:
    """The credentials of an identity, and clients that use them.

    :ivar identity: with the region, endpoint and CA bundle from boto3's configuration or the Airflow connection
    :ivar sources: the sources of credentials that were tried; the last source has the credentials
    """

    keys: ReadOnlyCredentials
    sources: tuple[CredentialSource, ...]

    def __init__(self, identity: AwsIdentity, connection: AwsConnection | None) -> None:
        import boto3.session
        import botocore.session
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            user_agent_extra=USER_AGENT,
        )
        profile_name = identity.profile_name
        self._airflow_factory: Any = None  # creates the session of Airflow's amazon provider
        self._sts_url: str | None = None
        if connection is not None:
            from airflow.providers.amazon.aws.hooks.base_aws import resolve_session_factory
            from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

            airflow_connection: Any = connection  # the provider's types name one of Airflow's two classes
            wrapper = AwsConnectionWrapper(airflow_connection, region_name=identity.region, verify=identity.verify)
            config = config.merge(wrapper.botocore_config or Config())
            self._airflow_factory = resolve_session_factory()(wrapper, region_name=identity.region, config=config)
            self._sts_url = wrapper.get_service_endpoint_url("sts", sts_connection_assume=True)
            profile_name = wrapper.profile_name
            endpoint_url = identity.endpoint_url or wrapper.get_service_endpoint_url(identity.service)
            identity = replace(identity, region=wrapper.region_name, endpoint_url=endpoint_url, verify=wrapper.verify)
        self._config = config
        self._botocore = botocore.session.Session(profile=profile_name)
        self._botocore.set_default_client_config(config)  # also for the clients with which botocore loads credentials
        self._session: Any = boto3.session.Session(botocore_session=self._botocore, region_name=identity.region)
        self.identity = replace(identity, region=self._session.region_name)

    def load_credentials(self) -> None:
        """Load the credentials, and assume the role if there is one."""
        from botocore.credentials import ReadOnlyCredentials

        from ecr_secrets_backend.credentials import load

        self.keys, self.sources = load(self._botocore, self._load_from_airflow if self._airflow_factory else None)
        if self.identity.role_arn:
            arguments = {
                "RoleArn": self.identity.role_arn,
                "RoleSessionName": "airflow-ecr-secrets-backend",  # shown in CloudTrail
                **json.loads(self.identity.assume_role_kwargs or "{}"),
            }
            with self.client("sts") as sts, check_answer():
                role = sts.assume_role(**arguments)["Credentials"]
                self.keys = ReadOnlyCredentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])

    def _load_from_airflow(self) -> Credentials | None:
        """Return the credentials of the amazon provider's session, which then creates the clients, too."""
        from ecr_secrets_backend.credentials import refuse_mfa

        if not self._airflow_factory.conn.aws_access_key_id:  # then the provider searches botocore's sources
            refuse_mfa(self._botocore)
        self._session = self._airflow_factory.create_session()
        credentials: Credentials | None = self._session.get_credentials()
        return credentials

    @contextmanager
    def client(self, service: str) -> Iterator[Any]:
        """Open a client with the loaded credentials. It loads none itself, so it raises only errors of its calls."""
        from botocore.config import Config

        region, endpoint_url, config = self.identity.region, self.identity.endpoint_url, self._config
        if service == "sts":
            region, endpoint_url = region or PUBLIC_REGION, self._sts_url
        else:
            # With None, boto3 reads AWS_USE_FIPS_ENDPOINT and similar settings. An endpoint_url wins over all of them.
            fips, dual_stack = self.identity.use_fips or None, self.identity.use_dual_stack or None
            config = config.merge(Config(use_fips_endpoint=fips, use_dualstack_endpoint=dual_stack))
        client = self._session.client(
            service,
            region_name=region,
            endpoint_url=endpoint_url,
            verify=self.identity.verify,
            aws_access_key_id=self.keys.access_key,
            aws_secret_access_key=self.keys.secret_key,
            aws_session_token=self.keys.token,
            config=config,
        )
        with closing(client):  # its connection, which Python would close later with a warning
            yield client


@contextmanager
def check_answer() -> Iterator[None]:
    """Raise UnusableAnswerError, which quotes nothing, if botocore or the code within cannot read an answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, OSError, UnusableAnswerError):
        raise
    except Exception:  # noqa: BLE001 - a parser may raise any exception, with the answer in its message
        raise UnusableAnswerError("the answer does not have the shape that AWS documents") from None


def _request_token(session: AwsSession) -> EcrToken:
    with session.client(session.identity.service) as client, check_answer():
        data = client.get_authorization_token()["authorizationData"]
        received_at = time.time()
        if isinstance(data, list):  # ECR returns a list of one element, ECR Public the element
            data = data[0]
        username, _, password = base64.b64decode(data["authorizationToken"], validate=True).decode().partition(":")
        expires_at = min(data["expiresAt"].timestamp(), received_at + LONGEST_LIFETIME_SECONDS)
        registry = _registry_host(data.get("proxyEndpoint"), session.identity.region)
    if not (username and password):
        raise UnusableAnswerError("the authorizationToken is not a user name and a password")
    token = EcrToken(username, password, registry, received_at, expires_at)
    if not token.is_servable(received_at):
        raise UnusableAnswerError("the token had expired before it was received")
    return token


def _registry_host(endpoint: str | None, region: str | None) -> str | None:
    """Return the host of an ECR registry in the region; None for any other endpoint, such as an emulator's."""
    registry = Registry.find(endpoint or "")
    return registry.host if registry and (registry.service, registry.region) == ("ecr", region) else None

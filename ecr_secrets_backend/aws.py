"""From an identity to a token: a boto3 session, one call, and a token or a failure that says what to do."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

#: A task waits for these. Attempts x (connect + read) and the pause between them come to 13 s at most for each call.
CONNECT_TIMEOUT_SECONDS: Final = 2
READ_TIMEOUT_SECONDS: Final = 4
ATTEMPTS: Final = 2

#: A token of ECR is valid for 12 h; AWS rejects requests from hosts whose clock is more than 5 minutes off. What an
#: answer promises beyond that is not believed.
LONGEST_LIFETIME_SECONDS: Final = 12 * 3600 + 300


def request_token(identity: AwsIdentity, connection: AwsConnection | None = None) -> EcrToken:
    """Request a new token from AWS.

    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :raises TokenError: AWS returned none, or none that can be used
    """
    outcome = request(identity, connection, _token)
    if isinstance(outcome, TokenError):  # raised here, where no local variable holds what AWS sent
        raise outcome
    return outcome


def request(
    identity: AwsIdentity, connection: AwsConnection | None, ask: Callable[[AwsSession], Result]
) -> Result | TokenError:
    """Load the credentials of an identity, and call AWS with them.

    :return: what ``ask`` returns, or why there is nothing: to be raised where no secret is in reach
    """
    provider = [] if connection is None else ["airflow.providers.amazon.aws.hooks.base_aws"]
    try:
        import_sdk("ecr_secrets_backend.credentials", *provider)  # first, so that every logger exists
    except ImportError as error:
        reason = f"aws_conn_id needs Airflow's amazon provider, which cannot be imported: {error}"
        fix = 'Install it where this process runs: pip install "airflow-ecr-secrets-backend[amazon]".'
        return TokenError(identity.failure(type(error).__name__, reason, fix))
    try:
        with suppress_sdk_logs():
            session = AwsSession(identity, connection)
            identity = session.identity
            session.load()
            return ask(session)
    except Exception as error:  # noqa: BLE001 - whatever the AWS libraries raise, a lookup fails with our exception
        sources = error.sources if isinstance(error, CredentialsError) else ()
        return TokenError(describe(identity, error), sources=sources)


class AwsSession:
    """The credentials of an identity, and clients that use them.

    :ivar identity: with the region, endpoint and CA bundle that boto3's configuration or the Airflow connection adds
    :ivar sources: what each source of credentials said, down to the one that has them
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
        self._airflow: Any = None  # what creates the session of Airflow's amazon provider
        sts_url: str | None = None
        if connection is not None:
            from airflow.providers.amazon.aws.hooks.base_aws import resolve_session_factory
            from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

            either: Any = connection  # one of Airflow's two classes
            wrapper = AwsConnectionWrapper(either, region_name=identity.region, verify=identity.verify)
            config = config.merge(wrapper.botocore_config or Config())
            self._airflow = resolve_session_factory()(wrapper, region_name=identity.region, config=config)
            sts_url = wrapper.get_service_endpoint_url("sts", sts_connection_assume=True)
            profile_name = wrapper.profile_name
            endpoint_url = identity.endpoint_url or wrapper.get_service_endpoint_url(identity.service)
            identity = replace(identity, region=wrapper.region_name, endpoint_url=endpoint_url, verify=wrapper.verify)
        self._chain = botocore.session.Session(profile=profile_name)
        self._chain.set_default_client_config(config)  # for the clients, too, that botocore builds to load credentials
        self._session: Any = boto3.session.Session(botocore_session=self._chain, region_name=identity.region)
        self.identity = replace(identity, region=self._session.region_name)
        self._sts_url, self._sts_config = sts_url, config
        # None leaves AWS_USE_FIPS_ENDPOINT and its like in force. An explicit endpoint wins over both.
        fips, dual_stack = identity.use_fips or None, identity.use_dual_stack or None
        self._config = config.merge(Config(use_fips_endpoint=fips, use_dualstack_endpoint=dual_stack))

    def load(self) -> None:
        """Load the credentials, and assume the role if there is one."""
        from botocore.credentials import ReadOnlyCredentials

        from ecr_secrets_backend.credentials import load

        self.keys, self.sources = load(self._chain, self._ask_airflow if self._airflow else None)
        if self.identity.role_arn:
            name = {"RoleSessionName": "airflow-ecr-secrets-backend"}  # as CloudTrail shows it
            arguments = {**name, **json.loads(self.identity.assume_role_kwargs or "{}")}
            sts = self.client("sts")
            with check_answer():
                role = sts.assume_role(RoleArn=self.identity.role_arn, **arguments)["Credentials"]
                self.keys = ReadOnlyCredentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])

    def _ask_airflow(self) -> Credentials | None:
        """Have the provider create its session, which makes the clients as well."""
        from ecr_secrets_backend.credentials import refuse_mfa

        if not self._airflow.conn.aws_access_key_id:  # then the provider asks a chain like ours
            refuse_mfa(self._chain)
        self._session = self._airflow.create_session()
        credentials: Credentials | None = self._session.get_credentials()
        return credentials

    def client(self, service: str) -> Any:  # noqa: ANN401 - boto3 builds its classes at run time
        """Return a client that never loads credentials by itself: whatever its calls raise came over the wire."""
        region, endpoint_url, config = self.identity.region, self.identity.endpoint_url, self._config
        if service == "sts":
            region, endpoint_url, config = region or PUBLIC_REGION, self._sts_url, self._sts_config
        return self._session.client(
            service,
            region_name=region,
            endpoint_url=endpoint_url,
            verify=self.identity.verify,
            aws_access_key_id=self.keys.access_key,
            aws_secret_access_key=self.keys.secret_key,
            aws_session_token=self.keys.token,
            config=config,
        )


@contextmanager
def check_answer() -> Iterator[None]:
    """Report an answer that cannot be read, by botocore or within this context, without a word of it."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, OSError, UnusableAnswerError):
        raise
    except Exception:  # noqa: BLE001 - whatever a parser raises, its words may quote the answer
        raise UnusableAnswerError("the answer does not have the shape that AWS documents") from None


def _token(session: AwsSession) -> EcrToken:
    """Call GetAuthorizationToken, and read the answer."""
    client = session.client(session.identity.service)
    with check_answer():
        data = client.get_authorization_token()["authorizationData"]
        received_at = time.time()
        if isinstance(data, list):  # ECR returns a list, ECR Public its one element
            data = data[0]
        username, _, password = base64.b64decode(data["authorizationToken"], validate=True).decode().partition(":")
        expires_at = min(data["expiresAt"].timestamp(), received_at + LONGEST_LIFETIME_SECONDS)
        registry = _registry(data.get("proxyEndpoint"), session.identity.region)
    if not (username and password):
        raise UnusableAnswerError("the authorizationToken is not a user name and a password")
    token = EcrToken(username, password, registry, received_at, expires_at)
    if not token.is_servable(received_at):
        raise UnusableAnswerError("the token had expired before it was received")
    return token


def _registry(endpoint: str | None, region: str | None) -> str | None:
    """Return the host that an answer names, if it is ECR's in that region: an emulator or a proxy may name others."""
    registry = Registry.find(endpoint or "")
    return registry.host if registry and (registry.service, registry.region) == ("ecr", region) else None

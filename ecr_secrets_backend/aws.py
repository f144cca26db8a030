"""From an identity to a token: a boto3 session, one call, and a token or a failure that says what to do."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ecr_secrets_backend import __version__
from ecr_secrets_backend.aws_errors import CredentialsError, UnusableAnswerError, describe
from ecr_secrets_backend.errors import ConfigurationError, MintError
from ecr_secrets_backend.registry import PUBLIC_REGION, Registry
from ecr_secrets_backend.sdk import import_sdk, suppress_sdk_logs
from ecr_secrets_backend.token import EcrToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from botocore.config import Config

    from ecr_secrets_backend.credential_sources import Loaded
    from ecr_secrets_backend.identity import AwsConnection, AwsIdentity

Result = TypeVar("Result")

USER_AGENT: Final = f"airflow-ecr-secrets-backend/{__version__}"
ROLE_SESSION_NAME: Final = "airflow-ecr-secrets-backend"  # the session's name in CloudTrail

#: A task waits for these. Attempts x (connect + read) and the pause between them come to 13 s at most for each call.
CONNECT_TIMEOUT_SECONDS: Final = 2
READ_TIMEOUT_SECONDS: Final = 4
ATTEMPTS: Final = 2

#: A token of ECR is valid for 12 h; AWS rejects requests from hosts whose clock is more than 5 minutes off. What an
#: answer promises beyond that is not believed.
LONGEST_LIFETIME_SECONDS: Final = 12 * 3600 + 300


def mint(identity: AwsIdentity, connection: AwsConnection | None = None) -> EcrToken:
    """Request a new token from AWS.

    :param connection: the Airflow connection that the identity's ``aws_conn_id`` names
    :raises MintError: AWS returned none, or none that can be used
    """
    outcome = request(identity, connection, _token)
    if isinstance(outcome, MintError):  # raised here, where no local variable holds what AWS sent
        raise outcome
    return outcome


def request(
    identity: AwsIdentity, connection: AwsConnection | None, ask: Callable[[AwsSession, Loaded], Result]
) -> Result | MintError:
    """Load the credentials of an identity, and ask AWS for something with them.

    :param connection: as for :func:`mint`
    :param ask: calls AWS
    :return: what ``ask`` returns, or why there is nothing: to be raised where no secret is in reach
    """
    provider = [] if connection is None else ["airflow.providers.amazon.aws.hooks.base_aws"]
    try:
        import_sdk("ecr_secrets_backend.credential_sources", *provider)  # first, so that every logger exists
    except ImportError as error:
        reason = f"aws_conn_id needs Airflow's amazon provider, which cannot be imported: {error}"
        fix = 'Install it where this process runs: pip install "airflow-ecr-secrets-backend[amazon]".'
        return MintError(identity.failure(type(error).__name__, reason, fix))
    region = identity.region
    try:
        with suppress_sdk_logs():
            session = _open(identity, connection)
            region = session.identity.region
            return ask(session, session.credentials())
    except Exception as error:  # noqa: BLE001 - whatever the AWS libraries raise, a lookup fails with our exception
        sources = error.sources if isinstance(error, CredentialsError) else ()
        return MintError(describe(identity, region, error), sources=sources)


class AwsSession(NamedTuple):
    """What clients are built with, and what loads their credentials.

    :param identity: with the region, the endpoint and the CA bundle that boto3 or the Airflow connection adds to it
    """

    identity: AwsIdentity
    config: Config
    sts_url: str | None
    load: Callable[[], Loaded]

    def credentials(self) -> Loaded:
        """Load the credentials, and assume the role if there is one."""
        from botocore.credentials import ReadOnlyCredentials

        loaded = self.load()
        if not self.identity.role_arn:
            return loaded
        arguments = {"RoleSessionName": ROLE_SESSION_NAME, **json.loads(self.identity.assume_role_kwargs or "{}")}
        sts = self.client("sts", loaded)
        with check_answer():
            role = sts.assume_role(RoleArn=self.identity.role_arn, **arguments)["Credentials"]
            keys = ReadOnlyCredentials(role["AccessKeyId"], role["SecretAccessKey"], role["SessionToken"])
        return loaded._replace(keys=keys, source="a role that was assumed")

    def client(self, service: str, loaded: Loaded) -> Any:  # noqa: ANN401 - boto3 builds its classes at run time
        """Return a client that never loads credentials by itself: whatever its calls raise came over the wire."""
        from botocore.config import Config

        identity, config, keys = self.identity, self.config, loaded.keys
        region, endpoint_url = identity.region, identity.endpoint_url
        if service == "sts":
            region, endpoint_url = region or PUBLIC_REGION, self.sts_url
        else:  # None leaves AWS_USE_FIPS_ENDPOINT and its like in force. An explicit endpoint wins over both.
            fips, dual_stack = identity.use_fips or None, identity.use_dual_stack or None
            config = config.merge(Config(use_fips_endpoint=fips, use_dualstack_endpoint=dual_stack))
        any_service: Any = service
        return loaded.session.client(
            any_service,
            region_name=region,
            endpoint_url=endpoint_url,
            verify=identity.verify,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            aws_session_token=keys.token,
            config=config,
        )


def _open(identity: AwsIdentity, connection: AwsConnection | None) -> AwsSession:
    """Build the session of an identity, from boto3's own chain of sources or from an Airflow connection."""
    import botocore.session
    from botocore.config import Config

    from ecr_secrets_backend.credential_sources import ask_airflow, ask_chain, load

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        user_agent_extra=USER_AGENT,
    )
    ask: Callable[..., Loaded] = ask_chain
    sts_url = None
    if connection is not None:
        from airflow.providers.amazon.aws.hooks.base_aws import resolve_session_factory
        from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

        either: Any = connection  # one of Airflow's two classes
        wrapper = AwsConnectionWrapper(either, region_name=identity.region, verify=identity.verify)
        config = config.merge(wrapper.botocore_config or Config())
        factory = resolve_session_factory()(wrapper, region_name=identity.region, config=config)
        ask = partial(ask_airflow, factory.create_session, has_keys=bool(wrapper.aws_access_key_id))
        sts_url = wrapper.get_service_endpoint_url("sts", sts_connection_assume=True)
        identity = replace(
            identity,
            profile_name=wrapper.profile_name,
            region=wrapper.region_name,
            endpoint_url=identity.endpoint_url or wrapper.get_service_endpoint_url(identity.service),
            verify=wrapper.verify,
        )
    chain = botocore.session.Session(profile=identity.profile_name)
    chain.set_default_client_config(config)  # for the clients, too, that botocore builds to load credentials
    if identity.region:
        chain.set_config_variable("region", identity.region)  # for these clients as well
    identity = replace(identity, region=chain.get_config_variable("region"))
    return AwsSession(identity, config, sts_url, partial(load, chain, ask))


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


def _token(session: AwsSession, credentials: Loaded) -> EcrToken:
    """Call GetAuthorizationToken, and read the answer.

    :raises UnusableAnswerError: it holds no token, or one that has expired
    """
    client = session.client(session.identity.service, credentials)
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
    """Return the host of the registry that an answer names; None if it names none of ECR in that region.

    An emulator, or a proxy in front of AWS, may name another host, which is never served as one of ECR's.
    """
    try:
        registry = Registry.parse(endpoint or "")
    except ConfigurationError:
        return None
    return registry.host if (registry.service, registry.region) == ("ecr", region) else None

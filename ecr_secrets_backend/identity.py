"""An AWS identity: all that decides whose token a token is, and so the only key under which one is kept."""

from __future__ import annotations

import base64
import hashlib
import json
import os.path
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from ecr_secrets_backend.registry import Service

    class AwsConnection(Protocol):
        """What decides whose credentials an AWS connection of Airflow holds; each of its classes has it."""

        login: str | None
        host: str | None

        @property
        def extra_dejson(self) -> Mapping[str, Any]:
            """Give the connection's extra."""


#: What boto3's own chain reads from a process's environment to find credentials and endpoints. Two processes that
#: differ in one of these may be two identities. Secret keys and session tokens are not among them: the access key's ID
#: stands for both. Source: boto3's guides "Credentials" and "Configuration", and botocore's ``credentials.py``.
CREDENTIAL_VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_ECR",
    "AWS_ENDPOINT_URL_ECR_PUBLIC",
    "AWS_ENDPOINT_URL_STS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "HOME",
)
_REGION_VARIABLE: Final = "AWS_DEFAULT_REGION"  # the one that boto3 reads
#: AWS's shared files, with the variables that name others. Source: boto3's guide "Configuration".
_SHARED_FILES: Final = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
)
#: The token by which EKS Pod Identity knows a pod, whose environment is the same in every pod of a cluster.
_POD_TOKEN_VARIABLE: Final = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 - a variable's name

_KEY_ID: Final = "aws_access_key_id"
_SECRETS: Final = frozenset({"aws_secret_access_key", "aws_session_token", "aws_security_token"})
_SESSION_TOKENS: Final = frozenset({"aws_session_token", "aws_security_token"})


@dataclass(frozen=True)
class AwsIdentity:
    """Who asks AWS for a token, and where.

    The AWS settings are named as in Airflow's AWS connection. ``assume_role_kwargs`` is JSON text with sorted keys, so
    that the whole is hashable.

    :param service: ``ecr`` or ``ecr-public``
    :param region: where the token is to be valid; None: wherever boto3's configuration says
    :param aws_conn_id: the Airflow connection that holds the credentials; None: boto3's own chain finds them
    :param environment: a digest of what else decides in this process; see :meth:`in_environment`
    """

    service: Service
    region: str | None
    profile_name: str | None = None
    role_arn: str | None = None
    assume_role_kwargs: str | None = None
    endpoint_url: str | None = None
    verify: bool | str | None = None
    use_fips: bool = False
    use_dual_stack: bool = False
    aws_conn_id: str | None = None
    environment: str = ""

    def in_environment(self, environ: Mapping[str, str], connection: AwsConnection | None = None) -> AwsIdentity:
        """Complete the identity by what decides in this process, now.

        That is what boto3 would take from the environment, from the shared files that it names and from the Airflow
        connection. Keys that stand for themselves are part of it, so that new ones are another identity. Temporary keys
        in a file or a connection, which come with a session token, are not: they are replaced all the time.

        :param environ: such as ``os.environ``
        :param connection: the Airflow connection that ``aws_conn_id`` names
        :return: the identity, with the environment's region if it had none, and with a digest of the rest
        """
        found: dict[str, object] = {name: environ[name] for name in CREDENTIAL_VARIABLES if name in environ}
        for variable, default in _SHARED_FILES:
            if sections := _sections(environ.get(variable, default)):
                found[f"file of {variable}"] = sections
        if (token_file := environ.get(_POD_TOKEN_VARIABLE)) and (pod := _service_account(token_file)):
            found["pod"] = pod
        if connection is not None:
            extra = connection.extra_dejson
            key_id = connection.login or extra.get(_KEY_ID)
            found["connection"] = [connection.host, _lasting({**extra, _KEY_ID: key_id})]
        return replace(self, region=self.region or environ.get(_REGION_VARIABLE), environment=_digest(found))

    @cached_property
    def key(self) -> str:
        """The name of a cache entry: a digest, which tells nothing of the identity's access key."""
        return _digest(vars(self))  # asdict would copy each value, and takes as long as reading the cache

    def __str__(self) -> str:
        """Describe it as far as it is known without asking AWS."""
        source = "boto3's default credentials"
        if self.profile_name:
            source = f"profile {self.profile_name}"
        elif self.aws_conn_id:
            source = f"Airflow connection {self.aws_conn_id}"
        return f"{self.role_arn}, assumed by {source}" if self.role_arn else source


def _sections(path: str) -> dict[str, dict[str, object]]:
    """Read what lasts in a file of AWS's; nothing where it cannot be read: boto3 will say why."""
    path = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
    if not os.path.isfile(path):  # noqa: PTH113 - most processes have no such file, and no time for an exception
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    from configparser import Error, RawConfigParser  # Airflow has imported it, and most processes have no such file

    parser = RawConfigParser(default_section="")
    try:
        parser.read_string(text)
    except Error:
        return {}
    return {name: _lasting(dict(section)) for name, section in sorted(parser.items()) if name}


def _lasting(options: Mapping[str, object]) -> dict[str, object]:
    """Give the options that decide whose credentials they are, none of them secret."""
    rotating = _SECRETS | {_KEY_ID} if _SESSION_TOKENS & options.keys() else _SECRETS
    return {name: value for name, value in sorted(options.items()) if name not in rotating and "expir" not in name}


def _service_account(token_file: str) -> dict[str, object]:
    """Read whose token it is off a projected token of Kubernetes, a JWT that is replaced every day."""
    try:
        claims = Path(token_file).read_text(encoding="ascii").split(".")[1]
        payload = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return {name: payload[name] for name in ("iss", "sub")}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _digest(value: Mapping[str, object]) -> str:
    """Digest plain data by its repr, so that order counts: what is read from elsewhere has been sorted.

    The first use in a process of repr and of BLAKE2 takes a fifth of what JSON and OpenSSL's SHA-256 take for theirs.
    """
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()

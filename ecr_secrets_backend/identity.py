"""An AWS identity: all that decides whose token a token is, and so the only key under which one is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecr_secrets_backend.registry import Service

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


@dataclass(frozen=True)
class AwsIdentity:
    """Who asks AWS for a token, and where.

    The AWS settings are named as in Airflow's AWS connection. ``assume_role_kwargs`` is JSON text with sorted keys, so
    that the whole is hashable.

    :param service: ``ecr`` or ``ecr-public``
    :param region: where the token is to be valid; None: wherever boto3's configuration says
    :param environment: a digest of what the process's environment adds; see :meth:`in_environment`
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
    environment: str = ""

    def in_environment(self, environ: Mapping[str, str]) -> AwsIdentity:
        """Complete the identity by what boto3 would take from the environment.

        :param environ: such as ``os.environ``
        :return: the identity, with the environment's region if it had none, and with a digest of the rest
        """
        found = {name: environ[name] for name in CREDENTIAL_VARIABLES if name in environ}
        return replace(
            self,
            region=self.region or environ.get(_REGION_VARIABLE),
            environment=_digest(found),
        )

    @cached_property
    def key(self) -> str:
        """The name of a cache entry: a digest, which tells nothing of the identity's access key."""
        return _digest(asdict(self))

    def __str__(self) -> str:
        """Describe it as far as it is known without asking AWS."""
        source = f"profile {self.profile_name}" if self.profile_name else "boto3's default credentials"
        return f"{self.role_arn}, assumed by {source}" if self.role_arn else source


def _digest(value: Mapping[str, object]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""An AWS identity: all settings that determine which token AWS returns, and the cache key that they result in."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Protocol

from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.registry import Service


class AwsConnection(Protocol):
    """An Airflow connection of type aws. Airflow has several classes for connections."""

    login: str | None
    password: str | None
    host: str | None
    extra: str | None


#: Variables that boto3 and its libraries read for credentials, endpoints, proxies and CA bundles. A list of names would
#: miss what AWS adds later, and so serve another identity's token. Sources: botocore's ``credentials.py``,
#: ``configprovider.py`` and ``endpoint.py``, Python's ``urllib.request.getproxies``, OpenSSL.
_PREFIXES: Final = ("AWS_", "BOTO", "SSL_CERT_")
_SUFFIXES: Final = ("_PROXY", "_CA_BUNDLE")
#: The files in which boto3 looks for credentials: the variable that sets the path, and the default path.
_FILES: Final = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("BOTO_CONFIG", "/etc/boto.cfg"),
    ("BOTO_CONFIG", "~/.boto"),
    ("AWS_CREDENTIAL_FILE", ""),
)
#: The variables that set the path of a service account's token. All others may be the same in each pod of a cluster.
_TOKEN_FILES: Final = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
_LONGEST_TOKEN_BYTES: Final = 64 * 1024  # Kubernetes projects tokens of 1 to 2 kB


@dataclass(frozen=True)
class AwsIdentity:
    """The AWS settings of a token request, named as in Airflow's AWS connection.

    :param region: the region of the registry; None: the region of boto3's own configuration
    :param assume_role_kwargs: JSON text with sorted keys, which is hashable
    :param aws_conn_id: the ID of the Airflow connection that holds the credentials; None: boto3 finds them
    :param environment: a digest of boto3's configuration in this process; see :meth:`in_environment`
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
        """Return the identity with a digest of boto3's configuration here, and AWS_DEFAULT_REGION if it has no region.

        The digest covers variables, the path, times and size of files, and the Airflow connection, secrets included. A
        replaced file costs one call. A pod's token, which is replaced each hour, is read instead.
        """
        variables = {
            name: environ[name]
            for name in sorted(environ)
            # Python reads proxy variables with upper-case and lower-case names.
            if (upper := name.upper()).startswith(_PREFIXES) or upper.endswith(_SUFFIXES) or name == "HOME"
        }
        files = [_file_version(variables.get(variable, default)) for variable, default in _FILES]
        pod = [_service_account(variables.get(variable, "")) for variable in _TOKEN_FILES]
        fields = connection and (connection.login, connection.password, connection.host, connection.extra)
        region = self.region or variables.get("AWS_DEFAULT_REGION")  # boto3 does not read AWS_REGION
        return replace(self, region=region, environment=_digest((variables, files, pod, fields)))

    @cached_property
    def key(self) -> str:
        """Return the key of the cache entry: a digest, which reveals no credentials."""
        return _digest(vars(self))  # dataclasses.asdict copies each value, which takes as long as reading the cache

    def failure(self, code: str, reason: str, fix: str) -> TokenFailure:
        """Return the failure of a request with this identity."""
        return TokenFailure(str(self), self.region or "none", code, reason, fix)

    def __str__(self) -> str:
        """Return the identity's name in messages, without a call to AWS."""
        source = "boto3's default credentials"
        if self.profile_name:
            source = f"profile {self.profile_name}"
        elif self.aws_conn_id:
            source = f"Airflow connection {self.aws_conn_id}"
        return f"{self.role_arn}, assumed by {source}" if self.role_arn else source


def _file_version(path: str) -> tuple[str, int, int, int] | None:
    """Return the path, times and size of a regular file; None if there is none."""
    if not path:
        return None
    path = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
    try:
        status = os.stat(path)  # noqa: PTH116 - building a Path doubles the time
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # The ctime counts, because AWS's keys all have one length and a tool that copies a file may set the mtime.
    return path, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _service_account(path: str) -> tuple[object, ...] | None:
    """Return the issuer and subject of a service account token of Kubernetes, or the version of any other file."""
    version = _file_version(path)
    if version is None:
        return None
    try:
        # O_NONBLOCK: opening a named pipe, which may have just replaced the file, would block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            _, claims, _ = file.read(_LONGEST_TOKEN_BYTES).split(b".")
        payload = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))
        return str(payload["iss"]), str(payload["sub"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return version


def _digest(value: object) -> str:
    """Return a digest of plain data, in a fifth of the time of JSON and SHA-256."""
    # The digest reveals no secret: keys and session tokens are too long to guess. To guess a short secret, such as a
    # proxy's password, an attacker needs all other values and the cache's folder, which only this user can open.
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()

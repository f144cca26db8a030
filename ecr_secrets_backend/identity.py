"""An AWS identity: everything that decides whose token a token is, and so the only key under which one is kept."""

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
    """An AWS connection of Airflow, of any of its classes."""

    login: str | None
    password: str | None
    host: str | None
    extra: str | None


#: What boto3 and the libraries below it read: credentials, endpoints, proxies, CA bundles. Names are matched by form: a
#: variable that AWS adds later then costs a call, and not another identity's token. Sources: botocore's
#: ``credentials.py``, ``configprovider.py`` and ``endpoint.py``, Python's ``urllib.request.getproxies``, OpenSSL.
_PREFIXES: Final = ("AWS_", "BOTO", "SSL_CERT_")
_SUFFIXES: Final = ("_PROXY", "_CA_BUNDLE")
#: Where boto3 looks for credentials in files: the variable that names one, and where it looks without the variable.
_FILES: Final = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("BOTO_CONFIG", "/etc/boto.cfg"),
    ("BOTO_CONFIG", "~/.boto"),
    ("AWS_CREDENTIAL_FILE", ""),
)
#: The files by whose token AWS knows a pod; all else is the same in every pod of a cluster.
_TOKEN_FILES: Final = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
_LONGEST_TOKEN_BYTES: Final = 64 * 1024  # Kubernetes projects tokens of 1 to 2 kB


@dataclass(frozen=True)
class AwsIdentity:
    """The AWS settings of a token request, named as in Airflow's AWS connection.

    :param region: where the token is to be valid; None: the region of boto3's own configuration
    :param assume_role_kwargs: JSON text with sorted keys, so that the whole is hashable
    :param aws_conn_id: the Airflow connection that holds the credentials; None: boto3 finds them
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
        """Return the identity with the environment's region, if it has none, and a digest of all else that decides.

        That is what boto3 takes from variables, files and the Airflow connection, secrets included. Of a file, path,
        times and size count: a file that is replaced costs a call. A pod's token is read, as it is replaced each hour.
        """
        variables = {
            name: environ[name]
            for name in sorted(environ)
            # In upper case, because Python takes proxies in either:
            if (upper := name.upper()).startswith(_PREFIXES) or upper.endswith(_SUFFIXES) or name == "HOME"
        }
        files = [_version(variables.get(variable, default)) for variable, default in _FILES]
        pod = [_service_account(variables.get(variable, "")) for variable in _TOKEN_FILES]
        keys = connection and (connection.login, connection.password, connection.host, connection.extra)
        region = self.region or variables.get("AWS_DEFAULT_REGION")  # boto3 reads no other
        return replace(self, region=region, environment=_digest((variables, files, pod, keys)))

    @cached_property
    def key(self) -> str:
        """The name of a cache entry: a digest, which reveals no credentials."""
        return _digest(vars(self))  # asdict would copy each value, and takes as long as reading the cache

    def failure(self, code: str, reason: str, fix: str) -> TokenFailure:
        """Return why this identity has no token, as a value."""
        return TokenFailure(str(self), self.region or "none", code, reason, fix)

    def __str__(self) -> str:
        """Describe it as far as it is known without asking AWS."""
        source = "boto3's default credentials"
        if self.profile_name:
            source = f"profile {self.profile_name}"
        elif self.aws_conn_id:
            source = f"Airflow connection {self.aws_conn_id}"
        return f"{self.role_arn}, assumed by {source}" if self.role_arn else source


def _version(path: str) -> tuple[str, int, int, int] | None:
    """Return what changes when a file is replaced; None if no regular file is there."""
    if not path:
        return None
    path = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
    try:
        it = os.stat(path)  # noqa: PTH116 - building a Path doubles the time
    except OSError:
        return None
    # The ctime as well: all keys have one length, and a tool that copies a file may set the mtime.
    return (path, it.st_mtime_ns, it.st_ctime_ns, it.st_size) if stat.S_ISREG(it.st_mode) else None


def _service_account(path: str) -> tuple[object, ...] | None:
    """Return the issuer and subject of a projected token of Kubernetes, or the version of any other file."""
    version = _version(path)
    if version is None:
        return None
    try:
        # Not blocking, because a pipe may have just taken the file's place.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            _, claims, _ = file.read(_LONGEST_TOKEN_BYTES).split(b".")
        payload = json.loads(base64.urlsafe_b64decode(claims + b"=" * (-len(claims) % 4)))
        return str(payload["iss"]), str(payload["sub"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return version


def _digest(value: object) -> str:
    """Digest plain data by its repr, so that order counts: in a fifth of the time of JSON and SHA-256."""
    # It reveals no secret. Keys and session tokens are too long to guess. To guess a short one, such as a proxy's
    # password, takes all the rest as well, and the cache's folder, which only this user can open.
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()

"""Why a source of AWS credentials has none: what botocore does not say, and what to do about it."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from botocore import exceptions, utils
from botocore.compat import compat_shell_split

from ecr_secrets_backend.aws_errors import words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.session import Session

#: What a source says, and what to do about it; None: the source need not apply here.
Reason = tuple[str, "str | None"]

#: By botocore's name for a source: its name in words, and the variable or the option of a profile that it needs.
#: Source: ``METHOD`` of the providers in botocore's ``credentials.py``.
_SOURCES: Final[Mapping[str, tuple[str, str]]] = {
    "env": ("environment", "AWS_ACCESS_KEY_ID"),
    "assume-role": ("role of a profile", "role_arn"),
    "assume-role-with-web-identity": ("web identity (IRSA)", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "sso": ("SSO", "sso_account_id"),
    "shared-credentials-file": ("credentials file", "aws_access_key_id"),
    "login": ("aws login", "login_session"),
    "custom-process": ("credential_process", "credential_process"),
    "config-file": ("config file", "aws_access_key_id"),
    "ec2-credentials-file": ("EC2 credentials file", "AWS_CREDENTIAL_FILE"),
    "boto-config": ("boto2 config", "keys in BOTO_CONFIG, /etc/boto.cfg or ~/.boto"),
    "container-role": ("container", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "iam-role": ("instance metadata", "role"),
}
#: What ``credential_source`` in a profile calls them.
_CANONICAL: Final = {"Environment": "env", "EcsContainer": "container-role", "Ec2InstanceMetadata": "iam-role"}

_PROGRAM_FIX: Final = (
    "Run the credential_process of profile {} as this user to see what it prints: that may hold a secret, so it is not"
    " repeated."
)
_LOGIN_FIX: Final = (
    "Run aws sso login --profile {} as this user. A service needs another source than SSO, such as a role."
)


class MfaRequiredError(Exception):
    """A profile has a role that botocore assumes with a code from a terminal; the argument is the profile's name."""


def refuse_mfa(session: Session) -> None:
    """Keep botocore from asking for a code at the terminal, or at what a task has in its place.

    :raises MfaRequiredError: it would
    """
    for name, options, assumes_role in _profiles(session):
        if assumes_role and "mfa_serial" in options:
            raise MfaRequiredError(name)


def name_of(method: str) -> str:
    """Return the name in words of a source, given botocore's."""
    return _SOURCES.get(method, (method, ""))[0]


def profile_of(session: Session) -> str:
    """Return the name of the profile that counts."""
    return session.get_config_variable("profile") or "default"


def _profiles(session: Session) -> list[tuple[str, dict[str, Any], bool]]:
    """Return the session's profile and those behind it, each with its options, and whether it assumes a role."""
    unseen = {**session.full_config.get("profiles", {})}
    found: list[tuple[str, dict[str, Any], bool]] = []
    name, assumes_role = profile_of(session), True
    while assumes_role and name in unseen:
        options = unseen.pop(name)
        uses_keys = bool(found) and "aws_access_key_id" in options  # behind another profile, they win over the role
        assumes_role = "role_arn" in options and "web_identity_token_file" not in options and not uses_keys
        found.append((name, options, assumes_role))
        name = options.get("source_profile", "")
    return found


def _last_profile(session: Session) -> tuple[str, dict[str, Any], str | None]:
    """Return the profile behind all roles, its options, and its program without the arguments, which may be secret."""
    name, options, _ = (_profiles(session) or [(profile_of(session), {}, False)])[-1]
    try:
        return name, options, str(compat_shell_split(options["credential_process"])[0])
    except (LookupError, ValueError):
        return name, options, None


def absence(session: Session, method: str, seconds: float) -> Reason:
    """Return why a source, asked for some seconds, has no credentials: botocore does not say."""
    if method == "iam-role":
        return _instance_metadata(session, seconds)
    _, need = _SOURCES.get(method, ("", "credentials"))
    if method not in _SOURCES or not need.islower():  # it is no option of a profile
        return f"no {need}", None
    path = session.get_config_variable("credentials_file" if method == "shared-credentials-file" else "config_file")
    file = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
    if os.path.exists(file) and not os.access(file, os.R_OK):  # noqa: PTH110
        return f"{path} is not readable by this user (uid {os.geteuid()})", f"Let this user read {path}."
    name = profile_of(session)
    options = session.full_config.get("profiles", {}).get(name)
    return f"profile {name}: {f'not in {path}' if options is None else f'no {need}'}", None


def hanging(session: Session, method: str, seconds: float) -> Reason:
    """Return how a source is reported that does not answer in time."""
    name, _, program = _last_profile(session)
    if program and method in {"custom-process", "assume-role", ""}:
        return f"{program} did not end within {seconds:.0f} s", _PROGRAM_FIX.format(name)
    return f"no answer within {seconds:.0f} s", "Look for what hangs: the network, a name server or a proxy."


def explain(session: Session, method: str, error: Exception, seconds: float, exit_code: int | None) -> Reason:
    """Return why a source failed, and how to fix it.

    :param exit_code: of the credential program; None: it is not known, or none was started
    """
    name, options, program = _last_profile(session)
    method = _inner(method, error, options, program)
    found: Reason = words_of(error), None  # all there is
    if isinstance(error, MfaRequiredError):
        found = f"profile {error} requires an MFA code, which no task can enter", "Use a role or temporary keys."
    elif isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError)):
        problem = "was not found" if isinstance(error, exceptions.SSOTokenLoadError) else "has expired"
        found = f"the SSO login of profile {name} {problem}", _LOGIN_FIX.format(name)
    elif method == "custom-process":
        found = _of_program(name, program, error, exit_code)
    elif method == "container-role":
        found = _container(error)
    elif method == "iam-role":
        found = _instance_metadata(session, seconds)
    elif method == "assume-role-with-web-identity" and isinstance(error, OSError):
        fix = "Check the pod: the annotation eks.amazonaws.com/role-arn of its service account, the mount, fsGroup."
        found = f"this user (uid {os.geteuid()}) cannot read the token {error.filename}: {error.strerror}", fix
    elif isinstance(error, (exceptions.InvalidConfigError, exceptions.PartialCredentialsError)) and method != "env":
        found = found[0], f"Correct profile {name} in {session.get_config_variable('config_file')}."
    return found


def _inner(method: str, error: Exception, options: Mapping[str, Any], program: str | None) -> str:
    """Return the source that failed: the role of a profile rests on another source."""
    if isinstance(error, exceptions.BotoCoreError):
        named = str(error.kwargs.get("provider", method))
        return _CANONICAL.get(named, named)
    if isinstance(error, OSError) and error.filename:
        tokens = (os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), options.get("web_identity_token_file"))
        by_file = {program: "custom-process", **dict.fromkeys(tokens, "assume-role-with-web-identity")}
        return by_file.get(error.filename, method)
    is_program = method in {"assume-role", ""} and program and isinstance(error, (ValueError, AttributeError))
    return "custom-process" if is_program else method


def _of_program(profile: str, program: str | None, error: Exception, exit_code: int | None) -> Reason:
    """Report on a credential program without a word of its output."""
    problem = "did not print the JSON that AWS documents"
    if isinstance(error, OSError):
        problem = f"cannot be started: {error.strerror}"
    elif exit_code:
        problem = f"ended with exit code {exit_code}"
    elif exit_code is None and isinstance(error, exceptions.CredentialRetrievalError):  # botocore started it itself
        problem = "failed"
    return f"{program} {problem}", _PROGRAM_FIX.format(profile)


def _container(error: Exception) -> Reason:
    full_uri = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    url = urlsplit("http://169.254.170.2" if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in os.environ else full_uri)
    fix = "Give this task or pod a role: a task role of ECS, or an EKS Pod Identity association."
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}", "Restart the pod to mount the token, and let this user read it."
    if answer := re.search(r"non 200 response (\d+)", str(error)):
        return f"{url.hostname} answers {answer[1]}", fix
    if "Received error when attempting to retrieve" in str(error):
        variable = _proxy_variable(url)
        direct = f" ({variable} does not matter: boto3 sends these requests to no proxy)" if variable else ""
        return f"no answer from {url.hostname}{direct}", f"Let this container reach {url.hostname}."
    if type(error) is ValueError:  # about the URL or the token; another one may quote the answer
        return str(error), "Correct AWS_CONTAINER_CREDENTIALS_FULL_URI, or the token that goes with it."
    return f"{url.hostname} gives no credentials", fix


def _instance_metadata(session: Session, seconds: float) -> Reason:
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return "disabled by AWS_EC2_METADATA_DISABLED", "Unset AWS_EC2_METADATA_DISABLED to use the role of this host."
    is_ipv6 = utils.resolve_imds_endpoint_mode(session) == "ipv6"
    default = utils.METADATA_BASE_URL_IPv6 if is_ipv6 else utils.METADATA_BASE_URL
    url = urlsplit(session.get_config_variable("ec2_metadata_service_endpoint") or default)
    if variable := _proxy_variable(url):
        problem = f"{variable} sends the requests to a proxy, because {url.hostname} is not in NO_PROXY"
        return problem, f"Add {url.hostname} to NO_PROXY."
    timeout = session.get_config_variable("metadata_service_timeout")
    if seconds >= timeout:
        fix = "In a container on EC2, set HttpPutResponseHopLimit of the instance to 2, or give the container a role."
        return f"no answer from {url.hostname} within {timeout} s, hop limit?", fix
    try:  # no slower than what has just been refused or answered
        socket.create_connection((url.hostname, url.port or 80), timeout).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached: {error.strerror or error}", None
    return f"{url.hostname} answers, but has no credentials", "Attach a role to this instance."


def _proxy_variable(url: SplitResult) -> str | None:
    """Return the variable by which requests to a URL go to a proxy; None: they do not."""
    if url.scheme not in utils.get_environ_proxies(url.geturl()):
        return None
    name = f"{url.scheme}_proxy"
    return name if os.environ.get(name) else name.upper()

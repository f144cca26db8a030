"""Load credentials from botocore's sources, in botocore's order, and report why a source has none and how to fix it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from botocore import exceptions, utils
from botocore.compat import compat_shell_split
from botocore.credentials import Credentials, ProcessProvider, ReadOnlyCredentials

from ecr_secrets_backend.aws_errors import CREDENTIALS_FIX, CredentialsError, message_of
from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.errors import CredentialSource, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from botocore.session import Session

#: The reason why a source has no credentials, and the fix; None: this process does not need the source.
Reason = tuple[str, "str | None"]

#: A request has 20 s. The search ends earlier, so that the failure names the source that hangs.
SEARCH_TIMEOUT_SECONDS: Final = 18.0

#: For each of botocore's sources: its name in messages, and the variable or the option of a profile that it needs.
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
#: The names of sources in a profile's ``credential_source``.
_PROFILE_NAMES: Final = {"Environment": "env", "EcsContainer": "container-role", "Ec2InstanceMetadata": "iam-role"}

_AIRFLOW_SOURCE: Final = "Airflow connection"
_MAY_START_PROGRAM: Final = frozenset({"custom-process", "assume-role", _AIRFLOW_SOURCE})
_PROGRAM_FIX: Final = "Run the credential_process of profile {} as this user to see its output, which may be secret."


class MfaRequiredError(Exception):
    """The role of the profile with this name requires an MFA code, which botocore reads from the terminal."""


def load(
    session: Session, load_from_airflow: Callable[[], Credentials | None] | None = None
) -> tuple[ReadOnlyCredentials, tuple[CredentialSource, ...]]:
    """Return credentials and the sources that were tried; the last source has the credentials.

    :param load_from_airflow: loads credentials with Airflow's amazon provider instead of the session's sources
    :raises CredentialsError: no source has credentials, or one fails or hangs
    """
    search = _Search(session)
    try:
        keys = within(SEARCH_TIMEOUT_SECONDS, lambda: search.load(load_from_airflow))
    except TimeoutError as error:  # from within(): a source's own timeout is a CredentialsError
        files = CredentialSource("AWS's files", "not read in time", "Check the file system that they are in.")
        last = [files, *search.sources][-1]
        raise CredentialsError(error, search.sources, f"{last.source}: {last.message}", last.fix) from None
    if keys:
        return keys, search.sources
    reason, fix = "no source has credentials", CREDENTIALS_FIX
    first = next((source for source in search.sources if source.fix), None)
    if first is not None:
        reason = f"{reason}; {first.source}: {first.message}"
        fix = f"{first.fix} Otherwise {fix[0].lower()}{fix[1:]}"
    raise CredentialsError(exceptions.NoCredentialsError(), search.sources, reason, fix)


def refuse_mfa(session: Session) -> None:
    """Raise MfaRequiredError if botocore would read an MFA code from the terminal: a task has no terminal."""
    for profile in _profiles(session):
        if profile.assumes_role and "mfa_serial" in profile.options:
            raise MfaRequiredError(profile.name)


class _Profile(NamedTuple):
    """A profile in AWS's files, and whether botocore assumes its role."""

    name: str
    options: Mapping[str, str]
    assumes_role: bool

    @property
    def program(self) -> str | None:
        """Return the credential program, without its arguments, which may be secret."""
        try:
            return str(compat_shell_split(self.options["credential_process"])[0])
        except (LookupError, ValueError):
            return None


def _profiles(session: Session) -> list[_Profile]:
    """Return the session's profile, and the chain of profiles that its ``source_profile`` leads to."""
    unseen = {**session.full_config.get("profiles", {})}
    found: list[_Profile] = []
    name = session.get_config_variable("profile") or "default"
    while not found or (found[-1].assumes_role and name in unseen):
        options = unseen.pop(name, {})
        uses_keys = bool(found) and "aws_access_key_id" in options  # in a source_profile, keys win over a role
        assumes_role = "role_arn" in options and "web_identity_token_file" not in options and not uses_keys
        found.append(_Profile(name, options, assumes_role))
        name = options.get("source_profile", "")
    return found


class _Search:
    """A search for credentials, which records the result of each source."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reasons: dict[str, Reason] = {}
        self._started_at = time.monotonic()
        self._program: subprocess.Popen[bytes] | None = None

    @property
    def sources(self) -> tuple[CredentialSource, ...]:
        """Return the sources that were tried, in order, with their results."""
        reasons = list(self._reasons.items())  # a copy, because a search goes on after its timeout
        return tuple(
            CredentialSource(_SOURCES.get(method, (method, ""))[0], one_line(message), fix)
            for method, (message, fix) in reasons
        )

    def load(self, load_from_airflow: Callable[[], Credentials | None] | None) -> ReadOnlyCredentials | None:
        """Return credentials from Airflow's amazon provider, or from the first of botocore's sources that has any."""
        providers = self._session.get_component("credential_provider").providers
        if load_from_airflow is not None:
            keys = self._load(_AIRFLOW_SOURCE, load_from_airflow)
            if not keys:  # the provider has also searched botocore's sources
                self._reasons = {provider.METHOD: self._explain_absence(provider.METHOD) for provider in providers}
            return keys
        for provider in providers:
            load = provider.load
            if provider.METHOD == ProcessProvider.METHOD:  # botocore's own does not report the exit code
                profile_name = _profiles(self._session)[0].name
                load = ProcessProvider(profile_name, lambda: self._session.full_config, self._start_program).load
            if keys := self._load(provider.METHOD, load):
                return keys
            self._reasons[provider.METHOD] = self._explain_absence(provider.METHOD)
        return None

    def _load(self, method: str, load: Callable[[], Credentials | None]) -> ReadOnlyCredentials | None:
        """Return credentials from one source, or None. Record a source that fails, hangs or has credentials."""
        self._reasons[method] = self._explain_hang(method)  # until the source returns
        self._started_at = time.monotonic()
        try:
            if method == "assume-role":
                refuse_mfa(self._session)
            credentials = load()
            keys = credentials.get_frozen_credentials() if credentials else None
        except exceptions.NoCredentialsError:  # raised by Airflow's amazon provider
            return None
        except Exception as error:  # noqa: BLE001 - a source may raise any exception
            self._reasons[method] = reason = self._explain_error(method, error)
            raise CredentialsError(error, self.sources, *reason) from None
        if not (credentials and keys and keys.access_key):
            return None
        del self._reasons[method]
        self._reasons[credentials.method if method == _AIRFLOW_SOURCE else method] = ("has credentials", None)
        return keys

    def _start_program(self, *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - Popen's own
        self._program = subprocess.Popen(*arguments, **options)  # noqa: S603 - the profile's credential_process
        return self._program

    def _explain_hang(self, method: str) -> Reason:
        last = _profiles(self._session)[-1]
        if last.program and method in _MAY_START_PROGRAM:
            return f"{last.program} did not end within {SEARCH_TIMEOUT_SECONDS:.0f} s", _PROGRAM_FIX.format(last.name)
        return f"no answer within {SEARCH_TIMEOUT_SECONDS:.0f} s", "Check the network, the name server and the proxy."

    def _explain_absence(self, method: str) -> Reason:
        """Return why a source has no credentials, which botocore does not report."""
        if method == "iam-role":
            return self._explain_instance_metadata()
        _, need = _SOURCES.get(method, ("", "credentials"))
        if method not in _SOURCES or not need.islower():  # a variable, and not an option of a profile
            return f"no {need}", None
        variable = "credentials_file" if method == "shared-credentials-file" else "config_file"
        path = self._session.get_config_variable(variable)
        file = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
        if os.path.exists(file) and not os.access(file, os.R_OK):  # noqa: PTH110
            return f"{path} is not readable by this user (uid {os.geteuid()})", f"Let this user read {path}."
        name = _profiles(self._session)[0].name
        problem = f"no {need}" if name in self._session.full_config.get("profiles", {}) else f"not in {path}"
        return f"profile {name}: {problem}", None

    def _explain_error(self, method: str, error: Exception) -> Reason:
        """Return why a source failed, and how to fix it."""
        last = _profiles(self._session)[-1]
        method = _failed_source(method, error, last)
        reason: Reason = message_of(error), None
        if isinstance(error, MfaRequiredError):
            reason = f"profile {error} requires an MFA code, which no task can enter", "Use a role or temporary keys."
        elif isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError)):
            problem = "was not found" if isinstance(error, exceptions.SSOTokenLoadError) else "has expired"
            fix = f"Run aws sso login --profile {last.name} as this user. A service needs another source than SSO."
            reason = f"the SSO login of profile {last.name} {problem}", fix
        elif method == "custom-process":
            reason = f"{last.program} {self._program_problem(error)}", _PROGRAM_FIX.format(last.name)
        elif method == "container-role":
            reason = _explain_container(error)
        elif method == "iam-role":
            reason = self._explain_instance_metadata()
        elif method == "assume-role-with-web-identity" and isinstance(error, OSError):
            fix = "Check the pod: the annotation eks.amazonaws.com/role-arn of its service account, the mount, fsGroup."
            reason = f"this user (uid {os.geteuid()}) cannot read the token {error.filename}: {error.strerror}", fix
        elif isinstance(error, (exceptions.InvalidConfigError, exceptions.PartialCredentialsError)) and method != "env":
            reason = reason[0], f"Correct profile {last.name} in {self._session.get_config_variable('config_file')}."
        return reason

    def _program_problem(self, error: Exception) -> str:
        """Return the failure of a credential program, without its output, which may be secret."""
        if isinstance(error, OSError):
            return f"cannot be started: {error.strerror}"
        if self._program and self._program.returncode:
            return f"ended with exit code {self._program.returncode}"
        if not self._program and isinstance(error, exceptions.CredentialRetrievalError):  # botocore started it
            return "failed"
        return "did not print the JSON that AWS documents"

    def _explain_instance_metadata(self) -> Reason:
        if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return "disabled by AWS_EC2_METADATA_DISABLED", "Unset AWS_EC2_METADATA_DISABLED to use this host's role."
        is_ipv6 = utils.resolve_imds_endpoint_mode(self._session) == "ipv6"
        default = utils.METADATA_BASE_URL_IPv6 if is_ipv6 else utils.METADATA_BASE_URL
        url = urlsplit(self._session.get_config_variable("ec2_metadata_service_endpoint") or default)
        if variable := _proxy_variable(url):
            reason = f"{variable} sends the requests to a proxy, because {url.hostname} is not in NO_PROXY"
            return reason, f"Add {url.hostname} to NO_PROXY."
        timeout = self._session.get_config_variable("metadata_service_timeout")
        if time.monotonic() - self._started_at >= timeout:
            fix = "In a container on EC2, set HttpPutResponseHopLimit of the instance to 2, or use a role for the task."
            return f"no answer from {url.hostname} within {timeout} s, hop limit?", fix
        try:  # botocore had an answer or a refusal before the timeout, and so has this connection
            socket.create_connection((url.hostname, url.port or 80), timeout).close()
        except OSError as error:
            return f"{url.hostname} cannot be reached: {error.strerror or error}", None
        return f"{url.hostname} answers, but has no credentials", "Attach a role to this instance."


def _failed_source(method: str, error: Exception, profile: _Profile) -> str:
    """Return botocore's name of the source that failed: the role of a profile loads credentials from another source."""
    if isinstance(error, exceptions.BotoCoreError):
        name = str(error.kwargs.get("provider", method))
        return _PROFILE_NAMES.get(name, name)
    if isinstance(error, OSError) and error.filename:
        tokens = (os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), profile.options.get("web_identity_token_file"))
        by_file = {profile.program: "custom-process", **dict.fromkeys(tokens, "assume-role-with-web-identity")}
        return by_file.get(error.filename, method)
    is_program = method in _MAY_START_PROGRAM and profile.program and isinstance(error, (ValueError, AttributeError))
    return "custom-process" if is_program else method


def _explain_container(error: Exception) -> Reason:
    full_uri = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    url = urlsplit("http://169.254.170.2" if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in os.environ else full_uri)
    fix = "Attach a role to this task or pod: a task role of ECS, or an EKS Pod Identity association."
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}", "Restart the pod to mount the token, and let this user read it."
    if answer := re.search(r"non 200 response (\d+)", str(error)):
        return f"{url.hostname} answers {answer[1]}", fix
    if "Received error when attempting to retrieve" in str(error):
        variable = _proxy_variable(url)
        direct = f" ({variable} does not matter: boto3 sends these requests to no proxy)" if variable else ""
        return f"no answer from {url.hostname}{direct}", f"Let this container reach {url.hostname}."
    if type(error) is ValueError:  # about the URL or the token; the message of another exception may quote the answer
        return str(error), "Correct AWS_CONTAINER_CREDENTIALS_FULL_URI, or the token that belongs to it."
    return f"{url.hostname} answers without credentials", fix


def _proxy_variable(url: SplitResult) -> str | None:
    """Return the variable that sends the requests for a URL to a proxy; None if they are sent directly."""
    if url.scheme not in utils.get_environ_proxies(url.geturl()):
        return None
    name = f"{url.scheme}_proxy"
    return name if os.environ.get(name) else name.upper()

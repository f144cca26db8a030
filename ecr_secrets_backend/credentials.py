"""Where boto3 looks for credentials, in its own order; what each source says, and what to do about it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from botocore import exceptions, utils
from botocore.compat import compat_shell_split
from botocore.credentials import Credentials, ProcessProvider, ReadOnlyCredentials

from ecr_secrets_backend.aws_errors import CREDENTIALS_FIX, CredentialsError, words_of
from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.errors import CredentialSource, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.session import Session

#: What a source says, and what to do about it; None: the source need not apply here.
Reason = tuple[str, "str | None"]

#: A request to AWS has 20 s, the loading of credentials included. A source that hangs is reported before they are over.
SECONDS: Final = 18.0

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

_AIRFLOW: Final = "Airflow connection"
_MAY_START_PROGRAM: Final = frozenset({"custom-process", "assume-role", _AIRFLOW})
_PROGRAM_FIX: Final = "Run the credential_process of profile {} as this user to see its output, which may be secret."


class MfaRequiredError(Exception):
    """A profile has a role that botocore assumes with a code from a terminal; the argument is the profile's name."""


def load(
    session: Session, ask_airflow: Callable[[], Credentials | None] | None = None
) -> tuple[ReadOnlyCredentials, tuple[CredentialSource, ...]]:
    """Load credentials in bounded time, and return them with what each source said, down to the one that has them.

    :param ask_airflow: asks Airflow's amazon provider in place of the sources of the session
    :raises CredentialsError: no source has any, or one fails or hangs
    """
    search = _Search(session)
    try:
        keys = within(SECONDS, lambda: search.ask_airflow(ask_airflow) if ask_airflow else search.ask_chain())
    except TimeoutError as error:  # of this wait: a source's own has become a CredentialsError
        last = [CredentialSource("AWS's files", "not read in time", "Look for what hangs."), *search.sources][-1]
        raise CredentialsError(error, search.sources, (f"{last.source}: {last.message}", last.fix)) from None
    if keys:
        return keys, search.sources
    reason, fix = "no source has credentials", CREDENTIALS_FIX
    first = next((source for source in search.sources if source.fix), None)  # of those that should have them here
    if first is not None:
        reason = f"{reason}; {first.source}: {first.message}"
        fix = f"{first.fix} Otherwise {fix[0].lower()}{fix[1:]}"
    raise CredentialsError(exceptions.NoCredentialsError(), search.sources, (reason, fix))


def refuse_mfa(session: Session) -> None:
    """Raise MfaRequiredError if botocore would ask for a code at the terminal, or at what a task has in its place."""
    for profile in _profiles(session):
        if profile.assumes_role and "mfa_serial" in profile.options:
            raise MfaRequiredError(profile.name)


class _Profile(NamedTuple):
    """A profile of AWS's files, and whether botocore assumes its role."""

    name: str
    options: Mapping[str, str]
    assumes_role: bool

    @property
    def program(self) -> str | None:
        """Its credential program without the arguments, which may be secret."""
        try:
            return str(compat_shell_split(self.options["credential_process"])[0])
        except (LookupError, ValueError):
            return None


def _profiles(session: Session) -> list[_Profile]:
    """Return the session's profile and those behind it, on which its role rests."""
    unseen = {**session.full_config.get("profiles", {})}
    found: list[_Profile] = []
    name = session.get_config_variable("profile") or "default"
    while not found or (found[-1].assumes_role and name in unseen):
        options = unseen.pop(name, {})
        uses_keys = bool(found) and "aws_access_key_id" in options  # behind another profile, they win over the role
        assumes_role = "role_arn" in options and "web_identity_token_file" not in options and not uses_keys
        found.append(_Profile(name, options, assumes_role))
        name = options.get("source_profile", "")
    return found


class _Search:
    """Asks for credentials, and keeps what each source says."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._said: dict[str, Reason] = {}
        self._asked_at = time.monotonic()
        self._program: subprocess.Popen[bytes] | None = None

    @property
    def sources(self) -> tuple[CredentialSource, ...]:
        """What each source has said."""
        said = list(self._said.items())  # a copy: a search that is given up goes on
        return tuple(
            CredentialSource(_SOURCES.get(method, (method, ""))[0], one_line(message), fix)
            for method, (message, fix) in said
        )

    def ask_chain(self) -> ReadOnlyCredentials | None:
        """Ask the sources of botocore's own chain, in their order."""
        for provider in self._session.get_component("credential_provider").providers:
            method, ask = provider.METHOD, provider.load
            if method == ProcessProvider.METHOD:  # botocore's own does not report the exit code
                profile_name = _profiles(self._session)[0].name
                ask = ProcessProvider(profile_name, lambda: self._session.full_config, self._start).load
            with self._asking(method):
                if method == "assume-role":
                    refuse_mfa(self._session)
                keys = _keys_of(ask())
            self._said[method] = ("has credentials", None) if keys else self._absence(method)
            if keys:
                return keys
        return None

    def ask_airflow(self, ask: Callable[[], Credentials | None]) -> ReadOnlyCredentials | None:
        """Ask Airflow's amazon provider, which asks the chain itself where the connection has no keys."""
        with self._asking(_AIRFLOW), suppress(exceptions.NoCredentialsError):
            credentials = ask()
            if credentials and (keys := _keys_of(credentials)):
                self._said = {credentials.method: ("has credentials", None)}
                return keys
        providers = self._session.get_component("credential_provider").providers
        self._said = {provider.METHOD: self._absence(provider.METHOD) for provider in providers}
        return None

    @contextmanager
    def _asking(self, method: str) -> Iterator[None]:
        """Report a source that hangs or fails within this context."""
        self._said[method] = self._hanging(method)  # until there is an answer
        self._asked_at = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a source may raise anything, and none of it is an answer of AWS
            self._said[method] = reason = self._explain(method, error)
            raise CredentialsError(error, self.sources, reason) from None

    def _start(self, *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - those of Popen
        self._program = subprocess.Popen(*arguments, **options)  # noqa: S603 - as the profile has it
        return self._program

    def _hanging(self, method: str) -> Reason:
        """Return what is reported of a source that does not answer."""
        last = _profiles(self._session)[-1]
        if last.program and method in _MAY_START_PROGRAM:
            return f"{last.program} did not end within {SECONDS:.0f} s", _PROGRAM_FIX.format(last.name)
        return f"no answer within {SECONDS:.0f} s", "Look for what hangs: the network, a name server or a proxy."

    def _absence(self, method: str) -> Reason:
        """Return why a source has no credentials: botocore does not say."""
        if method == "iam-role":
            return _instance_metadata(self._session, self._asked_at)
        _, need = _SOURCES.get(method, ("", "credentials"))
        if method not in _SOURCES or not need.islower():  # it is no option of a profile
            return f"no {need}", None
        variable = "credentials_file" if method == "shared-credentials-file" else "config_file"
        path = self._session.get_config_variable(variable)
        file = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
        if os.path.exists(file) and not os.access(file, os.R_OK):  # noqa: PTH110
            return f"{path} is not readable by this user (uid {os.geteuid()})", f"Let this user read {path}."
        name = _profiles(self._session)[0].name
        is_there = name in self._session.full_config.get("profiles", {})
        return f"profile {name}: {f'no {need}' if is_there else f'not in {path}'}", None

    def _explain(self, method: str, error: Exception) -> Reason:
        """Return why a source failed, and how to fix it."""
        last = _profiles(self._session)[-1]
        method = _failed_source(method, error, last)
        found: Reason = words_of(error), None  # all there is
        if isinstance(error, MfaRequiredError):
            found = f"profile {error} requires an MFA code, which no task can enter", "Use a role or temporary keys."
        elif isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError)):
            problem = "was not found" if isinstance(error, exceptions.SSOTokenLoadError) else "has expired"
            fix = f"Run aws sso login --profile {last.name} as this user. A service needs another source than SSO."
            found = f"the SSO login of profile {last.name} {problem}", fix
        elif method == "custom-process":
            found = f"{last.program} {self._program_problem(error)}", _PROGRAM_FIX.format(last.name)
        elif method == "container-role":
            found = _container(error)
        elif method == "iam-role":
            found = _instance_metadata(self._session, self._asked_at)
        elif method == "assume-role-with-web-identity" and isinstance(error, OSError):
            fix = "Check the pod: the annotation eks.amazonaws.com/role-arn of its service account, the mount, fsGroup."
            found = f"this user (uid {os.geteuid()}) cannot read the token {error.filename}: {error.strerror}", fix
        elif isinstance(error, (exceptions.InvalidConfigError, exceptions.PartialCredentialsError)) and method != "env":
            found = found[0], f"Correct profile {last.name} in {self._session.get_config_variable('config_file')}."
        return found

    def _program_problem(self, error: Exception) -> str:
        """Report on a credential program without a word of its output."""
        if isinstance(error, OSError):
            return f"cannot be started: {error.strerror}"
        if self._program and self._program.returncode:
            return f"ended with exit code {self._program.returncode}"
        if not self._program and isinstance(error, exceptions.CredentialRetrievalError):  # botocore started it itself
            return "failed"
        return "did not print the JSON that AWS documents"


def _keys_of(credentials: Credentials | None) -> ReadOnlyCredentials | None:
    keys = credentials.get_frozen_credentials() if credentials else None
    return keys if keys and keys.access_key else None


def _failed_source(method: str, error: Exception, profile: _Profile) -> str:
    """Return botocore's name of the source that failed: the role of a profile rests on another source."""
    if isinstance(error, exceptions.BotoCoreError):
        named = str(error.kwargs.get("provider", method))
        return _CANONICAL.get(named, named)
    if isinstance(error, OSError) and error.filename:
        tokens = (os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), profile.options.get("web_identity_token_file"))
        by_file = {profile.program: "custom-process", **dict.fromkeys(tokens, "assume-role-with-web-identity")}
        return by_file.get(error.filename, method)
    is_program = method in _MAY_START_PROGRAM and profile.program and isinstance(error, (ValueError, AttributeError))
    return "custom-process" if is_program else method


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


def _instance_metadata(session: Session, asked_at: float) -> Reason:
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return "disabled by AWS_EC2_METADATA_DISABLED", "Unset AWS_EC2_METADATA_DISABLED to use the role of this host."
    is_ipv6 = utils.resolve_imds_endpoint_mode(session) == "ipv6"
    default = utils.METADATA_BASE_URL_IPv6 if is_ipv6 else utils.METADATA_BASE_URL
    url = urlsplit(session.get_config_variable("ec2_metadata_service_endpoint") or default)
    if variable := _proxy_variable(url):
        problem = f"{variable} sends the requests to a proxy, because {url.hostname} is not in NO_PROXY"
        return problem, f"Add {url.hostname} to NO_PROXY."
    timeout = session.get_config_variable("metadata_service_timeout")
    if time.monotonic() - asked_at >= timeout:
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

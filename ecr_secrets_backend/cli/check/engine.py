"""Check a Docker engine: its answer, a login with DockerHook, and that a pull uses this login."""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult, causes
from ecr_secrets_backend.cli.command import CommandError, suppress_library_logs
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, default_folder
from ecr_secrets_backend.logins import Login

DEFAULT_URL: Final = "unix://var/run/docker.sock"  # DockerOperator's own
ENGINE_TIMEOUT_SECONDS: Final = 20  # a login goes from the engine to the registry and back
#: How Docker spells Python's names of processors.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
#: The finding and the fix for an engine's reason for a failed login. The first pattern that matches counts.
_REFUSALS: Final = (
    ("engine-tls", "x509|certificate", "Put the CA into /etc/docker/certs.d/{host}/ca.crt on the engine's host."),
    (
        "engine-no-name",
        "no such host|server misbehaving|name resolution|lookup ",
        "Use a name server on the engine's host that knows the registry, and the engine's proxy if it has one.",
    ),
    (
        "engine-no-network",
        r"proxyconnect|Proxy Authentication|timeout|connection refused|unreachable|deadline|Client\.Timeout",
        "Allow the engine's host to reach the registry, or correct the proxy settings of the engine: it has its own.",
    ),
    ("engine-login-refused", "", "This process's token is valid. Check the clock and the proxy of the engine."),
)

logger = logging.getLogger(__name__)


class Engine:
    """A Docker engine, and the client that DockerHook creates for it.

    :param certificates: the files of DockerOperator's ``tls_ca_cert``, ``tls_client_cert`` and ``tls_client_key``
    """

    def __init__(self, url: str | None = None, *certificates: str | None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._certificates = certificates if any(certificates) else None
        self._client: Any = None
        if self._certificates and not all(certificates):
            fix = "Set all three: DockerOperator uses TLS only then."
            raise CommandError("--tls-ca-cert, --tls-client-cert and --tls-client-key belong together", fix)

    def check_version(self) -> Iterator[StepResult]:
        """Check that the engine answers, and that the docker command uses the same one."""
        try:
            version = self._request_version()
        except ImportError:
            yield _skip("Docker's client for Python is not installed here")
            return
        yield StepResult(f"{self.url} answers: Docker {version['Version']} for {_platform_of(version)}")
        if context := self._find_context():
            fix = "To use the same engine, set DOCKER_HOST, or docker_url of the DockerOperator."
            yield StepResult(f"{context}, DockerOperator does not", "warning", "docker-context", fix)
        if self._tls_config() and not self._certificates:
            problem = "docker and this check read DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, DockerOperator does not"
            fix = "Set its tls_ca_cert, tls_client_cert and tls_client_key."
            yield StepResult(problem, "warning", "engine-tls-variables", fix)

    def platform(self) -> str:
        """Return the platform of the engine, such as ``linux/amd64``; if no engine answers, of this host."""
        try:
            return _platform_of(self._request_version())
        except (CheckFailed, ImportError):
            machine = platform.machine()
            return f"{platform.system().lower()}/{_ARCHITECTURES.get(machine, machine)}"

    def log_in(self, conn_id: str, login: Login, extra: str | None) -> StepResult:
        """Log in with DockerHook and exactly this connection.

        :param extra: the connection's extra, as JSON
        """
        try:
            from airflow.providers.docker.hooks.docker import DockerHook
        except Exception as error:  # noqa: BLE001 - importing it also fails if Airflow is not configured
            return _skip(f"DockerHook cannot be imported here ({type(error).__name__})")
        import docker

        token = login.token
        connection = SimpleNamespace(host=login.host, port=None, login=token.username, password=token.password)
        connection.extra_dejson = json.loads(extra or "{}")

        class Hook(DockerHook):  # type: ignore[misc, unused-ignore]
            log = logger  # type: ignore[assignment, unused-ignore] # Airflow's own logger ignores suppress_library_logs

            @classmethod
            def get_connection(cls, conn_id: str) -> Any:  # noqa: ANN401, ARG003
                return connection

        try:
            with suppress_library_logs():
                hook = Hook(conn_id, self.url, tls=self._tls_config(), timeout=ENGINE_TIMEOUT_SECONDS)
                self._client = hook.api_client
        except docker.errors.APIError as error:
            reason = str(error.explanation or error)
            code, fix = next((code, fix) for code, pattern, fix in _REFUSALS if re.search(pattern, reason))
            message = f"the engine cannot log in to {login.host}: {reason}"
            raise CheckFailed(code, message, fix.format(host=login.host)) from None
        except Exception as error:  # noqa: BLE001 - the provider's own exceptions differ by version
            if helper := _find_helper(login.host):
                problem, fix = helper
                raise CheckFailed("credential-helper-broken", f"{problem}, which fails", fix) from None
            message = f"DockerHook cannot log in: {error}"
            raise CheckFailed("engine-login-failed", message, "Read the log of the Docker engine.") from None
        return StepResult(f"DockerHook logs in to {login.host} through {self.url}")

    def check_login_used(self, login: Login) -> StepResult:
        """Check that the client sends the connection's login with a pull."""
        if self._client is None:
            return _skip("there was no login")
        import docker.auth

        with suppress_library_logs():
            header = docker.auth.get_config_header(self._client, login.host)
        is_sent = bool(header) and login.token.password in json.loads(base64.urlsafe_b64decode(header)).values()
        if helper := _find_helper(login.host):
            problem, fix = helper
            if is_sent:
                problem += ", which has no login now; Docker's client would send it, and not the connection's"
                return StepResult(problem, "warning", "credential-helper", fix)
            message = f"{problem}: Docker's client sends its login, and not the connection's"
            raise CheckFailed("credential-helper-wins", message, fix)
        if not is_sent:
            message = "Docker's client sends another login than the connection's"
            raise CheckFailed("login-lost", message, f"Check auths and credHelpers in {default_folder()}/config.json.")
        return StepResult("a pull uses the connection's login")

    def _tls_config(self) -> Any:  # noqa: ANN401 - a TLSConfig of docker, or False
        """Return the TLS configuration from DockerOperator's options, or else from docker's variables."""
        import docker

        if self._certificates:
            ca_cert, *client_cert_and_key = self._certificates
            return docker.tls.TLSConfig(client_cert_and_key, ca_cert, verify=True)
        if os.environ.get("DOCKER_TLS_VERIFY") and self.url.startswith("tcp"):  # docker ignores it for other URLs
            return docker.utils.kwargs_from_env().get("tls")
        return False

    def _request_version(self) -> dict[str, Any]:
        import docker

        config, version = DockerConfig.load(default_folder()), None
        try:
            tls = self._tls_config()
            url = self.url.replace("tcp://", "https://") if tls else self.url  # as DockerHook does
            # With a version, building the client sends no request, which would leave a socket open if it failed.
            api_version = docker.constants.DEFAULT_DOCKER_API_VERSION
            build = partial(docker.APIClient, url, api_version, ENGINE_TIMEOUT_SECONDS, tls)
            # A proxy may send an error that docker's client cannot read.
            with suppress_library_logs(), build() as client, suppress(AttributeError, TypeError, KeyError):
                version = client.version(api_version=False)
        except (docker.errors.InvalidConfigFile, AttributeError, TypeError, KeyError) as error:
            problem = f"docker's client for Python cannot read {config.path}: {error}"
            raise CommandError(problem, "Correct it, or name another folder in DOCKER_CONFIG.") from None
        except Exception as error:  # noqa: BLE001 - also those of paramiko
            raise self._explain(error) from None
        if isinstance(version, dict) and "Version" in version:
            return version
        raise self._explain(ValueError("the answer is not from a Docker engine"))

    def _explain(self, error: Exception) -> CheckFailed:
        """Return the finding for an exception of docker, from the causes in it."""
        words = str(error)
        for cause in causes(error):
            if isinstance(cause, PermissionError) and not cause.filename:
                fix = "Add the user to the group of the socket (docker), or run the task as a user in that group."
                return CheckFailed("engine-forbidden", f"this user (uid {os.geteuid()}) may not use {self.url}", fix)
            if isinstance(cause, ssl.SSLError) or "TLS" in type(cause).__name__:
                fix = "Check the host, the CA, the client certificate and its key, in the options or DOCKER_CERT_PATH."
                return CheckFailed("engine-certificate", f"TLS with {self.url} fails: {cause}", fix)
            words = getattr(cause, "strerror", None) or words
        if "HTTP request to an HTTPS server" in words:
            fix = "Use --tls-ca-cert, --tls-client-cert and --tls-client-key, and tls_ca_cert etc. of DockerOperator."
            return CheckFailed("engine-wants-tls", f"the engine at {self.url} accepts only TLS", fix)
        if "paramiko" in words:
            fix = "Install paramiko where DockerOperator runs: it does not use the ssh program, as docker does."
            return CheckFailed("engine-ssh", f"{self.url} needs the Python package paramiko", fix)
        fix = "Start it, mount its socket into this container, or name another one in --docker-url or DOCKER_HOST."
        if context := self._find_context():
            fix = f"{context}, DockerOperator does not: set DOCKER_HOST or docker_url."
        elif self.url == DEFAULT_URL and (path := _find_socket()):
            fix = f"Set DOCKER_HOST or docker_url to unix://{path}, where another engine listens."
        return CheckFailed("engine-unreachable", f"no Docker engine answers at {self.url}: {words}", fix)

    def _find_context(self) -> str | None:
        """Return the docker command's context, if its engine is not DockerOperator's; None otherwise."""
        import docker

        if self.url != DEFAULT_URL:
            return None
        try:
            context: Any = docker.context.ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
            is_other = context.Name != "default" and context.Host.replace("///", "//") != DEFAULT_URL
        except Exception:  # noqa: BLE001 - files of any shape
            return None
        return f"docker uses context {context.Name} ({context.Host})" if is_other else None


def _find_socket() -> str | None:
    """Return the socket of rootless Docker or Podman, if there is one."""
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    paths = (f"{run}/docker.sock", f"{run}/podman/podman.sock", "/run/podman/podman.sock")
    return next(filter(os.path.exists, paths), None)


def _find_helper(host: str) -> tuple[str, str] | None:
    """Return the problem and the fix if Docker's configuration names a credential helper for a host; None otherwise."""
    config = DockerConfig.load(default_folder())
    if (helper := config.helper(host)) is None:
        return None
    key, name = helper
    fix = f"Remove {key}, or let docker-credential-{name} run where DockerOperator runs, without a login for {host}."
    return f"{key} in {config.path} names the credential helper {name!r}", fix


def _platform_of(version: dict[str, Any]) -> str:
    return f"{version.get('Os', 'linux')}/{version.get('Arch', 'amd64')}"


def _skip(problem: str) -> StepResult:
    fix = "Install apache-airflow-providers-docker where DockerOperator runs."
    return StepResult(problem, "skipped", "no-docker-provider", fix)

"""A Docker engine: whether it answers, logs in as a DockerHook does, and sends that login with a pull."""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
import re
import ssl
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

from ecr_secrets_backend.cli.check.registry import LARGEST_ANSWER_BYTES, Answer
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult, causes
from ecr_secrets_backend.cli.command import CommandError, suppress_library_logs
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, default_folder
from ecr_secrets_backend.logins import Login

DEFAULT_URL: Final = "unix://var/run/docker.sock"  # DockerOperator's own
ENGINE_SECONDS: Final = 20  # a login goes from the engine to the registry and back
#: How Docker spells Python's names of processors.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
#: Sockets of rootless Docker, Docker Desktop and Podman.
_OTHER_SOCKETS: Final = (
    *("{run}/docker.sock", "{home}/.docker/run/docker.sock"),
    *("{run}/podman/podman.sock", "/run/podman/podman.sock"),
)
#: Findings by what the engine says of a failed login, each with its fix; the first that fits counts.
_REFUSALS: Final = (
    ("engine-tls", r"x509|certificate", "Put the CA into /etc/docker/certs.d/{host}/ca.crt on the engine's host."),
    (
        "engine-no-network",
        r"proxyconnect|Proxy Authentication",
        "Correct the proxy settings of the engine: it does not use those of this process.",
    ),
    (
        "engine-no-name",
        r"no such host|server misbehaving|name resolution|lookup ",
        "Give the engine's host a name server that knows the registry, or the engine a proxy.",
    ),
    (
        "engine-no-network",
        r"timeout|connection refused|unreachable|deadline|Client\.Timeout",
        "Let the engine's host reach the registry's port, or give the engine a proxy.",
    ),
    (
        "engine-login-refused",
        "",
        "This process's token is valid. Check the engine's clock, and its proxy, which may change what it sends.",
    ),
)

logger = logging.getLogger(__name__)


class Engine:
    """A Docker engine, and the client that a DockerHook makes for it.

    :param url: None: where DockerOperator looks
    :param ca_cert: the files for TLS are DockerOperator's ``tls_ca_cert``, ``tls_client_cert`` and ``tls_client_key``
    :raises CommandError: only some of these files were given
    """

    def __init__(
        self,
        url: str | None = None,
        ca_cert: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
    ) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._certificates = (ca_cert, client_cert, client_key)
        self._client: Any = None
        if None in self._certificates and any(self._certificates):
            fix = "Give all three: DockerOperator uses TLS only then."
            raise CommandError("--tls-ca-cert, --tls-client-cert and --tls-client-key belong together", fix)

    def check_version(self) -> Iterator[StepResult]:
        """Check that the engine answers, and that it is the one that the docker command uses."""
        try:
            found = self._request_version()
        except ImportError:
            yield _skip("Docker's client for Python is not installed here")
            return
        yield StepResult(f"{self.url} answers: Docker {found.get('Version', '?')} for {_platform_of(found)}")
        if context := self._find_context():
            fix = "Set DOCKER_HOST, or docker_url of the DockerOperator, to use the same engine."
            yield StepResult(f"{context}, DockerOperator does not", "warning", "docker-context", fix)
        if self._tls() and not any(self._certificates):
            problem = "docker and this check read DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, DockerOperator does not"
            fix = "Set its tls_ca_cert, tls_client_cert and tls_client_key."
            yield StepResult(problem, "warning", "engine-tls-variables", fix)

    def platform(self) -> str:
        """Return for which platform images have to be, such as ``linux/amd64``; if no engine answers, this host's."""
        try:
            return _platform_of(self._request_version())
        except (CheckFailed, ImportError):
            machine = platform.machine()
            return f"{platform.system().lower()}/{_ARCHITECTURES.get(machine, machine)}"

    def log_in(self, conn_id: str, login: Login, extra: str | None) -> StepResult:
        """Log in as a DockerHook does with exactly this connection.

        :param extra: the connection's, as JSON
        """
        try:
            from airflow.providers.docker.hooks.docker import DockerHook
        except Exception as error:  # noqa: BLE001 - of an Airflow whose configuration is wrong, which may not be in use
            return _skip(f"DockerHook cannot be imported here ({type(error).__name__})")
        import docker

        token, extra_dejson = login.token, json.loads(extra or "{}")
        names: Any = {"host": login.host, "port": None, "login": token.username, "password": token.password}

        class Hook(DockerHook):  # type: ignore[misc, unused-ignore]
            """Has the connection already."""

            log = logger  # type: ignore[assignment, unused-ignore] # Airflow's own bypasses logging

            @classmethod
            def get_connection(cls, conn_id: str) -> Any:  # noqa: ANN401, ARG003
                return SimpleNamespace(**names, extra_dejson=extra_dejson)

        try:
            with suppress_library_logs():
                self._client = Hook(conn_id, self.url, tls=self._tls(), timeout=ENGINE_SECONDS).api_client
        except docker.errors.APIError as error:
            reason = str(error.explanation or error)
            code, _, fix = next(refusal for refusal in _REFUSALS if re.search(refusal[1], reason))
            problem = f"the engine cannot log in to {login.host}: {reason}"
            raise CheckFailed(code, problem, fix.format(host=login.host)) from None
        except Exception as error:  # noqa: BLE001 - the provider's own exceptions differ by version
            _check_helper(login.host)
            fix = "Read the log of the Docker engine."
            raise CheckFailed("engine-login-failed", f"the login by DockerHook fails: {error}", fix) from None
        return StepResult(f"DockerHook logs in to {login.host} by {self.url}")

    def check_login_used(self, login: Login) -> StepResult:
        """Check that the login, once made, is what the client sends with a pull."""
        if self._client is None:
            return _skip("there was no login")
        import docker.auth

        try:
            with suppress_library_logs():
                header = docker.auth.get_config_header(self._client, login.host)
        except docker.errors.DockerException:
            _check_helper(login.host)
            raise
        sent = json.loads(base64.urlsafe_b64decode(header)) if header else {}
        is_sent = login.token.password in sent.values()
        helper = _find_helper(login.host)
        if helper is None:
            if is_sent:
                return StepResult("a pull uses the connection's login")
            fix = f"Check config.json in {default_folder()}."
            raise CheckFailed("login-lost", "the client sends another login than the connection's", fix)
        key, name, problem = helper
        fix = f"Remove {key}, or the login for {login.host} that docker-credential-{name} has."
        if is_sent:
            problem = f"{problem}: it has no login now, but it is asked before the connection's"
            return StepResult(problem, "warning", "credential-helper", fix)
        raise CheckFailed("credential-helper-wins", f"{problem}, whose login takes the connection's place", fix)

    def _tls(self) -> Any:  # noqa: ANN401 - a TLSConfig of docker, or False
        """Return what DockerOperator makes of its options; without them, what docker makes of its variables."""
        import docker

        ca_cert, client_cert, client_key = self._certificates
        if ca_cert:
            return docker.tls.TLSConfig((client_cert, client_key), ca_cert, verify=True)
        if os.environ.get("DOCKER_TLS_VERIFY") and self.url.startswith("tcp"):  # as docker does
            return docker.utils.kwargs_from_env().get("tls")
        return False

    def _request_version(self) -> dict[str, Any]:
        import docker

        config = DockerConfig.load(default_folder())
        try:
            tls = self._tls()
            url = self.url.replace("tcp://", "https://") if tls else self.url  # as DockerHook does
            # With a version it requests nothing while it is made, where a failure would leave its socket open.
            client = docker.APIClient(url, docker.constants.DEFAULT_DOCKER_API_VERSION, ENGINE_SECONDS, tls)
        except (docker.errors.InvalidConfigFile, AttributeError, TypeError, KeyError) as error:
            problem = f"docker's client for Python cannot read {config.path}: {error}"
            raise CommandError(problem, "Correct it, or name another folder by DOCKER_CONFIG.") from None
        except Exception as error:  # noqa: BLE001 - also those of paramiko
            raise self._explain(error) from None
        path = f"{client.base_url}/version"
        try:
            with suppress_library_logs(), client, client.get(path, stream=True, timeout=ENGINE_SECONDS) as answer:
                found = answer.raw.read(LARGEST_ANSWER_BYTES)
        except Exception as error:  # noqa: BLE001 - also those of paramiko
            raise self._explain(error) from None
        if not answer.ok:
            raise self._explain(OSError(found.decode(errors="replace") or f"status {answer.status_code}"))
        version = Answer(answer.status_code, found).fields
        if "Version" in version:
            return version
        raise self._unreachable("what answers is not a Docker engine")

    def _explain(self, error: Exception) -> CheckFailed:
        """Return the finding for an exception of docker, by the causes that it wraps."""
        words = str(error)
        for cause in causes(error):
            if isinstance(cause, PermissionError) and not cause.filename:
                fix = "Add the user to the socket's group (docker), or run the task as one that is in it."
                return CheckFailed("engine-forbidden", f"this user (uid {os.geteuid()}) may not use {self.url}", fix)
            if isinstance(cause, ssl.SSLError) or "TLS" in type(cause).__name__:
                fix = "Check the CA, the client certificate and its key, in options or DOCKER_CERT_PATH, and the host."
                return CheckFailed("engine-certificate", f"TLS with {self.url} fails: {cause}", fix)
            words = getattr(cause, "strerror", None) or words
        if "HTTP request to an HTTPS server" in words:
            fix = (
                "Give its certificates by --tls-ca-cert, --tls-client-cert and --tls-client-key, as to DockerOperator."
            )
            return CheckFailed("engine-wants-tls", f"the engine at {self.url} accepts only TLS", fix)
        if "paramiko" in words:
            fix = "Install paramiko where DockerOperator runs: it does not use the program ssh, as docker does."
            return CheckFailed("engine-ssh", f"{self.url} needs the Python package paramiko", fix)
        return self._unreachable(words)

    def _unreachable(self, reason: str) -> CheckFailed:
        fix = "Start it, mount its socket into this container, or name another by --docker-url or DOCKER_HOST."
        if context := self._find_context():
            fix = f"{context}, DockerOperator does not: set DOCKER_HOST or docker_url."
        elif self.url == DEFAULT_URL and (sockets := _find_sockets()):
            fix = f"Set DOCKER_HOST or docker_url to unix://{sockets[0]}, where another engine listens."
        return CheckFailed("engine-unreachable", f"no Docker engine answers at {self.url}: {reason}", fix)

    def _find_context(self) -> str | None:
        """Return which engine the docker command uses, if its context chooses another one than DockerOperator's."""
        import docker

        if self.url != DEFAULT_URL:
            return None
        try:
            context: Any = docker.context.ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
            is_other = context.Name != "default" and context.Host.replace("///", "//") != DEFAULT_URL
        except Exception:  # noqa: BLE001 - files of any shape
            return None
        return f"docker uses context {context.Name} ({context.Host})" if is_other else None


def _find_sockets() -> list[str]:
    run, home = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", os.environ.get("HOME", "")
    paths = [pattern.format(run=run, home=home) for pattern in _OTHER_SOCKETS]
    return [path for path in paths if os.path.exists(path)]  # noqa: PTH110


def _find_helper(host: str) -> tuple[str, str, str] | None:
    """Return the key that names a credential helper for a host, the helper's name, and both in words."""
    config = DockerConfig.load(default_folder())
    helper = config.helper(host)
    return helper and (*helper, f"{helper[0]} in {config.path} names the credential helper {helper[1]!r}")


def _check_helper(host: str) -> None:
    """Report the credential helper for a host as the cause of a failure, if one is configured."""
    if helper := _find_helper(host):
        _, name, problem = helper
        fix = f"Remove it, or install docker-credential-{name} where DockerOperator runs."
        raise CheckFailed("credential-helper-broken", f"{problem}, which fails", fix)


def _platform_of(version: dict[str, Any]) -> str:
    return f"{version.get('Os', 'linux')}/{version.get('Arch', 'amd64')}"


def _skip(problem: str) -> StepResult:
    fix = "Install apache-airflow-providers-docker where DockerOperator runs."
    return StepResult(problem, "skipped", "no-docker-provider", fix)

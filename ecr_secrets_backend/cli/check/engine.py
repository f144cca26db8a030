"""The Docker engine's part of a check: whether it answers, logs in as a DockerHook does, and uses that login."""

from __future__ import annotations

import base64
import json
import logging
import os
import platform
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.cli.check.pull import Platform
from ecr_secrets_backend.cli.check.registry import LONGEST_WORDS
from ecr_secrets_backend.cli.check.result import Fault, Told
from ecr_secrets_backend.cli.command import quiet
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, default_folder
from ecr_secrets_backend.errors import one_line

if TYPE_CHECKING:
    from ecr_secrets_backend.logins import Login

DEFAULT_URL: Final = "unix:///var/run/docker.sock"  # DockerOperator's own
ENGINE_SECONDS: Final = 30  # a login goes from the engine to the registry and back

logger = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0

#: What Python's names of processors are in Docker's words.
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Engine:
    """A Docker engine, and the client that a DockerHook makes for it.

    :param url: None: where DockerOperator looks
    """

    def __init__(self, url: str | None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or DEFAULT_URL
        self._client: Any = None

    def version(self) -> Told:
        """Ask the engine for its version.

        :raises Fault: it does not answer
        """
        try:
            found = self._version()
        except ImportError:
            remedy = "Install apache-airflow-providers-docker where DockerOperator runs."
            return Told("Docker's client for Python is not installed here", "skipped", "no-docker-provider", remedy)
        return Told(f"{self.url} answers: Docker {found.get('Version', '?')} for {_platform(found)}")

    def platform(self) -> Platform:
        """Tell for which platform images have to be; where no engine answers, this host's."""
        try:
            return _platform(self._version())
        except (Fault, ImportError):
            machine = platform.machine()
            return Platform(platform.system().lower(), _ARCHITECTURES.get(machine, machine))

    def _version(self) -> dict[str, Any]:
        import docker

        self._reach()
        try:
            # With a version it asks nothing while it is made, where it would leave its socket open if that failed.
            api = docker.constants.DEFAULT_DOCKER_API_VERSION
            with quiet(), docker.APIClient(self.url, version=api, timeout=ENGINE_SECONDS) as client:
                version: dict[str, Any] = client.version(api_version=False)
                return version
        except (docker.errors.DockerException, OSError) as error:
            raise self._unreachable(_first_line(str(error))) from None

    def _reach(self) -> None:
        """Connect to a socket of this host: the client would leave its own open if that failed, and tell less."""
        scheme, _, path = self.url.partition("unix://")
        if scheme or not path:
            return
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.settimeout(CONNECT_SECONDS)
                engine.connect(f"/{path.lstrip('/')}")
        except PermissionError:
            raise Fault(
                "engine-forbidden",
                f"this user (uid {os.geteuid()}) may not use {self.url}",
                "Make the user a member of the socket's group (docker), or run as one.",
            ) from None
        except OSError as error:
            raise self._unreachable(error.strerror or str(error)) from None

    def _unreachable(self, reason: str) -> Fault:
        return Fault(
            "engine-unreachable",
            f"no Docker engine answers at {self.url}: {reason}",
            "Start it, mount its socket into this container, or name another by --docker-url or DOCKER_HOST.",
        )

    def log_in(self, conn_id: str, login: Login, extra: str | None) -> Told:
        """Log in as a DockerHook does with exactly this connection.

        :param extra: the connection's, as JSON
        """
        try:
            from airflow.providers.docker.hooks.docker import DockerHook
        except ImportError:
            remedy = "Install apache-airflow-providers-docker where DockerOperator runs."
            return Told("DockerHook is not installed here", "skipped", "no-docker-provider", remedy)
        import docker

        connection = SimpleNamespace(
            host=login.host,
            port=None,
            login=login.token.username,
            password=login.token.password,
            extra_dejson=json.loads(extra or "{}"),
        )

        class Hook(DockerHook):  # type: ignore[misc, unused-ignore]
            """Has the connection already, and does with it what any DockerHook does."""

            # Airflow's own goes by ways that logging does not know.
            log = logger  # type: ignore[assignment, unused-ignore]

            @classmethod
            def get_connection(cls, conn_id: str) -> Any:  # noqa: ANN401, ARG003
                return connection

        try:
            with quiet():
                self._client = Hook(docker_conn_id=conn_id, base_url=self.url, timeout=ENGINE_SECONDS).api_client
        except docker.errors.APIError as error:
            raise self._refused(login.host, str(error.explanation or error)) from None
        except Exception as error:  # noqa: BLE001 - the provider's own exceptions differ by version
            self._check_helper(login.host)
            raise Fault(
                "engine-login-failed",
                f"the login by DockerHook fails: {_first_line(str(error))}",
                "Look at the log of the Docker engine.",
            ) from None
        return Told(f"DockerHook logs in to {login.host} by {self.url}")

    def _refused(self, host: str, explanation: str) -> Fault:
        """Tell why the engine, which goes its own way to the registry, could not log in."""
        reason = _first_line(explanation)
        if "x509" in reason or "certificate" in reason:
            remedy = f"Put the authority's certificate into /etc/docker/certs.d/{host}/ca.crt on the engine's host."
            return Fault("engine-tls", f"the engine does not trust the registry's certificate: {reason}", remedy)
        if any(sign in reason for sign in ("no such host", "server misbehaving", "name resolution", "lookup ")):
            remedy = "Give the engine's host a name server that knows the registry, or the engine a proxy."
            return Fault("engine-no-name", f"the engine does not find the registry: {reason}", remedy)
        if any(
            sign in reason for sign in ("timeout", "connection refused", "unreachable", "deadline", "Client.Timeout")
        ):
            remedy = "Let the engine's host reach the registry's port, or give the engine a proxy."
            return Fault("engine-no-network", f"the engine does not reach the registry: {reason}", remedy)
        remedy = "This process's token is good: look for a proxy that changes what the engine sends, and at its clock."
        return Fault("engine-login-refused", f"the engine's login is refused: {reason}", remedy)

    def _check_helper(self, host: str) -> None:
        helper = DockerConfig.load(default_folder()).helper(host)
        if helper:
            key, name = helper
            raise Fault(
                "credential-helper-broken",
                f"{key} in {default_folder()}/config.json names the credential helper {name!r}, which fails",
                f"Remove it, or install docker-credential-{name} where DockerOperator runs.",
            )

    def check_use(self, login: Login) -> Told:
        """See whether the login, once made, is what the client sends with a pull."""
        if self._client is None:
            return Told("there was no login", "skipped", "no-docker-provider")
        import docker.auth

        try:
            with quiet():
                header = docker.auth.get_config_header(self._client, login.host)
            sent = json.loads(base64.urlsafe_b64decode(header)) if header else {}
        except docker.errors.DockerException:
            self._check_helper(login.host)
            raise
        helper = DockerConfig.load(default_folder()).helper(login.host)
        key, name = helper or ("", "")
        place = f"{key} in {default_folder()}/config.json names the credential helper {name!r}"
        remedy = f"Remove {key} from {default_folder()}/config.json, or the helper's login for {login.host}."
        if login.token.password not in sent.values():
            if helper is None:
                raise Fault("login-lost", "the client sends another login than that of the connection", remedy)
            raise Fault("credential-helper-wins", f"{place}, whose login takes the place of the connection's", remedy)
        if helper:
            told = f"{place}: it has no login now, but it is asked before the connection's"
            return Told(told, "warning", "credential-helper", remedy)
        return Told("a pull uses the connection's login")


def _platform(version: dict[str, Any]) -> Platform:
    return Platform(str(version.get("Os", "linux")), str(version.get("Arch", "amd64")))


def _first_line(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason is told"]
    return one_line(lines[0].rstrip("."), LONGEST_WORDS)

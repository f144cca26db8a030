"""``check``: walk the way from the configuration to a pull, and name the first thing that is wrong and its remedy."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.check import leftovers
from ecr_secrets_backend.cli.check.aws import caller
from ecr_secrets_backend.cli.check.engine import Engine
from ecr_secrets_backend.cli.check.image import Image
from ecr_secrets_backend.cli.check.pull import Pull, is_ecr, read_image
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.check.result import Fault, Finding, Told
from ecr_secrets_backend.cli.command import FAILED, GOOD, WRONG_USAGE, Command, CommandError, argument
from ecr_secrets_backend.cli.output import duration
from ecr_secrets_backend.cli.status import OUTPUT, state_of
from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError, MintError
from ecr_secrets_backend.registry import Registry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from rich.console import RenderableType

    from ecr_secrets_backend.cli.configuration import Configuration
    from ecr_secrets_backend.cli.output import Output
    from ecr_secrets_backend.logins import Login
    from ecr_secrets_backend.settings import MappedConnection

#: A step of a way: what it tells, or the fault that ends the way.
Step = Callable[[], "Told | Iterable[Told]"]

#: Looking for credentials, assuming a role and asking STS may each take AWS's timeouts.
IDENTITY_SECONDS: Final = 30.0


class Way:
    """The way of one connection, from its AWS identity to a pull.

    :param mapped: the connection
    :param image: the name of an image to pull, if one was given
    """

    def __init__(self, configured: Configuration, mapped: MappedConnection, image: str | None, engine: Engine) -> None:
        self._configured = configured
        self._mapped = mapped
        self._image_text = image
        self._engine = engine

    def steps(self) -> Iterator[tuple[str, Step]]:
        """Give the steps in order; each may rest on all before it."""
        yield "AWS identity", self._find_identity
        yield "token", self._get_token
        yield "registry: name", self._resolve
        yield "registry: port", self._connect
        yield "registry: TLS", self._encrypt
        yield "registry: login", self._enter
        if self._image_text:
            yield "image: registry", self._read_image
            yield "image: permission", self._pull.ask
            yield "image: tag", self._pull.find
            yield "image: platform", lambda: self._pull.fit(self._engine.platform())
        yield "engine", self._engine.version
        yield "engine: login", lambda: self._engine.log_in(self._mapped.conn_id, self._login, self._mapped.extra)
        yield "engine: login used", lambda: self._engine.check_use(self._login)
        yield "Docker's own logins", lambda: leftovers.stale_logins(self._login, self._client)
        if self._configured.is_airflow_s:
            yield "other definitions", lambda: leftovers.other_definitions(self._mapped.conn_id)

    def _find_identity(self) -> Told:
        try:
            found = within(IDENTITY_SECONDS, lambda: caller(*self._configured.logins.resolve(self._mapped)))
        except MintError as error:
            failure = error.failure
            message = f"{failure.code}: {failure.reason} ({failure.identity})"
            raise Fault("no-credentials", message, failure.remedy, error.sources) from None
        except TimeoutError:
            remedy = "Look for what hangs: the network, a name server or proxy, or a source of credentials."
            raise Fault("no-credentials", f"no credentials within {IDENTITY_SECONDS:.0f} s", remedy) from None
        arn = found.arn or "whose ARN STS does not return (a pull does not need it)"
        return Told(f"{self._mapped.identity}: {found.source}, {arn}", sources=found.sources)

    def _get_token(self) -> Told:
        asked_at = time.time()
        try:
            self._login: Login = self._configured.login(self._mapped)
        except ConnectionUnavailableError as error:
            failure = error.failure
            reason = f"{failure.code}: {failure.reason} (identity: {failure.identity}; region: {failure.region})"
            raise Fault("no-token", reason, failure.remedy) from None
        token, now = self._login.token, time.time()
        origin = "minted just now" if token.received_at >= asked_at else "from the cache"
        left = f"{origin}, {duration(token.expires_at - now)} left"
        if state_of(token, now, self._configured.settings.refresh_before) == "fresh":
            return Told(left)
        remedy = "ecr-secrets-backend status tells what failed last."
        return Told(f"{left}, but AWS has not renewed it", "warning", "token-not-renewed", remedy)

    def _resolve(self) -> Told:
        self._client = RegistryClient(self._login.host)
        name, _ = self._client.first_hop
        try:
            return Told(f"{name} is {', '.join(self._client.resolve())}")
        except TimeoutError:
            problem, code = f"the name server does not answer for {name}", "no-name-server"
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                problem, code = f"no name server can be reached to look up {name}", "no-name-server"
            else:
                problem, code = f"there is no such name as {name}", "name-not-found"
        remedy = "Give this host a network and a name server"
        if self._is_ecr:
            remedy += (
                f"; in a VPC without internet, interface endpoints for {self._endpoint('api')} and"
                f" {self._endpoint('dkr')}, with private DNS"
            )
        if code == "name-not-found":
            part = "account and region" if self._is_ecr else "host"
            remedy = f"Correct the registry's {part} in backend_kwargs. {remedy}"
        raise Fault(code, problem, f"{remedy}.")

    def _connect(self) -> Told:
        way = self._client.way
        try:
            self._client.connect()
        except OSError as error:
            codes = {
                errno.ECONNREFUSED: "port-closed",
                errno.ENETUNREACH: "no-network",
                errno.EHOSTUNREACH: "no-network",
            }
            reason = error.strerror or str(error) or "nobody answers"
            endpoint = f", and the security group of the VPC endpoint {self._endpoint('dkr')}" if self._is_ecr else ""
            raise Fault(
                codes.get(error.errno or 0, "port-silent"),
                f"{way} cannot be connected to: {reason}",
                f"Allow this host TCP port {self._client.port} to the registry: its route, firewall, security group and"
                f" network ACL{endpoint}. Or set HTTPS_PROXY.",
            ) from None
        return Told(f"{way} accepts connections")

    def _encrypt(self) -> Told:
        host = self._login.host
        try:
            return Told(f"{self._client.handshake()}, and the certificate is trusted")
        except ssl.SSLCertVerificationError as error:
            raise Fault(
                "tls-untrusted",
                f"the certificate of {host} is not trusted: {error.verify_message}",
                "Have this host trust the authority of the proxy that inspects TLS: by SSL_CERT_FILE for this check, by"
                f" /etc/docker/certs.d/{host}/ca.crt for the Docker engine. Look at this host's clock, too.",
            ) from None
        except OSError as error:
            remedy = "Look for a proxy or firewall between this host and the registry, which breaks TLS or hangs up."
            if not self._is_ecr:
                remedy += (
                    " An emulator may speak plain HTTP: Docker's engine speaks it only to 127.0.0.0/8 and to its"
                    " insecure-registries."
                )
            raise Fault("tls-broken", f"TLS with {host} fails: {error}", remedy) from None

    def _enter(self) -> Told:
        host = self._login.host
        answer = self._client.get("/v2/", self._credentials)
        _, message = answer.error
        if answer.status == HTTPStatus.OK:
            return Told(f"{host} accepts the token")
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise Fault(
                "token-refused",
                f"{host} refuses the token: {message or answer.status}",
                "Forget it by ecr-secrets-backend clear, and try again. If the next is refused as well, the identity is"
                " of another partition or region than the registry, or its endpoint's policy forbids it.",
            )
        remedy = "Try again; if it lasts, look at AWS's health for that region, and at any proxy on the way."
        raise Fault("registry-error", f"{host} answers {answer.status} {message}".rstrip(), remedy)

    def _read_image(self) -> Told:
        image = read_image(self._image_text or "", self._login.host, conn_ids_by_host(self._configured))
        self._pull = Pull(self._client, self._credentials, image)
        return Told(f"{image} is of this connection's registry")

    def _endpoint(self, part: str) -> str:
        """Name the VPC endpoint for a part of ECR in the registry's region."""
        return f"com.amazonaws.{Registry.parse(self._login.host).region}.ecr.{part}"

    @property
    def _is_ecr(self) -> bool:
        return is_ecr(self._login.host)

    @property
    def _credentials(self) -> tuple[str, str]:
        return self._login.token.username, self._login.token.password


def conn_ids_by_host(configured: Configuration) -> dict[str, str]:
    """Tell which connection serves a registry, as far as the configuration tells."""
    return {mapped.host: mapped.conn_id for mapped in configured.settings.connections.values() if mapped.host}


def run(options: argparse.Namespace, output: Output) -> int:
    """Walk all ways, and print what was found."""
    findings: list[Finding] = []
    exit_code = GOOD
    for finding in walk(options, output):
        findings.append(finding)
        if finding.state == "failed" and exit_code == GOOD:
            exit_code = WRONG_USAGE if finding.step == "configuration" else FAILED
    if options.output == "json":
        output.json({"ok": exit_code == GOOD, "findings": [_json(finding) for finding in findings]})
    else:
        output.show(*_rendered(findings))
    return exit_code


def walk(options: argparse.Namespace, output: Output) -> Iterator[Finding]:
    """Walk the way that all connections share, and then the way of each."""
    configured: Configuration | None = None

    def configure() -> Told:
        nonlocal configured
        found = configuration.read(options)
        try:
            found.connections(options.conn_ids)
        except CommandError as error:
            raise Fault("not-mapped", error.problem, error.remedy) from None
        configured = found
        return Told(f"{found.source} maps {', '.join(sorted(found.settings.connections))}")

    yield from _taken(None, "configuration", configure, output)
    if configured is None:
        return
    connections, problem = _chosen(configured, options)
    if problem is not None:
        yield from _taken(None, "image: registry", problem, output)
    engine = Engine(options.docker_url)
    for mapped in connections:
        for name, step in Way(configured, mapped, options.image, engine).steps():
            findings = list(_taken(mapped.conn_id, name, step, output))
            yield from findings
            if findings[-1].state == "failed":
                break
    if configured.is_airflow_s:
        yield from _taken(None, "earlier solutions", leftovers.refresh_dags, output)


def _chosen(configured: Configuration, options: argparse.Namespace) -> tuple[list[MappedConnection], Step | None]:
    """Choose whose ways to walk: those that were named, else the one that serves the image's registry, else all."""
    connections = configured.connections(options.conn_ids)
    if options.conn_ids or not options.image:
        return connections, None
    image = Image.parse(options.image)
    registry = image.registry if image else None
    serving = [mapped for mapped in connections if mapped.host == registry]
    undecided = [mapped for mapped in connections if mapped.host is None]  # AWS will tell whose registry it is
    if registry and serving:
        return serving, None
    if registry and is_ecr(registry) and undecided:
        return undecided, None
    by_host = conn_ids_by_host(configured)
    return [], lambda: Told(str(read_image(options.image, None, by_host)))


def _taken(conn_id: str | None, name: str, step: Step, output: Output) -> Iterator[Finding]:
    """Take a step, and give its findings: the fault, or all that it tells."""
    started_at = time.monotonic()
    told: list[Told]
    try:
        with output.progress(f"{conn_id}: {name}" if conn_id else name):
            outcome = step()
            told = [outcome] if isinstance(outcome, Told) else list(outcome) or [Told("nothing stands in the way")]
    except Fault as fault:
        told = [Told(fault.message, "failed", fault.code, fault.remedy, fault.sources)]
    except ConfigurationError as error:
        told = [Told(f"{error.path} {error.problem}", "failed", "configuration-wrong", _sentence(error.remedy))]
    except CommandError as error:
        told = [Told(error.problem, "failed", _code(name), error.remedy)]
    except (OSError, HTTPException) as error:
        remedy = "Try again; if it lasts, look for a proxy or firewall between this host and the registry."
        told = [Told(f"the connection was lost: {error}", "failed", "registry-error", remedy)]
    seconds = round(time.monotonic() - started_at, 3)
    for each in told:
        yield Finding(conn_id, name, each.state, each.code, each.message, each.remedy, seconds, each.sources)


def _json(finding: Finding) -> dict[str, Any]:
    fields = asdict(finding)
    if not finding.sources:
        del fields["sources"]
    return fields


def _code(step: str) -> str:
    return "not-configured" if step == "configuration" else "docker-config-wrong"


def _sentence(remedy: str) -> str:
    return remedy[:1].upper() + remedy[1:] + "."


_MARKS: Final = {"good": ("✓", "green"), "skipped": ("-", "dim"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def _rendered(findings: list[Finding]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    whose: str | None = None
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        if finding.connection != whose:
            if table.row_count:
                yield table
            table = Table.grid(padding=(0, 2))
            whose = finding.connection
            yield Text(f"\n{whose or 'all connections'}", style="bold")
        mark, style = _MARKS[finding.state]
        text = Text(finding.message)
        if finding.state == "failed":
            text.append("".join(f"\n- {source.source}: {source.message}" for source in finding.sources))
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="bold" if finding.state == "failed" else "")
        table.add_row(Text(f"{mark} {finding.step}", style=style), Text(f"{finding.seconds:.1f} s", style="dim"), text)
    yield table
    failed = [finding for finding in findings if finding.state == "failed"]
    warned = sum(finding.state == "warning" for finding in findings)
    warnings = f" {warned} warning{'s' if warned > 1 else ''}, see above." if warned else ""
    if failed:
        yield Text(f"\nNot good: {', '.join(finding.code for finding in failed)}.{warnings}", style="red")
    else:
        yield Text(f"\nAll good.{warnings}", style="green")


COMMAND: Final = Command(
    name="check",
    help="prove the way from the configuration to a pull, and name what is wrong",
    description="Walk the way of each connection, step by step: configuration, AWS identity, token, registry, image,\n"
    "Docker engine, and what might shadow the connection. A way ends at its first fault, which comes with its remedy.\n"
    "Run it where the tasks run, as the same user and with the same environment.",
    epilog="""examples:
  ecr-secrets-backend check
  ecr-secrets-backend check --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/report:latest
  ecr-secrets-backend check docker_eu --docker-url tcp://docker:2375 --output json

exit codes:
  0 all good, perhaps with warnings; 1 a way ended at a fault; 2 wrong usage or configuration""",
    arguments=(
        argument(
            "conn_ids",
            metavar=configuration.CONN_ID,
            nargs="*",
            help="mapped connections (default: all)",
        ),
        argument("--image", metavar="IMAGE", help="an image that is to be pulled"),
        argument(
            "--docker-url",
            metavar="URL",
            help="the Docker engine (default: DOCKER_HOST, else unix:///var/run/docker.sock)",
        ),
        OUTPUT,
        *configuration.ARGUMENTS,
    ),
    run=run,
)

"""``check``: run every step from the configuration to a pull, and report the first that fails, with its fix."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.check import aws, leftovers
from ecr_secrets_backend.cli.check.engine import Engine
from ecr_secrets_backend.cli.check.image import Image, Pull, match_registry, read_image
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.cli.command import (
    FAILED,
    SUCCESS,
    WRONG_USAGE,
    Command,
    CommandError,
    argument,
    describe_exception,
)
from ecr_secrets_backend.cli.configuration import Configuration
from ecr_secrets_backend.cli.docker_config.file import encoded
from ecr_secrets_backend.cli.output import Output
from ecr_secrets_backend.cli.status import OUTPUT
from ecr_secrets_backend.errors import ConfigurationError
from ecr_secrets_backend.logins import Login
from ecr_secrets_backend.registry import Registry
from ecr_secrets_backend.settings import MappedConnection

if TYPE_CHECKING:
    from rich.console import RenderableType


#: A step: it returns results, or raises CheckFailed, after which no further step runs.
Step = Callable[[], "StepResult | Iterable[StepResult]"]

#: No step takes longer, whatever hangs. Each of its requests has limits of its own, which report more.
STEP_SECONDS: Final = 60.0


class Finding(NamedTuple):
    """A result and its step.

    :param connection: its ID; None: the step is about all connections
    :param seconds: how long the step took
    """

    connection: str | None
    step: str
    result: StepResult
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as ``docs/commands/check.md`` documents them."""
        result = self.result
        fields = {"state": result.state, "code": result.code, "message": result.message, "remedy": result.fix}
        sources = {"sources": [asdict(source) for source in result.sources]} if result.sources else {}
        return {"connection": self.connection, "step": self.step, **fields, "seconds": self.seconds, **sources}


@dataclass
class ConnectionCheck:
    """The steps of one connection, from its AWS identity to a pull.

    :param image: to be pulled, if one was given
    :param secrets: the token is added to them
    """

    configured: Configuration
    mapped: MappedConnection
    image: Image | None
    engine: Engine
    secrets: list[str]
    login: Login = field(init=False)
    client: RegistryClient = field(init=False)
    pull: Pull | None = field(init=False, default=None)

    def steps(self) -> Iterator[tuple[str, Step]]:
        """Return the steps in order; each may use what those before it have found."""
        conn_id, engine = self.mapped.conn_id, self.engine
        yield "AWS identity", partial(aws.check_identity, self.configured, self.mapped)
        yield "token", self._get_token
        yield "registry: login", self.client.check_login
        if self.image:
            yield "image: registry", partial(self._match, self.image)
        if self.pull:
            yield "image: permission", self.pull.check_permission
            yield "image: tag", self.pull.check_reference
            yield "image: platform", partial(self._check_platform, self.pull)
        yield "engine", engine.check_version
        yield "engine: login", partial(engine.log_in, conn_id, self.login, self.mapped.extra)
        yield "engine: login used", partial(engine.check_login_used, self.login)
        yield "Docker's own logins", partial(leftovers.check_docker_logins, self.login)
        if self.configured.from_airflow:
            yield "other definitions", partial(leftovers.check_other_definitions, conn_id)

    def _get_token(self) -> StepResult:
        self.login, result = aws.get_login(self.configured, self.mapped)
        token = self.login.token
        self.client = RegistryClient(self.login.host, (token.username, token.password))
        self.secrets += [token.password, encoded(token.username, token.password)]
        return result

    def _match(self, image: Image) -> StepResult:
        result = match_registry(image, self.login.host, conn_ids_by_host(self.configured))
        if image.registry == self.login.host:
            self.pull = Pull(self.client, image)
        return result

    def _check_platform(self, pull: Pull) -> StepResult:
        return pull.check_platform(self.engine.platform())


def conn_ids_by_host(configured: Configuration) -> dict[str, str]:
    """Return which connection serves a registry, as far as the configuration says."""
    return {mapped.host: mapped.conn_id for mapped in configured.settings.connections.values() if mapped.host}


def run(options: argparse.Namespace, output: Output) -> int:
    """Run all steps, and print what they have found."""
    certificates = options.tls_ca_cert, options.tls_client_cert, options.tls_client_key
    findings = list(run_steps(options, Engine(options.docker_url, *certificates), output))
    failed = [finding for finding in findings if finding.result.state == "failed"]
    exit_code = SUCCESS if not failed else WRONG_USAGE if failed[0].step == "configuration" else FAILED
    if options.output == "json":
        output.json({"ok": not failed, "findings": [finding.to_json() for finding in findings]})
    else:
        output.show(*_render(findings))
    return exit_code


def run_steps(options: argparse.Namespace, engine: Engine, output: Output) -> Iterator[Finding]:
    """Run the steps that all connections share, and then those of each."""
    found: list[Configuration] = []
    secrets: list[str] = []

    def take(conn_id: str | None, name: str, step: Step) -> list[Finding]:
        with output.progress(f"{conn_id}: {name}" if conn_id else name):
            return run_step(secrets, conn_id, name, step)

    yield from take(None, "configuration", partial(_configure, options, found))
    if not found:
        return
    configured = found[0]
    try:
        image = None if options.image is None else read_image(options.image)
    except CheckFailed as error:
        yield Finding(None, "image: registry", error.result.without(secrets))
        return
    connections = _choose(configured, options.conn_ids, image)
    if image and not connections:
        yield from take(None, "image: registry", partial(match_registry, image, None, conn_ids_by_host(configured)))
    for mapped in connections:
        for name, step in ConnectionCheck(configured, mapped, image, engine, secrets).steps():
            findings = take(mapped.conn_id, name, step)
            yield from findings
            if findings[-1].result.state == "failed":
                break
    if configured.from_airflow:
        yield from take(None, "earlier solutions", leftovers.check_dags)


def _configure(options: argparse.Namespace, found: list[Configuration]) -> StepResult:
    configured = configuration.read(options)
    try:
        configured.connections(options.conn_ids)
    except CommandError as error:
        raise CheckFailed("not-mapped", error.problem, error.fix) from None
    found.append(configured)
    return StepResult(f"{configured.source} maps {', '.join(sorted(configured.settings.connections))}")


def _choose(configured: Configuration, conn_ids: list[str], image: Image | None) -> list[MappedConnection]:
    """Return the connections to check: those that were named, else those that serve the image, else all."""
    connections = configured.connections(conn_ids)
    if conn_ids or image is None:
        return connections
    serving = [mapped for mapped in connections if mapped.host == image.registry]
    registry = Registry.find(image.registry or "")
    if serving or registry is None or registry.service != "ecr":
        return serving
    return [mapped for mapped in connections if mapped.host is None]  # AWS decides which registry it is


def run_step(secrets: list[str], conn_id: str | None, name: str, step: Step) -> list[Finding]:
    """Run a step in bounded time, and return what it has found, whatever it raises.

    :param secrets: what the findings must not show; the step may add to them
    """

    def collect() -> list[StepResult]:
        results = step()
        return [results] if isinstance(results, StepResult) else list(results)

    started_at = time.monotonic()
    try:
        results = within(STEP_SECONDS, collect) or [StepResult("nothing found")]
    except CheckFailed as error:
        results = [error.result]
    except ConfigurationError as error:
        results = [StepResult(f"{error.path} {error.problem}", "failed", "configuration-wrong", error.fix)]
    except CommandError as error:
        code = "not-configured" if name == "configuration" else "docker-config-wrong"
        results = [StepResult(error.problem, "failed", code, error.fix)]
    except TimeoutError:
        fix = "Look for what hangs: the network, a proxy, the registry, the engine, or a credential helper of Docker."
        results = [StepResult(f"no result within {STEP_SECONDS:.0f} s", "failed", "timed-out", fix)]
    except Exception as error:  # noqa: BLE001 - a finding, and no traceback: its words may hold what was sent
        fix = "Try again. If it lasts, report this line as a bug."
        results = [StepResult(describe_exception(error), "failed", "unexpected-error", fix)]
    seconds = round(time.monotonic() - started_at, 3)
    return [Finding(conn_id, name, result.without(secrets), seconds) for result in results]


_MARKS: Final = {"good": ("✓", "green"), "skipped": ("-", "dim"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def _render(findings: list[Finding]) -> Iterator[RenderableType]:
    from rich.table import Column, Table
    from rich.text import Text

    for connection, group in groupby(findings, lambda finding: finding.connection):
        yield Text(f"\n{connection or 'all connections'}", style="bold")
        table = Table("", "", Column(overflow="fold"), box=None, show_header=False, padding=(0, 2, 0, 0))
        for finding in group:
            mark, style = _MARKS[finding.result.state]
            text = Text(finding.result.message)
            if finding.result.state == "failed":
                text.append("".join(f"\n- {each.source}: {each.message}" for each in finding.result.sources))
            if finding.result.fix:
                text.append(f"\n→ {finding.result.fix}", style="bold" if finding.result.state == "failed" else "")
            times = Text(f"{finding.seconds:.1f} s", style="dim")
            table.add_row(Text(f"{mark} {finding.step}", style=style), times, text)
        yield table
    failed = [finding.result.code for finding in findings if finding.result.state == "failed"]
    warned = sum(finding.result.state == "warning" for finding in findings)
    warnings = f" {warned} warning{'s' if warned > 1 else ''}, see above." if warned else ""
    summary = f"Failed: {', '.join(failed)}." if failed else "All checks passed."
    yield Text(f"\n{summary}{warnings}", style="red" if failed else "green")


COMMAND: Final = Command(
    name="check",
    help="check every step from the configuration to a pull, and name what is wrong",
    description="Check each connection in order: configuration, AWS identity, token, registry, image, Docker engine,\n"
    "and what could take the connection's place. The first step that fails ends the check of a connection.\n"
    "Run it where the tasks run, as the same user and with the same environment.",
    epilog="""examples:
  ecr-secrets-backend check
  ecr-secrets-backend check --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/report:latest
  ecr-secrets-backend check docker_eu --docker-url tcp://docker:2375 --output json

exit codes:
  0 all checks passed, perhaps with warnings; 1 a step failed; 2 wrong usage or configuration""",
    arguments=(
        configuration.CONN_IDS,
        argument("--image", metavar="IMAGE", help="an image that is to be pulled"),
        argument(
            "--docker-url",
            metavar="URL",
            help="the Docker engine (default: DOCKER_HOST, else unix://var/run/docker.sock)",
        ),
        argument(
            "--tls-ca-cert", metavar="FILE", help="the CA of the engine's certificate, as DockerOperator's tls_ca_cert"
        ),
        argument("--tls-client-cert", metavar="FILE", help="the client certificate, as its tls_client_cert"),
        argument("--tls-client-key", metavar="FILE", help="the key of the client certificate, as its tls_client_key"),
        OUTPUT,
        *configuration.ARGUMENTS,
    ),
    run=run,
)

"""``check``: run each step from the configuration to a pull, and report the first that fails, with its fix."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

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
from ecr_secrets_backend.cli.docker_config.file import encode_login
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

#: The timeout of a step. Its requests have shorter timeouts, which lead to more precise findings.
STEP_TIMEOUT_SECONDS: Final = 60.0


def connection_steps(
    configured: Configuration, mapped: MappedConnection, image: Image | None, engine: Engine, secrets: list[str]
) -> Iterator[tuple[str, Step]]:
    """Yield the steps of one connection. The caller runs each before the next. The token is added to the secrets."""
    logins: list[Login] = []

    def keep_login(login: Login) -> None:
        logins.append(login)
        secrets.extend((login.token.password, encode_login(login.token.username, login.token.password)))

    yield "AWS identity", partial(aws.check_identity, configured, mapped)
    yield "token", partial(aws.check_token, configured, mapped, keep_login)
    (login,) = logins
    client = RegistryClient(login.host, (login.token.username, login.token.password))
    yield "registry: login", client.check_login
    if image:
        yield "image: registry", partial(match_registry, image, login.host, conn_ids_by_host(configured))
    if image and image.registry == login.host:
        pull = Pull(client, image)
        yield "image: permission", pull.check_permission
        yield "image: tag", pull.check_reference
        yield "image: platform", lambda: pull.check_platform(engine.platform())
    yield "engine", engine.check_version
    yield "engine: login", partial(engine.log_in, mapped.conn_id, login, mapped.extra)
    yield "engine: login used", partial(engine.check_login_used, login)
    yield "Docker's own logins", partial(leftovers.check_docker_logins, login)
    if configured.from_airflow:
        yield "other definitions", partial(leftovers.check_other_definitions, mapped.conn_id)


def conn_ids_by_host(configured: Configuration) -> dict[str, str]:
    """Return the connection of each registry that the configuration names."""
    return {mapped.host: mapped.conn_id for mapped in configured.settings.connections.values() if mapped.host}


def run(options: argparse.Namespace, output: Output) -> int:
    """Run all steps, and print their results."""
    engine = Engine(options.docker_url, options.tls_ca_cert, options.tls_client_cert, options.tls_client_key)
    results = list(run_steps(options, engine, output))
    failed = [result for result in results if result.state == "failed"]
    if options.output == "json":
        output.json({"ok": not failed, "findings": [result.to_json() for result in results]})
    else:
        output.show(*_render(results))
    return SUCCESS if not failed else WRONG_USAGE if failed[0].step == "configuration" else FAILED


def run_steps(options: argparse.Namespace, engine: Engine, output: Output) -> Iterator[StepResult]:
    """Run the steps that all connections share, and then those of each connection."""
    found: list[Configuration] = []
    secrets: list[str] = []

    def run_next(conn_id: str | None, name: str, step: Step) -> list[StepResult]:
        with output.progress(f"{conn_id}: {name}" if conn_id else name):
            return run_step(secrets, conn_id, name, step)

    yield from run_next(None, "configuration", partial(_configure, options, found))
    if not found:
        return
    configured = found[0]
    conn_ids = conn_ids_by_host(configured)
    try:
        image = None if options.image is None else read_image(options.image, conn_ids)
    except CheckFailed as error:
        yield replace(error.result, step="image: registry").without(secrets)
        return
    connections = _select_connections(configured, options.conn_ids, image)
    if image and not connections:
        yield from run_next(None, "image: registry", partial(match_registry, image, None, conn_ids))
    for mapped in connections:
        for name, step in connection_steps(configured, mapped, image, engine, secrets):
            results = run_next(mapped.conn_id, name, step)
            yield from results
            if results[-1].state == "failed":
                break
    if configured.from_airflow:
        yield from run_next(None, "earlier solutions", leftovers.check_dags)


def _configure(options: argparse.Namespace, found: list[Configuration]) -> StepResult:
    configured = configuration.read(options)
    try:
        configured.connections(options.conn_ids)
    except CommandError as error:
        raise CheckFailed("not-mapped", error.problem, error.fix) from None
    found.append(configured)
    return StepResult(f"{configured.source} maps {', '.join(sorted(configured.settings.connections))}")


def _select_connections(configured: Configuration, conn_ids: list[str], image: Image | None) -> list[MappedConnection]:
    """Return the named connections. Without names, return those for the image; without an image, all."""
    connections = configured.connections(conn_ids)
    if conn_ids or image is None:
        return connections
    serving = [mapped for mapped in connections if mapped.host == image.registry]
    registry = Registry.find(image.registry or "")
    if serving or registry is None or registry.service != "ecr":
        return serving
    return [mapped for mapped in connections if mapped.host is None]  # AWS returns their registry


def run_step(secrets: list[str], conn_id: str | None, name: str, step: Step) -> list[StepResult]:
    """Run a step in bounded time, and return its results, or its exception as one, without the secrets."""

    def collect() -> list[StepResult]:
        results = step()
        return [results] if isinstance(results, StepResult) else list(results)

    started_at = time.monotonic()
    try:
        results = within(STEP_TIMEOUT_SECONDS, collect) or [StepResult("nothing found")]
    except Exception as error:  # noqa: BLE001 - no step ends in a traceback
        results = [_explain(error, name)]
    seconds = round(time.monotonic() - started_at, 3)
    results = [replace(result, connection=conn_id, step=name, seconds=seconds) for result in results]
    return [result.without(secrets) for result in results]


def _explain(error: Exception, step: str) -> StepResult:
    match error:
        case CheckFailed():
            return error.result
        case ConfigurationError():
            code, message, fix = "configuration-wrong", f"{error.path} {error.problem}", error.fix
        case CommandError():
            code = "not-configured" if step == "configuration" else "docker-config-wrong"
            message, fix = error.problem, error.fix
        case TimeoutError():
            code, message = "timed-out", f"no result within {STEP_TIMEOUT_SECONDS:.0f} s"
            fix = "Check what hangs: the network, proxy, registry, engine, or Docker's credential helper."
        case _:  # the exception's text may have a secret
            code, message = "unexpected-error", describe_exception(error)
            fix = "Run the check again. If this line remains, report it as a bug."
    return StepResult(message, "failed", code, fix)


_MARKS: Final = {"good": ("✓", "green"), "skipped": ("-", "dim"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def _render(results: list[StepResult]) -> Iterator[RenderableType]:
    from rich.table import Column, Table
    from rich.text import Text

    for connection, group in groupby(results, lambda result: result.connection):
        yield Text(f"\n{connection or 'all connections'}", style="bold")
        table = Table("", "", Column(overflow="fold"), box=None, show_header=False, padding=(0, 2, 0, 0))
        for result in group:
            mark, style = _MARKS[result.state]
            is_failed = result.state == "failed"
            text = Text(result.message)
            if is_failed:
                text.append("".join(f"\n- {each.source}: {each.message}" for each in result.sources))
            if result.fix:
                text.append(f"\n→ {result.fix}", style="bold" if is_failed else "")
            table.add_row(Text(f"{mark} {result.step}", style), Text(f"{result.seconds:.1f} s", "dim"), text)
        yield table
    failed = [result.code for result in results if result.state == "failed"]
    warned = sum(result.state == "warning" for result in results)
    warnings = f" {warned} warning{'s' if warned > 1 else ''}, see above." if warned else ""
    summary = f"Failed: {', '.join(failed)}." if failed else "All checks passed."
    yield Text(f"\n{summary}{warnings}", style="red" if failed else "green")


COMMAND: Final = Command(
    name="check",
    help="check every step from the configuration to a pull, and report what is wrong",
    description="Check each connection in order: configuration, AWS identity, token, registry, image, Docker engine,\n"
    "and other definitions of the connection. The first step that fails ends the check of a connection.\n"
    "Run it where the tasks run, as the same user and with the same environment.",
    epilog="""examples:
  ecr-secrets-backend check
  ecr-secrets-backend check --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/report:latest
  ecr-secrets-backend check docker_eu --docker-url tcp://docker:2375 --output json

exit codes:
  0 all checks passed, perhaps with warnings; 1 a step failed; 2 wrong usage or configuration""",
    arguments=(
        configuration.CONN_IDS,
        argument("--image", metavar="IMAGE", help="an image to pull"),
        argument("--docker-url", metavar="URL", help="Docker engine (default: DOCKER_HOST, else Docker's socket)"),
        argument("--tls-ca-cert", metavar="FILE", help="CA of the engine, as DockerOperator's tls_ca_cert"),
        argument("--tls-client-cert", metavar="FILE", help="client certificate, as its tls_client_cert"),
        argument("--tls-client-key", metavar="FILE", help="key of the client certificate, as its tls_client_key"),
        OUTPUT,
        *configuration.ARGUMENTS,
    ),
    run=run,
)

"""Fixtures of the deployments: AWS with tokens of twelve hours, databases, and the settings of the backend."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import AWS_CONN_ID, AWS_ROW
from tests.sites.world import PATH
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS

if TYPE_CHECKING:
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn

#: The browser's driver is in the dependency group deployments, which only the newest Airflow's environment has.
collect_ignore = [] if find_spec("playwright") else ["test_page_in_browser.py"]

PROJECT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, which no PATH has
PROGRAMS = ":".join([PATH, *(str(folder) for folder in sorted(DEBIAN.glob("*/bin"), reverse=True))])
UNPRIVILEGED = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")  # PostgreSQL refuses to run as root
#: Each test has its own connection and region, so that it never meets the token of another test.
REGIONS = {
    "docker_default": "us-east-1",
    "docker_crowd": "us-west-2",
    "docker_trigger": "eu-west-1",
    "docker_refused": "eu-north-1",
    "docker_parsing": "ap-south-1",
}


@pytest.fixture(scope="module")
def cloud(world: World, aws: AwsStandIn) -> AwsStandIn:
    """Reset AWS, and set its tokens to twelve hours."""
    if find_spec("airflow.providers.celery") is None:
        pytest.skip("the dependency group deployments is not installed: only the newest Airflow's environment has it")
    world.inside(aws.reset)
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    return aws


@pytest.fixture(scope="session")
def postgresql(world: World) -> None:
    """Run a PostgreSQL that every process of the world can use, and that ends with it."""
    needed = ("createdb", "initdb", "pg_dump", "postgres", "redis-server", "setpriv")
    if absent := [name for name in needed if not shutil.which(name, path=PROGRAMS)]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    folder = Path("/run/postgresql")
    data, path = folder / "data", {"PATH": PROGRAMS}
    world.run("install", "--directory", "--owner=nobody", folder)
    world.run(*UNPRIVILEGED, "initdb", f"--pgdata={data}", "--username=airflow", "--auth=trust", environment=path)
    options = (f"-D{data}", f"-k{folder}", "-cfsync=off")
    world.start("postgresql", *UNPRIVILEGED, "postgres", *options, environment=path)
    world.wait("PostgreSQL", (world.root / "run/postgresql/.s.PGSQL.5432").exists)


@pytest.fixture(scope="session")
def database(world: World) -> Path:
    """Migrate a database of SQLite with an AWS connection. Tests copy it, because a migration takes seconds."""
    with world.airflow("database", DAGS / "tasks", {}) as site:
        site.run("db migrate")
        site.add_connection(**AWS_ROW)
    return site.home / "airflow.db"


def backend_settings(world: World, site: str, by_airflow: str | None = None, **kwargs: object) -> dict[str, str]:
    """
    Return the variables that configure the backend, with a cache for this site only.

    :param by_airflow: the connection that requests its token with an AWS connection of Airflow
    """
    connections: dict[str, object] = {
        conn_id: f"123456789012.dkr.ecr.{region}.amazonaws.com" for conn_id, region in REGIONS.items()
    }
    if by_airflow:
        connections[by_airflow] = {"registry": connections[by_airflow], "aws_conn_id": AWS_CONN_ID}
    kwargs = {"connections": connections, "cache_dir": str(world.folder / f"{site}-cache"), **kwargs}
    return {
        "AIRFLOW__SECRETS__BACKEND": "ecr_secrets_backend.EcrSecretsBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(kwargs),
        "PYTHONPATH": str(PROJECT),  # Airflow imports the trigger by its name
    }


def valid_tokens(world: World, aws: AwsStandIn, region: str) -> set[str]:
    """Return the beginnings of all tokens that the registries of a region accept now."""

    def read() -> set[str]:
        return {secret[:16] for secret in aws.secrets() if aws.authorise("AWS", secret, region=region).valid}

    return world.inside(read)


def call_postgresql(world: World, program: str, database: str) -> str:
    """Run ``createdb`` or ``pg_dump``, and return its output."""
    command = (program, "--host=127.0.0.1", "--username=airflow", database)
    return world.run(*command, environment={"PATH": PROGRAMS}).stdout

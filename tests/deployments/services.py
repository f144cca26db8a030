"""PostgreSQL and Redis of Debian's packages, in a world."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sites.world import PATH

if TYPE_CHECKING:
    from tests.sites.world import World

DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, which no PATH has
PROGRAMS = ":".join([PATH, *(str(folder) for folder in sorted(DEBIAN.glob("*/bin"), reverse=True))])
UNPRIVILEGED = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")  # PostgreSQL refuses to run as root
DATABASE = "127.0.0.1:5432/postgres"
BROKER = "redis://127.0.0.1:6379/0"


def missing() -> str | None:
    """Return which programs are not installed; None if all are."""
    absent = [
        name
        for name in ("createdb", "initdb", "pg_dump", "postgres", "redis-server", "setpriv")
        if not shutil.which(name, path=PROGRAMS)
    ]
    return f"not installed: {', '.join(absent)}" if absent else None


def start_postgresql(world: World) -> None:
    """Start a PostgreSQL that every process of the world can use, and that ends with it."""
    folder = Path("/run/postgresql")
    world.run("install", "--directory", "--owner=nobody", folder)
    path = {"PATH": PROGRAMS}
    world.run(
        *UNPRIVILEGED, "initdb", f"--pgdata={folder}/data", "--username=airflow", "--auth=trust", environment=path
    )
    options = ("-D", f"{folder}/data", "-k", str(folder), "-c", "fsync=off")
    world.start("postgresql", *UNPRIVILEGED, "postgres", *options, environment=path)
    world.wait("PostgreSQL", (world.root / "run/postgresql/.s.PGSQL.5432").exists)


def create_database(world: World, name: str) -> None:
    """Create another database."""
    world.run("createdb", "--host=127.0.0.1", "--username=airflow", name, environment={"PATH": PROGRAMS})


def dump_postgresql(world: World) -> str:
    """Return the content of the database as text."""
    path = {"PATH": PROGRAMS}
    return world.run("pg_dump", "--host=127.0.0.1", "--username=airflow", "postgres", environment=path).stdout


def start_redis(world: World) -> None:
    """Start a Redis that stores nothing on disk."""
    world.start("redis", "redis-server", "--bind", "127.0.0.1", "--save", "", "--daemonize", "no")
    world.wait("Redis", lambda: "Ready to accept connections" in (world.folder / "redis.log").read_text())

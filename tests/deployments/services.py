"""What Airflow's larger deployments stand on, from Debian's packages: PostgreSQL and Redis, in a world."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sites.world import PATH

if TYPE_CHECKING:
    from tests.sites.world import World

DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, on nobody's PATH
PROGRAMS = ":".join([PATH, *(str(folder) for folder in sorted(DEBIAN.glob("*/bin"), reverse=True))])
NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")  # PostgreSQL refuses to be root's
DATABASE = "127.0.0.1:5432/postgres"
BROKER = "redis://127.0.0.1:6379/0"


def missing() -> str | None:
    """Tell what is not installed; None if all is there."""
    absent = [
        name
        for name in ("createdb", "initdb", "pg_dump", "postgres", "redis-server", "setpriv")
        if not shutil.which(name, path=PROGRAMS)
    ]
    return f"not installed: {', '.join(absent)}" if absent else None


def start_postgresql(world: World) -> None:
    """Start a PostgreSQL that is open to all of the world and keeps nothing beyond it."""
    folder = Path("/run/postgresql")
    world.run("install", "--directory", "--owner=nobody", folder)
    path = {"PATH": PROGRAMS}
    world.run(*NOBODY, "initdb", f"--pgdata={folder}/data", "--username=airflow", "--auth=trust", environment=path)
    options = ("-D", f"{folder}/data", "-k", str(folder), "-c", "fsync=off")
    world.start("postgresql", *NOBODY, "postgres", *options, environment=path)
    world.wait("PostgreSQL", (world.root / "run/postgresql/.s.PGSQL.5432").exists)


def create_database(world: World, name: str) -> None:
    """Make a database beside the one that is there."""
    world.run("createdb", "--host=127.0.0.1", "--username=airflow", name, environment={"PATH": PROGRAMS})


def dump_postgresql(world: World) -> str:
    """Give all that is in the database, as text."""
    path = {"PATH": PROGRAMS}
    return world.run("pg_dump", "--host=127.0.0.1", "--username=airflow", "postgres", environment=path).stdout


def start_redis(world: World) -> None:
    """Start a Redis that keeps nothing."""
    world.start("redis", "redis-server", "--bind", "127.0.0.1", "--save", "", "--daemonize", "no")
    world.wait("Redis", lambda: "Ready to accept connections" in (world.folder / "redis.log").read_text())

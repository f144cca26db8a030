"""PostgreSQL and Redis of Debian's packages, in a world."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.requirements import skip_or_fail
from tests.sites.world import PATH

if TYPE_CHECKING:
    from tests.sites.world import World

DEBIAN = Path("/usr/lib/postgresql")  # a folder for each version, which no PATH has
PROGRAMS = ":".join([PATH, *(str(folder) for folder in sorted(DEBIAN.glob("*/bin"), reverse=True))])
UNPRIVILEGED = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")  # PostgreSQL refuses to run as root
DATABASE = "127.0.0.1:5432/postgres"
BROKER = "redis://127.0.0.1:6379/0"


def start_postgresql(world: World) -> None:
    """Start a PostgreSQL that every process of the world can use, and that ends with it."""
    needed = ("createdb", "initdb", "pg_dump", "postgres", "redis-server", "setpriv")
    if absent := [name for name in needed if not shutil.which(name, path=PROGRAMS)]:
        skip_or_fail(f"not installed: {', '.join(absent)}")
    folder = Path("/run/postgresql")
    data, path = folder / "data", {"PATH": PROGRAMS}
    world.run("install", "--directory", "--owner=nobody", folder)
    world.run(*UNPRIVILEGED, "initdb", f"--pgdata={data}", "--username=airflow", "--auth=trust", environment=path)
    options = (f"-D{data}", f"-k{folder}", "-cfsync=off")
    world.start("postgresql", *UNPRIVILEGED, "postgres", *options, environment=path)
    world.wait("PostgreSQL", (world.root / "run/postgresql/.s.PGSQL.5432").exists)


def call_postgresql(world: World, program: str, database: str) -> str:
    """Run ``createdb`` or ``pg_dump``, and return its output."""
    command = (program, "--host=127.0.0.1", "--username=airflow", database)
    return world.run(*command, environment={"PATH": PROGRAMS}).stdout


def start_redis(world: World) -> None:
    """Start a Redis that stores nothing on disk."""
    world.start("redis", "redis-server", "--bind", "127.0.0.1", "--save", "", "--daemonize", "no")
    world.wait("Redis", lambda: "Ready to accept connections" in (world.folder / "redis.log").read_text())

"""What a lookup costs, as ratios taken in one run: ``make bench``.

Each row is the median of interleaved rounds. Nothing is asserted, because machines are noisy: what must not change is
held by counts instead, of AWS calls, of imported modules and of the events that Python's audit hook sees.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import timeit
from typing import TYPE_CHECKING

from airflow.sdk import Connection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from ecr_secrets_backend import EcrSecretsBackend
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ROUNDS = 21
LOOKUPS = 5_000
FIRST_LOOKUP = """
import json, sys, time
from airflow.sdk import Connection
from ecr_secrets_backend import EcrSecretsBackend
backend = EcrSecretsBackend(**json.loads(sys.argv[1]))
backend._set_connection_class(Connection)
modules = len(sys.modules)
started_at = time.perf_counter()
assert backend.get_connection("docker_default").password
seconds = time.perf_counter() - started_at
print(json.dumps([seconds, len(sys.modules) - modules, "boto3" in sys.modules]))
"""


class EmptyBackend:
    """What a lookup costs that does nothing."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> None:
        """Do nothing."""


def microseconds(*lookups: Callable[[], object]) -> list[float]:
    """Time each lookup in turn, round after round, and give the median of each."""
    rounds = [[timeit.timeit(lookup, number=LOOKUPS) / LOOKUPS * 1e6 for lookup in lookups] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def first_lookup(kwargs: dict[str, object]) -> tuple[float, int, bool]:
    """Look up in a new process, with the token in the host's cache.

    :return: microseconds, the number of modules that were imported for it, and whether boto3 was
    """
    command = [sys.executable, "-c", FIRST_LOOKUP, json.dumps(kwargs)]
    seconds, modules, boto3 = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    return seconds * 1e6, modules, boto3


def main() -> None:
    """Print one table."""
    with AwsStandIn.running() as aws, tempfile.TemporaryDirectory() as cache_dir:
        os.environ.update(aws.environment())
        os.environ["AIRFLOW_CONN_POSTGRES"] = json.dumps({"conn_type": "postgres", "host": "a", "password": "b"})
        kwargs: dict[str, object] = {"connections": {"docker_default": HOST}, "cache_dir": cache_dir}
        ours, environment, empty = EcrSecretsBackend(**kwargs), EnvironmentVariablesBackend(), EmptyBackend()
        behind = [{"backend": "airflow.secrets.environment_variables.EnvironmentVariablesBackend"}]
        chained = EcrSecretsBackend(**kwargs, fallback_backends=behind)
        for backend in (ours, environment, chained):
            backend._set_connection_class(Connection)
        ours.get_connection("docker_default")
        nothing, miss, unmapped, handed_on, stored, served = microseconds(
            lambda: empty.get_connection("no_such_id"),
            lambda: environment.get_connection("no_such_id"),
            lambda: ours.get_connection("no_such_id"),
            lambda: chained.get_connection("no_such_id"),
            lambda: environment.get_connection("postgres"),
            lambda: ours.get_connection("docker_default"),
        )
        firsts = [first_lookup(kwargs) for _ in range(ROUNDS)]
        first = statistics.median(cost for cost, *_ in firsts)
        for name, cost, base in [
            ("an empty method", nothing, nothing),
            ("environment variables: a miss", miss, miss),
            ("ours: not mapped", unmapped, miss),
            ("ours: not mapped, and another backend misses it", handed_on, miss),
            ("environment variables: a hit, from JSON", stored, stored),
            ("ours: token in the process", served, stored),
            ("ours: token on the host, first lookup of a process", first, stored),
        ]:
            sys.stdout.write(f"{name:52}{cost:10.2f} us{cost / base:10.4f}\n")
        sys.stdout.write(f"modules imported by that first lookup: {max(modules for _, modules, _ in firsts)}\n")
        sys.stdout.write(f"processes that imported boto3 for it: {sum(boto3 for *_, boto3 in firsts)} of {ROUNDS}\n")
        sys.stdout.write(f"AWS calls in all: {len(aws.calls())}\n")


if __name__ == "__main__":
    main()

"""
Run ECR logins in a real Airflow, with a stand-in for AWS. It needs no AWS account and no Docker, and removes its files.

All numbers are counted or measured, and the exit code is 0 only if every claim is true.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import TYPE_CHECKING

from examples.demo.airflow_site import AirflowSite
from examples.demo.leaks import find_leaks, read_files
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOSTS = {
    "docker_default": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
    "docker_eu": "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
}
CONFIGURATION = f"""\
[secrets]
backend = ecr_secrets_backend.EcrSecretsBackend
backend_kwargs = {{"connections": {json.dumps(HOSTS, indent=4)[:-2]}}}}}
"""
RECEIVED = re.compile(r"Received an ECR token for connection '(.+?)'.* valid until (\S+),")
ROW = "  {:<12} {:<13} {:>7}  {:<15} {:<13} {:>7}  {}"
LOG_SECONDS = 1.0  # a task's log may end a little later than the task
WIDTH, INDENT, DOTS = 88, " " * 10, 20
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

write = partial(print, flush=True)


@dataclass(frozen=True)
class Lookup:
    """A lookup as a task's log reports it. Times are in seconds; the digest is the token's."""

    task: str
    pid: int
    conn_id: str
    host: str
    login: str
    digest: str
    began: float
    seconds: float
    expires_at: datetime | None

    def __str__(self) -> str:
        at = f"{datetime.fromtimestamp(self.began, timezone.utc):%H:%M:%S.%f}"[:-4]
        took, source = f"{self.seconds * 1000:.0f} ms", "AWS" if self.expires_at else "cache"
        return ROW.format(at, self.task, self.pid, self.conn_id, region_of(self.host), took, source)


def main() -> int:
    for number in END_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    write(f"ECR logins in Airflow {version('apache-airflow')}, with a stand-in for AWS\n\n{CONFIGURATION}")
    try:
        with TemporaryDirectory(prefix="ecr-demo-") as folder, AwsStandIn.running() as aws:
            cache = Path(folder, "cache")
            cache.mkdir()
            environment = {**aws.environment(), "XDG_RUNTIME_DIR": str(cache)}
            dags = Path(__file__).parent / "dags"
            with AirflowSite(Path(folder, "airflow"), dags, environment, CONFIGURATION) as airflow:
                try:
                    return demonstrate(airflow, aws, cache)
                finally:
                    for number in END_SIGNALS:
                        signal.signal(number, signal.SIG_IGN)  # else a signal could leave processes running
    except KeyboardInterrupt:
        write("\nInterrupted. All processes were ended and all files removed.")
        return 130


def demonstrate(airflow: AirflowSite, aws: AwsStandIn, cache: Path) -> int:
    """Run the DAG, print the lookups and the claims, and return the exit code."""
    try:
        run_dag(airflow)
    except (ChildProcessError, TimeoutError) as error:
        write(f"\n  FAILED  {error}")
        return 1
    airflow.end()
    lookups = sorted(read_lookups(airflow), key=lambda lookup: lookup.began)
    write("\n" + ROW.format("at (UTC)", "task", "pid", "connection", "registry in", "lookup", "token from"))
    write(*lookups, sep="\n", end="\n\n")
    claims = [*check_lookups(lookups, airflow, aws), *check_secrecy(aws.secrets(), airflow, cache)]
    for is_true, claim in claims:
        mark = "  ok      " if is_true else "  FAILED  "
        write(fill(mark + claim, WIDTH, subsequent_indent=INDENT, break_on_hyphens=False))
    if all(is_true for is_true, _ in claims):
        return 0
    write(f"\n{airflow.tails()}")
    return 1


def run_dag(airflow: AirflowSite) -> None:
    migration = airflow.start("db migrate")
    show_progress("Airflow's metadata database", airflow, lambda: migration.poll() == 0)
    airflow.start("api-server", "--apps=execution")
    airflow.start("dag-processor")
    airflow.start("scheduler", "--skip-serve-logs")
    show_progress("API server, scheduler, DAG processor", airflow, lambda: airflow.ask("SELECT 1 FROM dag_run"))
    ended = "SELECT 1 FROM dag_run WHERE state IN ('success', 'failed')"
    show_progress("A DAG run: six tasks at once, then four", airflow, lambda: airflow.ask(ended))
    time.sleep(LOG_SECONDS)


def show_progress(what: str, airflow: AirflowSite, is_done: Callable[[], object]) -> None:
    began, dots = time.monotonic(), iter("." * DOTS)
    write(f"  {what} ", end="")
    try:
        airflow.wait(is_done, lambda: write(next(dots, ""), end=""))
    finally:
        write(f" {time.monotonic() - began:.1f} s")


def read_lookups(airflow: AirflowSite) -> Iterator[Lookup]:
    expiries: dict[tuple[str, str], datetime] = {}
    for task, entry in airflow.logged():
        if received := RECEIVED.match(entry["event"]):
            expiries[task, received[1]] = datetime.fromisoformat(received[2])
        elif entry["event"] == "Looked up":
            facts = {name: entry[name] for name in Lookup.__annotations__ if name in entry}
            yield Lookup(**facts, task=task, expires_at=expiries.pop((task, entry["conn_id"]), None))


def check_lookups(lookups: list[Lookup], airflow: AirflowSite, aws: AwsStandIn) -> Iterator[tuple[bool, str]]:
    """Yield the claims about the lookups, each after whether it is true."""
    states = dict(airflow.ask("SELECT task_id, state FROM task_instance"))
    served, pids = {lookup.task for lookup in lookups}, {lookup.pid for lookup in lookups}
    is_true = set(states.values()) == {"success"} and served == set(states) and len(pids) == len(states)
    yield is_true, f"{len(served)} of {len(states)} tasks got their connections, in {len(pids)} processes"
    now = datetime.now(timezone.utc)
    for conn_id, host in HOSTS.items():
        made = [lookup for lookup in lookups if lookup.conn_id == conn_id]
        got = {(lookup.host, lookup.login, lookup.digest) for lookup in made}
        tokens = [secret for secret in aws.secrets() if aws.authorise("AWS", secret, region=region_of(host)).valid]
        opening = {(host, "AWS", sha256(token.encode()).hexdigest()[:8]) for token in tokens}
        calls = len(aws.calls(region=region_of(host)))
        minutes = (max((lookup.expires_at or now for lookup in made), default=now) - now).seconds // 60
        lifetime = f"{minutes // 60} h {minutes % 60} min"
        is_true = got == opening and len(tokens) == calls == 1
        yield (
            is_true,
            f"{len(made)} lookups of {conn_id} made {calls} AWS call; the token opens {host} for {lifetime} more",
        )
    calls, requests = len(aws.calls()), [lookup for lookup in lookups if lookup.expires_at]
    yield calls == len(requests) == len(HOSTS), f"{len(lookups)} lookups made {calls} AWS calls in all"


def check_secrecy(secrets: frozenset[str], airflow: AirflowSite, cache: Path) -> Iterator[tuple[bool, str]]:
    """Yield the claims about access to tokens, each after whether it is true."""
    files, values = list(read_files(airflow.home)), list(airflow.stored())
    leaks, megabytes = find_leaks(secrets, [*files, *values]), sum(len(text) for _, text in files) / 1e6
    claim = f"none of the {len(secrets)} secrets (tokens, their base64 forms, the AWS key) is in"
    logged = f"{len(files)} files ({megabytes:.1f} MB, logs at DEBUG)"
    exceptions = "".join(f", except in {place}" for place in leaks)
    yield not leaks, f"{claim} Airflow's {logged} or {len(values)} database values{exceptions}"
    stored = airflow.ask("SELECT conn_id FROM connection")
    yield not stored, f"the database has {len(stored)} connections"
    kept = [path for path in cache.rglob("*") if path.is_file()]
    is_private = not any(path.stat().st_mode & 0o077 for path in kept)
    is_true = is_private and len(find_leaks(secrets, read_files(cache))) == len(HOSTS)
    yield is_true, "the same search finds the tokens in the host's cache, in files that only this user can read"


def region_of(host: str) -> str:
    return host.split(".")[3]


if __name__ == "__main__":
    sys.exit(main())

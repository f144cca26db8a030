"""
ECR logins in a real Airflow, with AWS played on loopback: no account, no Docker, and nothing stays behind.

Whatever is shown was counted or measured, and the exit code is 0 only if every claim holds.
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
from urllib.parse import quote

from examples.demo.airflow_site import COMPONENTS, AirflowSite
from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
LAST_LINES_SECONDS = 1.0  # a task's log may end a little later than the task
TELLING_CHARACTERS = 40  # so much of a secret is a leak: logs cut long lines
DEBUG, ERROR = re.compile(r'\[debug |"level":"debug"'), re.compile(r'\[(error|critical) |"level":"(error|critical)"')
TAIL_LINES, TAIL_COLUMNS = 12, 800
WIDTH, INDENT = 88, " " * 10
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

say = partial(print, flush=True)


@dataclass(frozen=True)
class Lookup:
    """What a task's log tells of a lookup; times are in seconds, and the digest is the token's."""

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
    for ending in ENDINGS:
        signal.signal(ending, signal.default_int_handler)
    say(f"ECR logins in Airflow {version('apache-airflow')}, with AWS played on loopback\n\n{CONFIGURATION}")
    try:
        with TemporaryDirectory(prefix="ecr-demo-") as folder, AwsStandIn.running() as aws:
            cache = Path(folder, "cache")
            cache.mkdir()
            environment = {**aws.environment(), "XDG_RUNTIME_DIR": str(cache)}
            airflow = AirflowSite(Path(folder, "airflow"), Path(__file__).parent / "dags", CONFIGURATION, environment)
            try:
                return demonstrate(airflow, aws, cache)
            finally:
                for ending in ENDINGS:
                    signal.signal(ending, signal.SIG_IGN)  # what is left to do leaves nothing behind
                airflow.end()
    except KeyboardInterrupt:
        say("\nInterrupted. All of it was stopped and removed.")
        return 130


def demonstrate(airflow: AirflowSite, aws: AwsStandIn, cache: Path) -> int:
    """Run the DAG, show what happened, and give the exit code."""
    try:
        run_dag(airflow)
    except (ChildProcessError, TimeoutError) as trouble:
        say(f"\n  FAILED  {trouble}")
        show_logs(airflow, lambda line: not DEBUG.search(line))
        return 1
    airflow.end()
    lookups = sorted(read_lookups(airflow), key=lambda lookup: lookup.began)
    say("\n" + ROW.format("at (UTC)", "task", "pid", "connection", "registry in", "lookup", "token from"))
    say(*lookups, sep="\n", end="\n\n")
    claims = [*check_lookups(lookups, airflow, aws), *check_secrecy(aws.secrets(), airflow, cache)]
    for holds, claim in claims:
        verdict = "  ok      " if holds else "  FAILED  "
        say(fill(verdict + claim, WIDTH, subsequent_indent=INDENT, break_on_hyphens=False))
    if all(holds for holds, _ in claims):
        return 0
    show_logs(airflow, ERROR.search)
    return 1


def run_dag(airflow: AirflowSite) -> None:
    migration = airflow.start("db migrate")
    show("Airflow's metadata database", airflow.until(lambda: migration.poll() == 0))
    for component, options in COMPONENTS.items():
        airflow.start(component, *options)
    show("API server, scheduler, DAG processor", airflow.until(lambda: airflow.ask("SELECT 1 FROM dag_run")))
    ended = "SELECT 1 FROM dag_run WHERE state IN ('success', 'failed')"
    show("A DAG run: six tasks at once, four in turn", airflow.until(lambda: airflow.ask(ended)))
    time.sleep(LAST_LINES_SECONDS)


def show(what: str, moments: Iterable[None]) -> None:
    began = time.monotonic()
    say(f"  {what} ", end="")
    try:
        for _ in moments:
            say(".", end="")
    finally:
        say(f" {time.monotonic() - began:.1f} s")


def read_lookups(airflow: AirflowSite) -> Iterator[Lookup]:
    minted: dict[tuple[str, str], datetime] = {}
    for task, entry in airflow.logged():
        if request_token := RECEIVED.match(entry["event"]):
            minted[task, request_token[1]] = datetime.fromisoformat(request_token[2])
        elif entry["event"] == "Looked up":
            facts = {name: entry[name] for name in Lookup.__annotations__ if name in entry}
            yield Lookup(**facts, task=task, expires_at=minted.pop((task, entry["conn_id"]), None))


def check_lookups(lookups: list[Lookup], airflow: AirflowSite, aws: AwsStandIn) -> Iterator[tuple[bool, str]]:
    """Give each claim about the lookups, after whether it holds."""
    states = dict(airflow.ask("SELECT task_id, state FROM task_instance"))
    served, pids = {lookup.task for lookup in lookups}, {lookup.pid for lookup in lookups}
    holds = set(states.values()) == {"success"} and served == set(states) and len(pids) == len(states)
    yield holds, f"{len(served)} of {len(states)} tasks were served, in {len(pids)} processes"
    now = datetime.now(timezone.utc)
    for conn_id, host in HOSTS.items():
        made = [lookup for lookup in lookups if lookup.conn_id == conn_id]
        got = {(lookup.host, lookup.login, lookup.digest) for lookup in made}
        tokens = [secret for secret in aws.secrets() if aws.authorise("AWS", secret, region=region_of(host)).valid]
        opening = {(host, "AWS", sha256(token.encode()).hexdigest()[:8]) for token in tokens}
        calls = len(aws.calls(region=region_of(host)))
        minutes = (max((lookup.expires_at or now for lookup in made), default=now) - now).seconds // 60
        lifetime = f"{minutes // 60} h {minutes % 60} min"
        holds = got == opening and len(tokens) == calls == 1
        yield (
            holds,
            f"{len(made)} lookups of {conn_id} cost {calls} AWS call; the token opens {host} for {lifetime} more",
        )
    calls, token_requests = len(aws.calls()), [lookup for lookup in lookups if lookup.expires_at]
    yield calls == len(token_requests) == len(HOSTS), f"{len(lookups)} lookups cost {calls} AWS calls in all"


def check_secrecy(secrets: frozenset[str], airflow: AirflowSite, cache: Path) -> Iterator[tuple[bool, str]]:
    """Give each claim about who can read a token, after whether it holds."""
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
    telling = {part for form in forms for part in (form[:TELLING_CHARACTERS], form[-TELLING_CHARACTERS:])}

    def places(texts: Iterable[tuple[str, str]]) -> list[str]:
        return sorted({place for place, text in texts if any(part in text for part in telling)})

    files, values = list(read_files(airflow.home)), list(airflow.stored())
    leaks, megabytes = places([*files, *values]), sum(len(text) for _, text in files) / 1e6
    sought = f"none of the {len(secrets)} secrets (tokens, their base64 forms, the AWS key) stands in"
    logged = f"{len(files)} files ({megabytes:.1f} MB, logs at DEBUG)"
    exceptions = "".join(f", except in {place}" for place in leaks)
    yield not leaks, f"{sought} Airflow's {logged} or {len(values)} database values{exceptions}"
    stored = airflow.ask("SELECT conn_id FROM connection")
    yield not stored, f"the database has {len(stored)} connections"
    kept = [path for path in cache.rglob("*") if path.is_file()]
    holds = len(places(read_files(cache))) == len(HOSTS) and not any(path.stat().st_mode & 0o077 for path in kept)
    yield holds, "the same search does find the tokens in the host's cache, in files that only this user can read"


def read_files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name, path.read_text(errors="replace")


def show_logs(airflow: AirflowSite, is_telling: Callable[[str], object]) -> None:
    """Print the last telling lines of every log that has any."""
    for log in sorted(airflow.home.rglob("*.log")):
        lines = [line[:TAIL_COLUMNS] for line in log.read_text(errors="replace").splitlines() if is_telling(line)]
        if lines:
            say(f"\n--- {log.relative_to(airflow.home)}", *lines[-TAIL_LINES:], sep="\n")


def region_of(host: str) -> str:
    return host.split(".")[3]


if __name__ == "__main__":
    sys.exit(main())

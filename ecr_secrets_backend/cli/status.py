"""``status``: show what the host's cache holds, and whether it is safe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.command import GOOD, Command, argument
from ecr_secrets_backend.cli.output import duration, iso_time
from ecr_secrets_backend.cli.survey import Survey, read_entries
from ecr_secrets_backend.registry import Registry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from rich.console import RenderableType

    from ecr_secrets_backend.cli.configuration import Configuration
    from ecr_secrets_backend.cli.output import Output
    from ecr_secrets_backend.entry import Entry
    from ecr_secrets_backend.token import EcrToken

State = Literal["fresh", "renewing", "expiring", "expired", "none"]

STATES: Final = {
    "fresh": "served at once",
    "renewing": "served, and renewed by the next lookup",
    "expiring": "expires too soon to be served",
    "expired": "expired",
    "none": "AWS returned none",
}

OUTPUT: Final = argument(
    "--output", choices=("table", "json"), default="table", help="for people, or for programs (default: table)"
)


@dataclass(frozen=True)
class CachedToken:
    """An entry of the cache.

    :param connections: the connections of this configuration that it serves, in this process's environment
    """

    entry: Entry
    connections: tuple[str, ...]
    registries: tuple[str, ...]
    region: str | None


def run(options: argparse.Namespace, output: Output) -> int:
    """Show the cache."""
    configured = configuration.read(options)
    survey = Survey.of(configured.store) if configured.store else Survey()
    tokens = [_document(cached, configured) for cached in find(configured, survey)]
    cache = {
        "kind": configured.settings.cache,
        "folder": None if survey.mode is None else survey.path,
        "user": os.geteuid(),
        "problems": list(problems(survey)) if configured.store else [],
        "files": len(survey.files),
        "bytes": sum(file.size for file in survey.files),
    }
    if options.output == "json":
        output.json({"cache": cache, "tokens": tokens})
    else:
        output.show(*_rendered(cache, tokens, survey))
    return GOOD


def find(configured: Configuration, survey: Survey) -> Iterator[CachedToken]:
    """Read all valid entries of the cache."""
    if configured.store is None:
        return
    mapped = [(configured.key(each), each) for each in configured.settings.connections.values()]
    for entry in read_entries(configured.store, survey):
        ours = [each for key, each in mapped if key == entry.key]
        default = entry.token.registry if entry.token else None
        registries = {each.host or default for each in ours} if ours else {default}
        yield CachedToken(
            entry,
            tuple(each.conn_id for each in ours),
            tuple(sorted(filter(None, registries))),
            _region(entry, default),
        )


def problems(survey: Survey) -> Iterator[str]:
    """Report what differs from what the cache makes."""
    yield from (f"{place}; not used" for place in survey.refused)
    if survey.path is None:
        yield "no folder can be used for the cache, so each process requests its own tokens"
    if survey.mode is not None and survey.mode & 0o077:
        yield f"{survey.path} is open to other users (mode {survey.mode:04o}); the next lookup closes it"
    for file in survey.files:
        if file.problem:
            yield f"{file.name} {file.problem}; it is not read, and the next token replaces it"


def _region(entry: Entry, registry: str | None) -> str | None:
    if registry:
        found = Registry.find(registry)
        return found.region if found else None
    return entry.failure.region if entry.failure else None


def state_of(token: EcrToken | None, now: float, refresh_before: float) -> State:
    """Return what a lookup does with a token."""
    if token is None:
        return "none"
    if token.is_fresh(now, refresh_before):
        return "fresh"
    if token.is_servable(now):
        return "renewing"
    return "expiring" if now < token.expires_at else "expired"


def _document(cached: CachedToken, configured: Configuration) -> dict[str, Any]:
    return {
        "identity": cached.entry.identity,
        "region": cached.region,
        "connections": list(cached.connections),
        "registries": list(cached.registries),
        **describe(cached.entry, configured.settings.refresh_before),
    }


def describe(entry: Entry, refresh_before: float) -> dict[str, Any]:
    """Return what programs get of an entry: its times, its state and its last failure, and no token."""
    token, failure, now = entry.token, entry.failure, entry.now()
    return {
        "minted_at": iso_time(token.received_at) if token else None,
        "expires_at": iso_time(token.expires_at) if token else None,
        "seconds_left": max(0, round(token.expires_at - now)) if token else 0,
        "state": state_of(token, now, refresh_before),
        "failure": {**failure.to_json(), "at": iso_time(entry.recorded_at)} if failure else None,
        "back_off_seconds": round(entry.back_off_left()),
    }


def _rendered(cache: dict[str, Any], tokens: list[dict[str, Any]], survey: Survey) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if cache["kind"] == "process":
        yield Text('cache = "process": each process keeps its own tokens, and the host has none.')
        return
    user = f"user {cache['user']}"
    if survey.path is None:
        yield Text(f"There is no cache of {user} on this host.")
    elif survey.mode is None:
        yield Text(f"There is no cache of {user} on this host yet: the first lookup makes it, in {survey.path}.")
    else:
        size = f"{cache['files']} files, {cache['bytes']:,} bytes"
        safety = "" if cache["problems"] else "; private to this user"
        yield Text(f"Cache of {user}: {cache['folder']} ({size}{safety})")
    for problem in cache["problems"]:
        yield Text(f"! {problem}", style="yellow")
    if not tokens:
        yield Text("It holds no token. Caches are per user: run this as the user that Airflow's tasks run as.")
        return
    table = Table("Identity", "Region", "Connections", "Registries", "Received", "Expires", "Left", "State")
    colours = {"fresh": "green", "renewing": "yellow"}
    for token in tokens:
        table.add_row(
            token["identity"],
            token["region"] or "",
            "\n".join(token["connections"]) or "(none of this configuration)",
            "\n".join(token["registries"]),
            token["minted_at"],
            token["expires_at"],
            duration(token["seconds_left"]),
            Text(token["state"], style=colours.get(token["state"], "red")),
        )
    yield table
    for token in tokens:
        if failure := token["failure"]:
            pause = token["back_off_seconds"]
            again = f"no process calls it for {pause} s" if pause else "the next lookup that needs it calls it again"
            yield Text(
                f"! {token['identity']}: AWS failed at {failure['at']}, and {again}."
                f" {failure['code']}: {failure['reason']}. {failure['remedy']}",
                style="red",
            )


COMMAND: Final = Command(
    name="status",
    help="show what the host's cache holds, never a token",
    description="Show this user's cache on this host: the identity and times of each token, and what failed last.\n\n"
    + "\n".join(f"  {state:<10}{meaning}" for state, meaning in STATES.items()),
    epilog="""examples:
  ecr-secrets-backend status
  ecr-secrets-backend status --output json | jq '.tokens[] | select(.state != "fresh")'""",
    arguments=(OUTPUT, *configuration.ARGUMENTS),
    run=run,
)

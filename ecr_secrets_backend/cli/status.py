"""``status``: show the tokens in the host's cache, and whether the cache is private."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Literal

from ecr_secrets_backend.cli import configuration
from ecr_secrets_backend.cli.cache_folder import CacheFolder
from ecr_secrets_backend.cli.command import SUCCESS, Command, argument
from ecr_secrets_backend.cli.output import duration, iso_time
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
    "fresh": "valid",
    "renewing": "valid, and due for renewal: the next lookup renews it",
    "expiring": "expires too soon to be used: the next lookup requests a new token",
    "expired": "expired: the next lookup requests a new token",
    "none": "no token: the last request failed",
}
_STYLES: Final = {"fresh": "green", "renewing": "yellow"}

OUTPUT: Final = argument(
    "--output",
    choices=("table", "json"),
    default="table",
    help="a table for people, or JSON for programs (default: table)",
)


def run(options: argparse.Namespace, output: Output) -> int:
    """Show the tokens in the cache."""
    config = configuration.read(options)
    folder = CacheFolder.inspect(config.logins.store)
    tokens = list(_list_tokens(config, folder))
    cache = {
        "kind": config.settings.cache,
        "folder": None if folder.mode is None else folder.path,
        "user": os.geteuid(),
        "problems": list(_find_problems(folder)) if config.logins.store else [],
        "files": len(folder.files),
        "bytes": sum(file.size for file in folder.files),
    }
    if options.output == "json":
        output.json({"cache": cache, "tokens": tokens})
    else:
        output.show(*_render(cache, tokens, folder.path))
    return SUCCESS


def _list_tokens(config: Configuration, folder: CacheFolder) -> Iterator[dict[str, Any]]:
    """Return each entry of the cache, with the connections that it serves in this process."""
    mapped = [(config.key(each), each) for each in config.settings.connections.values()]
    for entry in folder.entries(config.logins.store):
        served = [each for key, each in mapped if key == entry.key]
        default = entry.token.registry if entry.token else None
        registries = {each.host or default for each in served} or {default}
        yield {
            "identity": entry.identity,
            "region": _find_region(entry),
            "connections": [each.conn_id for each in served],
            "registries": sorted(filter(None, registries)),
            **describe(entry, config.settings.refresh_before),
        }


def _find_region(entry: Entry) -> str | None:
    if entry.token and entry.token.registry:
        registry = Registry.find(entry.token.registry)
        return registry.region if registry else None
    return entry.failure.region if entry.failure else None


def _find_problems(folder: CacheFolder) -> Iterator[str]:
    yield from (f"{place}; not used" for place in folder.refused)
    if folder.path is None:
        yield "no folder can be used for the cache, so each process requests its own tokens"
    if folder.mode is not None and folder.mode & 0o077:
        yield f"{folder.path} is open to other users (mode {folder.mode:04o}); the next lookup sets mode 0700"
    for file in folder.files:
        if file.problem:
            yield f"{file.name} {file.problem}; lookups do not read it, and the next token replaces it"


def describe(entry: Entry, refresh_before: float) -> dict[str, Any]:
    """Return the times, the state and the last failure of an entry as JSON, without the token."""
    token, failure, now = entry.token, entry.failure, entry.now()
    return {
        "minted_at": iso_time(token.received_at) if token else None,
        "expires_at": iso_time(token.expires_at) if token else None,
        "seconds_left": max(0, round(token.expires_at - now)) if token else 0,
        "state": state_of(token, now, refresh_before),
        "failure": {**failure.to_json(), "at": iso_time(entry.recorded_at)} if failure else None,
        "back_off_seconds": round(entry.back_off_left()),
    }


def state_of(token: EcrToken | None, now: float, refresh_before: float) -> State:
    """Return the state of a token, which decides what a lookup does with it."""
    if token is None:
        return "none"
    if token.is_fresh(now, refresh_before):
        return "fresh"
    if token.is_servable(now):
        return "renewing"
    return "expiring" if now < token.expires_at else "expired"


def _render(cache: dict[str, Any], tokens: list[dict[str, Any]], path: str | None) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if cache["kind"] == "process":
        yield Text('There is no cache on this host: with "cache": "process", each process has its own.')
        return
    if cache["folder"]:
        privacy = "" if cache["problems"] else "; private to this user"
        found = f"{path} ({cache['files']} files, {cache['bytes']:,} bytes{privacy})"
    else:
        found = f"none yet; the next lookup creates {path}" if path else "none"
    yield Text(f"Cache of user {cache['user']}: {found}")
    for problem in cache["problems"]:
        yield Text(f"! {problem}", style="yellow")
    if not tokens:
        yield Text(
            "The cache has no token. Each user has a cache: run this command as the user that runs Airflow's tasks."
        )
        return
    table = Table("Identity", "Region", "Connections", "Registries", "Received", "Expires", "Left", "State")
    for token in tokens:
        table.add_row(
            token["identity"],
            token["region"] or "",
            "\n".join(token["connections"]) or "(of another configuration)",
            "\n".join(token["registries"]),
            token["minted_at"],
            token["expires_at"],
            duration(token["seconds_left"]),
            Text(token["state"], style=_STYLES.get(token["state"], "red")),
        )
    yield table
    for token in tokens:
        if failure := token["failure"]:
            retry = (
                f"in {token['back_off_seconds']} s at the earliest"
                if token["back_off_seconds"]
                else "at the next lookup"
            )
            yield Text(
                f"! {token['identity']}: no token at {failure['at']}: {failure['code']}: {failure['reason']}."
                f" {failure['remedy']} The next request is sent {retry}.",
                style="red",
            )


COMMAND: Final = Command(
    name="status",
    help="show the tokens in the host's cache, without their passwords",
    description="Show each token in this user's cache on this host: its identity, times, state and last failure.\n\n"
    "states:\n" + "\n".join(f"  {state:<10}{meaning}" for state, meaning in STATES.items()),
    epilog="""examples:
  ecr-secrets-backend status
  ecr-secrets-backend status --output json | jq '.tokens[] | select(.state != "fresh")'""",
    arguments=(OUTPUT, *configuration.ARGUMENTS),
    run=run,
)

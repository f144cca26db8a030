"""The rows of the page, for any configuration and any cache."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli.configuration import BACKEND
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.ui import overview
from ecr_secrets_backend.ui.overview import Overview
from tests.command_settings import EU_HOST, US_HOST
from tests.documentation.pages import PROJECT
from tests.unit.builders import HOUR, build_failure, build_token
from tests.unit.folders import folder_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FALLBACK = {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}


def read(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any] | None, workers: dict[str, Any] | None = None
) -> Overview:
    """Configure the backend in the sections that have kwargs, and read the configuration."""
    monkeypatch.setattr(overview, "_read_conn_ids", set)
    for option, values in (("SECRETS__BACKEND", kwargs), ("WORKERS__SECRETS_BACKEND", workers)):
        if values is not None:
            monkeypatch.setenv(f"AIRFLOW__{option}", BACKEND)
            monkeypatch.setenv(f"AIRFLOW__{option}_KWARGS", json.dumps(values))
    return Overview.read()


def record(shown: Overview, entry: Entry) -> None:
    """Write an entry for the first connection to the host's cache."""
    config = shown.configurations["secrets"]
    mapped = next(iter(config.settings.connections.values()))
    key = mapped.identity.in_environment(os.environ).key
    entry = Entry.of_token(key, "", entry.token) if entry.token and not entry.failure else entry
    assert config.logins.store is not None
    content = json.dumps({**json.loads(entry.to_json()), "key": key}).encode()
    config.logins.store.write(f"{key}.json", content, entry.now() + 24 * HOUR)


@pytest.mark.parametrize(
    ("age", "state"),
    [(0, "valid"), (10 * HOUR, "valid"), (11.2 * HOUR, "renewal_due"), (11.9 * HOUR, "none"), (13 * HOUR, "none")],
)
def test_a_token_has_a_state_at_each_age(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], age: float, state: str
) -> None:
    """The row does not have the token."""
    shown = read(monkeypatch, kwargs)
    with freeze_time() as clock:
        record(shown, Entry("", token=build_token(received_at=time.time(), password="ey.secret")))
        clock.tick(age)
        (row,) = shown.rows()

    assert (row["state"], row["seconds_left"]) == (state, max(0, 12 * HOUR - age))
    assert "ey.secret" not in json.dumps(row)


def test_a_failure_has_its_fix_and_its_back_off(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Also if a token is still valid. ``docs/ui.md`` documents all fields and all states."""
    shown = read(monkeypatch, kwargs)
    record(shown, Entry("").with_failure(build_failure()))
    (failed,) = shown.rows()
    record(shown, Entry("", token=build_token(received_at=time.time() - 11.5 * HOUR)).with_failure(build_failure()))
    (due,) = shown.rows()

    assert (failed["state"], due["state"]) == ("failed", "renewal_due")
    for row in (failed, due):
        assert row["failure"].items() >= {"code": "AccessDeniedException", "remedy": "Allow it."}.items()
        assert 0 < row["back_off_seconds"] <= 5
    page = (PROJECT / "docs/ui.md").read_text()
    (example,) = re.findall(r"(?ms)^```json\n(.*?)^```", page)
    (documented,) = json.loads(example)["connections"]
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [*overview.STATES]
    assert [*documented] == [*failed]
    assert [*documented["failure"]] == [*failed["failure"]]


@pytest.mark.parametrize("cache", ["host", "process"])
def test_without_a_token_no_folder_is_made(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path, cache: str
) -> None:
    (row,) = read(monkeypatch, {**kwargs, "cache": cache}).rows()

    assert row["state"] == "none"
    assert not folder_in(tmp_path).exists()


def test_connections_of_workers_are_shown_if_they_differ(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    def shown(connections: dict[str, str]) -> list[tuple[str, str, str]]:
        rows = read(monkeypatch, kwargs, {**kwargs, "connections": connections}).rows()
        return [(row["conn_id"], row["section"], row["region"]) for row in rows]

    first = ("docker_default", "secrets", "us-east-1")
    assert shown(kwargs["connections"]) == [first]
    assert shown({"docker_default": US_HOST, "docker_worker": EU_HOST}) == [
        first,
        ("docker_worker", "workers", "eu-central-1"),
    ]
    assert shown({"docker_default": EU_HOST}) == [first, ("docker_default", "workers", "eu-central-1")]


def test_a_wrong_configuration_of_workers_is_a_problem(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """With a wrong configuration of ``[secrets]``, Airflow does not start."""
    shown = read(monkeypatch, kwargs, {"connections": {"docker_default": {"regoin_name": "x"}}})

    (problem,) = shown.problems
    assert problem.startswith(
        "[workers] secrets_backend_kwargs: connections.docker_default.regoin_name is not supported"
    )
    assert [row["conn_id"] for row in shown.rows()] == ["docker_default"]


@pytest.mark.parametrize("backend", [None, FALLBACK["backend"]])
def test_secrets_without_this_backend_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], backend: str | None
) -> None:
    """The connections of workers are shown."""
    if backend:
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    shown = read(monkeypatch, None, kwargs)

    (problem,) = shown.problems
    assert f"[secrets] backend is {backend or 'not set'}" in problem
    assert "Set [secrets] backend = ecr_secrets_backend.EcrSecretsBackend" in problem
    assert [row["section"] for row in shown.rows()] == ["workers"]
    assert shown.other_backends[0] == "environment variables"


def test_fallback_backends_are_not_asked(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """They may be on the network, so the identity of the AWS connection is unknown."""
    connections = {"docker_default": {"registry": US_HOST, "aws_conn_id": "aws_ecr"}}
    shown = read(monkeypatch, {**kwargs, "connections": connections, "fallback_backends": [FALLBACK]})

    assert [row["state"] for row in shown.rows()] == ["unknown"]
    assert shown.other_backends == (FALLBACK["backend"], "environment variables", "the metadata database")


def test_an_aws_connection_is_read_from_airflow(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """If there is none, the row has the fix. Its keys are not shown."""
    monkeypatch.setattr("airflow.secrets.metastore.MetastoreBackend.get_connection", lambda *_, **__: None)
    kwargs["connections"] = {"docker_default": {"registry": US_HOST, "aws_conn_id": "aws_ecr"}}
    shown = read(monkeypatch, kwargs)
    (missing,) = shown.rows()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", "aws://AKIAKEY:a-secret-key@")
    (found,) = shown.rows()

    assert missing["state"] == "failed"
    assert "Add an Airflow connection 'aws_ecr'" in missing["failure"]["remedy"]
    assert (found["state"], found["identity"]) == ("none", "Airflow connection aws_ecr")
    assert "a-secret-key" not in json.dumps(found)


def test_other_definitions_of_a_connection_are_shown(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Processes without the backend use them."""
    read_conn_ids = overview._read_conn_ids
    shown = read(monkeypatch, kwargs)
    monkeypatch.setattr(overview, "_read_conn_ids", read_conn_ids)
    monkeypatch.setattr("airflow.utils.session.create_session", session_with_connections)
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://elsewhere")

    assert [row["also_defined_in"] for row in shown.rows()] == [["environment", "database"]]


@contextmanager
def session_with_connections() -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(scalars=lambda _: ["docker_default"])

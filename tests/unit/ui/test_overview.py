"""What the page shows of a configuration and a host's cache, whatever is in them."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.ui import overview
from ecr_secrets_backend.ui.overview import Sections
from tests.documentation.pages import PROJECT
from tests.unit.builders import HOUR, build_failure, build_token
from tests.unit.folders import folder_in

if TYPE_CHECKING:
    from pathlib import Path

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
FALLBACK = {"backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend"}


class Look:
    """A configuration that is looked at.

    :param kwargs: of the backend in ``secrets``
    :param workers: those in ``workers``, if the backend is there, too
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], workers: dict[str, Any] | None = None
    ) -> None:
        monkeypatch.setattr(overview, "_ids_in_database", set)  # tests/airflow has a real one
        backend = "ecr_secrets_backend.EcrSecretsBackend"
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))
        if workers is not None:
            monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", backend)
            monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps(workers))
        self.sections = Sections.read()

    def rows(self) -> list[dict[str, Any]]:
        return self.sections.look()

    def row(self) -> dict[str, Any]:
        (row,) = self.rows()
        return row

    def record(self, entry: Entry) -> None:
        """Let the host's cache hold an entry for the first connection."""
        configured = self.sections.configured["secrets"]
        mapped = next(iter(configured.settings.connections.values()))
        key = mapped.identity.in_environment(os.environ).key
        entry = Entry.of_token(key, "", entry.token) if entry.token and not entry.failure else entry
        assert configured.store is not None
        configured.store.write(f"{key}.json", _with_key(entry, key), entry.now() + 24 * HOUR)


def _with_key(entry: Entry, key: str) -> bytes:
    return json.dumps({**json.loads(entry.to_json()), "key": key}).encode()


@pytest.fixture
def kwargs(tmp_path: Path) -> dict[str, Any]:
    return {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}


@pytest.mark.parametrize(
    ("age", "state"),
    [(0, "valid"), (10 * HOUR, "valid"), (11.2 * HOUR, "renewal_due"), (11.9 * HOUR, "none"), (13 * HOUR, "none")],
)
def test_a_token_goes_through_its_states(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], age: float, state: str
) -> None:
    """Valid, due for renewal while it is served, none when it is too old to serve."""
    look = Look(monkeypatch, kwargs)
    with freeze_time() as clock:
        look.record(Entry("", token=build_token(received_at=time.time())))
        clock.tick(age)
        row = look.row()

    assert row["state"] == state
    assert row["seconds_left"] == max(0, 12 * HOUR - age)


def test_a_failure_is_shown_with_its_fix_and_its_back_off(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    """Also beside a token that is still served."""
    look = Look(monkeypatch, kwargs)
    look.record(Entry("").with_failure(build_failure()))
    failed = look.row()
    look.record(Entry("", token=build_token(received_at=time.time() - 11.5 * HOUR)).with_failure(build_failure()))
    due = look.row()

    assert (failed["state"], due["state"]) == ("failed", "renewal_due")
    for row in (failed, due):
        assert row["failure"].items() >= {"code": "AccessDeniedException", "remedy": "Allow it."}.items()
        assert 0 < row["back_off_seconds"] <= 5


def test_looking_makes_no_folder(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """A lookup makes it."""
    row = Look(monkeypatch, kwargs).row()

    assert row["state"] == "none"
    assert not folder_in(tmp_path).exists()


def test_what_is_shown_holds_no_token(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Of an entry, its times and its failure alone."""
    look = Look(monkeypatch, kwargs)
    look.record(Entry("", token=build_token(received_at=time.time(), password="ey.secret")))

    assert look.row()["state"] == "valid"
    assert "ey.secret" not in json.dumps(look.rows())


def test_a_process_s_own_cache_cannot_be_seen(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Each process has its tokens for itself."""
    row = Look(monkeypatch, {**kwargs, "cache": "process"}).row()

    assert row["state"] == "none"


def test_connections_of_workers_are_shown_where_they_differ(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    """The same ones are shown once."""
    other = HOST.replace("us-east-1", "eu-west-1")
    workers = {**kwargs, "connections": {"docker_default": HOST, "docker_worker": other}}
    changed = {**kwargs, "connections": {"docker_default": other}}

    def shown(workers: dict[str, Any]) -> list[tuple[str, str, str]]:
        rows = Look(monkeypatch, kwargs, workers).rows()
        return [(row["conn_id"], row["section"], row["region"]) for row in rows]

    first = ("docker_default", "secrets", "us-east-1")
    assert shown(kwargs) == [first]
    assert shown(workers) == [first, ("docker_worker", "workers", "eu-west-1")]
    assert shown(changed) == [first, ("docker_default", "workers", "eu-west-1")]


def test_a_wrong_configuration_is_shown_in_one_line(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Of ``[workers]``: with a wrong one of ``[secrets]``, Airflow does not start."""
    look = Look(monkeypatch, kwargs, {"connections": {"docker_default": {"regoin_name": "x"}}})

    (problem,) = look.sections.problems
    assert problem.startswith(
        "[workers] secrets_backend_kwargs: connections.docker_default.regoin_name is not supported"
    )
    assert [row["conn_id"] for row in look.rows()] == ["docker_default"]


def test_another_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to set."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", FALLBACK["backend"])
    sections = Sections.read()

    (problem,) = sections.problems
    assert f"[secrets] backend is {FALLBACK['backend']}" in problem
    assert "Set [secrets] backend = ecr_secrets_backend.EcrSecretsBackend" in problem
    assert (dict(sections.configured), sections.other_backends[0]) == ({}, "environment variables")


def test_other_backends_are_not_asked(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """They may be AWS's own. So whose token such a connection gets is not known to the page."""
    connections = {"docker_default": {"registry": HOST, "aws_conn_id": "aws_ecr"}}
    look = Look(monkeypatch, {**kwargs, "connections": connections, "fallback_backends": [FALLBACK]})

    assert look.row()["state"] == "unknown"
    assert look.sections.other_backends == (FALLBACK["backend"], "environment variables", "the metadata database")


def test_an_aws_connection_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    """As Airflow does; the token of its identity is then found, and its keys are not shown."""
    kwargs["connections"] = {"docker_default": {"registry": HOST, "aws_conn_id": "aws_ecr"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", "aws://AKIAKEY:a-secret-key@")
    look = Look(monkeypatch, kwargs)
    row = look.row()

    assert (row["state"], row["identity"]) == ("none", "Airflow connection aws_ecr")
    assert "a-secret-key" not in json.dumps(row)


def test_a_variable_of_the_same_id_is_shown(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """Processes without the backend use it."""
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://elsewhere")

    assert Look(monkeypatch, kwargs).row()["also_defined_in"] == ["environment"]


def test_every_state_and_field_is_documented(monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
    """``docs/ui.md`` has the states in a table, and all fields in an example."""
    page = (PROJECT / "docs/ui.md").read_text()
    (example,) = re.findall(r"(?ms)^```json\n(.*?)^```", page)
    look = Look(monkeypatch, kwargs)
    look.record(Entry("").with_failure(build_failure()))
    (documented,) = json.loads(example)["connections"]
    row = look.row()

    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [*overview.STATES]
    assert [*documented] == [*row]
    assert [*documented["failure"]] == [*row["failure"]]

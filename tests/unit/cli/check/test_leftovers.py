from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import airflow.configuration  # noqa: F401 - which connects to the database that is configured at the first import
import pytest

from ecr_secrets_backend.cli.check.leftovers import check_dags, check_other_definitions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Airflow's database would be."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    return tmp_path / "airflow.db"


def test_a_database_that_is_not_there_is_not_made(database: Path) -> None:
    """Looking must not change anything."""
    assert list(check_other_definitions("docker_default")) == []
    assert not database.exists()


def test_a_database_without_the_row_is_no_leftover(database: Path) -> None:
    """Nor is one without tables."""
    with closing(sqlite3.connect(database)) as connection:
        assert list(check_other_definitions("docker_default")) == []
        connection.execute("CREATE TABLE connection (conn_id TEXT, host TEXT, login TEXT)")
        connection.execute("INSERT INTO connection VALUES ('docker_eu', 'h', 'l')")
        connection.commit()

    assert list(check_other_definitions("docker_default")) == []
    (result,) = check_other_definitions("docker_eu")
    assert result.code == "leftover-row"


def test_a_database_that_cannot_be_asked_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of Airflow 3 has none."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "airflow-db-not-allowed:///")

    assert list(check_other_definitions("docker_default")) == []


@pytest.mark.parametrize(
    ("name", "source", "is_found"),
    [
        ("a.py", "client.get_authorization_token()", True),
        ("a/b.sh", "aws ecr get-login-password", True),
        ("a.py", "EcrHook().get_temporary_credentials()", True),
        ("a.py", "DockerOperator(docker_conn_id='docker_default')", False),
        ("a.txt", "get_authorization_token", False),
    ],
)
def test_a_dag_that_renews_a_login_is_found(
    name: str, source: str, is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how it gets its token."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(source)

    assert [result.code for result in check_dags()] == ["leftover-dag"] * is_found
    assert all(name in result.message for result in check_dags())


def test_a_pipe_among_the_dags_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the name of a DAG, and nothing is written into it."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    os.mkfifo(tmp_path / "x.py")

    assert list(check_dags()) == []

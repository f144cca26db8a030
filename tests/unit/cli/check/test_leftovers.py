from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from airflow.models.connection import Connection
from sqlalchemy import create_engine, insert

from ecr_secrets_backend.cli.check.leftovers import check_dags, check_other_definitions

if TYPE_CHECKING:
    from pathlib import Path


def test_a_row_of_the_metadata_database_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without a database, a missing one, and one without the table or with other rows have no leftover."""
    database, url = tmp_path / "airflow.db", f"sqlite:///{tmp_path}/airflow.db"
    for each in ("airflow-db-not-allowed:///", url):
        monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", each)
        assert list(check_other_definitions("docker_eu")) == []
        assert not database.exists()
    database.touch()
    assert list(check_other_definitions("docker_eu")) == []
    engine = create_engine(url)
    with engine.begin() as connection:
        table = Connection.__table__
        table.create(connection)
        row = {"conn_id": "docker_eu", "conn_type": "docker", "host": "h", "login": "l"}
        connection.execute(insert(table), row | {"is_encrypted": False, "is_extra_encrypted": False})
    engine.dispose()

    assert list(check_other_definitions("docker_default")) == []
    (result,) = check_other_definitions("docker_eu")
    assert result.code == "leftover-row"
    assert "(host h, login l)" in result.message
    assert "airflow connections delete docker_eu" in str(result.fix)


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
def test_a_dag_that_renews_a_login_is_reported(
    name: str, source: str, is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe with the name of a DAG does not block the search, nor does a large file fill the memory."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(source)
    os.mkfifo(tmp_path / "x.py")
    with (tmp_path / "large.sh").open("wb") as large:
        large.truncate(1 << 40)
    results = list(check_dags())

    assert [result.code for result in results] == ["leftover-dag"] * is_found
    assert all(name in result.message for result in results)

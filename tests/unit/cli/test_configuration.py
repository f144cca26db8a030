from __future__ import annotations

import os
import sys

import pytest

from ecr_secrets_backend.cli import configuration


@pytest.mark.parametrize("name", ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"])
def test_a_process_that_a_task_has_started_can_import_airflow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Airflow 3 leaves a database URL there that SQLAlchemy cannot read; any other stays."""
    monkeypatch.delitem(sys.modules, "airflow")
    monkeypatch.setenv(name, "airflow-db-not-allowed:///")
    configuration._allow_import_in_task_child()
    assert os.environ[name] == "sqlite://"
    monkeypatch.setenv(name, "postgresql://db")
    configuration._allow_import_in_task_child()
    assert os.environ[name] == "postgresql://db"

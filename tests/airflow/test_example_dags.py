"""Every supported Airflow reads the example DAGs; tests/e2e runs them on the newest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.airflow_version import HAS_TASK_SDK, DagBag

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/dags").glob("*.py"))
#: The changes for Airflow 2.11 that ``docs/examples.md`` lists.
ON_2_11 = {
    "from airflow.sdk import DAG\n": "from airflow import DAG\n",
    "import DAG, Param, task\n": "import DAG, task\nfrom airflow.models.param import Param\n",
    "from airflow.sdk import DAG, task\n": "from airflow import DAG\nfrom airflow.decorators import task\n",
    "catchup=False": "catchup=False, start_date=datetime(2026, 1, 1)",
    '"""\n\n': '"""\n\nfrom datetime import datetime\n',
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Airflow itself while it reads a file
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_dag(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the name of its file, and tasks."""
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    text = example.read_text()
    for here, there in ({} if HAS_TASK_SDK else ON_2_11).items():
        text = text.replace(here, there)
    (tmp_path / example.name).write_text(text)

    found = DagBag(tmp_path)

    assert found.import_errors == {}
    assert [(name, len(dag.tasks) > 0) for name, dag in found.dags.items()] == [(example.stem, True)]

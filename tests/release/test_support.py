"""What is said to be supported is what the README's table and the metadata say."""

from __future__ import annotations

import re
from importlib.metadata import metadata

from packaging.version import Version

from tests.release.conftest import PROJECT

SUPPORT = (PROJECT / "docs/support.md").read_text()
README = (PROJECT / "README.md").read_text()


def test_every_airflow_has_its_pythons() -> None:
    """Those of the README, and the release that it is tested with."""
    tested = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \| (.+?) \|", README)
    told = re.findall(r"(?m)^\| (\d+\.\d+) \| (.+?) \| (\d+\.\d+\.\d+) \|", SUPPORT)

    assert tested
    assert told == [(airflow.rpartition(".")[0], pythons.replace("*", ""), airflow) for airflow, pythons in tested]


def test_every_python_is_of_the_metadata() -> None:
    """And the metadata have no other."""
    classifiers = metadata("airflow-ecr-secrets-backend").get_all("Classifier", [])
    told = {
        python for pythons in re.findall(r"(?m)^\| \d+\.\d+ \| (.+?) \|", SUPPORT) for python in pythons.split(", ")
    }

    assert told == {each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)}


def test_getting_started_takes_the_newest_airflow() -> None:
    """Of those that are supported."""
    taken = re.findall(r"apache-airflow==([\d.]+)", (PROJECT / "docs/getting-started.md").read_text())
    tested = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \|", README)

    assert taken == [max(tested, key=Version)]

"""docs/support.md agrees with the README and the metadata."""

from __future__ import annotations

import re
from importlib.metadata import metadata

from packaging.version import Version

from tests.release.conftest import PROJECT

SUPPORT = (PROJECT / "docs/support.md").read_text()
README = (PROJECT / "README.md").read_text()


def test_every_airflow_has_its_pythons() -> None:
    """The page names the Pythons of the README, and the tested release."""
    tested = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \| (.+?) \|", README)
    listed = re.findall(r"(?m)^\| (\d+\.\d+) \| (.+?) \| (\d+\.\d+\.\d+) \|", SUPPORT)

    assert tested
    assert listed == [(airflow.rpartition(".")[0], pythons.replace("*", ""), airflow) for airflow, pythons in tested]


def test_the_page_and_the_metadata_name_the_same_pythons() -> None:
    classifiers = metadata("airflow-ecr-secrets-backend").get_all("Classifier", [])
    listed = {
        python for pythons in re.findall(r"(?m)^\| \d+\.\d+ \| (.+?) \|", SUPPORT) for python in pythons.split(", ")
    }

    assert listed == {each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)}


def test_getting_started_installs_the_newest_supported_airflow() -> None:
    taken = re.findall(r"apache-airflow==([\d.]+)", (PROJECT / "docs/getting-started.md").read_text())
    tested = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \|", README)

    assert taken == [max(tested, key=Version)]

"""The pages name the Airflows that the README names."""

from __future__ import annotations

import re

from packaging.version import Version

from tests.release.conftest import PROJECT, SUPPORTED

ROW = re.compile(r"(?m)^\| (\d+\.\d+) \| (.+?) \| (\d+\.\d+\.\d+) \|")


def test_the_page_of_support_names_the_same_pythons() -> None:
    listed = ROW.findall((PROJECT / "docs/support.md").read_text())

    assert listed == [
        (airflow.rpartition(".")[0], ", ".join(pythons), airflow) for airflow, pythons in SUPPORTED.items()
    ]


def test_getting_started_installs_the_newest_airflow() -> None:
    installed = re.findall(r"apache-airflow==([\d.]+)", (PROJECT / "docs/getting-started.md").read_text())

    assert installed == [max(SUPPORTED, key=Version)]

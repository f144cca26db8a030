"""The changelog has the form of `Keep a Changelog`, and the pages name the supported versions."""

from __future__ import annotations

import re
from datetime import date

from packaging.version import Version

from ecr_secrets_backend import __version__
from tests.release.conftest import PROJECT, SUPPORTED

SECTIONS = dict(re.findall(r"(?ms)^## (.*?)\n(.*?)(?=^## |\Z)", (PROJECT / "CHANGELOG.md").read_text()))
#: Source: Keep a Changelog 1.1.0, in its order.
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
ROW = re.compile(r"(?m)^\| (\d+\.\d+) \| (.+?) \| (\d+\.\d+\.\d+) \|")


def test_every_change_has_a_kind() -> None:
    """Each kind comes once in a release, in the standard order, and is not empty."""
    for section in SECTIONS.values():
        before, *parts = re.split(r"(?m)^### ", section)
        kinds = [re.match(r"(\w+)\n\n- \S", part) for part in parts]
        names = [kind and kind[1] for kind in kinds]
        assert (before.strip(), names) == ("", [kind for kind in KINDS if kind in names])


def test_the_newest_changes_come_first() -> None:
    """Each release has a version and a date, and none is newer than the package."""
    first, *headings = SECTIONS
    parts = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings]
    releases = [(Version(part[1]), date.fromisoformat(part[2])) for part in parts if part]

    assert (first, len(releases)) == ("[Unreleased]", len(headings))
    assert releases == sorted({*releases}, reverse=True)
    assert all(version <= Version(__version__) for version, _ in releases)


def test_the_page_of_support_and_the_readme_name_the_same_versions() -> None:
    listed = ROW.findall((PROJECT / "docs/support.md").read_text())

    assert listed == [
        (airflow.rpartition(".")[0], ", ".join(pythons), airflow) for airflow, pythons in SUPPORTED.items()
    ]


def test_getting_started_installs_the_newest_airflow() -> None:
    installed = re.findall(r"apache-airflow==([\d.]+)", (PROJECT / "docs/getting-started.md").read_text())

    assert installed == [max(SUPPORTED, key=Version)]

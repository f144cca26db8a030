"""What the README tells of versions, held to the constraints, to the Makefile, and to what Airflow tells of itself."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from tests.airflow_version import AIRFLOW, DENIAL, requires_python

PROJECT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
PYTHON = re.compile(r"Programming Language :: Python :: (3\.\d+)")
PAIRS = re.compile(r"^MATRIX +:= (.+)$", re.MULTILINE)


def table() -> dict[str, tuple[str, str]]:
    """Give the README's rows: of each Airflow, its Pythons, and what becomes of a lookup that fails."""
    return {
        airflow: (pythons, failure) for airflow, pythons, failure in ROW.findall((PROJECT / "README.md").read_text())
    }


def matrix() -> dict[str, str]:
    """Give the Makefile's pairs: of each Airflow, the Python that it is tested on."""
    (pairs,) = PAIRS.findall((PROJECT / "Makefile").read_text())
    return dict(pair.split("-") for pair in pairs.split())


def test_the_readme_the_matrix_and_the_constraints_tell_of_the_same_airflows() -> None:
    """And the README has the Python in bold that the matrix takes."""
    constrained = {path.stem.removeprefix("airflow-") for path in (PROJECT / "constraints").iterdir()}

    assert constrained == {*matrix()}
    assert {airflow: re.findall(r"\*\*(.+?)\*\*", pythons) for airflow, (pythons, _) in table().items()} == {
        airflow: [python] for airflow, python in matrix().items()
    }


def test_the_readme_tells_of_this_airflow_what_is_so() -> None:
    """Which of our Pythons it supports, by its own metadata, and whether a backend may have the last word."""
    classifiers = PYTHON.findall("\n".join(metadata("airflow-ecr-secrets-backend").get_all("Classifier", [])))
    supported = [python for python in classifiers if python in SpecifierSet(requires_python())]
    pythons, failure = table()[str(AIRFLOW)]

    assert pythons.replace("*", "").split(", ") == supported
    assert failure == ("ends with its cause" if DENIAL else "logs its cause, and what Airflow may then use")

"""The versions that the README names agree with the constraints, the Makefile and Airflow's own metadata."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

from packaging.version import Version

from tests import other_airflows
from tests.airflow_version import AIRFLOW, DENIAL, DISTRIBUTION

PROJECT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
PYTHON = re.compile(r"Programming Language :: Python :: (3\.\d+)")
PAIRS = re.compile(r"^MATRIX +:= (.+)$", re.MULTILINE)


def table() -> dict[str, tuple[str, str]]:
    """Return the rows of the README by Airflow version: its Pythons, and the result of a failed lookup."""
    return {
        airflow: (pythons, failure) for airflow, pythons, failure in ROW.findall((PROJECT / "README.md").read_text())
    }


def matrix() -> set[tuple[str, str]]:
    """Return the Makefile's pairs: an Airflow, and a Python that it is tested on."""
    (pairs,) = PAIRS.findall((PROJECT / "Makefile").read_text())
    return {(airflow, python) for airflow, _, python in (pair.partition("-") for pair in pairs.split())}


def pythons_of(distribution: str) -> list[str]:
    """Return the Pythons that a distribution supports by its own classifiers."""
    return PYTHON.findall("\n".join(metadata(distribution).get_all("Classifier", [])))


def test_the_readme_the_matrix_and_the_constraints_name_the_same_airflows() -> None:
    """The README prints the Pythons of the matrix in bold."""
    constrained = {path.stem.removeprefix("airflow-") for path in (PROJECT / "constraints").iterdir()}
    bold = {
        (airflow, python)
        for airflow, (pythons, _) in table().items()
        for python in re.findall(r"\*\*(.+?)\*\*", pythons)
    }

    assert constrained == {airflow for airflow, _ in matrix()}
    assert bold == matrix()


def test_the_readme_claims_only_releases_that_can_be_tested() -> None:
    """They range from the first that the README names to the newest of the matrix."""
    (first,) = re.findall(r"releases from (\S+) on are expected to work", (PROJECT / "README.md").read_text())
    releases = sorted(map(Version, other_airflows.RELEASES))

    assert (releases[0], releases[-1]) == (Version(first), max(Version(airflow) for airflow, _ in matrix()))
    assert {airflow for airflow, _ in matrix()} <= other_airflows.RELEASES.keys()


def test_make_pythons_fetches_every_supported_python() -> None:
    (fetched,) = re.findall(r"python install (.+)", (PROJECT / "Makefile").read_text())

    assert fetched.split() == pythons_of("airflow-ecr-secrets-backend")


def test_the_readme_describes_this_airflow() -> None:
    """Its row names the Pythons of Airflow's own metadata, and whether a backend can end a lookup."""
    supported = [python for python in pythons_of("airflow-ecr-secrets-backend") if python in pythons_of(DISTRIBUTION)]
    pythons, failure = table()[str(AIRFLOW)]

    assert pythons.replace("*", "").split(", ") == supported
    assert failure == ("fails the task with its cause" if DENIAL else "logs its cause; Airflow tries its own sources")

"""What the README tells of versions, held to the constraints, to the Makefile, and to what Airflow tells of itself."""

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
    """Give the README's rows: of each Airflow, its Pythons, and what becomes of a lookup that fails."""
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


def test_the_readme_the_matrix_and_the_constraints_tell_of_the_same_airflows() -> None:
    """And the README has the Pythons in bold that the matrix takes."""
    constrained = {path.stem.removeprefix("airflow-") for path in (PROJECT / "constraints").iterdir()}
    bold = {
        (airflow, python)
        for airflow, (pythons, _) in table().items()
        for python in re.findall(r"\*\*(.+?)\*\*", pythons)
    }

    assert constrained == {airflow for airflow, _ in matrix()}
    assert bold == matrix()


def test_every_release_that_is_claimed_is_one_that_can_be_tested() -> None:
    """From the first that the README names to the newest, the matrix's among them."""
    (first,) = re.findall(r"releases from (\S+) on are expected to work", (PROJECT / "README.md").read_text())
    releases = sorted(map(Version, other_airflows.RELEASES))

    assert (releases[0], releases[-1]) == (Version(first), max(Version(airflow) for airflow, _ in matrix()))
    assert {airflow for airflow, _ in matrix()} <= other_airflows.RELEASES.keys()


def test_every_python_of_ours_can_be_fetched_for_the_matrix() -> None:
    """By ``make pythons``, which the workflow runs."""
    (fetched,) = re.findall(r"python install (.+)", (PROJECT / "Makefile").read_text())

    assert fetched.split() == pythons_of("airflow-ecr-secrets-backend")


def test_the_readme_tells_of_this_airflow_what_is_so() -> None:
    """Which of our Pythons it supports, by its own metadata, and whether a backend may have the last word."""
    supported = [python for python in pythons_of("airflow-ecr-secrets-backend") if python in pythons_of(DISTRIBUTION)]
    pythons, failure = table()[str(AIRFLOW)]

    assert pythons.replace("*", "").split(", ") == supported
    assert failure == ("ends with its cause" if DENIAL else "logs its cause, and what Airflow may then use")

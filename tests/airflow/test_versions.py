"""The versions that the README names agree with the constraints, the Makefile and Airflow's own metadata."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

from packaging.version import Version

from tests import other_airflows
from tests.airflow_version import AIRFLOW, DENIAL, DISTRIBUTION

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
MAKEFILE = (PROJECT / "Makefile").read_text()
#: By Airflow version, as the README has them: its Pythons, and the result of a failed lookup.
TABLE = {row[0]: row[1:] for row in re.findall(r"^\| (\d+\.\d+\.\d+) \| (.+) \| (.+) \|$", README, re.MULTILINE)}
#: The Makefile's pairs: an Airflow, and a Python that it is tested on.
MATRIX = set(re.findall(r"(\S+)-(3\.\d+)", *re.findall(r"^MATRIX +:= (.+)$", MAKEFILE, re.MULTILINE)))


def pythons_of(distribution: str) -> list[str]:
    """Return the Pythons that a distribution supports by its own classifiers."""
    classifiers = "\n".join(metadata(distribution).get_all("Classifier", []))
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", classifiers)


def test_the_readme_the_matrix_and_the_constraints_name_the_same_airflows() -> None:
    """The README prints the Pythons of the matrix in bold."""
    constrained = {path.stem.removeprefix("airflow-") for path in (PROJECT / "constraints").iterdir()}
    bold = {(airflow, python) for airflow, row in TABLE.items() for python in re.findall(r"\*\*(.+?)\*\*", row[0])}

    assert constrained == {airflow for airflow, _ in MATRIX}
    assert bold == MATRIX


def test_the_readme_names_the_first_and_the_last_release_that_can_be_tested() -> None:
    """The last one is the newest of the matrix."""
    (named,) = re.findall(r"releases from (\S+) to (\S+) are tested by `make test-released`", README)
    releases = sorted(other_airflows.RELEASES, key=Version)

    assert named == (releases[0], releases[-1])
    assert named[1] == max((airflow for airflow, _ in MATRIX), key=Version)
    assert {airflow for airflow, _ in MATRIX} <= {*releases}


def test_make_pythons_fetches_every_supported_python() -> None:
    (fetched,) = re.findall(r"python install (.+)", MAKEFILE)

    assert fetched.split() == pythons_of("airflow-ecr-secrets-backend")


def test_the_readme_describes_this_airflow() -> None:
    """Its row names the Pythons of Airflow's own metadata, and whether a backend can end a lookup."""
    supported = [python for python in pythons_of("airflow-ecr-secrets-backend") if python in pythons_of(DISTRIBUTION)]
    pythons, failure = TABLE[str(AIRFLOW)]

    assert pythons.replace("*", "").split(", ") == supported
    assert failure == ("fails the task with its cause" if DENIAL else "logs its cause; Airflow tries its own sources")

"""The files of a release: the content of wheel and sdist, their metadata, and reproducible builds."""

from __future__ import annotations

import re
import sys
import tarfile
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ecr_secrets_backend import __version__
from tests.release.conftest import PROJECT, SUPPORTED, Distributions, build, call

if TYPE_CHECKING:
    from pathlib import Path

IGNORED = {line.rstrip("/") for line in (PROJECT / ".gitignore").read_text().splitlines()}
INFORMATION = f"airflow_ecr_secrets_backend-{__version__}.dist-info"


def files(name: str = ".") -> set[str]:
    """Return the files of a folder that are or can be in the project's history."""
    parts = [part for part in (PROJECT / name).iterdir() if part.name not in IGNORED]
    paths = [path for part in parts for path in (part, *part.rglob("*")) if path.is_file()]
    return {path.relative_to(PROJECT).as_posix() for path in paths if IGNORED.isdisjoint(path.parts)}


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist, and return its folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def test_the_wheel_has_only_the_package(distributions: Distributions) -> None:
    """It has all files of the package, with `py.typed`, the licence, and no tests."""
    own = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}

    with ZipFile(distributions.wheel) as wheel:
        assert {*wheel.namelist()} == files("ecr_secrets_backend") | {f"{INFORMATION}/{name}" for name in own}


def test_the_sdist_has_the_whole_project(distributions: Distributions, tmp_path: Path) -> None:
    """`make test` works in it."""
    unpacked = unpack(distributions.sdist, tmp_path)
    sent = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()} - {"PKG-INFO"}

    assert sent <= files()
    assert [name for name in files() - sent if not name.startswith(".")] == []
    assert {".ci/run", ".gitignore", ".github/workflows/publish.yml"} <= sent


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_builds_are_reproducible(source: str, distributions: Distributions, tmp_path: Path) -> None:
    """A build from the project or from the sdist, in any folder and at any time, has the same bytes."""
    place = PROJECT if source == "tree" else unpack(distributions.sdist, tmp_path / "unpacked")
    built = build(place, tmp_path / "dist", "--sdist", "--wheel")

    assert [path.read_bytes() for path in built] == [path.read_bytes() for path in distributions]


def test_pypi_accepts_both_files(distributions: Distributions) -> None:
    """Twine reports no warning, so PyPI can render the README."""
    output = call(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *distributions)

    assert output.count("PASSED") == 2


def test_the_metadata_agree_with_the_readme(distributions: Distributions) -> None:
    """They require the lowest Airflow and Python of its table, and have a classifier for each Python."""
    with ZipFile(distributions.wheel) as wheel:
        metadata = Metadata.from_email(wheel.read(f"{INFORMATION}/METADATA"))
    pythons = {python for each in SUPPORTED.values() for python in each}
    classified = re.findall(r"'Programming Language :: Python :: (3\.\d+)'", str(metadata.classifiers))
    (airflow,) = [each for each in metadata.requires_dist or () if each.name == "apache-airflow"]
    lowest = min(map(Version, SUPPORTED))

    assert {*classified} == pythons
    assert metadata.requires_python == SpecifierSet(f">={min(pythons, key=Version)}")
    assert airflow.specifier == SpecifierSet(f">={lowest.major}.{lowest.minor}")
    assert metadata.license_expression == "Apache-2.0"
    assert not re.search(r"(?i)http:|example|owner|your|todo", str(metadata.project_urls))

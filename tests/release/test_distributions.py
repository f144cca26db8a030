"""The files of a release: the content of wheel and sdist, their metadata, and reproducible builds."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from functools import cache
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

import ecr_secrets_backend
from ecr_secrets_backend.provider_info import get_provider_info
from tests.release.conftest import PROJECT, Distributions, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "airflow-ecr-secrets-backend"
IGNORED = {line.rstrip("/") for line in (PROJECT / ".gitignore").read_text().splitlines()}
#: The Pythons of each Airflow.
SUPPORTED = {
    Version(airflow): set(re.findall(r"3\.\d+", pythons))
    for airflow, pythons in re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \| (.+?) \|", (PROJECT / "README.md").read_text())
}


@pytest.fixture(scope="session")
def metadata(distributions: Distributions) -> Metadata:
    """Return the metadata of the wheel, which must be valid."""
    with ZipFile(distributions.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(wheel.read(name))


def files(folder: Path) -> Iterator[str]:
    """Find the files of a folder that are or can be in the project's history."""
    for path in folder.iterdir():
        if path.name in IGNORED:
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path.relative_to(PROJECT).as_posix()


@cache
def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist, and return its folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def test_the_wheel_has_only_the_package(distributions: Distributions) -> None:
    """It has all files of the package, with `py.typed`, the licence, and no tests."""
    information = f"airflow_ecr_secrets_backend-{ecr_secrets_backend.__version__}.dist-info"
    own = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}

    with ZipFile(distributions.wheel) as wheel:
        assert {*wheel.namelist()} == {
            *files(PROJECT / "ecr_secrets_backend"),
            *(f"{information}/{name}" for name in own),
        }


def test_the_sdist_has_the_whole_project(distributions: Distributions, tmp_path: Path) -> None:
    """`make test` works in it."""
    unpacked = unpack(distributions.sdist, tmp_path)
    sent = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()} - {"PKG-INFO"}
    project = {*files(PROJECT)}

    assert sent <= project
    assert {name for name in project - sent if not name.startswith(".")} == set()
    assert {".ci/run", ".gitignore", ".github/workflows/publish.yml"} <= sent


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_builds_are_reproducible(source: str, distributions: Distributions, tmp_path: Path) -> None:
    """A build from the project or from the sdist, in any folder and at any time, has the same bytes."""
    place = PROJECT if source == "tree" else unpack(distributions.sdist, tmp_path / "unpacked")
    sdist, wheel = build(place, tmp_path / "dist", "--sdist", "--wheel")

    assert wheel.read_bytes() == distributions.wheel.read_bytes()
    assert sdist.read_bytes() == distributions.sdist.read_bytes()


def test_pypi_accepts_both_files(distributions: Distributions) -> None:
    """Twine reports no warning, so PyPI can render the README."""
    command = (sys.executable, "-m", "twine", "--no-color", "check", "--strict", *distributions)
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_version_is_written_once(distributions: Distributions, metadata: Metadata) -> None:
    """Both files and their metadata take it from the package."""
    version = Version(ecr_secrets_backend.__version__)

    assert metadata.version == version
    assert parse_sdist_filename(distributions.sdist.name) == (NAME, version)
    assert parse_wheel_filename(distributions.wheel.name)[:2] == (NAME, version)
    pattern = rf"(?m)^(?:__)?version(?:__)? *= *\"{re.escape(str(version))}\""
    assert [name for name in files(PROJECT) if name.endswith((".py", ".toml")) and re.search(pattern, read(name))] == [
        "ecr_secrets_backend/__init__.py"
    ]


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def test_the_metadata_agree_with_the_readme(metadata: Metadata) -> None:
    """They require the lowest Airflow and Python of its table, and have a classifier for each Python."""
    pythons = {python for each in SUPPORTED.values() for python in each}
    classifiers = set(metadata.classifiers or ())
    (airflow,) = [each for each in metadata.requires_dist or () if each.name == "apache-airflow"]

    assert {each for each in classifiers if re.search(r":: 3\.\d+$", each)} == {
        f"Programming Language :: Python :: {python}" for python in pythons
    }
    assert metadata.requires_python == SpecifierSet(f">={min(pythons, key=Version)}")
    assert airflow.specifier == SpecifierSet(f">={min(SUPPORTED).major}.{min(SUPPORTED).minor}")
    assert "Framework :: Apache Airflow :: Provider" in classifiers


def test_the_metadata_have_no_placeholder_links(metadata: Metadata) -> None:
    urls = (metadata.project_urls or {}).values()

    assert [
        url for url in urls if not url.startswith("https://") or re.search(r"(?i)example|owner|your|todo", url)
    ] == []
    assert metadata.license_expression == "Apache-2.0"


def test_the_entry_points_are_complete(distributions: Distributions) -> None:
    """Airflow finds the provider and the plugin, and a shell finds the command."""
    with ZipFile(distributions.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        entry_points = ConfigParser()
        entry_points.read_string(wheel.read(name).decode())

    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "airflow.plugins": {"ecr_connections": "ecr_secrets_backend.ui.plugin:EcrConnectionsPlugin"},
        "apache_airflow_provider": {"provider_info": "ecr_secrets_backend.provider_info:get_provider_info"},
        "console_scripts": {"ecr-secrets-backend": "ecr_secrets_backend.cli:main"},
    }
    assert get_provider_info()["package-name"] == NAME

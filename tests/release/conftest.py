from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
#: The Pythons of each Airflow in the README.
SUPPORTED: dict[str, list[str]] = {
    airflow: re.findall(r"3\.\d+", pythons)
    for airflow, pythons in re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \| (.+?) \|", (PROJECT / "README.md").read_text())
}


class Distributions(NamedTuple):
    """The two files of a release."""

    sdist: Path
    wheel: Path


def call(*command: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, folder: Path, *options: str) -> Distributions:
    """Build both files as `make dist` does, in a new folder and without a network."""
    command = (UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    call(*command, *options, source)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the sdist of this project, and the wheel from it."""
    return build(PROJECT, tmp_path_factory.mktemp("dist"))

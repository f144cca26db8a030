from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


class Distributions(NamedTuple):
    """The two files of a release."""

    sdist: Path
    wheel: Path


def build(source: Path, folder: Path, *options: str) -> Distributions:
    """Build both files as `make dist` does, in a new folder and without a network."""
    command = (UV, "build", "--offline", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    done = subprocess.run([*command, *options, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the sdist of this project, and the wheel from it."""
    return build(PROJECT, tmp_path_factory.mktemp("dist"))

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
CONSTRAINTS = PROJECT / f"constraints/airflow-{version('apache-airflow')}.txt"


@dataclass(frozen=True)
class Distributions:
    """
    What a release publishes.

    :param folder: has these two, and nothing else
    """

    folder: Path
    sdist: Path
    wheel: Path


def build(folder: Path, *options: str) -> list[Path]:
    """Build as `make dist` does, into a new folder, without a network."""
    command: list[str | Path] = [
        UV,
        "build",
        "--offline",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        folder,
    ]
    subprocess.run([*command, *options, PROJECT], check=True, capture_output=True)
    return sorted(path for path in folder.iterdir() if path.suffix in {".gz", ".whl"})


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist of this tree, and the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("dist")
    sdist, wheel = build(folder)
    return Distributions(folder, sdist, wheel)

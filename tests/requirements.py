"""Requirements of tests that are not met on all machines. In CI, `tests/conftest.py` makes each skip a failure."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become other users and mount file systems")


def need_mounts() -> None:
    need_root()
    tried = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system may be mounted here: {tried.stderr.strip()}")


def need_programs(*names: str) -> None:
    if missing := [name for name in names if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")

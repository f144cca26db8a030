"""Requirements of tests that are not met on all machines."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test that cannot run here, or fail it if no test may be skipped."""
    if "ECR_SECRETS_BACKEND_REQUIRE_ALL" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def need_root() -> None:
    if os.geteuid() != 0:
        skip_or_fail("only root may become other users and mount file systems")


def need_mounts() -> None:
    need_root()
    tried = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode:
        skip_or_fail(f"no file system may be mounted here: {tried.stderr.strip()}")


def need_programs(*names: str) -> None:
    if missing := [name for name in names if shutil.which(name) is None]:
        skip_or_fail(f"not installed: {', '.join(missing)}")

"""The rules for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.stand_ins.aws import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


def test_a_skip_fails_the_run_if_no_test_may_be_skipped(tmp_path: Path) -> None:
    """As in CI."""
    test = tmp_path / "test_some.py"
    test.write_text("import pytest\ndef test_one():\n    pass\ndef test_other():\n    pytest.skip()\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    environment = {**os.environ, "ECR_SECRETS_BACKEND_REQUIRE_ALL": "1"}
    done = subprocess.run([*command, test], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)

    assert "1 passed, 1 skipped" in done.stdout
    assert done.returncode == 1, done.stdout

"""The rules for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.stand_ins.aws import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("required", "exit_code"), [({}, 0), ({"ECR_SECRETS_BACKEND_REQUIRE_ALL": "1"}, 1)])
def test_a_skip_fails_the_run_if_no_test_may_be_skipped(
    tmp_path: Path, required: dict[str, str], exit_code: int
) -> None:
    """In CI it fails the run, on a developer's machine it does not."""
    test = tmp_path / "test_some.py"
    test.write_text("import pytest\ndef test_one():\n    pass\ndef test_other():\n    pytest.skip()\n")
    environment = {name: value for name, value in os.environ.items() if name != "ECR_SECRETS_BACKEND_REQUIRE_ALL"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml"]
    done = subprocess.run(
        [*command, test], cwd=PROJECT, env=environment | required, capture_output=True, text=True, check=False
    )

    assert done.returncode == exit_code, done.stdout

"""The tools of contributors: make's targets, the hooks, GitHub's forms, and the runner of the matrix."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml  # type: ignore[import-untyped]

from tests import other_airflows
from tests.documentation.pages import PROJECT

if TYPE_CHECKING:
    import pytest


def test_make_help_lists_every_target() -> None:
    """It describes each, and lists no file that make creates."""
    targets = re.findall(r"(?m)^([a-z%-]+):", (PROJECT / "Makefile").read_text())
    printed = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=PROJECT, text=True)
    described = [line.split(maxsplit=2) for line in printed.splitlines()]

    assert [target for target, _, _ in described] == targets


def test_every_hook_runs_a_program_of_the_environment() -> None:
    """So hooks download nothing, and agree with ``make``."""
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    programs = [Path(hook["entry"].split()[0]) for hook in repository["hooks"]]

    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert {str(program.parent) for program in programs} == {".venv/bin"}
    assert all(os.access(Path(sys.executable).with_name(program.name), os.X_OK) for program in programs)


def test_a_bug_report_requires_the_output_of_check() -> None:
    form = yaml.safe_load((PROJECT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text())
    (field,) = [each for each in form["body"] if "ecr-secrets-backend check" in each["attributes"].get("label", "")]

    assert field["validations"] == {"required": True}


def test_a_pair_whose_python_is_missing_is_reported_as_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No other Python is used, and the run does not fail."""
    monkeypatch.setattr(other_airflows, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["other_airflows", "3.3.2-3.99"])

    assert other_airflows.main() == 0
    assert capsys.readouterr().out == "Airflow 3.3.2: not run: no Python 3.99 here\n"

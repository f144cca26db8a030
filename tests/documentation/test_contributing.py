"""The tools of contributors: make's targets, the hooks, and GitHub's forms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from tests import other_airflows
from tests.documentation.pages import PROJECT

if TYPE_CHECKING:
    import pytest


def read(path: str) -> Any:
    return yaml.safe_load((PROJECT / path).read_text())


def test_make_help_lists_every_target() -> None:
    """It describes each, and lists no file that make creates."""
    targets = re.findall(r"(?m)^([a-z%-]+):", (PROJECT / "Makefile").read_text())
    printed = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=PROJECT, text=True)

    assert [line.split()[0] for line in printed.splitlines()] == targets
    assert all(len(line.split()) > 2 for line in printed.splitlines())


def test_every_hook_runs_a_program_of_the_environment() -> None:
    """So hooks download nothing, and agree with ``make``."""
    config = read(".pre-commit-config.yaml")
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    programs = {hook["entry"].split()[0] for hook in hooks}

    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert programs == {f".venv/bin/{name}" for name in ("codespell", "mypy", "ruff")}
    assert [name for name in programs if not os.access(Path(sys.executable).with_name(Path(name).name), os.X_OK)] == []


def test_a_bug_report_requires_the_output_of_check() -> None:
    """Every field has an ID and a label, which GitHub requires."""
    forms = {
        path.name: read(f".github/ISSUE_TEMPLATE/{path.name}")
        for path in (PROJECT / ".github/ISSUE_TEMPLATE").iterdir()
    }
    assert forms.pop("config.yml") == {"blank_issues_enabled": False}
    fields = {name: [each for each in form["body"] if each["type"] != "markdown"] for name, form in forms.items()}

    assert fields.keys() == {"bug_report.yml", "feature_request.yml"}
    assert all(form["name"] and form["description"] for form in forms.values())
    assert all(each["id"] and each["attributes"]["label"] for form in fields.values() for each in form)
    (check,) = [each for each in fields["bug_report.yml"] if "ecr-secrets-backend check" in each["attributes"]["label"]]
    assert check["validations"] == {"required": True}


def test_dependabot_updates_actions_and_upper_bounds() -> None:
    assert {each["package-ecosystem"] for each in read(".github/dependabot.yml")["updates"]} == {
        "github-actions",
        "pip",
    }


def test_a_pair_whose_python_is_missing_is_reported_as_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """No other Python is used, and the run does not fail."""
    monkeypatch.setattr(other_airflows, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["other_airflows", "3.3.2-3.99"])

    assert other_airflows.main() == 0
    assert capsys.readouterr().out == "Airflow 3.3.2: not run: no Python 3.99 here\n"

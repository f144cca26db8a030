"""The workflows have the least permissions, and publish only what the tests and the tag allow."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend import __version__
from tests.release.conftest import PROJECT, Distributions

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = {path.name: path.read_text() for path in (PROJECT / ".github/workflows").iterdir()}
WORKFLOWS: dict[str, dict[Any, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
TEST, PUBLISH = WORKFLOWS["test.yml"], WORKFLOWS["publish.yml"]
JOBS: dict[str, dict[str, Any]] = {"tests": TEST["jobs"]["test"], **PUBLISH["jobs"]}
STEPS: list[dict[str, Any]] = [step for job in JOBS.values() for step in job.get("steps", [])]
ON = True  # YAML 1.1 reads the key `on` as this


def steps_with(job: str, action: str) -> list[Any]:
    """Return the inputs of an action in a job."""
    return [step["with"] for step in JOBS[job]["steps"] if action in step.get("uses", "")]


def test_only_one_job_can_publish() -> None:
    """It has no other permission. All others can only read the repository."""
    permissions = {name: job.get("permissions", TEST["permissions"]) for name, job in JOBS.items()}

    assert (TEST["permissions"], PUBLISH["permissions"]) == ({"contents": "read"}, {})
    assert permissions.pop("publish") == {"id-token": "write"}
    assert all(each == {"contents": "read"} for each in permissions.values())


def test_a_release_needs_tests_and_an_approval() -> None:
    """The tag of a version starts it, the tests and the build must pass, and its environment requires an approval."""
    assert PUBLISH[ON] == {"push": {"tags": ["v*"]}}
    assert {*JOBS["publish"]["needs"]} == {"test", "build"}
    assert JOBS["publish"]["environment"]["name"] == "pypi"
    assert JOBS["test"]["uses"] == "./.github/workflows/test.yml"
    assert "workflow_call" in TEST[ON]


def test_the_publishing_job_runs_no_code_of_the_repository() -> None:
    """It downloads the built files from the build's artifact to the action's default folder, and publishes them."""
    used = [step.get("uses", "").partition("@")[0] for step in JOBS["publish"]["steps"]]
    (uploaded,) = steps_with("build", "upload-artifact")

    assert used == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert steps_with("publish", "download-artifact") == [{"name": uploaded["name"], "path": uploaded["path"]}]
    assert uploaded["path"] == "dist/"
    assert steps_with("publish", "publish") == [{"attestations": True}]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned(name: str) -> None:
    """The pin is a commit, with the version as a comment, because tags can be moved."""
    used = re.findall(r"(?m)uses: (.+)$", TEXTS[name])
    pinned = re.compile(r"\./\S+|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

    assert used
    assert [each for each in used if not pinned.fullmatch(each)] == []


def test_no_checkout_stores_credentials() -> None:
    """Later steps could read them."""
    checkouts = [step for step in STEPS if "checkout" in step.get("uses", "")]

    assert len(checkouts) == len(WORKFLOWS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("command", [step["run"] for step in STEPS if "run" in step])
def test_every_command_exists(command: str) -> None:
    """It has no expression, because a stranger can choose some, such as the title of a pull request."""
    program, *targets = command.split()
    makefile = (PROJECT / "Makefile").read_text()

    assert "${{" not in command
    assert program in {"grep", "make", "test"} or os.access(PROJECT / program, os.X_OK)
    assert program != "make" or all(re.search(rf"(?m)^{target}:.*##", makefile) for target in targets)


@pytest.mark.parametrize(
    ("tag", "heading", "passes"),
    [
        (f"v{__version__}", f"[{__version__}]", True),
        (f"v{__version__}", "[0.0.1]", False),
        ("v999.0.0", "[999.0.0]", False),
        (__version__.replace(".", "x", 1), f"[{__version__}]", False),
    ],
)
def test_a_tag_must_be_the_version_and_in_the_changelog(
    tag: str, heading: str, passes: bool, distributions: Distributions, tmp_path: Path
) -> None:
    """Otherwise the job ends before it uploads the files."""
    (tmp_path / "dist").symlink_to(distributions.wheel.parent)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n## {heading} - 2026-12-01\n")
    _, *guards = [step["run"] for step in JOBS["build"]["steps"] if "run" in step]
    environment = {**os.environ, "GITHUB_REF_NAME": tag}
    done = [subprocess.run(["bash", "-ec", guard], cwd=tmp_path, env=environment, check=False) for guard in guards]

    assert (not any(each.returncode for each in done)) is passes

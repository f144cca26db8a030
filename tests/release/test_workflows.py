"""The workflows have the least permissions, and their commands exist."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]

from ecr_secrets_backend import __version__
from tests.release.conftest import PROJECT, Distributions

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = PROJECT / ".github/workflows"
TEXTS = {path.name: path.read_text() for path in sorted(FOLDER.iterdir())}
WORKFLOWS: dict[str, dict[Any, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {f"{name}:{job}": each for name, workflow in WORKFLOWS.items() for job, each in workflow["jobs"].items()}
STEPS = {job: each.get("steps", []) for job, each in JOBS.items()}
PUBLISH = "publish.yml:publish"
TAGS = [
    (f"v{__version__}", f"[{__version__}]", True),
    (f"v{__version__}", "[0.0.1]", False),
    ("v999.0.0", "[999.0.0]", False),
    (__version__.replace(".", "x", 1), f"[{__version__}]", False),
]
ON = True  # YAML 1.1 reads the key `on` as this


def test_only_one_job_can_publish() -> None:
    """It has no other permission. All others can only read the repository."""
    rights = {
        job: each.get("permissions", WORKFLOWS[job.partition(":")[0]]["permissions"]) for job, each in JOBS.items()
    }

    assert all(workflow["permissions"] in ({}, {"contents": "read"}) for workflow in WORKFLOWS.values())
    assert rights.pop(PUBLISH) == {"id-token": "write"}
    assert {*map(str, rights.values())} == {"{'contents': 'read'}"}


def test_a_release_needs_tests_and_an_approval() -> None:
    """The tag of a version starts it, the tests and the build must pass, and its environment requires an approval."""
    assert WORKFLOWS["publish.yml"][ON] == {"push": {"tags": ["v*"]}}
    assert {*JOBS[PUBLISH]["needs"]} == {"test", "build"}
    assert JOBS[PUBLISH]["environment"]["name"] == "pypi"
    assert JOBS["publish.yml:test"]["uses"] == "./.github/workflows/test.yml"
    assert "workflow_call" in WORKFLOWS["test.yml"][ON]


def test_the_publishing_job_runs_no_code_of_the_repository() -> None:
    """It downloads the built files and publishes them with attestations."""
    assert [step.get("uses", "").partition("@")[0] for step in STEPS[PUBLISH]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert STEPS[PUBLISH][-1]["with"] == {"attestations": True}


def test_the_built_files_are_published() -> None:
    """Both jobs use the same artifact and folder, which is the action's default."""
    uploads = [step["with"] for step in STEPS["publish.yml:build"] if "upload-artifact" in step.get("uses", "")]
    downloads = [step["with"] for step in STEPS[PUBLISH] if "download-artifact" in step["uses"]]

    assert [(each["name"], each["path"]) for each in uploads] == [("dist", "dist/")]
    assert downloads == [{"name": "dist", "path": "dist/"}]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned(name: str) -> None:
    """The pin is a commit, with the version as a comment, because tags can be moved."""
    used = re.findall(r"(?m)uses: (.+)$", TEXTS[name])

    assert used
    assert [
        each for each in used if not re.fullmatch(r"\./\S+|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)
    ] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_checkout_stores_credentials(name: str) -> None:
    """Later steps could read them."""
    steps = chain.from_iterable(steps for job, steps in STEPS.items() if job.startswith(name))
    checkouts = [step for step in steps if "checkout" in step.get("uses", "")]

    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("job", [job for job, steps in STEPS.items() if any("run" in step for step in steps)])
def test_every_command_exists(job: str) -> None:
    """It is a target of make or an executable file, without an expression that a stranger can choose."""
    makefile = (PROJECT / "Makefile").read_text()
    for command in (step["run"] for step in STEPS[job] if "run" in step):
        program, *arguments = command.split()
        assert "${{" not in command
        match program:
            case "make":
                assert [target for target in arguments if not re.search(rf"(?m)^{target}:.*##", makefile)] == []
            case "grep" | "test":
                assert arguments
            case _:
                assert os.access(PROJECT / program, os.X_OK)


@pytest.mark.parametrize(("tag", "heading", "passes"), TAGS)
def test_a_tag_must_be_the_version_and_in_the_changelog(
    tag: str, heading: str, passes: bool, distributions: Distributions, tmp_path: Path
) -> None:
    """Otherwise the job ends before it uploads the files."""
    (tmp_path / "dist").symlink_to(distributions.wheel.parent)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n## {heading} - 2026-12-01\n")
    _, *guards = [step["run"] for step in STEPS["publish.yml:build"] if "run" in step]
    done = [
        subprocess.run(["bash", "-ec", guard], cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False)
        for guard in guards
    ]

    assert (not any(each.returncode for each in done)) is passes

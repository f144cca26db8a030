from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ecr_secrets_backend.cli import clear
from tests.unit.cli.conftest import DENIED, Run, status

if TYPE_CHECKING:
    import pytest

    from tests.stand_ins.aws import AwsStandIn


def test_the_next_lookup_requests_a_token(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    first = run("token", "docker_default", *file).stdout
    aws.script(DENIED)
    run("token", "docker_eu", *file, exit_code=1)
    aws.settle()

    assert run("clear", *file).stdout == "Deleted 2 tokens.\n"
    assert run("token", "docker_default", *file).stdout != first
    assert run("token", "docker_eu", *file).stdout


def test_no_folder_can_be_used(run: Run, no_place: tuple[str, str]) -> None:
    """The command succeeds, also if each process has its own cache."""
    in_process = '{"connections": {"docker_default": "public.ecr.aws"}, "cache": "process"}'
    for arguments in (no_place, ("--all", *no_place), ("--backend-kwargs", "-")):
        assert run("clear", *arguments, given=in_process).stdout == "There is no cache on this host.\n"


def test_tokens_of_other_environments_are_kept_without_all(
    run: Run, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("token", "docker_default", *file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)

    assert "Deleted 0 tokens. Kept 1 of other configurations or environments" in run("clear", *file).stdout
    assert run("clear", "--all", *file).stdout == "Deleted 1 token.\n"


def test_a_file_that_cannot_be_deleted_is_a_failure(
    run: Run, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder and the fix. A file that another process has just deleted is none."""
    run("token", "docker_default", *file)
    folder = status(run, *file)["cache"]["folder"]

    def refuse(*_: object) -> bool:
        raise PermissionError(1, os.strerror(1))

    assert not clear.delete(folder, "another.json")
    monkeypatch.setattr(clear, "delete", refuse)
    done = run("clear", *file, exit_code=1)
    assert f"Cannot delete tokens in {folder}: Operation not permitted. Check the owner and the mode" in done.stderr

from __future__ import annotations

from typing import TYPE_CHECKING

from ecr_secrets_backend.cli.clear import delete
from tests.unit.cli.conftest import DENIED, Run
from tests.unit.folders import NAME, write

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from ecr_secrets_backend.host_store import HostStore
    from tests.stand_ins.aws import AwsStandIn


def test_what_is_deleted_is_gone(store: HostStore, folder: Path) -> None:
    """The caller learns whether there was anything."""
    write(store, b"content")

    assert delete(str(folder), NAME)
    assert store.read(NAME) is None
    assert not delete(str(folder), NAME)


def test_the_next_lookup_asks_aws(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """Tokens and failures are forgotten."""
    first = run("token", "docker_default", *file).stdout
    aws.script(DENIED)
    run("token", "docker_eu", *file, exit_code=1)
    aws.settle()

    assert "Forgot 2 tokens." in run("clear", *file).stdout
    assert run("token", "docker_default", *file).stdout != first
    assert run("token", "docker_eu", *file).stdout


def test_no_place_at_all(run: Run, no_place: tuple[str, str]) -> None:
    """There is nothing to delete, which is no failure."""
    for arguments in ((), ("--all",)):
        assert "no tokens on the host" in run("clear", *arguments, *no_place).stdout


def test_tokens_of_other_environments_stay_without_all(
    run: Run, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token of another environment does not belong to this configuration."""
    run("token", "docker_default", *file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)

    assert "1 of other configurations" in run("clear", *file).stdout
    assert "Forgot 1 token." in run("clear", "--all", *file).stdout

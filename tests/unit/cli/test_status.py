from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.status import state_of
from tests.command_settings import US_HOST
from tests.unit.builders import NOW, TWELVE_HOURS, build_token
from tests.unit.cli.conftest import DENIED, Run, status

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn


@pytest.mark.parametrize(
    ("seconds_left", "state"),
    [
        *((TWELVE_HOURS, "fresh"), (4000, "fresh"), (3600, "renewing"), (901, "renewing")),
        *((900, "expiring"), (1, "expiring"), (0, "expired")),
    ],
)
def test_a_token_has_a_state_at_each_age(seconds_left: float, state: str) -> None:
    assert state_of(build_token(), NOW + TWELVE_HOURS - seconds_left, 3600) == state


def test_an_empty_cache_is_not_made(run: Run, file: tuple[str, str], kwargs: dict[str, Any]) -> None:
    """The folder that the next lookup creates is shown, if the processes share one."""
    in_process = json.dumps({**kwargs, "cache": "process"})

    assert status(run, *file) == {
        "cache": {"kind": "host", "folder": None, "user": os.geteuid(), "problems": [], "files": 0, "bytes": 0},
        "tokens": [],
    }
    text = " ".join(run("status", *file).stdout.split())
    assert f"none yet; the next lookup creates {kwargs['cache_dir']}/" in text
    assert "The cache has no token." in text
    assert "each process has its own" in run("status", "--backend-kwargs", "-", given=in_process).stdout


def test_no_folder_can_be_used(run: Run, no_place: tuple[str, str], kwargs: dict[str, Any]) -> None:
    """Each process then requests its own tokens. The reasons are problems, but the command succeeds."""
    cache, text = status(run, *no_place)["cache"], run("status", *no_place).stdout
    refused = f"{kwargs['cache_dir']}/airflow-ecr-secrets-backend-{os.geteuid()}: Not a directory; not used"
    consequence = "no folder can be used for the cache, so each process requests its own tokens"

    assert (cache["folder"], cache["files"]) == (None, 0)
    assert (cache["problems"][0], cache["problems"][-1]) == (refused, consequence)
    assert f"Cache of user {os.geteuid()}: none\n" in text
    assert consequence in text


def test_a_token_is_shown_without_secrets(
    run: Run, aws: AwsStandIn, file: tuple[str, str], kwargs: dict[str, Any]
) -> None:
    """Its fields are those of the documentation. A process with other AWS variables does not use it."""
    run("token", "docker_default", *file)
    text, printed = run("status", *file).stdout, status(run, *file)
    secrets = (*aws.secrets(), os.environ["AWS_ACCESS_KEY_ID"])
    assert [secret for secret in secrets if secret in text + json.dumps(printed)] == []

    (token,) = printed["tokens"]
    assert token.pop("minted_at") < token.pop("expires_at")
    assert 43_000 < token.pop("seconds_left") <= 43_200
    assert token == {
        "identity": "boto3's default credentials",
        "region": "us-east-1",
        "connections": ["docker_default"],
        "registries": [US_HOST],
        "state": "fresh",
        "failure": None,
        "back_off_seconds": 0,
    }
    assert printed["cache"].pop("bytes") > 2000
    folder = f"{kwargs['cache_dir']}/airflow-ecr-secrets-backend-{os.geteuid()}"
    assert printed["cache"] == {"kind": "host", "folder": folder, "user": os.geteuid(), "problems": [], "files": 2}
    with pytest.MonkeyPatch.context() as other:
        other.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)
        (token,) = status(run, *file)["tokens"]
    assert (token["connections"], token["registries"]) == ([], [US_HOST])


def test_a_failure_is_shown_with_its_fix_and_back_off(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """By ``token`` in one line, by ``status`` in JSON and below the table, without colours if there is no terminal."""
    run("token", "docker_default", *file)
    aws.script(DENIED)
    denied = run("token", "docker_eu", *file, exit_code=1)
    text, tokens = run("status", *file).stdout, status(run, *file)["tokens"]
    (failed,) = [token for token in tokens if token["failure"]]

    assert denied.stdout == ""
    assert denied.stderr.startswith("ecr-secrets-backend token: Cannot get an ECR token for connection 'docker_eu'")
    assert denied.stderr.count("\n") == 1
    assert (failed["state"], failed["seconds_left"], failed["region"]) == ("none", 0, "eu-central-1")
    assert failed["failure"]["code"] == "AccessDeniedException"
    assert 1 <= failed["back_off_seconds"] <= 5
    for part in ("AccessDeniedException", "Allow ecr:GetAuthorizationToken"):
        assert part in denied.stderr
        assert part in text
    for part in ("fresh", "none", "private to this user", "at the earliest"):
        assert part in text
    assert "\x1b" not in text


def test_a_cache_that_is_not_private_is_a_problem(run: Run, file: tuple[str, str]) -> None:
    run("token", "docker_default", *file)
    folder = Path(status(run, *file)["cache"]["folder"])
    folder.chmod(0o755)
    (entry,) = folder.glob("*.json")
    entry.unlink()
    entry.symlink_to("/etc/passwd")
    printed = status(run, *file)

    assert "open to other users (mode 0755)" in printed["cache"]["problems"][0]
    assert f"{entry.name} is not a file" in printed["cache"]["problems"][1]
    assert printed["tokens"] == []

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
    ("age", "state"),
    [
        (0, "fresh"),
        (TWELVE_HOURS - 4000, "fresh"),
        (TWELVE_HOURS - 3600, "renewing"),
        (TWELVE_HOURS - 901, "renewing"),
        (TWELVE_HOURS - 900, "expiring"),
        (TWELVE_HOURS - 1, "expiring"),
        (TWELVE_HOURS, "expired"),
    ],
)
def test_a_token_goes_through_its_states(age: float, state: str) -> None:
    """What each means to whoever asks for the token."""
    assert state_of(build_token(), NOW + age, 3600) == state


def test_without_a_token_there_is_none() -> None:
    """AWS has given none."""
    assert state_of(None, NOW, 3600) == "none"


def test_an_empty_cache(run: Run, file: tuple[str, str]) -> None:
    """It is not made by looking at it."""
    assert status(run, *file) == {
        "cache": {
            "kind": "host",
            "folder": None,
            "user": os.geteuid(),
            "problems": [],
            "files": 0,
            "bytes": 0,
        },
        "tokens": [],
    }


def test_it_names_the_folder_that_the_first_lookup_makes(
    run: Run, file: tuple[str, str], kwargs: dict[str, Any]
) -> None:
    assert f"the first lookup makes it, in {kwargs['cache_dir']}/" in " ".join(run("status", *file).stdout.split())


def test_a_cache_dir_that_cannot_be_used(
    run: Run, file: tuple[str, str], kwargs: dict[str, Any], tmp_path: Path
) -> None:
    """It shows the default place that lookups use instead."""
    Path(kwargs["cache_dir"]).touch()
    run("token", "docker_default", *file)
    printed = status(run, *file)

    assert Path(printed["cache"]["folder"]).parent == tmp_path
    assert printed["cache"]["problems"] == [
        f"{kwargs['cache_dir']}/airflow-ecr-secrets-backend-{os.geteuid()}: Not a directory; not used"
    ]
    assert [token["state"] for token in printed["tokens"]] == ["fresh"]


def test_no_place_at_all(run: Run, no_place: tuple[str, str]) -> None:
    """Each process then requests its own tokens, which is no failure."""
    cache = status(run, *no_place)["cache"]

    assert (cache["folder"], cache["files"]) == (None, 0)
    assert cache["problems"][-1] == "no folder can be used for the cache, so each process requests its own tokens"
    text = run("status", *no_place).stdout
    assert "There is no cache of user" in text
    assert "no folder can be used" in text


def test_what_it_holds(run: Run, file: tuple[str, str], kwargs: dict[str, Any]) -> None:
    """The identity, the region, the connections, the times: as the documentation has it."""
    run("token", "docker_default", *file)
    printed = status(run, *file)

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


def test_a_token_of_another_environment(run: Run, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown, in words, but serves none of these connections."""
    run("token", "docker_default", *file)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)
    (token,) = status(run, *file)["tokens"]

    assert (token["connections"], token["registries"]) == ([], [US_HOST])


def test_a_failure(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """What failed, when, and how long the back-off takes."""
    aws.script(DENIED)
    run("token", "docker_default", *file, exit_code=1)
    (token,) = status(run, *file)["tokens"]

    assert (token["state"], token["seconds_left"], token["region"]) == ("none", 0, "us-east-1")
    assert token["failure"]["code"] == "AccessDeniedException"
    assert 1 <= token["back_off_seconds"] <= 5


def test_what_is_not_safe(run: Run, file: tuple[str, str]) -> None:
    """A folder that others may read, and a link in a file's place."""
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


def test_for_people(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """A table, without colours if there is no terminal, with the failure and its fix below it."""
    run("token", "docker_default", *file)
    aws.script(DENIED)
    run("token", "docker_eu", *file, exit_code=1)
    text = run("status", *file).stdout

    assert "\x1b" not in text
    for part in (US_HOST, "fresh", "none", "private to this user", "Allow ecr:GetAuthorizationToken"):
        assert part in text


def test_no_secret_is_printed(run: Run, aws: AwsStandIn, file: tuple[str, str]) -> None:
    """In neither form; nor the access key."""
    run("token", "docker_default", *file)
    text = run("status", *file).stdout + json.dumps(status(run, *file))

    assert [secret for secret in (*aws.secrets(), os.environ["AWS_ACCESS_KEY_ID"]) if secret in text] == []

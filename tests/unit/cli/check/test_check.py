from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli import check
from tests.command_settings import EU_HOST
from tests.stand_ins.aws import Error
from tests.unit.cli.check.conftest import ENGINE, HOST, STEPS
from tests.unit.cli.conftest import DENIED, Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.check.conftest import Site

IMAGE = ("--image", f"{HOST}/app:1")
Arguments = tuple[str, ...]


@pytest.fixture
def good(site: Site, engine: str, file: Arguments) -> Arguments:
    """The arguments for a connection of which every step passes."""
    del site
    return ("docker_default", "--docker-url", engine, *file)


def findings(run: Run, *arguments: str, exit_code: int = 0, given: str = "") -> list[dict[str, Any]]:
    printed = run("check", *arguments, "--output", "json", exit_code=exit_code, given=given)
    found: list[dict[str, Any]] = json.loads(printed.stdout)["findings"]
    return found


def failed(run: Run, *arguments: str, exit_code: int = 1, given: str = "") -> tuple[str, str]:
    last = findings(run, *arguments, exit_code=exit_code, given=given)[-1]
    assert (last["state"], bool(last["remedy"])) == ("failed", True)
    return last["step"], last["code"]


def warned(run: Run, *arguments: str) -> dict[str, str]:
    return {each["code"]: each["remedy"] for each in findings(run, *arguments) if each["state"] == "warning"}


def test_every_step_runs_in_order(run: Run, good: Arguments) -> None:
    """The table has a mark for each, the failure's fix below its message, and a summary."""
    found = findings(run, *good, *IMAGE)
    passed = run("check", *good, *IMAGE).stdout
    wrong = run("check", *good, "--image", f"{EU_HOST}/app:1", exit_code=1).stdout

    assert [each["step"] for each in found] == STEPS
    assert {each["state"] for each in found} == {"good"}
    assert all(f"✓ {step}" in passed for step in STEPS)
    assert passed.rstrip().endswith("All checks passed.")
    assert "✗ image: registry" in wrong
    assert "→ Set docker_conn_id to 'docker_eu'" in wrong
    assert wrong.rstrip().endswith("Failed: image-of-other-registry.")
    assert "\x1b" not in passed + wrong


OWN = {"region_name": "us-east-1"}  # AWS names its registry when it returns a token


@pytest.mark.parametrize(
    ("connections", "image", "conn_id", "code"),
    [
        ({"docker_default": HOST, "docker_eu": EU_HOST}, f"{HOST}/app:1", "docker_default", "ok"),
        ({"docker_own": OWN, "docker_eu": EU_HOST}, f"{HOST}/app:1", "docker_own", "ok"),
        ({"docker_own": OWN}, "public.ecr.aws/a/b", None, "image-public"),
        ({"docker_own": OWN}, "docker.io/a/b", None, "image-not-ecr"),
        ({"docker_default": HOST}, "registry.gitlab.com/app:1", None, "image-not-ecr"),
        ({"docker_default": HOST}, f"{HOST}/App:1", None, "image-name-invalid"),
    ],
)
def test_without_connection_ids_the_connection_of_the_image_is_checked(
    run: Run, good: Arguments, kwargs: dict[str, Any], connections: Any, image: str, conn_id: str | None, code: str
) -> None:
    """If no connection serves the image, its name is the finding, and the check requests no credentials."""
    given = json.dumps({**kwargs, "connections": connections})
    command = ("--docker-url", good[2], "--backend-kwargs", "-", "--image", image)
    found = findings(run, *command, exit_code=0 if code in ("ok", "image-public") else 1, given=given)

    assert {each["connection"] for each in found} == {None, conn_id}
    assert [each["code"] for each in found if each["step"] == "image: registry"] == [code]


def test_a_public_image_is_not_pulled_with_the_connection(run: Run, good: Arguments) -> None:
    found = findings(run, *good, "--image", "public.ecr.aws/a/b")

    steps = {each["step"]: each["code"] for each in found}
    assert steps["image: registry"] == "image-public"
    assert "image: permission" not in steps


@pytest.mark.parametrize(
    ("kwargs_text", "code"),
    [
        ("{", "not-configured"),
        ('{"connections": {"docker_default": {"regoin_name": "a"}}}', "configuration-wrong"),
        ('{"connections": {"docker_other": "public.ecr.aws"}}', "not-mapped"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_wrong_usage(run: Run, kwargs_text: str, code: str) -> None:
    arguments = ("docker_default", "--backend-kwargs", "-")

    assert failed(run, *arguments, exit_code=2, given=kwargs_text) == ("configuration", code)


def test_missing_credentials_end_the_check(run: Run, good: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """People and programs read what each source of credentials reported: a line for each, or an object."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    lines = [line.strip() for line in run("check", *good, exit_code=1).stdout.splitlines()]
    assert "- environment: no AWS_ACCESS_KEY_ID" in lines
    assert "- instance metadata: disabled by AWS_EC2_METADATA_DISABLED" in lines
    configuration, identity = findings(run, *good, exit_code=1)
    assert (identity["step"], identity["code"]) == ("AWS identity", "no-credentials")
    assert identity["sources"][0] == {"source": "environment", "message": "no AWS_ACCESS_KEY_ID", "fix": None}
    assert "sources" not in configuration


def test_a_token_that_aws_denies_ends_the_check_if_none_is_valid(run: Run, good: Arguments, aws: AwsStandIn) -> None:
    run("token", "docker_default", *good[3:])
    aws.script(Error(DENIED.code, operation="GetAuthorizationToken"))
    assert failed(run, "docker_eu", *good[1:]) == ("token", "no-token")
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)):
        assert warned(run, *good).keys() == {"token-not-renewed"}
        assert run("check", *good).stdout.rstrip().endswith("All checks passed. 1 warning, see above.")


@pytest.mark.parametrize(
    ("path", "status", "step", "code"),
    [
        ("/v2/", 401, "registry: login", "token-refused"),
        ("/v2/app/manifests/1", 403, "image: permission", "permission-missing"),
        ("/v2/app/manifests/1", 404, "image: tag", "tag-missing"),
        ("/layer", 200, "image: platform", "platform-wrong"),
        ("config.json", 0, "image: platform", "docker-config-wrong"),
    ],
)
def test_the_first_step_that_fails_ends_the_check(
    run: Run, good: Arguments, site: Site, docker_config: Path, path: str, status: int, step: str, code: str
) -> None:
    if path == "config.json":
        docker_config.write_text('{"auths": []}')
    site.answer(path, status)

    assert failed(run, *good, *IMAGE) == (step, code)


def test_a_stale_login_of_docker_is_a_warning(run: Run, good: Arguments, site: Site, docker_config: Path) -> None:
    site.accepted = f"AWS:{run('token', 'docker_default', *good[3:]).stdout.strip()}"
    auth = base64.b64encode(b"AWS:an-old-token").decode()
    docker_config.write_text(json.dumps({"auths": {f"https://{HOST}": {"auth": auth}}}))

    assert f"docker logout https://{HOST}" in warned(run, *good)["stale-auth"]


@pytest.mark.usefixtures("airflow", "site")
def test_what_earlier_solutions_left_is_a_warning(
    run: Run, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refresh.py").write_text('boto3.client("ecr").get_authorization_token()\n')
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://")

    found = warned(run, "docker_default", "--docker-url", engine)
    assert found.keys() == {"leftover-variable", "leftover-dag"}


def test_a_step_that_raises_anything_is_a_finding() -> None:
    """It has the exception's type and place, and not its text, which may hold what was sent."""

    def step() -> tuple[()]:
        raise KeyError("s3cret")

    (finding,) = check.run_step([], None, "a step", step)

    assert (finding.code, finding.state) == ("unexpected-error", "failed")
    assert re.fullmatch(r"Unexpected KeyError \(at test_check\.py:\d+, .*\)", finding.message)


@pytest.mark.parametrize("peer", ["registry", "engine"])
def test_a_peer_that_echoes_the_login_reveals_nothing(
    run: Run, good: Arguments, site: Site, monkeypatch: pytest.MonkeyPatch, peer: str
) -> None:
    token = run("token", "docker_default", *good[3:]).stdout.strip()
    header = base64.b64encode(f"AWS:{token}".encode()).decode()
    message = f"Basic {header} is not AWS:{token} but {header[:40]}"
    if peer == "registry":
        site.answer("/v2/", 401, message)
    monkeypatch.setitem(ENGINE, "auth", (500, {"message": message}))

    assert "Basic *** is not AWS:*** but ***" in run("check", *good, exit_code=1).stdout

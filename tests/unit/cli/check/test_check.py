from __future__ import annotations

import base64
import json
import re
import secrets
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend.cli import check
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.command import CommandError
from tests.command_settings import EU_HOST
from tests.stand_ins.aws import Error
from tests.unit.cli.check.conftest import HOST
from tests.unit.cli.conftest import DENIED, Printed, Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.check.conftest import Site

STEPS = [
    *("configuration", "AWS identity", "token", "registry: login"),
    *("image: registry", "image: permission", "image: tag", "image: platform"),
    *("engine", "engine: login", "engine: login used", "Docker's own logins"),
]
IMAGE = ("--image", f"{HOST}/app:1")
Arguments = tuple[str, ...]


@pytest.fixture
def good(site: Site, engine: str, file: Arguments) -> Arguments:
    """The arguments for a connection whose every step passes."""
    del site
    return ("docker_default", "--docker-url", engine, *file)


def findings(printed: Printed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(printed.stdout)["findings"]
    return found


def failed(run: Run, *arguments: str, exit_code: int = 1) -> tuple[str, str]:
    """Return the step that ends a check, and its code."""
    last = findings(run("check", *arguments, "--output", "json", exit_code=exit_code))[-1]
    assert (last["state"], bool(last["remedy"])) == ("failed", True)
    return last["step"], last["code"]


def warned(printed: Printed) -> dict[str, str]:
    return {each["code"]: each["remedy"] for each in findings(printed) if each["state"] == "warning"}


def test_every_step_is_run_in_order(run: Run, good: Arguments) -> None:
    """From the configuration to a pull, if each of them passes."""
    found = findings(run("check", *good, *IMAGE, "--output", "json"))

    assert [each["step"] for each in found] == STEPS
    assert {each["state"] for each in found} == {"good"}


def test_a_person_reads_the_steps_in_a_table(run: Run, good: Arguments) -> None:
    """With marks and times, the failure's fix below its message, and a summary."""
    passed = run("check", *good, *IMAGE).stdout
    wrong = run("check", *good, "--image", f"{EU_HOST}/app:1", exit_code=1).stdout

    assert all(f"✓ {step}" in passed for step in STEPS)
    assert passed.rstrip().endswith("All checks passed.")
    assert "✗ image: registry" in wrong
    assert "→ Set docker_conn_id to 'docker_eu'" in wrong
    assert wrong.rstrip().endswith("Failed: image-of-other-registry.")


def test_the_connection_of_an_image_is_found(run: Run, good: Arguments) -> None:
    """Without its ID, only the connection that serves the image is checked, or the image's name is what is wrong."""
    _, *options = good

    found = findings(run("check", *options, *IMAGE, "--output", "json"))
    assert {each["connection"] for each in found} == {None, "docker_default"}
    assert failed(run, *options, "--image", "registry.gitlab.com/app:1") == ("image: registry", "image-not-ecr")
    assert failed(run, *options, "--image", f"{HOST}/App:1") == ("image: registry", "image-name-invalid")


def test_a_connection_whose_registry_only_aws_knows_is_checked_for_an_image(
    run: Run, good: Arguments, kwargs: dict[str, Any]
) -> None:
    """AWS names the registry when it returns the token."""
    _, _, url, *_ = good
    kwargs["connections"] = {"docker_own": {"region_name": "us-east-1"}, "docker_eu": EU_HOST}
    command = ("check", "--docker-url", url, "--backend-kwargs", "-", *IMAGE, "--output", "json")

    found = findings(run(*command, given=json.dumps(kwargs)))

    assert {each["connection"] for each in found} == {None, "docker_own"}


@pytest.mark.parametrize(
    ("kwargs_text", "code"),
    [
        ("{", "not-configured"),
        ('{"connections": {"docker_default": {"regoin_name": "a"}}}', "configuration-wrong"),
        ('{"connections": {"docker_other": "public.ecr.aws"}}', "not-mapped"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_the_first_finding(run: Run, kwargs_text: str, code: str) -> None:
    """The exit code is that of wrong usage."""
    command = ("check", "docker_default", "--backend-kwargs", "-", "--output", "json")
    (finding,) = findings(run(*command, exit_code=2, given=kwargs_text))

    assert (finding["step"], finding["code"]) == ("configuration", code)


def test_missing_credentials_end_the_check(run: Run, good: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    """People and programs read what each source of credentials said: a line for each, or an object."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    assert failed(run, *good) == ("AWS identity", "no-credentials")
    lines = [line.strip() for line in run("check", *good, exit_code=1).stdout.splitlines()]
    assert "- environment: no AWS_ACCESS_KEY_ID" in lines
    assert "- instance metadata: disabled by AWS_EC2_METADATA_DISABLED" in lines
    configuration, identity = findings(run("check", *good, "--output", "json", exit_code=1))
    assert identity["sources"][0] == {"source": "environment", "message": "no AWS_ACCESS_KEY_ID", "fix": None}
    assert "sources" not in configuration


def test_a_token_that_aws_denies_ends_the_check(run: Run, good: Arguments, aws: AwsStandIn) -> None:
    """With AWS's reason."""
    aws.script(Error(DENIED.code, operation="GetAuthorizationToken"))

    assert failed(run, *good) == ("token", "no-token")


def test_a_token_that_is_not_renewed_is_a_warning(run: Run, good: Arguments, aws: AwsStandIn) -> None:
    """It is still valid."""
    run("token", "docker_default", *good[3:])
    aws.script(Error(DENIED.code, operation="GetAuthorizationToken"))
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)):
        printed = run("check", *good, "--output", "json")

    assert warned(printed).keys() == {"token-not-renewed"}


@pytest.mark.parametrize(("status", "code"), [(401, "token-refused"), (503, "registry-error")])
def test_a_registry_that_refuses_the_token_ends_the_check(
    run: Run, good: Arguments, site: Site, status: int, code: str
) -> None:
    """Or one that is out of order."""
    site.answer("/v2/", status)

    assert failed(run, *good) == ("registry: login", code)


@pytest.mark.parametrize(
    ("path", "status", "error", "step", "code"),
    [
        ("manifests/1", 403, "DENIED", "image: permission", "permission-missing"),
        ("manifests/1", 404, "NAME_UNKNOWN", "image: permission", "repository-missing"),
        ("manifests/1", 404, "MANIFEST_UNKNOWN", "image: tag", "tag-missing"),
        ("manifests/1", 200, "", "image: platform", "platform-wrong"),
    ],
)
def test_an_image_that_cannot_be_pulled_ends_the_check(
    run: Run, good: Arguments, site: Site, path: str, status: int, error: str, step: str, code: str
) -> None:
    """The permission, the repository, the tag or the platform is missing."""
    site.answer(f"/v2/app/{path}", status, "a message", error)
    if status == 200:
        site.answers[f"/v2/app/{path}"] = 200, {}, b'{"manifests": [{"platform": {"os": "a", "architecture": "b"}}]}'

    assert failed(run, *good, *IMAGE) == (step, code)


def test_a_stale_login_of_docker_is_a_warning(run: Run, good: Arguments, site: Site, docker_config: Path) -> None:
    """Pulls without the connection use it."""
    site.accepted = f"AWS:{run('token', 'docker_default', *good[3:]).stdout.strip()}"
    auth = base64.b64encode(b"AWS:an-old-token").decode()
    docker_config.write_text(json.dumps({"auths": {f"https://{HOST}": {"auth": auth}}}))

    told = warned(run("check", *good, "--output", "json"))

    assert f"docker logout https://{HOST}" in told["stale-auth"]


def test_a_config_json_that_is_not_docker_s_ends_the_check(run: Run, good: Arguments, docker_config: Path) -> None:
    """The finding is that of the step which needs the file."""
    docker_config.write_text('{"auths": []}')

    assert failed(run, *good)[1] == "docker-config-wrong"


@pytest.mark.usefixtures("airflow", "site")
def test_what_earlier_solutions_left_is_a_warning(
    run: Run, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that defines the connection, and a DAG that renews it."""
    (tmp_path / "refresh.py").write_text('boto3.client("ecr").get_authorization_token()\n')
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/airflow.db")
    monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", "docker://")

    told = warned(run("check", "docker_default", "--docker-url", engine, "--output", "json"))

    assert told.keys() == {"leftover-variable", "leftover-dag"}


def test_a_step_that_raises_anything_is_a_finding() -> None:
    """With the exception's type and place, and without its words, which may hold what was sent."""

    def step() -> tuple[()]:
        raise KeyError("s3cret")

    (finding,) = check.run_step([], None, "a step", step)

    assert finding.result.code == "unexpected-error"
    assert re.fullmatch(r"Unexpected KeyError \(at test_check\.py:\d+, .*\)", finding.result.message)
    assert finding.result.state == "failed"


def test_a_registry_that_echoes_the_login_reveals_nothing(site: Site) -> None:
    """Neither the token, nor the header that it was sent in, nor a part of either."""
    token = secrets.token_urlsafe(1500)
    header = base64.b64encode(f"AWS:{token}".encode()).decode()
    site.answer("/v2/", 401, f"Basic {header} is not AWS:{token} but {header[:40]}")

    (finding,) = check.run_step([token, header], None, "a step", RegistryClient(HOST, ("AWS", token)).check_login)

    assert finding.result.message == f"{HOST} refuses the token: Basic *** is not AWS:*** but ***"


def test_a_step_that_reports_nothing_is_good() -> None:
    """Every step is seen to have run."""
    (finding,) = check.run_step([], None, "a step", lambda: ())

    assert (finding.result.message, finding.result.state) == ("nothing found", "good")


def test_a_step_that_cannot_read_what_it_needs_is_a_finding() -> None:
    """With the fix of the command's own failure."""

    def step() -> tuple[()]:
        raise CommandError("It is wrong", "Correct it.")

    (finding,) = check.run_step([], None, "a step", step)

    assert (finding.result.message, finding.result.fix) == ("It is wrong", "Correct it.")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8O80", "http://[::1"])
def test_a_proxy_that_is_wrong_is_no_traceback_of_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """The first request to AWS fails."""
    kwargs = json.dumps({"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")})
    monkeypatch.setenv("HTTPS_PROXY", url)

    assert "Failed: no-" in run("check", "--backend-kwargs", "-", exit_code=1, given=kwargs).stdout

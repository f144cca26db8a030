"""``token``, ``status`` and ``clear`` as processes, and what all commands have in common."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.configuration import BACKEND
from tests.airflow_version import HAS_KWARG_VARIABLES, HAS_WORKERS_BACKEND
from tests.integration import commands
from tests.integration.commands import COMMAND, EU_HOST, US_HOST, run, wait
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

DENIED = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized")


@pytest.fixture
def kwargs(aws: AwsStandIn, tmp_path: Path) -> dict[str, Any]:
    del aws
    connections = {"docker_default": US_HOST, "docker_eu": EU_HOST}
    return {"connections": connections, "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def file(kwargs: dict[str, Any], tmp_path: Path) -> tuple[str, str]:
    """The arguments that have a command read the kwargs from a file."""
    path = tmp_path / "kwargs.json"
    path.write_text(json.dumps(kwargs))
    return "--backend-kwargs", str(path)


WITHOUT_PLACES = """
import sys
from ecr_secrets_backend import cli, host_store
host_store._SHARED_MEMORY, host_store._TEMP_FOLDERS = "/dev/null", ()
sys.exit(cli.main())
"""


@pytest.fixture
def no_place(kwargs: dict[str, Any], file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """As ``file``, on a host where the cache can be nowhere."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, "/dev/null")
    Path(kwargs["cache_dir"]).touch()
    monkeypatch.setattr(commands, "COMMAND", (sys.executable, "-c", WITHOUT_PLACES))
    return file


@pytest.fixture
def airflow(kwargs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is configured in Airflow, by environment variables."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.getbasetemp() / "airflow"))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", BACKEND)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps(kwargs))


class TestToken:
    def test_it_prints_the_password_alone(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """One line, which the registry accepts."""
        done = run("token", "docker_default", *file)

        (password,) = done.stdout.splitlines()
        assert aws.authorise("AWS", password, region="us-east-1").alive
        assert done.stderr == ""

    def test_it_comes_from_the_cache_while_it_is_valid(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """Two commands, one AWS call."""
        first, second = (run("token", "docker_default", *file).stdout for _ in range(2))

        assert first == second
        assert len(aws.calls()) == 1

    @pytest.mark.usefixtures("airflow")
    def test_it_shares_the_cache_with_airflow(
        self, aws: AwsStandIn, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same token by Airflow's configuration as by a file; whatever Airflow logs is not on standard output."""
        monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "DEBUG")
        by_airflow = run("token", "docker_default").stdout
        by_file = run("token", "docker_default", *file).stdout

        assert by_airflow == by_file
        assert len(aws.calls()) == 1

    @pytest.mark.usefixtures("airflow")
    def test_a_task_may_start_it(self, aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a BashOperator does, with what Airflow leaves there in place of its database's URL."""
        for name in ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"):
            monkeypatch.setenv(name, "airflow-db-not-allowed:///")

        password = run("token", "docker_default").stdout.strip()

        assert aws.authorise("AWS", password, region="us-east-1").alive

    @pytest.mark.usefixtures("aws")
    def test_credentials_may_come_from_an_airflow_connection(
        self, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By ``aws_conn_id``; where there is no such connection, one line says so."""
        monkeypatch.setenv("AIRFLOW_CONN_AWS_TEAM", f"aws://{'AKIA' + 'T' * 16}:s3cret@/")
        by_team = json.dumps({**kwargs, "aws_conn_id": "aws_team"})
        by_nobody = json.dumps({**kwargs, "aws_conn_id": "aws_nobody"})

        assert run("token", "docker_default", "--backend-kwargs", "-", given=by_team).stdout
        assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "T" * 16
        status = json.loads(run("status", "--output", "json", "--backend-kwargs", "-", given=by_team).stdout)
        assert status["tokens"][0]["identity"] == "Airflow connection aws_team"
        assert status["tokens"][0]["connections"] == ["docker_default"]
        done = run("token", "docker_default", "--backend-kwargs", "-", exit_code=1, given=by_nobody)
        assert "Add an Airflow connection 'aws_nobody'" in done.stderr.splitlines()[-1]

    @pytest.mark.usefixtures("airflow")
    def test_those_credentials_may_stand_in_a_fallback_backend(
        self, aws: AwsStandIn, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Also if only workers have the backend, so that Airflow's own commands do not find them."""
        (tmp_path / "connections.json").write_text(json.dumps({"aws_team": f"aws://{'AKIA' + 'V' * 16}:s3cret@/"}))
        local_files = {
            "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "backend_kwargs": {"connections_file_path": str(tmp_path / "connections.json")},
        }
        by_team = json.dumps({**kwargs, "aws_conn_id": "aws_team", "fallback_backends": [local_files]})
        section = "WORKERS__SECRETS_" if HAS_WORKERS_BACKEND else "SECRETS__"
        monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
        monkeypatch.setenv(f"AIRFLOW__{section}BACKEND", BACKEND)
        monkeypatch.setenv(f"AIRFLOW__{section}BACKEND_KWARGS", by_team)

        assert run("token", "docker_default").stdout
        assert aws.calls(operation="GetAuthorizationToken")[0].access_key_id == "AKIA" + "V" * 16
        assert run("token", "docker_default", "--backend-kwargs", "-", given=by_team).stdout

    def test_kwargs_may_come_from_standard_input(self, kwargs: dict[str, Any]) -> None:
        """If a dash stands for the file."""
        assert run("token", "docker_eu", "--backend-kwargs", "-", given=json.dumps(kwargs)).stdout

    def test_with_a_file_airflow_is_not_imported(self, file: tuple[str, str]) -> None:
        """It takes a second or more."""
        run("token", "docker_default", *file)
        program = (
            "import sys; from ecr_secrets_backend.cli import main; main(sys.argv[1:]);"
            "print({'airflow', 'boto3'} & set(sys.modules), file=sys.__stdout__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "token", "docker_default", *file],
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stdout.splitlines()[-1] == "set()"

    def test_a_refusal_of_aws_is_one_line(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """With its fix, on standard error, and exit code 1."""
        aws.script(DENIED)
        done = run("token", "docker_default", *file, exit_code=1)

        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        for part in ("token: Connection 'docker_default'", "AccessDeniedException", "Allow ecr:GetAuthorizationToken"):
            assert part in line

    def test_a_reader_that_has_gone_causes_no_traceback(self, file: tuple[str, str]) -> None:
        """As in ``token ... | true``."""
        command = " ".join((*COMMAND, "status", "--output", "json", *file))
        done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=True)  # noqa: S602

        assert done.stderr == ""


class TestUsage:
    """What is wrong with the command line or the configuration ends with exit code 2 and one line."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is not JSON"),
            ("[]", "is not a JSON object"),
            ("{}", "backend_kwargs are missing"),
            ('{"connections": {"docker_default": "example.com"}}', "is not the host of an ECR registry"),
            ('{"conections": {}}', "did you mean connections?"),
            ('{"connections": {"docker_other": "public.ecr.aws"}}', "'docker_default' is not mapped"),
        ],
    )
    def test_wrong_kwargs(self, text: str, message: str) -> None:
        """Each by its own sentence."""
        done = run("token", "docker_default", "--backend-kwargs", "-", exit_code=2, given=text)

        (line,) = done.stderr.splitlines()
        assert line.startswith("ecr-secrets-backend token: ")
        assert message in line

    def test_a_file_that_is_not_there(self) -> None:
        """By its name."""
        done = run("token", "docker_default", "--backend-kwargs", "/nowhere/kwargs.json", exit_code=2)

        assert "/nowhere/kwargs.json cannot be read: No such file or directory" in done.stderr

    @pytest.mark.usefixtures("airflow")
    def test_an_airflow_without_the_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With what to set."""
        monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
        done = run("token", "docker_default", exit_code=2)

        assert "In the Airflow of this process, no secrets backend is set in [secrets]" in done.stderr
        assert BACKEND in done.stderr

    @pytest.mark.usefixtures("airflow")
    def test_an_airflow_whose_kwargs_are_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Airflow cannot even be imported then."""
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", '{"conections": {}}')
        done = run("status", exit_code=2)

        assert "[secrets] backend_kwargs: conections is not supported; did you mean connections?" in done.stderr

    @pytest.mark.usefixtures("airflow")
    def test_an_airflow_whose_backend_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In Airflow's own words."""
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "ecr_secret_backend.EcrSecretsBackend")
        done = run("status", exit_code=2)

        assert "Airflow's configuration cannot be read" in done.stderr

    @pytest.mark.usefixtures("airflow")
    def test_the_section_of_workers_wins(self, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
        """As it does in a task; an option chooses the other."""
        connections = {"docker_worker": US_HOST}
        monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", BACKEND)
        monkeypatch.setenv(
            "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps({**kwargs, "connections": connections})
        )

        if not HAS_WORKERS_BACKEND:
            assert run("token", "docker_default").stdout
            assert "is not set" in run("token", "docker_default", "--section", "workers", exit_code=2).stderr
            return
        assert run("token", "docker_worker").stdout
        assert "docker_worker" in run("token", "docker_default", exit_code=2).stderr
        assert run("token", "docker_default", "--section", "secrets").stdout

    @pytest.mark.usefixtures("airflow")
    def test_a_backend_of_workers_alone(self, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]) -> None:
        """Each command finds it as a worker does; if it is asked for the servers', it says that they have none."""
        monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND")
        monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
        monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", BACKEND)
        monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", json.dumps(kwargs))

        if not HAS_WORKERS_BACKEND:
            assert "no secrets backend is set" in run("token", "docker_default", exit_code=2).stderr
            return
        assert run("token", "docker_default").stdout
        assert json.loads(run("status", "--output", "json").stdout)["tokens"][0]["connections"] == ["docker_default"]
        (line,) = run("status", "--section", "secrets", exit_code=2).stderr.splitlines()
        assert "no secrets backend is set in [secrets]" in line
        assert f"[workers] secrets_backend is {BACKEND}, so only tasks have it" in line

    @pytest.mark.usefixtures("airflow")
    def test_kwargs_may_be_given_by_a_command_and_one_by_one(
        self, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], tmp_path: Path
    ) -> None:
        """As Airflow reads them."""
        (tmp_path / "by-command.json").write_text(json.dumps({"connections": kwargs["connections"]}))
        monkeypatch.delenv("AIRFLOW__SECRETS__BACKEND_KWARGS")
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS_CMD", f"cat {tmp_path}/by-command.json")
        monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARG__CACHE_DIR", str(tmp_path / "elsewhere"))

        assert run("token", "docker_default").stdout
        assert (tmp_path / "elsewhere").exists() is HAS_KWARG_VARIABLES

    @pytest.mark.parametrize("arguments", [(), ("nothing",), ("token",), ("status", "--output", "xml")])
    def test_a_wrong_command_line(self, arguments: tuple[str, ...]) -> None:
        """By argparse's own message."""
        assert "usage: ecr-secrets-backend" in run(*arguments, exit_code=2).stderr.lower()

    def test_both_sources_at_once(self, file: tuple[str, str]) -> None:
        """Only one can be meant."""
        assert "Leave one of them off" in run("status", "--section", "secrets", *file, exit_code=2).stderr


class TestStatus:
    def status(self, *arguments: str) -> Any:
        return json.loads(run("status", "--output", "json", *arguments).stdout)

    def test_an_empty_cache(self, file: tuple[str, str]) -> None:
        """It is not made by looking at it."""
        assert self.status(*file) == {
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
        self, file: tuple[str, str], kwargs: dict[str, Any]
    ) -> None:
        assert f"the first lookup makes it, in {kwargs['cache_dir']}/" in " ".join(run("status", *file).stdout.split())

    def test_a_cache_dir_that_cannot_be_used(
        self, file: tuple[str, str], kwargs: dict[str, Any], default_place: Path
    ) -> None:
        """It shows the default place that lookups use instead."""
        Path(kwargs["cache_dir"]).touch()
        run("token", "docker_default", *file)
        status = self.status(*file)

        assert Path(status["cache"]["folder"]).parent == default_place
        assert status["cache"]["problems"] == [
            f"{kwargs['cache_dir']}/airflow-ecr-secrets-backend-{os.geteuid()}: Not a directory; not used"
        ]
        assert [token["state"] for token in status["tokens"]] == ["fresh"]

    def test_no_place_at_all(self, no_place: tuple[str, str]) -> None:
        """Each process then requests its own tokens, which is no failure."""
        cache = self.status(*no_place)["cache"]

        assert (cache["folder"], cache["files"]) == (None, 0)
        assert cache["problems"][-1] == "no folder can be used for the cache, so each process requests its own tokens"
        text = run("status", *no_place).stdout
        assert "There is no cache of user" in text
        assert "no folder can be used" in text

    def test_what_it_holds(self, file: tuple[str, str], kwargs: dict[str, Any]) -> None:
        """The identity, the region, the connections, the times: as the documentation has it."""
        run("token", "docker_default", *file)
        printed = self.status(*file)

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

    def test_a_token_of_another_environment(self, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """It is shown, in words, but serves none of these connections."""
        run("token", "docker_default", *file)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)
        (token,) = self.status(*file)["tokens"]

        assert (token["connections"], token["registries"]) == ([], [US_HOST])

    def test_a_failure(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """What failed, when, and how long the back-off takes."""
        aws.script(DENIED)
        run("token", "docker_default", *file, exit_code=1)
        (token,) = self.status(*file)["tokens"]

        assert (token["state"], token["seconds_left"], token["region"]) == ("none", 0, "us-east-1")
        assert token["failure"]["code"] == "AccessDeniedException"
        assert 1 <= token["back_off_seconds"] <= 5

    def test_what_is_not_safe(self, file: tuple[str, str]) -> None:
        """A folder that others may read, and a link in a file's place."""
        run("token", "docker_default", *file)
        folder = Path(self.status(*file)["cache"]["folder"])
        folder.chmod(0o755)
        (entry,) = folder.glob("*.json")
        entry.unlink()
        entry.symlink_to("/etc/passwd")
        printed = self.status(*file)

        assert "open to other users (mode 0755)" in printed["cache"]["problems"][0]
        assert f"{entry.name} is not a file" in printed["cache"]["problems"][1]
        assert printed["tokens"] == []

    def test_for_people(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """A table, without colours if there is no terminal, with the failure and its fix below it."""
        run("token", "docker_default", *file)
        aws.script(DENIED)
        run("token", "docker_eu", *file, exit_code=1)
        text = run("status", *file).stdout

        assert "\x1b" not in text
        for part in (US_HOST, "fresh", "none", "private to this user", "Allow ecr:GetAuthorizationToken"):
            assert part in text

    @pytest.mark.parametrize(("no_color", "has_colour"), [(None, True), ("1", False)])
    def test_colours_are_for_terminals(
        self, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch, no_color: str | None, has_colour: bool
    ) -> None:
        """``NO_COLOR`` turns them off."""
        run("token", "docker_default", *file)
        monkeypatch.setenv("TERM", "xterm-256color")
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        ours, theirs = os.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            subprocess.run([*COMMAND, "status", *file], stdout=theirs, check=True)
            os.close(theirs)
            text = terminal.read(65536).decode()

        assert ("\x1b[32m" in text) is has_colour

    def test_no_secret_is_printed(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """In neither form; nor the access key."""
        run("token", "docker_default", *file)
        text = run("status", *file).stdout + json.dumps(self.status(*file))

        assert [secret for secret in (*aws.secrets(), os.environ["AWS_ACCESS_KEY_ID"]) if secret in text] == []


class TestClear:
    def test_the_next_lookup_asks_aws(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """Tokens and failures are forgotten."""
        first = run("token", "docker_default", *file).stdout
        aws.script(DENIED)
        run("token", "docker_eu", *file, exit_code=1)
        aws.settle()

        assert "Forgot 2 tokens." in run("clear", *file).stdout
        assert run("token", "docker_default", *file).stdout != first
        assert run("token", "docker_eu", *file).stdout

    def test_no_place_at_all(self, no_place: tuple[str, str]) -> None:
        """There is nothing to delete, which is no failure."""
        for arguments in ((), ("--all",)):
            assert "no tokens on the host" in run("clear", *arguments, *no_place).stdout

    def test_tokens_of_other_environments_stay_without_all(
        self, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The token of another environment does not belong to this configuration."""
        run("token", "docker_default", *file)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + "Z" * 16)

        assert "1 of other configurations" in run("clear", *file).stdout
        assert "Forgot 1 token." in run("clear", "--all", *file).stdout


class TestDocumentation:
    """The documents in ``docs/commands`` are what the commands print."""

    def documented(self, command: str) -> Any:
        """Give the document on the page of a command."""
        page = (Path(__file__).parents[2] / f"docs/commands/{command}.md").read_text()
        (document,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        return json.loads(document)

    def test_check(self, tmp_path: Path) -> None:
        """Word for word, but for the time that it took."""
        (tmp_path / "kwargs.json").write_text(json.dumps({"connections": {"docker_default": US_HOST}}))
        command = [*COMMAND, "check", "--image", "app:1", "--backend-kwargs", "kwargs.json", "--output", "json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        printed, documented = json.loads(done.stdout), self.documented("check")

        for finding in (*printed["findings"], *documented["findings"]):
            assert finding.pop("seconds") >= 0
        assert printed == documented

    def test_status(self, aws: AwsStandIn, file: tuple[str, str]) -> None:
        """Each field is there, and of the same type."""
        run("token", "docker_default", *file)
        (entry,) = Path(self.printed(file)["cache"]["folder"]).glob("*.json")
        content = json.loads(entry.read_text())
        content["recorded_at"] -= 11.5 * 3600
        for name in ("received_at", "expires_at"):
            content["token"][name] -= 11.5 * 3600
        entry.write_text(json.dumps(content))
        aws.script(DENIED)

        def has_failed() -> bool:
            run("token", "docker_default", *file)  # which ends before a renewal that takes more than a second
            return bool(self.printed(file)["tokens"][0]["failure"])

        wait(has_failed)
        assert shape(self.printed(file)) == shape(self.documented("status"))

    def printed(self, file: tuple[str, str]) -> Any:
        return json.loads(run("status", "--output", "json", *file).stdout)


def shape(value: Any) -> Any:
    """Give a document's fields and types in place of its values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)

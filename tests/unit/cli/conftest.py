from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest

from ecr_secrets_backend import cache
from ecr_secrets_backend.cli import main
from tests.airflow_version import HAS_PROVIDER_COMMANDS
from tests.command_settings import build_kwargs, configure_airflow, write_kwargs
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn

collect_ignore = [] if HAS_PROVIDER_COMMANDS else ["test_airflow_commands.py"]

DENIED = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized")


class Printed(NamedTuple):
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str | Path, exit_code: int = 0, given: str = "") -> Printed: ...


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, with an empty memory like that of a new process."""

    def run(*arguments: str | Path, exit_code: int = 0, given: str = "") -> Printed:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as process:
            process.setattr(cache, "_memory", cache.Memory())
            process.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            process.setattr(sys, "stdout", sys.stdout)  # main() replaces it
            try:
                ended: object = main([str(each) for each in arguments])
            except SystemExit as error:
                ended = error.code
        printed = Printed(*capsys.readouterr())
        assert ended == exit_code, printed
        return printed

    return run


@pytest.fixture
def kwargs(aws: AwsStandIn, tmp_path: Path) -> dict[str, Any]:
    del aws
    return build_kwargs(tmp_path)


@pytest.fixture
def file(kwargs: dict[str, Any], tmp_path: Path) -> tuple[str, str]:
    return write_kwargs(tmp_path, kwargs)


@pytest.fixture
def no_place(no_default_place: None, kwargs: dict[str, Any], file: tuple[str, str]) -> tuple[str, str]:
    """As ``file``, on a host where no folder can be used for the cache."""
    del no_default_place
    Path(kwargs["cache_dir"]).touch()
    return file


@pytest.fixture
def airflow(kwargs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_airflow(monkeypatch, tmp_path_factory.getbasetemp() / "airflow", kwargs)


def status(run: Run, *arguments: str) -> Any:
    return json.loads(run("status", "--output", "json", *arguments).stdout)

"""Streams that a command may have: of any encoding, closed or full."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.command_settings import EU_HOST, US_HOST
from tests.docker_logins import passwords
from tests.integration.commands import COMMAND, run, run_on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

#: Where a command's streams may lead, its exit code if it works, and what is printed on standard error.
STREAMS = [
    (">&-", 1, "Cannot write to standard output: Bad file descriptor"),
    (">/dev/full", 1, "Cannot write to standard output: No space left on device"),
    ("| true", 1, ""),
    ("2>&-", 0, ""),
    ("2>/dev/full", 0, ""),
    ("<&-", 0, ""),
    ("<&- >&- 2>&-", 1, ""),
    (">/dev/full 2>/dev/full", 1, ""),
]

ENCODINGS = {
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture
def file(aws: AwsStandIn, tmp_path: Path) -> tuple[str, str]:
    """The arguments that have a command read the kwargs from a file."""
    del aws
    connections = {"docker_default": US_HOST, "docker_eu": EU_HOST}
    path = tmp_path / "kwargs.json"
    path.write_text(json.dumps({"connections": connections, "cache_dir": str(tmp_path / "cache")}))
    return "--backend-kwargs", str(path)


def run_with(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command from a shell that leads its streams elsewhere, with bash's exit code of the command itself."""
    line = f"set -o pipefail; {shlex.join([*COMMAND, *arguments])} {redirection}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        ("token docker_default", ""),
        ("token docker_default", "1"),  # as most images have it
        ("status --output json", ""),
        ("status", ""),
        ("clear", ""),
        ("--help", ""),
        ("--help", "1"),
    ],
)
def test_a_stream_may_be_closed_or_full(
    command: str, unbuffered: str, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a failure only of a command that has something to print there."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    arguments = [*command.split(), *(file if command != "--help" else ())]
    run("token", "docker_default", *file)
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda each: run_with(each[0], *arguments), STREAMS))

    for (redirection, exit_code, line), done in zip(STREAMS, ended, strict=True):
        if (command, redirection) == ("--help", "| true"):
            continue  # argparse is content if nobody reads that
        assert done.returncode == exit_code, redirection
        assert line in done.stderr
        assert done.stderr.count("\n") == bool(line)


def test_docker_config_needs_no_standard_output(file: tuple[str, str], tmp_path: Path) -> None:
    """A service manager or cron may close it."""
    done = run_with(">&-", "docker-config", "--config", str(tmp_path / "docker"), *file)

    assert done.returncode == 0
    assert passwords(tmp_path / "docker/config.json")


def test_kwargs_that_may_not_be_read_are_one_line() -> None:
    """They are to come from standard input, which is closed."""
    done = run_with("<&-", "status", "--backend-kwargs", "-")

    assert done.returncode == 2
    assert done.stderr.startswith("ecr-secrets-backend status: standard input is not JSON")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_pipe_may_be_of_any_encoding(name: str, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """ASCII takes the place of what an encoding does not have, in results and in errors."""
    for variable, value in ENCODINGS[name].items():
        monkeypatch.setenv(variable, value)
    checked = run("check", "--image", "app:1", *file, exit_code=1)
    failed = run("token", "docker_…", *file, exit_code=2)

    assert marks(checked.stdout) == ({"✓", "✗", "→"} if name == "utf-8" else {"+", "x", ">"})
    assert failed.stderr.count("\n") == 1
    assert (checked.stdout + failed.stderr).isascii() is (name != "utf-8")


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_terminal_may_be_of_any_encoding(name: str, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, marks and what shows that the command waits."""
    run("token", "docker_default", *file)
    for variable, value in {"TERM": "xterm", "NO_COLOR": "1", **ENCODINGS[name]}.items():
        monkeypatch.setenv(variable, value)
    checked = run_on_terminal("check", "--image", "app:1", *file, exit_code=1)
    table = run_on_terminal("status", *file)

    assert marks(checked) == ({"✓", "✗", "→"} if name == "utf-8" else {"+", "x", ">"})
    assert (checked + table).isascii() is (name != "utf-8")
    assert "\\u" not in checked + table


def test_kwargs_are_in_utf_8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON is."""
    for variable, value in ENCODINGS["C"].items():
        monkeypatch.setenv(variable, value)
    given = json.dumps({"connections": {"docker_ü": US_HOST}}, ensure_ascii=False)
    done = run("token", "docker", "--backend-kwargs", "-", exit_code=2, given=given)

    assert r"connections.docker_\xfc is not the ID of an Airflow connection" in done.stderr


def marks(text: str) -> set[str]:
    """Find the marks that begin a step of ``check``, or what to do about it."""
    return set(re.findall(r"(?<!\S)[✓✗→+x>](?= )", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", text)))

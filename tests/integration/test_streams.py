"""The streams of a command: in any encoding, closed or full."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.command_settings import US_HOST
from tests.docker_logins import passwords
from tests.integration.commands import COMMAND, run, run_on_terminal

if TYPE_CHECKING:
    from pathlib import Path


#: A redirection, the exit code of a command that works, and its line on standard error.
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
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_with(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that redirects its streams; the exit code is the command's own."""
    line = f"set -o pipefail; {shlex.join([*COMMAND, *arguments])} {redirection}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "unbuffered"),  # unbuffered as in most images
    [("token docker_default", ""), ("token docker_default", "1"), ("status", ""), ("--help", ""), ("--help", "1")],
)
def test_a_stream_may_be_closed_or_full(
    command: str, unbuffered: str, file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a command that prints to it fails, with at most one line."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    arguments = [*command.split(), *(file if command != "--help" else ())]
    run("token", "docker_default", *file)
    for redirection, exit_code, line in STREAMS:
        if (command, redirection) != ("--help", "| true"):  # argparse ignores this
            done = run_with(redirection, *arguments)
            assert done.returncode == exit_code, redirection
            assert line in done.stderr
            assert done.stderr.count("\n") == bool(line)


def test_docker_config_needs_no_standard_output(file: tuple[str, str], tmp_path: Path) -> None:
    """A service manager or cron may close it."""
    done = run_with(">&-", "docker-config", "--config", str(tmp_path / "docker"), *file)

    assert done.returncode == 0
    assert passwords(tmp_path / "docker/config.json")


@pytest.mark.parametrize(
    "encoding", [{"LC_ALL": "C.UTF-8"}, {"PYTHONIOENCODING": "latin-1"}, C_LOCALE], ids=["utf-8", "latin-1", "C"]
)
def test_a_pipe_or_a_terminal_may_have_any_encoding(
    encoding: dict[str, str], file: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASCII replaces the characters that it does not have, in results, errors, tables and marks."""
    is_utf_8 = "C.UTF-8" in encoding.values()
    run("token", "docker_default", *file)
    for variable, value in {"TERM": "xterm", "NO_COLOR": "1", **encoding}.items():
        monkeypatch.setenv(variable, value)
    checked = run("check", "--image", "app:1", *file, exit_code=1).stdout
    failed = run("token", "docker_…", *file, exit_code=2).stderr
    checked_on_terminal = run_on_terminal("check", "--image", "app:1", *file, exit_code=1)
    table = run_on_terminal("status", *file)

    for text in (checked, checked_on_terminal):
        begins = re.findall(r"(?<!\S)[✓✗→+x>](?= )", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", text))
        assert set(begins) == ({"✓", "✗", "→"} if is_utf_8 else {"+", "x", ">"})
    assert failed.count("\n") == 1
    assert (checked + failed).isascii() is not is_utf_8
    assert (checked_on_terminal + table).isascii() is not is_utf_8
    assert "\\u" not in checked_on_terminal + table


def test_kwargs_are_utf_8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON is."""
    for variable, value in C_LOCALE.items():
        monkeypatch.setenv(variable, value)
    given = json.dumps({"connections": {"docker_ü": US_HOST}}, ensure_ascii=False)
    done = run("token", "docker", "--backend-kwargs", "-", exit_code=2, given=given)

    assert r"connections.docker_\xfc is not the ID of an Airflow connection" in done.stderr

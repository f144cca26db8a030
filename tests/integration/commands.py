"""The commands, as users run them: in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "ecr_secrets_backend")
#: Runs a command with a controlling terminal of its own, and prints the output of the terminal.
ON_TERMINAL = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"


def run(*arguments: str | Path, exit_code: int = 0, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """
    Run a command to its end, with the environment that this process has now.

    :param exit_code: the expected one
    :param given: its standard input
    """
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, input=given or "", timeout=50
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_on_terminal(*arguments: str | Path, exit_code: int = 0) -> str:
    """Run a command to its end on a terminal without input, and return the terminal's output."""
    command = [sys.executable, "-c", ON_TERMINAL, *COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = process.stdout.read()
    assert process.returncode == exit_code, shown
    return shown

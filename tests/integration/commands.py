"""The commands, as users run them: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "ecr_secrets_backend")
WAIT_SECONDS = 30.0


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


#: Runs a command with a controlling terminal of its own, and prints the output of the terminal.
_ON_TERMINAL = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"


def run_on_terminal(*arguments: str | Path, exit_code: int = 0) -> str:
    """Run a command to its end on a terminal without input, and return the terminal's output."""
    command = [sys.executable, "-c", _ON_TERMINAL, *COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = process.stdout.read()
    assert process.returncode == exit_code, shown
    return shown


class Watch:
    """A command that runs until it is ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @classmethod
    @contextmanager
    def running(cls, *arguments: str | Path) -> Iterator[Watch]:
        """Start a command that ends with the block."""
        with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=os.environ) as process:
            watch = cls(process)
            try:
                yield watch
            finally:
                process.kill()
                watch._reader.join()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += iter(self.process.stderr.readline, "")

    def wait_for(self, what: str) -> None:
        """Wait until a line on standard error has this text."""
        wait(lambda: any(what in line for line in self.lines), self.process)

    def end(self, number: int) -> float:
        """Send a signal, and return the seconds until the command has ended."""
        started_at = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(WAIT_SECONDS)
        self._reader.join()
        return time.monotonic() - started_at


def wait(check: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a check passes; fail if it takes too long, or if the process has ended before."""
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not check():
        assert time.monotonic() < give_up_at, "not yet"
        assert process is None or process.poll() is None, "the command has ended"
        time.sleep(0.02)

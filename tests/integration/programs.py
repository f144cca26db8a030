"""Programs of the tests: for what must not happen in pytest's process, such as a fork beside threads."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def call(function: Callable[..., Result], **arguments: Any) -> Result:
    """Call a function of a module in a new process, and return its result when all processes that it started ended."""
    order = json.dumps([function.__module__, function.__name__, arguments])
    command = [sys.executable, "-m", __name__, order]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as program:
        try:
            output, _ = program.communicate()
        finally:
            with suppress(ProcessLookupError):  # all have ended by themselves
                os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == 0
    answer = output.splitlines()[-1]  # Airflow may have printed lines before
    result: Result = pickle.loads(base64.b64decode(answer))  # noqa: S301 - from the process that we started
    return result


def main() -> None:
    module, name, arguments = json.loads(sys.argv[1])
    result = getattr(import_module(module), name)(**arguments)
    sys.stdout.write(base64.b64encode(pickle.dumps(result)).decode())


if __name__ == "__main__":
    main()

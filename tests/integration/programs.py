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
    answer = run(__name__, function=[function.__module__, function.__name__], arguments=arguments)
    result: Result = pickle.loads(base64.b64decode(answer))  # noqa: S301 - from the process that we started
    return result


def run(module: str, **order: Any) -> Any:
    """Run a module with ``python -m``, wait for all processes that it starts, and return what it reports."""
    command = [sys.executable, "-m", module, json.dumps(order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as program:
        try:
            output, _ = program.communicate()
        finally:
            with suppress(ProcessLookupError):  # all have ended by themselves
                os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == 0
    return json.loads(output.splitlines()[-1])  # Airflow may have printed lines before


def order() -> Any:
    """In a program: return what :func:`run` was called with."""
    return json.loads(sys.argv[1])


def report(result: Any) -> None:
    """In a program: pass the result to :func:`run`, once, at the end."""
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()


def main() -> None:
    wanted = order()
    module, name = wanted["function"]
    function = getattr(import_module(module), name)
    report(base64.b64encode(pickle.dumps(function(**wanted["arguments"]))).decode())


if __name__ == "__main__":
    main()

"""Programs of the tests' own, for what must not be done to pytest's process: to fork crowds, or to fork beside threads.

Each is a module that is run with ``python -m``, reads its order, and tells what it has seen.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any


def run(module: str, **order: Any) -> Any:
    """Run a program to its end, and the end of all processes that it has started.

    :param module: its name
    :param order: what it finds as :func:`order`
    :return: what it has given to :func:`report`
    """
    command = [sys.executable, "-m", module, json.dumps(order)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as program:
        try:
            output, _ = program.communicate()
        finally:
            with suppress(ProcessLookupError):  # all have ended by themselves
                os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == 0
    return json.loads(output.splitlines()[-1])  # Airflow may have had something to say before


def order() -> Any:
    """In a program: give what it is to do."""
    return json.loads(sys.argv[1])


def report(result: Any) -> None:
    """In a program: say, at the end, what it has seen."""
    sys.stdout.write(json.dumps(result))
    sys.stdout.flush()

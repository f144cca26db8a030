"""Airflow's task timeout, which may raise an exception between any two steps of a lookup."""

from __future__ import annotations

import linecache
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import ecr_secrets_backend
from ecr_secrets_backend.private_files import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = str(Path(ecr_secrets_backend.__file__).parent)
OPENS_OR_CLOSES = {Descriptor.__init__.__code__, Descriptor.close.__code__}


class TaskTimeoutError(BaseException):
    """What Airflow raises from a signal handler."""


def interrupt(work: Callable[[], object], step: int, *, within_lines: bool = False) -> bool:
    """Raise at a line of the package, counted as they run; return whether the work has so many lines.

    The end of a with block is no line: Python looks for signals after the last call in the block, and then not before
    it has left the block.

    :param within_lines: raise at each bytecode, too, where a file is opened or closed
    """
    left, blocks = [step], set()

    def trace(frame: Any, event: str, _: object) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if not place[0].startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = within_lines and frame.f_code in OPENS_OR_CLOSES
        if event in {"line", "opcode"} and (id(frame), place) not in blocks:
            if linecache.getline(*place).lstrip().startswith("with "):
                blocks.add((id(frame), place))
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise TaskTimeoutError
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            with suppress(TaskTimeoutError):
                work()
        finally:
            sys.settrace(None)

    # In a new thread, because an exception within an except clause may leave the other one behind in its thread. Python
    # ignores an exception in __del__.
    with patch("sys.unraisablehook"), ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()
    return left[0] < 0

"""What commands print, and where: for people by rich, for programs as JSON."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Final, TextIO

from ecr_secrets_backend.errors import EcrSecretsBackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

#: Without a terminal, lines are not broken to fit one: in a log, people search for whole names.
UNBOUNDED_COLUMNS: Final = 1000

#: What is printed for a character that the encoding of a stream does not have. Any other is escaped.
_IN_ASCII: Final = {"✓": "+", "✗": "x", "→": ">", "…": "..."}
_ERRORS: Final = "ecr_secrets_backend"  # the name of that, among Python's handlers of encoding errors


class OutputError(EcrSecretsBackendError):
    """Standard output does not take the command's result.

    :param cause: the error of the system
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"Cannot write to standard output: {self.cause.strerror}"


class Output:
    """Standard output, for the command's result alone.

    Colours are left to rich: there are none if the stream is not a terminal, or with ``NO_COLOR``.

    :param stream: standard output
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @cached_property
    def _console(self) -> Console:
        return _console(self._stream)

    def text(self, text: str) -> None:
        """Print a line as it is."""
        with self._writing():
            self._stream.write(f"{text}\n")

    def json(self, value: object) -> None:
        """Print a value for programs."""
        self.text(json.dumps(value, indent=2))

    def show(self, *renderables: RenderableType) -> None:
        """Print for people."""
        with self._writing():
            with self._console.capture() as captured:
                for renderable in renderables:
                    self._console.print(renderable)
            self._stream.write(captured.get())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
            self._stream.flush()
        except OSError as error:
            _discard(self._stream)
            raise OutputError(error) from None

    @contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """Show at a terminal what the command waits for; print nothing to a file or a program."""
        if not sys.stderr.isatty():
            yield
            return
        with _console(sys.stderr).status(what, spinner="line"):  # the one of ASCII
            yield


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let the standard streams be of any encoding, closed or full: what cannot be printed ends in no traceback.

    :raises SystemExit: standard output did not take all that was printed
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        if getattr(sys, name) is None:  # it is closed
            # Writing to this standard output fails, because it is opened for reading, as to a closed one.
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    codecs.register_error(_ERRORS, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    stdout = sys.stdout
    try:
        try:
            yield
        finally:
            stdout.flush()  # Python flushes it later, and prints a traceback if that fails
    except OSError as error:
        _discard(stdout)
        if not isinstance(error, BrokenPipeError):
            report(f"ecr-secrets-backend: {OutputError(error)}\n")
        raise SystemExit(1) from None
    finally:
        report("")


def report(text: str) -> None:
    """Print on standard error, or nowhere if that is full."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Lead a stream nowhere, so that what it still holds does not fail when Python flushes it at the end."""
    with suppress(OSError):  # the stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    escaped = (_IN_ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in characters)
    return "".join(escaped), error.end


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(
        file=stream, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else UNBOUNDED_COLUMNS
    )


def iso_time(seconds: float) -> str:
    """Write a time for programs: ISO 8601, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Write a duration for people, in its two largest units."""
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

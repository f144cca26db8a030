"""Standard output and standard error: text and tables for people, JSON for programs."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, TextIO

from ecr_secrets_backend.errors import EcrSecretsBackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

#: Lines are not wrapped without a terminal, so that a search in a log finds whole names.
UNBOUNDED_COLUMNS: Final = 1000

#: Replacements for characters that the encoding of a stream does not have. Other characters are escaped.
_ASCII: Final = {"✓": "+", "✗": "x", "→": ">", "…": "..."}
_ENCODING_ERRORS: Final = "ecr_secrets_backend"


@dataclass(eq=False)
class OutputError(EcrSecretsBackendError):
    """The command's result cannot be written to standard output."""

    cause: OSError

    def __str__(self) -> str:
        return f"Cannot write to standard output: {self.cause.strerror}"


class Output:
    """Standard output, for the command's result alone.

    rich decides on colours: it uses none if the stream is not a terminal, or with ``NO_COLOR``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def text(self, text: str) -> None:
        """Print a line."""
        self._write(f"{text}\n")

    def json(self, value: object) -> None:
        """Print a JSON document."""
        self.text(json.dumps(value, indent=2))

    def show(self, *renderables: RenderableType) -> None:
        """Print text and tables for people."""
        console = _build_console(self._stream)
        with console.capture() as captured:
            for renderable in renderables:
                console.print(renderable)
        self._write(captured.get())

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            _redirect_to_null(self._stream)
            raise OutputError(error) from None

    @contextmanager
    def progress(self, message: str) -> Iterator[None]:
        """Show on a terminal why the command waits. Print nothing to a file or a pipe."""
        if not sys.stderr.isatty():
            yield
            return
        with _build_console(sys.stderr).status(message, spinner="line"):  # a spinner in ASCII
            yield


@contextmanager
def guard_standard_streams() -> Iterator[None]:
    """Accept standard streams of any encoding, closed or full: a failed write causes no traceback.

    :raises SystemExit: standard output cannot be written
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their descriptors
        if getattr(sys, name) is None:  # it is closed
            # Standard output is opened for reading, so that writing fails as it does on a closed stream.
            flags = os.O_WRONLY if name == "stderr" else os.O_RDONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    codecs.register_error(_ENCODING_ERRORS, _replace_with_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ENCODING_ERRORS)
    stdout = sys.stdout
    try:
        try:
            yield
        finally:
            stdout.flush()  # Python flushes it later, and prints a traceback if that fails
    except OSError as error:
        _redirect_to_null(stdout)
        if not isinstance(error, BrokenPipeError):
            print_error(f"ecr-secrets-backend: {OutputError(error)}\n")
        raise SystemExit(1) from None
    finally:
        print_error("")


def print_error(text: str) -> None:
    """Print on standard error. If that fails, print nothing."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _redirect_to_null(sys.stderr)


def _redirect_to_null(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that Python's flush of its buffer at exit does not fail."""
    with suppress(OSError):  # the stream of a test has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _replace_with_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    replaced = (_ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in characters)
    return "".join(replaced), error.end


def _build_console(stream: TextIO) -> Console:
    from rich.console import Console

    width = None if stream.isatty() else UNBOUNDED_COLUMNS
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def iso_time(seconds: float) -> str:
    """Return a time in ISO 8601, in UTC and whole seconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``11 h 59 min``."""
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"

"""What commands print: for people by rich, for programs as JSON."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

#: Where there is no terminal, lines are not broken to fit one: whoever reads a log searches for whole names in it.
UNBOUNDED_COLUMNS: Final = 1000


class Output:
    """Standard output, kept for the command's result, and standard error for all that is said on the way.

    Colours are rich's business: there are none where the stream is no terminal, nor with ``NO_COLOR``.

    :param stream: standard output
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @cached_property
    def _console(self) -> Console:
        return _console(self._stream)

    def text(self, text: str) -> None:
        """Print a line as it is."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def json(self, value: object) -> None:
        """Print a value for programs."""
        self.text(json.dumps(value, indent=2))

    def show(self, *renderables: RenderableType) -> None:
        """Print for people."""
        for renderable in renderables:
            self._console.print(renderable)
        self._stream.flush()

    @contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """Tell a person at a terminal what is being waited for; say nothing to a file or a program."""
        if not sys.stderr.isatty():
            yield
            return
        with _console(sys.stderr).status(what):
            yield


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

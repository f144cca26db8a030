from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.table import Table

from ecr_secrets_backend.cli import output
from ecr_secrets_backend.cli.output import Output, guard_standard_streams


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s")),
        *((3600, "1 h 0 min"), (43_140, "11 h 59 min"), (90_000, "1 d 1 h")),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    """Seconds are rounded first, so that there are never sixty of them."""
    assert output.duration(seconds) == text


def test_a_time_is_in_utc_and_whole_seconds() -> None:
    assert output.iso_time(1_800_000_000.9) == "2027-01-15T08:00:00+00:00"


def test_a_name_is_not_wrapped_without_a_terminal() -> None:
    stream = io.StringIO()
    table = Table("name")
    table.add_row("long " * 60)
    Output(stream).show(table)

    assert "long " * 60 in stream.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_shown_on_a_terminal_alone(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with Output(io.StringIO()).progress("Waiting for AWS"):
        pass

    assert ("Waiting for AWS" in stream.getvalue()) is is_terminal


def test_a_reader_that_has_left_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And an error that cannot be printed is lost."""
    with pytest.raises(SystemExit), guard_standard_streams():
        raise BrokenPipeError
    assert capsys.readouterr().err == ""
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        output.print_error("lost")


def test_ascii_replaces_characters_that_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    with guard_standard_streams():
        sys.stdout.write("✓ ✗ → … ü")

    assert content.getvalue() == rb"+ x > ... \xfc"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", sys.stdout.errors or "")

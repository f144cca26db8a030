from __future__ import annotations

import io
import json

import pytest
from rich.table import Table

from ecr_secrets_backend.cli.output import Output, duration, iso_time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (43_140, "11 h 59 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_is_printed_in_its_two_largest_units(seconds: float, text: str) -> None:
    """Rounded to seconds first, so that there are never sixty of them."""
    assert duration(seconds) == text


def test_a_time_is_printed_in_utc() -> None:
    """Whole seconds, with the offset."""
    assert iso_time(1_800_000_000.9) == "2027-01-15T08:00:00+00:00"


def test_programs_get_json() -> None:
    """And nothing else."""
    stream = io.StringIO()
    Output(stream).json({"a": [1]})

    assert json.loads(stream.getvalue()) == {"a": [1]}


def test_a_name_is_never_broken_without_a_terminal() -> None:
    """A search in a log finds it."""
    stream = io.StringIO()
    table = Table("name")
    table.add_row("long " * 60)
    Output(stream).show(table)

    assert "long " * 60 in stream.getvalue()


def test_progress_is_for_people_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A file or a program gets nothing of it."""
    with Output(io.StringIO()).progress("waiting"):
        pass

    assert capsys.readouterr() == ("", "")

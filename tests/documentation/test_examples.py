"""The page of the examples and their folder say the same."""

from __future__ import annotations

import re

from tests.documentation.pages import PROJECT

PAGE = (PROJECT / "docs/examples.md").read_text()


def test_every_example_is_told() -> None:
    """By its path, and none that there is not; the demo, which is a program, is told as a whole."""
    there = {str(path.relative_to(PROJECT)) for path in (PROJECT / "examples").rglob("*") if path.is_file()}
    examples = {path for path in there if "__" not in path and not path.startswith("examples/demo/")}

    assert set(re.findall(r"(?m)^\| `(examples/.*?)`", PAGE)) == examples


def test_every_section_of_examples_names_the_test_that_runs_them() -> None:
    """By its file."""
    sections = [section for section in re.split(r"(?m)^## ", PAGE) if "| `examples/" in section]

    assert [section for section in sections if "`tests/" not in section] == []

"""The structure of some pages, and the drawings."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.__main__ import PAGE, RECORDED
from tests.benchmarks.page import render
from tests.documentation.pages import PROJECT, name_of

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = (PROJECT / "docs/examples.md").read_text()
MIGRATION = (PROJECT / "docs/migration.md").read_text()
GUIDES = dict(re.findall(r"(?ms)^## From (?:an? )?(.*?)\n(.*?)(?=^## |\Z)", MIGRATION))


@pytest.mark.parametrize("guide", GUIDES)
def test_every_migration_guide_has_the_same_steps(guide: str) -> None:
    assert re.findall(r"(?m)^- \*\*(.+?)\*\*: \S", GUIDES[guide]) == ["Delete", "Set", "Check", "Go back"]


@pytest.mark.parametrize("solution", ["refresh DAG", "airflow-ecr-plugin", "cron", "sidecar", "credential helper"])
def test_every_other_solution_is_compared_and_has_a_guide(solution: str) -> None:
    tables = re.split(r"(?m)^## ", (PROJECT / "docs/comparison.md").read_text())[1:]
    named = re.escape(solution).replace(r"\ ", "[ -]")

    assert [table.partition("\n")[0] for table in tables if not re.search(rf"(?m)^\| [^|]*{named}", table)] == []
    assert len([guide for guide in GUIDES if re.search(named, guide)]) == 1


@pytest.mark.parametrize("drawing", sorted((PROJECT / "docs").rglob("*.svg")), ids=name_of)
def test_no_drawing_loads_anything(drawing: Path) -> None:
    """An image in a page cannot load fonts, styles or other images."""
    text = drawing.read_text()

    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script|href=\"(?!#)[^\"]*\"", text) == []


def test_the_performance_page_shows_the_recorded_run() -> None:
    page = PAGE.read_text()

    assert render(page, json.loads(RECORDED.read_text())) == page


def test_every_example_is_documented() -> None:
    """The demo is a program, so its files are not listed."""
    there = {str(path.relative_to(PROJECT)) for path in (PROJECT / "examples").rglob("*") if path.is_file()}
    examples = {path for path in there if "__" not in path and not path.startswith("examples/demo/")}

    assert set(re.findall(r"(?m)^\| `(examples/.*?)`", EXAMPLES)) == examples


def test_every_section_of_examples_names_the_test_that_runs_them() -> None:
    sections = [section for section in re.split(r"(?m)^## ", EXAMPLES) if "| `examples/" in section]

    assert [section for section in sections if "`tests/" not in section] == []

"""The pages' links, the files and tests that they name, and their drawings."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.__main__ import PAGE, RECORDED
from tests.benchmarks.page import render
from tests.documentation.pages import PAGES, PROJECT, name_of, tokens

if TYPE_CHECKING:
    from pathlib import Path

NAMED = [token.content for page in PAGES for token in tokens(page) if token.type == "code_inline"]
FILE = re.compile(r"(tests|examples|docs|ecr_secrets_backend)/[\w./-]+")
TEST = re.compile(r"(test_\w+|Test[A-Z]\w+)(\.py)?")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub creates them. MkDocs' strict build checks its own."""
    titles = [text for heading, text in pairwise(tokens(page)) if heading.type == "heading_open"]
    words = ["".join(part.content for part in title.children or ()).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_works(page: Path) -> None:
    """It leads to a file of the project, to an existing heading, or to another site with TLS."""
    lost = []
    for link in [str(token.attrs.get("href", token.attrs.get("src", ""))) for token in tokens(page) if token.attrs]:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_here = target.exists() and PROJECT in (target, *target.parents)
        if not link.startswith("https://") and not (is_here and (not anchor or anchor in anchors(target))):
            lost.append(link)

    assert lost == []


def test_every_named_file_exists() -> None:
    assert [name for name in NAMED if FILE.fullmatch(name) and not (PROJECT / name).exists()] == []


def test_every_named_test_exists() -> None:
    """As a module, a class or a function."""
    modules = list((PROJECT / "tests").rglob("test_*.py"))
    known = {path.stem for path in modules}.union(
        *(re.findall(r"(?m)^ *(?:async )?(?:def|class) ([Tt]est\w+)", path.read_text()) for path in modules)
    )
    named = {match[1] for match in map(TEST.fullmatch, NAMED) if match}

    assert len(named) > 30
    assert named - known == set()


def test_every_example_is_documented() -> None:
    """The demo is a program, so its files are not listed."""
    there = {str(path.relative_to(PROJECT)) for path in (PROJECT / "examples").rglob("*") if path.is_file()}
    page = (PROJECT / "docs/examples.md").read_text()

    assert set(re.findall(r"(?m)^\| `(examples/.*?)`", page)) == {
        path for path in there if "__" not in path and not path.startswith("examples/demo/")
    }


def test_every_migration_guide_has_the_same_steps() -> None:
    _, *guides = re.split(r"(?m)^## From ", (PROJECT / "docs/migration.md").read_text())

    assert guides
    for guide in guides:
        assert re.findall(r"(?m)^- \*\*(.+?)\*\*: \S", guide) == ["Delete", "Set", "Check", "Go back"]


@pytest.mark.parametrize("drawing", sorted((PROJECT / "docs").rglob("*.svg")), ids=name_of)
def test_no_drawing_loads_anything(drawing: Path) -> None:
    """An image in a page cannot load fonts, styles or other images."""
    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script|href=\"(?!#)[^\"]*\"", drawing.read_text()) == []


def test_the_performance_page_shows_the_recorded_run() -> None:
    page = PAGE.read_text()

    assert render(page, json.loads(RECORDED.read_text())) == page

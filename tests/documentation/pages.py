"""The pages, and their tables, blocks of code and commands, which tests can try."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markdown_it import MarkdownIt  # comes with rich

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
MARKDOWN = MarkdownIt().enable("table")
SEPARATORS = "\n&;<>|"
#: The types of the metrics on ``docs/metrics.md``, by name: ``counter``, ``timer`` or ``gauge``.
METRICS = dict(re.findall(r"(?m)^\| `(ecr_\S+)` \| (\w+) \| .+ \|$", (PROJECT / "docs/metrics.md").read_text()))


class Block(NamedTuple):
    """A block of code. Its place is the page and the number of the block."""

    place: str
    language: str
    code: str


class Command(NamedTuple):
    """A command or its synopsis. Its place is a page, or a block on it."""

    place: str
    words: tuple[str, ...]


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@cache
def tokens(page: Path) -> list[Token]:
    """Parse a page, including its inline text."""
    return [each for token in MARKDOWN.parse(page.read_text()) for each in (token, *(token.children or ()))]


def blocks(pages: Iterable[Path] = PAGES) -> Iterator[Block]:
    for page in pages:
        fences = [token for token in tokens(page) if token.type == "fence"]
        for number, fence in enumerate(fences):
            yield Block(f"{name_of(page)}:{number}", fence.info, fence.content)


def documents(page: str) -> list[Any]:
    """Parse the blocks of JSON on a page."""
    return [json.loads(block.code) for block in blocks([PROJECT / page]) if block.language == "json"]


def section(page: str, heading: str) -> str:
    """Return the text below a heading of the second level, which may begin with these words."""
    _, _, rest = (PROJECT / page).read_text().partition(f"\n## {heading}")
    return rest.partition("\n## ")[0]


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its header."""
    rows = re.search(r"(?m)(?:^\|.*\|\n)+", section(page, heading))
    assert rows is not None
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[0].splitlines()[2:]]


def commands(*programs: str) -> list[Command]:
    """Find the commands of some programs in shell blocks, after prompts, and between backticks."""
    texts = [
        (block.place, block.code if block.language == "sh" else "\n".join(re.findall(r"(?m)^\$ (.*)", block.code)))
        for block in blocks()
    ]
    for page in PAGES:
        inline = [token.content for token in tokens(page) if token.type == "code_inline"]
        texts += [(name_of(page), text) for text in inline if text.split(" ")[0] in programs and " " in text]
    found = {Command(place, words) for place, text in texts for words in split(text)}
    return sorted(command for command in found if command.words[0] in programs)


def split(text: str) -> Iterator[tuple[str, ...]]:
    """Split shell code into commands. A synopsis has all optional arguments, and the first of each choice."""
    text = re.sub(r"\[((?:-|[A-Z]).*?)\]", r"\1", text.replace("\\\n", "")).replace("...", "")
    lexer = shlex.shlex(re.sub(r"(\w)\|\w+", r"\1", text), posix=True, punctuation_chars=SEPARATORS)
    lexer.whitespace, lexer.whitespace_split = " \t", True
    for is_separator, words in groupby(lexer, lambda word: set(word) <= set(SEPARATORS)):
        if not is_separator:
            yield tuple(words)

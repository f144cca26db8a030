"""The pages, and their blocks of code, commands and links, which tests can try."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), *(PROJECT / "examples").rglob("*.md")])
FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
#: Text between backticks, which may be wrapped.
INLINE = re.compile(r"(`+)(?!`)((?:[^`\n]|\n(?!\n))+)\1(?!`)")
OPERATORS = {"|", "||", "&&", ";", "&"}


class Block(NamedTuple):
    """A fenced block of code.

    :param place: the page and the number of the block
    """

    place: str
    language: str
    code: str


class Command(NamedTuple):
    """A command on a page, or its synopsis.

    :param place: the page
    """

    place: str
    words: tuple[str, ...]


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def blocks(pages: Iterable[Path] = PAGES) -> Iterator[Block]:
    """Find all blocks, also those in lists."""
    for page in pages:
        for number, (_, language, code) in enumerate(FENCED.findall(page.read_text())):
            yield Block(f"{name_of(page)}:{number}", language, dedent(code))


def table(page: str, heading: str) -> list[list[str]]:
    """Read the first table below a heading of a page, without its header."""
    _, _, rest = (PROJECT / page).read_text().partition(f"\n## {heading}")
    rows = re.search(r"(?:^\|.*\|\n)+", rest.partition("\n## ")[0], re.MULTILINE)
    assert rows is not None
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[0].splitlines()[2:]]


def prose(page: Path) -> str:
    """Read a page without its blocks."""
    return FENCED.sub("", page.read_text())


def commands(*programs: str) -> Iterator[Command]:
    """Find the commands of some programs in shell blocks, after prompts, and between backticks."""
    for block in blocks():
        if block.language in {"sh", "bash"}:
            joined = re.sub(r"(?m)='[^']*'$", lambda value: value[0].replace("\n", " "), block.code)
            lines = joined.replace("\\\n", " ").splitlines()
        else:
            lines = re.findall(r"(?m)^\$ (.*)$", block.code)
        for line in lines:
            yield from _commands(block.place, line, programs)
    for page in PAGES:
        for _, text in INLINE.findall(prose(page)):
            if text.startswith(tuple(f"{program} " for program in programs)):
                yield from _commands(name_of(page), " ".join(text.split()), programs)


def _commands(place: str, line: str, programs: tuple[str, ...]) -> Iterator[Command]:
    # A synopsis is tried with all optional parts, and with the first of each choice.
    shown = re.sub(r"\[(.*?)\]", r"\1", line).replace("...", "") if "[-" in line or "[A-Z" in line else line
    lexer = shlex.shlex(re.sub(r"(\w)\|\w+", r"\1", shown), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in OPERATORS:
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            del words[0]
        if words and Path(words[0]).name in programs:
            yield Command(place, (Path(words[0]).name, *words[1:]))
        words = []

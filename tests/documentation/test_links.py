"""Every link within the project works, on GitHub and on the built site."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.documentation.pages import INLINE, PAGES, PROJECT, name_of, prose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)|<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]+)\"", re.MULTILINE
)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def links(page: Path) -> Iterator[str]:
    """Find the links and images of a page, in Markdown and HTML."""
    for match in LINK.finditer(INLINE.sub("", prose(page))):
        yield next(filter(None, match.groups()))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub creates them. MkDocs' strict build checks its own."""
    found: set[str] = set()
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(next(each for each in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if each not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_works(page: Path) -> None:
    """It leads to a file or folder of the project, and to an existing heading."""
    lost = []
    for link in links(page):
        if re.match(r"[a-z][a-z+.-]*:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or PROJECT not in target.parents or (anchor and anchor not in anchors(target)):
            lost.append(link)

    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_external_link_uses_tls(page: Path) -> None:
    """Tests do not use the network, so its target is not checked."""
    outside = [link for link in links(page) if re.match(r"[a-z][a-z+.-]*:", link)]

    assert [link for link in outside if not re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/\S*)?", link)] == []

"""Find secrets in texts."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LEAK_CHARACTERS = 40  # so many characters of a secret are a leak: logs cut long lines


def find_leaks(secrets: Iterable[str], texts: Iterable[tuple[str, str]]) -> list[str]:
    """
    Return the places with the beginning or the end of a secret, plain or quoted for a URL.

    :param texts: each after its place
    """
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
    parts = {part for form in forms for part in (form[:LEAK_CHARACTERS], form[-LEAK_CHARACTERS:])}
    return sorted({place for place, text in texts if any(part in text for part in parts)})


def read_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the text of each file, after its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name, path.read_text(errors="replace")

"""What users copy out of the pages is right."""

from __future__ import annotations

import json
import re
from configparser import RawConfigParser
from pathlib import Path

import pytest

from ecr_secrets_backend.settings import Settings

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}:{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```ini\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_configuration_is_taken(block: str) -> None:
    """Each block of ini, read as Airflow reads its configuration."""
    parser = RawConfigParser()
    parser.read_string(block)
    kwargs = [
        json.loads(value)
        for section in parser.values()
        for name, value in section.items()
        if name.endswith("backend_kwargs")
    ]

    assert [Settings.parse(each).connections for each in kwargs]

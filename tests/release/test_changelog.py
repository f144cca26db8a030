"""The changelog has the form of `Keep a Changelog`, and agrees with the version."""

from __future__ import annotations

import re
from datetime import date

from packaging.version import Version

import ecr_secrets_backend
from tests.release.conftest import PROJECT

CHANGELOG = (PROJECT / "CHANGELOG.md").read_text()
#: Source: Keep a Changelog 1.1.0, in its order.
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
HEADING = re.compile(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})")


def sections() -> dict[str, str]:
    """Return the text below each heading of a release."""
    _, *found = re.split(r"(?m)^## ", CHANGELOG)
    return {section.partition("\n")[0]: section.partition("\n")[2] for section in found}


def test_unreleased_changes_come_first() -> None:
    """The text before them names the form of the page and of the versions."""
    assert CHANGELOG.startswith("# Changelog\n")
    assert "https://keepachangelog.com/en/1.1.0/" in CHANGELOG
    assert "https://semver.org/" in CHANGELOG
    assert next(iter(sections())) == "[Unreleased]"


def test_every_change_has_a_kind() -> None:
    """Each kind comes once in a release, in the standard order, and is not empty."""
    for section in sections().values():
        before, *kinds = re.split(r"(?m)^### ", section)
        names = [kind.partition("\n")[0] for kind in kinds]
        assert before.strip() == ""
        assert names == [kind for kind in KINDS if kind in names]
        assert all(re.match(r"\w+\n\n- \S", kind) for kind in kinds)


def test_releases_are_sorted() -> None:
    """Each has a version and a date, the newest first, and none is newer than the package."""
    headings = [HEADING.fullmatch(heading) for heading in list(sections())[1:]]
    releases = [(Version(heading[1]), date.fromisoformat(heading[2])) for heading in headings if heading]
    versions = [version for version, _ in releases]

    assert len(releases) == len(headings)
    assert releases == sorted(releases, reverse=True)
    assert len({*versions}) == len(versions)
    assert all(version <= Version(ecr_secrets_backend.__version__) for version in versions)

"""The reference documents all public names, and no others."""

from __future__ import annotations

import re

import ecr_secrets_backend
from ecr_secrets_backend import errors
from tests.documentation.pages import PROJECT


def test_all_public_names_are_documented() -> None:
    """The version has no docstring, so a sentence names it."""
    page = (PROJECT / "docs/reference.md").read_text()
    documented = {*re.findall(r"(?m)^::: (\S+)$", page), *re.findall(r"`(ecr_secrets_backend\.\w+)`", page)}
    public = {f"{module.__name__}.{name}" for module in (ecr_secrets_backend, errors) for name in module.__all__}

    assert documented == public

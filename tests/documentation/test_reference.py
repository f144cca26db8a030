"""The reference of the Python API is of all that is public, and of nothing else."""

from __future__ import annotations

import re

import ecr_secrets_backend
from ecr_secrets_backend import errors
from tests.documentation.pages import PROJECT


def test_all_that_is_public_is_told() -> None:
    """Built from the docstrings; the version, which has none, is told in a sentence."""
    page = (PROJECT / "docs/reference.md").read_text()
    told = {*re.findall(r"(?m)^::: (\S+)$", page), *re.findall(r"`(ecr_secrets_backend\.\w+)`", page)}
    public = {f"{module.__name__}.{name}" for module in (ecr_secrets_backend, errors) for name in module.__all__}

    assert told == public

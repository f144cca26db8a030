from __future__ import annotations

import pytest

from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.registry import Registry
from ecr_secrets_backend.settings import Settings
from tests.unit.builders import build_failure, build_token

SETTINGS = Settings.parse({"connections": {"docker_default": {}}, "fallback_backends": [{"backend": "a.B"}]})


@pytest.mark.parametrize(
    "value",
    [
        build_token(),
        build_failure(),
        Entry("a-key"),
        AwsIdentity("ecr", None),
        Registry.parse("public.ecr.aws"),
        SETTINGS,
        SETTINGS.connections["docker_default"],
        SETTINGS.fallback_backends[0],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_immutable(value: object) -> None:
    """Threads share them, so they are only replaced."""
    for name in type(value).__annotations__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)

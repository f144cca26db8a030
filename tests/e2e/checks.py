"""A place to run ``check`` end to end, and its findings there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.sites.world import World


@dataclass(frozen=True)
class Site:
    """Where the command runs.

    :param docker: the folder of Docker's configuration
    """

    world: World
    environment: Mapping[str, str]
    kwargs: Mapping[str, Any]
    folder: Path
    docker: Path

    def check(self, *arguments: str, exit_code: int = 1, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Run the command with the kwargs in a file, and return its findings."""
        file = self.folder / "kwargs.json"
        file.write_text(json.dumps(self.kwargs))
        command = (*prefix, "ecr-secrets-backend", "check", *arguments, "--backend-kwargs", str(file))
        done = self.world.run(*command, "--output", "json", environment=self.environment, exit_code=exit_code)
        assert "Traceback" not in done.stderr
        findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return findings

    def with_(self, **environment: str) -> Site:
        """Return the same site with further variables."""
        return replace(self, environment={**self.environment, **environment})

    def with_registry(self, registry: str | dict[str, str]) -> Site:
        """Return the same site with another registry for its connection."""
        return replace(self, kwargs={**self.kwargs, "connections": {"docker_default": registry}})


def pick(findings: list[dict[str, Any]], state: str) -> tuple[str, str, str]:
    """Return the step, code and text of the one finding that failed or warned."""
    (found,) = [finding for finding in findings if finding["state"] == state]
    return found["step"], found["code"], f"{found['message']}. {found['remedy']}"

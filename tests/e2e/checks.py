"""Where ``check`` is run end to end, and what it has found there."""

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
    """Where the command is run.

    :param docker: the folder of Docker's configuration
    """

    world: World
    environment: Mapping[str, str]
    kwargs: Mapping[str, Any]
    folder: Path
    docker: Path

    def check(self, *arguments: str, exit_code: int = 1, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Run it with the kwargs in a file, and give its findings."""
        (self.folder / "kwargs.json").write_text(json.dumps(self.kwargs))
        file = ("--backend-kwargs", str(self.folder / "kwargs.json"))
        return self.findings(*arguments, *file, exit_code=exit_code, prefix=prefix)

    def findings(self, *arguments: str, exit_code: int, prefix: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """Run it as it is."""
        command = (*prefix, "ecr-secrets-backend", "check", *arguments, "--output", "json")
        done = self.world.run(*command, environment=self.environment, exit_code=exit_code)
        assert "Traceback" not in done.stderr
        report = json.loads(done.stdout)
        assert report["ok"] is (exit_code == 0)
        findings: list[dict[str, Any]] = report["findings"]
        return findings

    def with_(self, **environment: str) -> Site:
        """Give the same site with further variables."""
        return replace(self, environment={**self.environment, **environment})

    def with_kwargs(self, **kwargs: Any) -> Site:
        """Give the same site with other kwargs."""
        return replace(self, kwargs={**self.kwargs, **kwargs})


def fault(findings: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Give the step, code and message with remedy of the one fault, where the way ends."""
    (failed,) = [finding for finding in findings if finding["state"] == "failed"]
    assert failed is findings[-1]
    assert failed["remedy"]
    return failed["step"], failed["code"], f"{failed['message']}. {failed['remedy']}"


def warning(findings: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Give the same of the one warning."""
    (warned,) = [finding for finding in findings if finding["state"] == "warning"]
    return warned["step"], warned["code"], f"{warned['message']}. {warned['remedy']}"

"""A new user follows `docs/getting-started.md` step by step and succeeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.release.conftest import PROJECT, UV, Distributions
from tests.sites.fixtures import REGISTRIES
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

HOST, *_ = REGISTRIES
PAGE = (PROJECT / "docs/getting-started.md").read_text()
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
(AIRFLOW,) = re.findall(r'"apache-airflow==([\d.]+)"', PAGE)
#: The package index of uv, on which the names in its cache depend.
INDEX = re.compile("UV_(CONFIG_FILE|DEFAULT_INDEX|EXTRA_INDEX_URL|INDEX|INDEX_URL)$")
FILE = re.compile(r"`(~/[\w./]+)`")
#: The next block inherits the variables of the shell.
SHELL = ". ./variables\nset -e\n{block}\nexport -p > variables\n"


@dataclass
class Person:
    """
    A user at a terminal.

    :param home: the home, which is also the working directory
    :param environment: the variables of the user's machine, such as credentials for AWS
    """

    world: World
    home: Path
    environment: dict[str, str]
    printed: list[str] = field(default_factory=list)

    def type(self, block: str) -> None:
        """Run the commands of a block."""
        script = SHELL.format(block=block)
        command = ("env", f"--chdir={self.home}", "bash", "-c", script)
        done = self.world.run(*command, environment=self.environment, timeout=120)
        self.printed.append(done.stdout + done.stderr)

    def write(self, name: str, text: str) -> None:
        """Write a new file."""
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def set(self, name: str, text: str) -> None:
        """Set options of a section."""
        path = self._path(name)
        heading, *settings = re.split(r"\n(?! )", text.rstrip("\n"))  # a value goes on in indented lines
        before, found, after = path.read_text().partition(f"\n{heading}\n")
        assert found
        for setting in settings:
            option, _, _ = setting.partition(" = ")
            line, *_ = re.findall(rf"\n{option} =.*\n", after)
            after = after.replace(line, f"\n{setting}\n", 1)
        path.write_text(before + found + after)

    def see(self, text: str) -> None:
        """Find these words, in this order, in the last output; "…" and numbers match anything."""
        words = [".*" if word == "…" else re.sub(r"\d+", r"\\d+", re.escape(word)) for word in text.split()]
        assert re.search(r"\s+".join(words), self.printed[-1], re.DOTALL), self.printed[-1]

    def _path(self, name: str) -> Path:
        return self.home / name.removeprefix("~/")


@pytest.fixture
def person(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, distributions: Distributions, tmp_path: Path
) -> Iterator[Person]:
    """Return a user in the world: the registry has the image of the page, and the wheel is available to uv."""
    del registries  # they accept the token
    image = f"127.0.0.1:{REGISTRIES[HOST]}/report:latest"
    world.run("docker", "import", "--change", 'CMD ["cat", "/greeting"]', world.folder / f"{HOST}.tar", image)
    world.run("docker", "push", image)
    world.run("docker", "image", "rm", image)
    world.inside(aws.reset)
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True).stdout.strip()
    index = {name: value for name, value in os.environ.items() if INDEX.match(name)}
    (tmp_path / "variables").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").symlink_to(UV)
    (tmp_path / "bin/python3").symlink_to(Path(sys.executable).resolve())
    environment = {
        **index,
        **aws.environment(),
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.defpath}",  # without the tests' own environment
        "UV_CACHE_DIR": cache,
        "UV_CONSTRAINT": str(PROJECT / f"constraints/airflow-{AIRFLOW}.txt"),
        "UV_FIND_LINKS": str(distributions.wheel.parent),
        "UV_OFFLINE": "1",
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),  # of uv
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    yield Person(world, tmp_path, environment)
    world.run("docker", "image", "rm", "--force", f"{HOST}/report:latest")
    world.inside(aws.reset)


@pytest.mark.timeout(300)
def test_getting_started_works(person: Person, aws: AwsStandIn, registries: RegistryStandIn) -> None:
    """Each block is run, or written to its file. The task pulls its image, with one AWS call."""
    before = len(registries.requests())
    for block in BLOCK.finditer(PAGE):
        language, text = block.groups()
        match language:
            case "sh":
                person.type(text)
            case "text":
                person.see(text)
            case "ini":
                person.set(last_file(block.start()), text)
            case "python":
                person.write(last_file(block.start()), text)
            case _:
                pytest.fail(f"a user cannot do anything with a block of {language}")

    *_, dag_test, status = person.printed
    served = [request.path for request in registries.requests()[before:] if request.verdict == "served"]
    calls = person.world.inside(lambda: aws.calls(operation="GetAuthorizationToken"))
    assert f"hello from {HOST}" in dag_test
    assert any(path.startswith("/v2/report/blobs/") for path in served)
    assert "docker_default" in status
    assert len(calls) == 1


def last_file(position: int) -> str:
    """Return the last file that the page names before a position."""
    *_, name = FILE.findall(PAGE, 0, position)
    return str(name)

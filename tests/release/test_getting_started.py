"""A new user follows `docs/getting-started.md` step by step and succeeds."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.release.conftest import PROJECT, UV, Distributions, call
from tests.sites.fixtures import REGISTRIES
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS

if TYPE_CHECKING:
    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

HOST, *_ = REGISTRIES
#: The user replaces the image, as the page requires, with the one that the registry has.
PAGE = (PROJECT / "docs/getting-started.md").read_text().replace("report:latest", "app:1")
(AIRFLOW,) = re.findall(r'"apache-airflow==([\d.]+)"', PAGE)
#: The package index of uv, on which the names in its cache depend.
INDEX = re.compile("UV_(CONFIG_FILE|DEFAULT_INDEX|EXTRA_INDEX_URL|INDEX|INDEX_URL)$")
#: A file that the page names, or a block.
PART = re.compile(r"`~/([\w./]+)`|^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
#: The next block inherits the variables of the shell.
SHELL = ". ./variables\nset -e\n{}\nexport -p > variables\n"


@pytest.fixture
def environment(aws: AwsStandIn, distributions: Distributions, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a user's machine: AWS credentials, and uv with the wheel."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").symlink_to(UV)
    (tmp_path / "bin/python3").symlink_to(Path(sys.executable).resolve())
    (tmp_path / "variables").touch()
    return {
        **{name: value for name, value in os.environ.items() if INDEX.match(name)},
        **aws.environment(),
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.defpath}",  # without the tests' own environment
        "UV_CACHE_DIR": call(UV, "cache", "dir").strip(),
        "UV_CONSTRAINT": str(PROJECT / f"constraints/airflow-{AIRFLOW}.txt"),
        "UV_FIND_LINKS": str(distributions.wheel.parent),
        "UV_OFFLINE": "1",
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),  # of uv
        "XDG_RUNTIME_DIR": str(tmp_path),
    }


@pytest.mark.timeout(300)
def test_getting_started_works(
    world: World, aws: AwsStandIn, registries: RegistryStandIn, environment: dict[str, str], tmp_path: Path
) -> None:
    """Each block is run, or written to its file. The task pulls its image, with one AWS call."""
    world.run("docker", "image", "rm", "--force", f"{HOST}/app:1")  # so that all layers are pulled
    world.inside(aws.reset)
    world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    before = len(registries.requests())
    file, printed = tmp_path, [""]
    for name, language, text in PART.findall(PAGE):
        match language:
            case "":
                file = tmp_path / name
            case "sh":
                command = ("env", f"--chdir={tmp_path}", "bash", "-c", SHELL.format(text))
                done = world.run(*command, environment=environment, timeout=120)
                printed.append(done.stdout + done.stderr)
            case "text":
                compare(printed[-1], text)
            case "ini":
                file.write_text(set_options(file.read_text(), text))
            case "python":
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
            case _:
                pytest.fail(f"a user cannot do anything with a block of {language}")

    *_, dag_test, status = printed
    served = [request.path for request in registries.requests()[before:] if request.verdict == "served"]
    assert f"hello from {HOST}" in dag_test
    assert any(path.startswith("/v2/app/blobs/") for path in served)
    assert "docker_default" in status
    assert len(world.inside(lambda: aws.calls(operation="GetAuthorizationToken"))) == 1


def compare(printed: str, text: str) -> None:
    """Find these words, in this order; "…" and numbers match anything."""
    words = [".*" if word == "…" else re.sub(r"\d+", r"\\d+", re.escape(word)) for word in text.split()]
    assert re.search(r"\s+".join(words), printed, re.DOTALL), printed


def set_options(configuration: str, text: str) -> str:
    """Replace the lines of options in a section of ``airflow.cfg``, as a user does in an editor."""
    heading, *settings = re.split(r"\n(?! )", text.rstrip("\n"))  # a value goes on in indented lines
    before, found, after = configuration.partition(f"\n{heading}\n")
    assert found
    for setting in settings:
        option, _, _ = setting.partition(" = ")
        line, *_ = re.findall(rf"\n{option} =.*\n", after)
        after = after.replace(line, f"\n{setting}\n", 1)
    return before + found + after

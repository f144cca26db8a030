"""Users can copy from the pages: data is valid, code compiles, and commands are parsed by their programs."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from typing import TYPE_CHECKING

import pytest
import yaml  # type: ignore[import-untyped]
from airflow.cli.cli_parser import get_parser
from packaging.requirements import Requirement

from ecr_secrets_backend.cli import build_parser
from tests.documentation.pages import PROJECT, Block, Command, blocks, commands

if TYPE_CHECKING:
    import argparse

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]  # comes with pytest there

READERS = {"json": json.loads, "yaml": lambda text: list(yaml.safe_load_all(text)), "toml": tomllib.loads}
"""The parsers of data languages. test_contents.py reads ``ini``."""


def of(*languages: str) -> pytest.MarkDecorator:
    """Parametrize a test with the blocks of some languages."""
    return pytest.mark.parametrize(
        "block", [it for it in blocks() if it.language in languages], ids=lambda it: it.place
    )


def each_command(*programs: str) -> pytest.MarkDecorator:
    """Parametrize a test with the commands of some programs."""
    found = sorted(set(commands(*programs)))
    return pytest.mark.parametrize("command", found, ids=lambda it: f"{it.place} {' '.join(it.words)}")


def test_every_block_names_its_language() -> None:
    """Otherwise the tests below would not see it."""
    assert [block.place for block in blocks() if not block.language] == []


@of(*READERS)
def test_data_is_valid(block: Block) -> None:
    READERS[block.language](block.code)


@of("python")
def test_code_compiles_and_its_imports_exist(block: Block) -> None:
    """It raises no warning, such as one of a deprecation."""
    tree = ast.parse(block.code)
    compile(tree, block.place, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def accepts(parser: argparse.ArgumentParser, command: Command) -> bool:
    """Return whether a parser accepts a command, or knows one that a sentence only names."""
    is_named = ":" not in command.place and not any(word.startswith("-") for word in command.words)
    try:
        parser.parse_args([*command.words[1:], *(["--help"] if is_named else [])])
    except SystemExit as end:
        return is_named and end.code == 0
    return True


@each_command("ecr-secrets-backend")
def test_this_package_s_commands_are_valid(command: Command) -> None:
    """Their parser accepts each option, choice and number of arguments."""
    assert accepts(build_parser(), command)


@each_command("airflow")
def test_airflow_s_commands_are_valid(command: Command) -> None:
    """Airflow's parser accepts them, including ``airflow ecr``."""
    assert accepts(get_parser(), command)


@each_command("make")
def test_the_makefile_has_the_targets_and_variables(command: Command) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = [word for word in command.words[1:] if "=" not in word]
    variables = [word.partition("=")[0] for word in command.words[1:] if "=" in word]

    assert [target for target in targets if not re.search(rf"(?m)^{target}:", makefile)] == []
    assert [variable for variable in variables if f"$({variable})" not in makefile] == []


@each_command("pip", "uv")
def test_pip_installs_only_this_package_and_airflow_s(command: Command) -> None:
    """The extras of this package exist."""
    ours = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    words = command.words[command.words.index("install") + 1 :] if "install" in command.words else ()
    for word in words:
        requirement = Requirement(word)
        assert requirement.name == ours["name"] or requirement.name.startswith("apache-airflow")
        assert requirement.extras <= ours["optional-dependencies"].keys() or requirement.name != ours["name"]

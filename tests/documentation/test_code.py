"""What users copy out of the pages is sound: data is read, code compiled, commands parsed by what runs them."""

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
"""The languages of data, each with what reads it; ``ini`` has test_contents.py."""


def of(*languages: str) -> pytest.MarkDecorator:
    """Give the blocks of some languages, each as a case of a test."""
    return pytest.mark.parametrize(
        "block", [it for it in blocks() if it.language in languages], ids=lambda it: it.place
    )


def told(*programs: str) -> pytest.MarkDecorator:
    """Give the commands of some programs, each as a case of a test."""
    found = sorted(set(commands(*programs)))
    return pytest.mark.parametrize("command", found, ids=lambda it: f"{it.place} {' '.join(it.words)}")


def test_every_block_says_its_language() -> None:
    """So that none gets past the tests below."""
    assert [block.place for block in blocks() if not block.language] == []


@of(*READERS)
def test_data_is_read(block: Block) -> None:
    """By what reads its language."""
    READERS[block.language](block.code)


@of("python")
def test_code_compiles_and_what_it_imports_is_there(block: Block) -> None:
    """Without a warning, as of something deprecated."""
    tree = ast.parse(block.code)
    compile(tree, block.place, "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def understands(parser: argparse.ArgumentParser, command: Command) -> bool:
    """Tell whether a parser takes a command; of one that a sentence only names, whether there is such a command."""
    is_named = ":" not in command.place and not any(word.startswith("-") for word in command.words)
    try:
        parser.parse_args([*command.words[1:], *(["--help"] if is_named else [])])
    except SystemExit as end:
        return is_named and end.code == 0
    return True


@told("ecr-secrets-backend")
def test_our_commands_are_understood(command: Command) -> None:
    """By their own parser: each option, each choice and the number of arguments."""
    assert understands(build_parser(), command)


@told("airflow")
def test_airflows_commands_are_understood(command: Command) -> None:
    """By Airflow's own parser, in which ``airflow ecr`` is ours."""
    assert understands(get_parser(), command)


@told("make")
def test_targets_of_make_are_there(command: Command) -> None:
    """In the Makefile, and so are the variables that are set for them."""
    makefile = (PROJECT / "Makefile").read_text()
    targets = [word for word in command.words[1:] if "=" not in word]
    variables = [word.partition("=")[0] for word in command.words[1:] if "=" in word]

    assert [target for target in targets if not re.search(rf"(?m)^{target}:", makefile)] == []
    assert [variable for variable in variables if f"$({variable})" not in makefile] == []


@told("pip", "uv")
def test_what_pip_installs_is_ours_or_airflows(command: Command) -> None:
    """With extras that there are."""
    ours = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    words = command.words[command.words.index("install") + 1 :] if "install" in command.words else ()
    for word in words:
        requirement = Requirement(word)
        assert requirement.name == ours["name"] or requirement.name.startswith("apache-airflow")
        assert requirement.extras <= ours["optional-dependencies"].keys() or requirement.name != ours["name"]

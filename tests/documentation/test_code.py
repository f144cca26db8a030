"""Users can copy from the pages: configurations are valid, code compiles, and programs know their commands."""

from __future__ import annotations

import ast
import json
import re
from configparser import RawConfigParser
from importlib.metadata import metadata
from typing import TYPE_CHECKING

import pytest
from airflow import configuration
from airflow.cli.cli_parser import get_parser
from packaging.requirements import Requirement

from ecr_secrets_backend.cli import build_parser
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import PROJECT, Block, Command, blocks, commands

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

PARSERS: dict[str, Callable[[], ArgumentParser]] = {"airflow": get_parser, "ecr-secrets-backend": build_parser}
UNTESTED = {"console", "text"}  # the output of programs


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in blocks() if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.place)


def each(*programs: str) -> pytest.MarkDecorator:
    ids = [f"{command.place} {' '.join(command.words)}" for command in commands(*programs)]
    return pytest.mark.parametrize("command", commands(*programs), ids=ids)


def test_every_block_has_a_language_that_a_test_reads() -> None:
    known = {"cfg", "ini", "json", "python", "sh"} | UNTESTED

    assert [block.place for block in blocks() if block.language not in known] == []


@of("json")
def test_json_is_valid(block: Block) -> None:
    json.loads(block.code)


@of("cfg", "ini")
def test_every_configuration_is_valid(block: Block) -> None:
    """Airflow has each option, and the backend accepts its kwargs."""
    parser = RawConfigParser()
    parser.read_string(block.code)
    known = configuration.conf.configuration_description
    options = [(section, *item) for section in parser.sections() for item in parser.items(section)]

    assert [option for section, option, _ in options if option not in known[section]["options"]] == []
    for kwargs in [json.loads(value) for _, option, value in options if option.endswith("backend_kwargs")]:
        assert Settings.parse(kwargs).connections


def test_the_environment_variable_is_valid() -> None:
    words = [word for command in commands("export") for word in command.words]
    (kwargs,) = [word.partition("=")[2] for word in words if word.startswith("AIRFLOW__SECRETS__BACKEND_KWARGS=")]

    assert Settings.parse(json.loads(kwargs)).connections


@of("python")
def test_code_compiles_and_its_imports_exist(block: Block) -> None:
    """It raises no warning, such as one of a deprecation."""
    tree = ast.parse(block.code)
    compile(tree, block.place, "exec")
    imports: list[ast.stmt] = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    exec(compile(ast.Module(imports, []), block.place, "exec"), {})  # noqa: S102 - a page of this project


@each(*PARSERS)
def test_every_command_is_valid(command: Command) -> None:
    """Its program's parser accepts each option, choice and number of arguments. A sentence may only name it."""
    program, *arguments = command.words
    if ":" not in command.place and not any(word.startswith("-") for word in arguments):
        with pytest.raises(SystemExit, match=r"^0$"):
            PARSERS[program]().parse_args([*arguments, "--help"])
    else:
        PARSERS[program]().parse_args(arguments)


@each("make")
def test_the_makefile_has_the_targets_and_variables(command: Command) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for word in command.words[1:]:
        name, is_variable, _ = word.partition("=")
        assert f"$({name})" in makefile if is_variable else re.search(rf"(?m)^{name}:", makefile)


@each("pip", "uv")
def test_pip_installs_only_this_package_and_airflow_s(command: Command) -> None:
    """The extras of this package exist."""
    ours = metadata("airflow-ecr-secrets-backend")
    words = command.words[command.words.index("install") + 1 :] if "install" in command.words else ()
    for requirement in map(Requirement, words):
        assert requirement.name == ours["Name"] or requirement.name.startswith("apache-airflow")
        assert requirement.extras <= {*ours.get_all("Provides-Extra", [])} or requirement.name != ours["Name"]

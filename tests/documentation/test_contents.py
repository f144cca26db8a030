"""The pages agree with the code: settings, names, policies, findings and messages."""

from __future__ import annotations

import ast
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from moto.iam.policy_validation import IAMPolicyDocumentValidator

import ecr_secrets_backend
from ecr_secrets_backend import credentials, errors, settings
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import PAGES, PROJECT, documents, section, table, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONFIGURATION = "docs/configuration.md"
IDENTITIES = "docs/identities.md"
TROUBLESHOOTING = "docs/troubleshooting.md"
SOURCES = {path.name: path.read_text() for path in (PROJECT / "ecr_secrets_backend").glob("*.py")}
#: The actions of AWS's services. Source: AWS's Service Authorization Reference, in cfn-lint, which moto requires.
SERVICES = json.loads(files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text())
ACTION = re.compile(r"(?:ecr|ecr-public|s3|sts):[A-Z]\w+")
ARN = re.compile(r"arn:aws:(ecr:[a-z0-9-]+:\d{12}:repository/|iam::\d{12}:role/|s3:::)[\w./*-]+")


def has_resource(action: str) -> bool:
    """Return whether an action is on a resource; if not, a policy must allow it on ``*``."""
    service, _, name = action.partition(":")
    return "Resources" in SERVICES[service]["Actions"][name.lower()]


def test_every_form_of_a_connection_is_valid() -> None:
    for connections in documents(CONFIGURATION):
        assert Settings.parse({"connections": connections}).connections.keys() == connections.keys()


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("The backend", settings.SETTINGS.keys() - settings.AWS_SETTINGS),
        ("AWS settings", settings.AWS_SETTINGS),
        ("A connection", settings.CONNECTION_SETTINGS.keys() - settings.AWS_SETTINGS),
        ("`fallback_backends`", settings.FALLBACK_SETTINGS),
    ],
)
def test_every_setting_is_documented(heading: str, known: Iterable[str]) -> None:
    """The table has no other, and describes each."""
    assert {name: bool(meaning) for name, meaning, *_ in table(CONFIGURATION, heading)} == {
        f"`{name}`": True for name in known
    }


def test_every_argument_of_a_role_is_documented() -> None:
    documented = re.findall(r"`([A-Z]\w+)`", section(CONFIGURATION, "`assume_role_kwargs`"))

    assert sorted(documented) == sorted(settings.ASSUME_ROLE_ARGUMENTS)


def test_every_default_is_documented() -> None:
    """A setting without a default value has words in that column."""
    values = [(name, re.fullmatch("`(.*)`", default)) for name, _, default in table(CONFIGURATION, "The backend")]
    parsed = Settings.parse({"connections": {"docker_default": {}}})._asdict()

    assert {name.strip("`"): json.loads(value[1]) for name, value in values if value} == {
        name: value for name, value in parsed.items() if value and name != "connections"
    }


def test_all_public_names_are_documented() -> None:
    """The reference has no other. The version has no docstring, so a sentence names it."""
    page = (PROJECT / "docs/reference.md").read_text()
    documented = {*re.findall(r"(?m)^::: (\S+)$", page), *re.findall(r"`(ecr_secrets_backend\.\w+)`", page)}

    assert documented == {
        f"{module.__name__}.{name}" for module in (ecr_secrets_backend, errors) for name in module.__all__
    }


def test_every_policy_is_valid() -> None:
    """It follows IAM's grammar, with existing actions, and allows on ``*`` only what has no other resource."""
    for policy in documents("docs/iam.md"):
        for statement in policy["Statement"]:
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            resource, principal = statement.get("Resource"), statement.pop("Principal", "*")
            is_free = resource is None or statement["Effect"] == "Deny"
            assert all(has_resource(action) == (resource != "*") or is_free for action in actions)
            assert resource in {None, "*"} or ARN.fullmatch(resource)
            assert principal == "*" or ARN.fullmatch(principal["AWS"])
            statement.setdefault("Resource", "*")  # moto knows only the policies of identities
        IAMPolicyDocumentValidator(json.dumps(policy)).validate()


def test_every_action_in_the_text_exists() -> None:
    named = [token.content for page in PAGES for token in tokens(page) if token.type == "code_inline"]
    actions = list(filter(ACTION.fullmatch, named))

    assert len(actions) > 5
    for action in actions:
        has_resource(action)  # else it raises an exception


def test_every_symptom_names_a_finding_of_check() -> None:
    """The page of ``check`` lists each finding."""
    _, _, findings = (PROJECT / "docs/commands/check.md").read_text().partition("| code |")
    known = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", findings))))
    _, *symptoms, _ = re.split(r"(?m)^## ", (PROJECT / TROUBLESHOOTING).read_text())
    for symptom in symptoms:
        (named,) = re.findall(r"\*\*check reports\*\*([^*]*)", symptom)
        codes = set(re.findall(r"`([a-z-]+)`", named))
        assert codes, symptom
        assert codes <= known


def test_every_message_of_this_package_is_quoted_exactly() -> None:
    """Only "…" stands for other text."""
    rows = table(TROUBLESHOOTING, "Messages of this package")
    quoted = [text.strip() for row in rows for cell in re.findall("`(.*?)`", row[0]) for text in cell.split("…")]
    sources = "\n".join(SOURCES.values())

    assert [text for text in quoted if text not in sources] == []


def test_every_source_of_credentials_is_documented_in_its_order() -> None:
    """The names are those that ``check`` shows. A row without a name belongs to the source above it."""
    named = [source for source, *_ in table(IDENTITIES, "Where no credentials are found") if source]

    assert named == [name for name, _ in credentials._SOURCES.values()]


@pytest.mark.parametrize(
    ("page", "heading", "column"),
    [(IDENTITIES, "Where no credentials are found", 1), (TROUBLESHOOTING, "NoCredentialsError", 0)],
)
def test_every_message_about_credentials_is_quoted_exactly(page: str, heading: str, column: int) -> None:
    """Only the values differ."""
    known = [*patterns(), *(re.escape(f"no {need}") for _, need in credentials._SOURCES.values())]
    messages = [text for row in table(page, heading) for text in re.findall("`(.*?)`", row[column])]

    assert messages
    assert [text for text in messages if not any(re.fullmatch(f".*{pattern}", text) for pattern in known)] == []


def patterns() -> Iterator[str]:
    """Return the sentences of the code as patterns of the messages, in which each value is a word."""
    nodes = [*ast.walk(ast.parse(SOURCES["credentials.py"] + SOURCES["aws_errors.py"]))]
    sentences = {node: node.values if isinstance(node, ast.JoinedStr) else [node] for node in nodes}
    inner = {part for node, parts in sentences.items() for part in parts if part is not node}
    for node in sentences.keys() - inner:
        texts = [str(part.value) if isinstance(part, ast.Constant) else None for part in sentences[node]]
        fixed = "".join(filter(None, texts))
        if len(fixed) >= 8 and " " in fixed:
            rest = ".*" if fixed.endswith(": ") else ""  # an error message of the operating system follows
            yield "".join(r"\S+" if text is None else re.escape(text) for text in texts) + rest

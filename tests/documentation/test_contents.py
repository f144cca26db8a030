"""The pages agree with the code: settings, policies, findings, messages and files."""

from __future__ import annotations

import ast
import json
import re
from configparser import RawConfigParser
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import credentials, settings
from ecr_secrets_backend.settings import Settings
from tests.documentation.pages import PAGES, PROJECT, blocks, name_of, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CONFIGURATION = (PROJECT / "docs/configuration.md").read_text()
REASONS = ("credentials.py", "aws_errors.py")
TROUBLESHOOTING = (PROJECT / "docs/troubleshooting.md").read_text()

#: Valid actions. Source: AWS Service Authorization Reference, pages of Amazon ECR, ECR Public, STS and S3.
ACTIONS = {
    "ecr-public:GetAuthorizationToken",
    "ecr:BatchGetImage",
    "ecr:BatchImportUpstreamImage",
    "ecr:CreateRepository",
    "ecr:GetAuthorizationToken",
    "ecr:GetDownloadUrlForLayer",
    "ecr:ListImages",
    "ecr:TagResource",
    "s3:GetObject",
    "sts:AssumeRole",
    "sts:GetServiceBearerToken",
    "sts:SetSourceIdentity",
    "sts:TagSession",
}
#: Actions without a resource: with any other than ``*``, a statement allows nothing. Source: the same.
WITHOUT_RESOURCE = {
    "ecr-public:GetAuthorizationToken",
    "ecr:GetAuthorizationToken",
    "sts:GetServiceBearerToken",
}
ARN = re.compile(r"arn:aws:(ecr:[a-z0-9-]+:\d{12}:repository/|iam::\d{12}:role/|s3:::)[\w./*-]+")


def cases(language: str, pages: Iterable[Path] = PAGES) -> list[Any]:
    """Return the blocks of a language as cases of a test."""
    return [pytest.param(block.code, id=block.place) for block in blocks(pages) if block.language == language]


@pytest.mark.parametrize("block", cases("ini"))
def test_every_configuration_is_valid(block: str) -> None:
    """Each block of ini is read as Airflow reads its configuration."""
    parser = RawConfigParser()
    parser.read_string(block)
    kwargs = [
        json.loads(value)
        for section in parser.values()
        for name, value in section.items()
        if name.endswith("backend_kwargs")
    ]

    assert [Settings.parse(each).connections for each in kwargs]


def test_the_environment_variable_is_valid() -> None:
    (kwargs,) = re.findall(r"(?m)^export AIRFLOW__SECRETS__BACKEND_KWARGS='([^']*)'$", CONFIGURATION)

    assert Settings.parse(json.loads(kwargs)).connections


@pytest.mark.parametrize("block", cases("json", [PROJECT / "docs/configuration.md"]))
def test_every_form_of_a_connection_is_valid(block: str) -> None:
    assert Settings.parse({"connections": json.loads(block)}).connections


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("The backend", [name for name in settings.SETTINGS if name not in settings.AWS_SETTINGS]),
        ("AWS settings", settings.AWS_SETTINGS),
        (
            "A connection",
            [name for name in settings.CONNECTION_SETTINGS if name not in settings.AWS_SETTINGS],
        ),
        ("`fallback_backends`", settings.FALLBACK_SETTINGS),
    ],
)
def test_every_setting_is_documented(heading: str, known: Iterable[str]) -> None:
    """The table has the settings of the code in the same order, and no other."""
    documented = table("docs/configuration.md", heading)

    assert [row[0] for row in documented] == [f"`{name}`" for name in known]
    assert all(row[1] for row in documented)


def test_every_argument_of_a_role_is_documented() -> None:
    """The page names them in the order of the code, and no other."""
    _, _, section = CONFIGURATION.partition("\n## `assume_role_kwargs`\n")
    documented = re.findall(r"`([A-Z]\w+)`", section.partition("\n## ")[0])

    assert documented == list(settings.ASSUME_ROLE_ARGUMENTS)


def test_every_default_is_documented() -> None:
    """A setting without a default value has words in that column."""
    values = [(row[0], re.fullmatch("`(.*)`", row[2])) for row in table("docs/configuration.md", "The backend")]
    parsed = Settings.parse({"connections": {"docker_default": {}}})._asdict()

    assert {name.strip("`"): json.loads(value[1]) for name, value in values if value} == {
        name: value for name, value in parsed.items() if value and name != "connections"
    }


@pytest.mark.parametrize("block", cases("json", [PROJECT / "docs/iam.md"]))
def test_every_policy_is_valid(block: str) -> None:
    """It follows IAM's grammar, with existing actions and valid resources."""
    policy = json.loads(block)

    assert policy.keys() == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert {"Sid", "Effect", "Action"} <= statement.keys()
        assert statement.keys() <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        assert statement["Sid"].isalnum()
        assert statement["Effect"] in {"Allow", "Deny"}
        assert statement.keys() & {"Principal", "Resource"}
        actions = {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
        assert actions <= ACTIONS
        resource = statement.get("Resource", "*")
        assert resource == "*" or (ARN.fullmatch(resource) and not actions & WITHOUT_RESOURCE)
        if statement["Effect"] == "Allow" and resource == "*" and "Resource" in statement:
            assert actions <= WITHOUT_RESOURCE  # least privilege
        principal = statement.get("Principal", "*")
        assert principal == "*" or ARN.fullmatch(principal["AWS"])


def test_every_action_in_the_text_exists() -> None:
    named = {
        action for page in PAGES for action in re.findall(r"`((?:ecr|ecr-public|sts|s3):[A-Z]\w+)`", page.read_text())
    }

    assert named <= ACTIONS


def test_every_symptom_names_a_finding_of_check() -> None:
    """The page of ``check`` lists each finding."""
    _, _, table = (PROJECT / "docs/commands/check.md").read_text().partition("| code |")
    known = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", table))))
    symptoms = re.split(r"(?m)^## ", TROUBLESHOOTING)[1:-1]
    named = [
        set(re.findall(r"`([a-z-]+)`", part)) for part in re.findall(r"\*\*check reports\*\*([^*]*)", TROUBLESHOOTING)
    ]

    assert len(named) == len(symptoms)
    assert all(named)
    assert set().union(*named) <= known


def test_every_message_of_this_package_is_quoted_exactly() -> None:
    """Only "…" stands for other text."""
    _, _, section = TROUBLESHOOTING.partition("\n## Messages of this package\n")
    cells = re.findall(r"(?m)^\| (`.*?`) \| (?:ERROR|WARNING|Airflow)", section)
    pieces = [piece.strip() for cell in cells for text in re.findall("`(.*?)`", cell) for piece in text.split("…")]
    sources = "\n".join(path.read_text() for path in (PROJECT / "ecr_secrets_backend").glob("*.py"))

    assert len(pieces) > len(cells)
    assert [piece for piece in pieces if piece not in sources] == []


def test_every_source_of_credentials_is_documented_in_its_order() -> None:
    """The names are those that ``check`` shows. A row without a name belongs to the source above it."""
    named = [source for source, *_ in table("docs/identities.md", "Where no credentials are found") if source]

    assert named == [name for name, _ in credentials._SOURCES.values()]


@pytest.mark.parametrize(
    ("page", "heading", "column"),
    [
        ("docs/identities.md", "Where no credentials are found", 1),
        ("docs/troubleshooting.md", "NoCredentialsError", 0),
    ],
)
def test_every_message_about_credentials_is_quoted_exactly(page: str, heading: str, column: int) -> None:
    """Only the values differ."""
    needs = {f"no {need}" for _, need in credentials._SOURCES.values()}
    known = [re.escape(need) for need in needs] + [pattern for module in REASONS for pattern in patterns(module)]
    messages = [text for row in table(page, heading) for text in re.findall("`(.*?)`", row[column])]

    assert messages
    assert [text for text in messages if not any(re.fullmatch(f".*{pattern}", text) for pattern in known)] == []


def patterns(module: str) -> Iterator[str]:
    """Return the sentences of a module's code as patterns of the messages."""
    for node in ast.walk(ast.parse((PROJECT / "ecr_secrets_backend" / module).read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
        fixed = "".join(filter(None, texts))
        if len(fixed) >= 8 and " " in fixed:
            rest = ".*" if fixed.endswith(": ") else ""  # an error message of the operating system follows
            yield "".join(r"\S+" if text is None else re.escape(text) for text in texts) + rest


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_file_exists(page: Path) -> None:
    """The names are between backticks. test_links.py tests the links."""
    named = re.findall(r"`((?:tests|examples|docs|ecr_secrets_backend)/[\w./-]+)`", page.read_text())

    assert [name for name in named if not (PROJECT / name).exists()] == []


def test_every_test_named_for_a_fault_exists() -> None:
    """A name without a path is that of a module, a class or a function."""
    named = re.findall(r"`([Tt]est\w+)(?:\.py)?`", (PROJECT / "docs/reliability.md").read_text())
    modules = list((PROJECT / "tests").rglob("test_*.py"))
    known = {path.stem for path in modules}.union(
        *(re.findall(r"(?m)^ *(?:async )?(?:def|class) ([Tt]est\w+)", path.read_text()) for path in modules)
    )

    assert len(named) > 30
    assert set(named) - known == set()

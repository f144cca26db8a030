"""The example for Terraform agrees with docs/iam.md. It is read, not applied: that needs Terraform and an account."""

from __future__ import annotations

import json
import re
from typing import Any

import hcl2

from tests.documentation.pages import PROJECT

FILES = sorted((PROJECT / "examples/terraform").glob("*.tf"))
REFERENCE = re.compile(r"\b((?:data\.)?aws_\w+\.\w+|var\.\w+|local\.\w+)")
POLICIES = re.findall(r"```json\n(.*?)```", (PROJECT / "docs/iam.md").read_text(), re.DOTALL)


def plain(value: Any) -> Any:
    """Remove the quotes and the metadata that the parser keeps."""
    if isinstance(value, dict):
        return {plain(name): plain(each) for name, each in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value[1:-1] if isinstance(value, str) and value.startswith('"') else value


def blocks(kind: str) -> dict[str, Any]:
    """Return all blocks of a kind by their Terraform addresses."""
    found: dict[str, Any] = {}
    for path in FILES:
        for block in plain(hcl2.loads(path.read_text())).get(kind, []):
            for name, body in block.items():
                if kind in {"data", "resource"}:
                    prefix = "data." if kind == "data" else ""
                    found |= {f"{prefix}{name}.{label}": each for label, each in body.items()}
                else:
                    found[{"variable": f"var.{name}", "locals": f"local.{name}"}.get(kind, name)] = body
    return found


def statements(address: str) -> list[dict[str, Any]]:
    """Return the statements of a policy document in IAM's JSON form, with the variables' defaults."""
    variables = {f"${{{name}}}": body["default"] for name, body in blocks("variable").items()}
    return [
        {
            "Sid": each["sid"],
            "Effect": each.get("effect", "Allow"),
            "Action": unpacked(each["actions"]),
            "Resource": unpacked(variables.get(str(each["resources"]), each["resources"])),
        }
        for each in blocks("data")[address]["statement"]
    ]


def unpacked(values: list[str]) -> list[str] | str:
    """Return a single value without its list, as docs/iam.md writes it."""
    return values[0] if len(values) == 1 else values


def test_the_policy_is_the_one_for_tokens_and_pulls() -> None:
    assert statements("data.aws_iam_policy_document.pull") == json.loads(POLICIES[0])["Statement"]


def test_each_role_has_only_that_policy() -> None:
    resources = blocks("resource")
    roles = {address for address in resources if address.startswith("aws_iam_role.")}
    attached = [
        (body["role"], body["policy_arn"])
        for address, body in resources.items()
        if address.startswith("aws_iam_role_policy_attachment.")
    ]

    assert sorted(attached) == sorted((f"${{{role}.name}}", "${aws_iam_policy.pull.arn}") for role in roles)
    assert resources["aws_iam_policy.pull"]["policy"] == "${data.aws_iam_policy_document.pull.json}"
    assert not [address for address in resources if address.startswith("aws_iam_role_policy.")]


def test_only_instances_can_assume_the_role_of_instances() -> None:
    (statement,) = blocks("data")["data.aws_iam_policy_document.ec2_trust"]["statement"]

    assert statement["actions"] == ["sts:AssumeRole"]
    assert statement["principals"] == [{"type": "Service", "identifiers": ["ec2.amazonaws.com"]}]


def test_only_named_service_accounts_can_assume_the_role_of_pods() -> None:
    (statement,) = blocks("data")["data.aws_iam_policy_document.eks_trust"]["statement"]
    conditions = {each["variable"]: (each["test"], each["values"]) for each in statement["condition"]}

    assert statement["actions"] == ["sts:AssumeRoleWithWebIdentity"]
    assert statement["principals"] == [{"type": "Federated", "identifiers": ["${var.oidc_provider_arn}"]}]
    assert conditions.keys() == {"${local.issuer}:sub", "${local.issuer}:aud"}
    assert {test for test, _ in conditions.values()} == {"StringEquals"}
    assert "system:serviceaccount:${name}" in conditions["${local.issuer}:sub"][1]


def test_every_reference_exists() -> None:
    addresses = {address for kind in ("data", "resource", "variable", "locals") for address in blocks(kind)}
    text = "\n".join(re.sub(r"#.*", "", path.read_text()) for path in FILES)

    assert set(REFERENCE.findall(text)) <= addresses

"""The example for Terraform agrees with docs/iam.md. It is read, not applied: that needs Terraform and an account."""

from __future__ import annotations

import re
from typing import Any

import hcl2
from hcl2.utils import SerializationOptions

from tests.documentation.pages import PROJECT, documents

TEXT = "\n".join(re.sub("#.*", "", path.read_text()) for path in (PROJECT / "examples/terraform").glob("*.tf"))
PARSED = hcl2.loads(TEXT, serialization_options=SerializationOptions(explicit_blocks=False, strip_string_quotes=True))
REFERENCE = re.compile(r"\b((?:data\.)?aws_\w+\.\w+|var\.\w+|local\.\w+)")


def blocks(kind: str, prefix: str = "") -> dict[str, Any]:
    """Return all blocks of a kind, such as ``resource``, by their Terraform addresses."""
    found = [(f"{prefix}{name}", body) for block in PARSED[kind] for name, body in block.items()]
    if kind in {"data", "resource"}:
        found = [(f"{type_}.{name}", body) for type_, bodies in found for name, body in bodies.items()]
    return dict(found)


DATA, RESOURCES, VARIABLES = blocks("data", "data."), blocks("resource"), blocks("variable", "var.")


def as_in_json(values: list[str]) -> list[str] | str:
    """Return a single value without its list, as docs/iam.md writes it."""
    return values[0] if len(values) == 1 else values


def test_the_policy_is_the_one_for_tokens_and_pulls() -> None:
    """With the default of the variable."""
    defaults = {f"${{{name}}}": variable["default"] for name, variable in VARIABLES.items()}

    assert documents("docs/iam.md")[0]["Statement"] == [
        {
            "Sid": each["sid"],
            "Effect": each.get("effect", "Allow"),
            "Action": as_in_json(each["actions"]),
            "Resource": as_in_json(defaults.get(str(each["resources"]), each["resources"])),
        }
        for each in DATA["data.aws_iam_policy_document.pull"]["statement"]
    ]


def test_each_role_has_only_that_policy() -> None:
    roles = [address for address in RESOURCES if address.startswith("aws_iam_role.")]
    attached = [
        (body["role"], body["policy_arn"])
        for address, body in RESOURCES.items()
        if address.startswith("aws_iam_role_policy")
    ]

    assert sorted(attached) == sorted((f"${{{role}.name}}", "${aws_iam_policy.pull.arn}") for role in roles)
    assert RESOURCES["aws_iam_policy.pull"]["policy"] == "${data.aws_iam_policy_document.pull.json}"


def test_only_instances_and_named_service_accounts_can_assume_a_role() -> None:
    (instances,) = DATA["data.aws_iam_policy_document.ec2_trust"]["statement"]
    (pods,) = DATA["data.aws_iam_policy_document.eks_trust"]["statement"]
    conditions = {(each["test"], each["variable"]): each["values"] for each in pods["condition"]}

    assert instances["principals"] == [{"type": "Service", "identifiers": ["ec2.amazonaws.com"]}]
    assert pods["principals"] == [{"type": "Federated", "identifiers": ["${var.oidc_provider_arn}"]}]
    assert [*instances["actions"], *pods["actions"]] == ["sts:AssumeRole", "sts:AssumeRoleWithWebIdentity"]
    assert conditions.keys() == {("StringEquals", f"${{local.issuer}}:{name}") for name in ("sub", "aud")}
    assert "system:serviceaccount:${name}" in conditions["StringEquals", "${local.issuer}:sub"]


def test_every_reference_exists() -> None:
    assert set(REFERENCE.findall(TEXT)) <= {*DATA, *RESOURCES, *VARIABLES, *blocks("locals", "local.")}

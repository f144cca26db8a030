"""The values for Airflow's Helm chart: with them, the backend serves a pod.

No package registry has the chart, so these tests do not render it. They do as Helm did with the chart 1.22.0: it writes
each section of ``config`` into ``airflow.cfg``, each option on a line, and treats each value as a template.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from airflow import configuration

from ecr_secrets_backend import EcrSecretsBackend
from tests.process_helpers import REGISTRY
from tests.stand_ins.aws import PROJECT
from tests.stand_ins.credentials import pod_token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

VALUES: dict[str, Any] = yaml.safe_load((PROJECT / "examples/helm/values.yaml").read_text())
PODS: dict[str, Any] = VALUES["workers"]["kubernetes"]
ROLE = "eks.amazonaws.com/role-arn"
#: The chart's keys for these values. Source: its values.yaml, and for ``workers.kubernetes`` its release notes.
KEYS = {
    "airflowVersion": "",
    "config": {"secrets": {"backend": "", "backend_kwargs": ""}},
    "executor": "",
    "images": {"airflow": {"repository": "", "tag": ""}},
    "triggerer": {"serviceAccount": {"annotations": "", "name": ""}},
    "workers": {
        "kubernetes": {
            "env": "",
            "extraVolumeMounts": "",
            "extraVolumes": "",
            "serviceAccount": {"annotations": "", "create": "", "name": ""},
        }
    },
}


def keys(values: object) -> object:
    """Return the keys of values, down to those that the chart only passes on."""
    if not isinstance(values, dict) or ROLE in values:
        return ""
    return {name: keys(value) for name, value in values.items()}


def test_a_pod_is_served_by_the_role_of_its_service_account(
    bare: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the ``airflow.cfg`` that the chart writes, in an environment as in a pod of EKS: a role, and no keys."""
    role = PODS["serviceAccount"]["annotations"][ROLE]
    (tmp_path / "token").write_text(pod_token("airflow:airflow-worker"))
    monkeypatch.setenv("AWS_ROLE_ARN", role)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    options = [f"{option} = {value}\n" for option, value in VALUES["config"]["secrets"].items()]
    assert not [option for option in options if option.count("\n") > 1 or "{{" in option]
    conf = configuration.AirflowConfigParser()
    volume = f'"{tmp_path}"'  # a folder in its place
    conf.read_string("".join(["[secrets]\n", *options]).replace('"/ecr-tokens"', volume))
    monkeypatch.setattr(configuration, "conf", conf)
    backend = configuration.get_custom_secret_backend()

    assert isinstance(backend, EcrSecretsBackend)
    assert backend.settings.cache_dir == str(tmp_path)
    served = backend.get_connection("docker_default")
    assert (served.host, served.login) == (REGISTRY, "AWS")
    assert bare.authorise("AWS", served.password, region="us-east-1").valid
    (assumed,) = bare.calls(operation="AssumeRoleWithWebIdentity")
    assert assumed.parameters["RoleArn"] == role


def test_the_chart_has_each_key() -> None:
    assert keys(VALUES) == KEYS


def test_the_pods_of_a_node_share_the_cache() -> None:
    """In a folder of the node that ``docs/deployments.md`` names."""
    (mount,), (volume,) = PODS["extraVolumeMounts"], PODS["extraVolumes"]

    assert f'"{mount["mountPath"]}"' in VALUES["config"]["secrets"]["backend_kwargs"]
    assert mount["name"] == volume["name"]
    assert volume["hostPath"]["type"] == "Directory"
    assert volume["hostPath"]["path"] in (PROJECT / "docs/deployments.md").read_text()


def test_the_image_has_a_supported_airflow() -> None:
    """There are constraints for it, and the chart has the same version."""
    assert VALUES["airflowVersion"] == VALUES["images"]["airflow"]["tag"]
    assert (PROJECT / f"constraints/airflow-{VALUES['airflowVersion']}.txt").exists()


@pytest.mark.parametrize("component", [PODS, VALUES["triggerer"]], ids=["pods", "triggerer"])
def test_terraform_has_the_same_role_and_service_account(component: dict[str, Any]) -> None:
    terraform = (PROJECT / "examples/terraform/eks.tf").read_text()
    account = component["serviceAccount"]
    role = re.fullmatch(r"arn:aws:iam::123456789012:role/([\w-]+)", account["annotations"][ROLE])

    assert role is not None
    assert f'= "{role[1]}"' in terraform
    assert f'"airflow:{account["name"]}"' in terraform

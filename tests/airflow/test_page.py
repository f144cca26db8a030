"""The page in Airflow's UI on a real API server: authorization, contents and costs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY
from tests.airflow_version import HIDES_CONNECTIONS
from tests.sites.page_site import DATABASE_PASSWORD, JSON, PAGE, PageSite, serve_page
from tests.stand_ins.aws import AwsStandIn, Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

ACCOUNT = "123456789012.dkr.ecr"
DENIAL = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized", region="eu-west-1")
BULK = 10_000
CONNECTIONS: dict[str, object] = {
    "docker_default": f"{ACCOUNT}.us-east-1.amazonaws.com",
    "docker_denied": f"{ACCOUNT}.eu-west-1.amazonaws.com",
    "docker_by_airflow": {"registry": f"{ACCOUNT}.us-west-2.amazonaws.com", "aws_conn_id": "aws_ecr"},
    "hidden_docker": f"{ACCOUNT}.us-west-1.amazonaws.com",
    "docker_by_nothing": {"registry": f"{ACCOUNT}.us-west-2.amazonaws.com", "aws_conn_id": "aws_missing"},
    "team/docker:(1)": {"region_name": "ap-south-1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        aws.script(DENIAL)
        yield aws


@pytest.fixture(scope="module")
def site(aws: AwsStandIn, folder: Path) -> Iterator[PageSite]:
    """A server with thousands of connections more for workers. Two IDs are also defined elsewhere."""
    bulk = {f"bulk_{number:05}": f"{number:012}.dkr.ecr.us-east-2.amazonaws.com" for number in range(BULK)}
    cache = {"cache_dir": str(folder / "cache")}
    sections = {
        "secrets": {"connections": CONNECTIONS, **cache},
        "workers": {"connections": {**CONNECTIONS, **bulk}, **cache},
    }
    options = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled", "AIRFLOW_CONN_DOCKER_DENIED": "docker://elsewhere"}
    rows = {"docker_default": ("docker", "AWS"), "aws_ecr": ("aws", AIRFLOWS_KEY)}
    with serve_page(folder, aws, sections, options, rows) as site:
        yield site


def test_airflow_authorizes_users(site: PageSite) -> None:
    """An anonymous user and a viewer are refused. A token and the cookie of Airflow's UI are accepted."""
    for user, expected in ((None, 401), ("viewer", 403), ("op", 200), ("admin", 200)):
        with site.client(user) as client:
            assert [client.get(PAGE).status_code, client.get(JSON).status_code] == [expected] * 2
            if expected != 200:
                assert client.post(f"{JSON}/docker_default/check", json={}).status_code == expected
    with site.client(None) as client:
        client.cookies.set("_token", site.token("op"))
        assert client.get(PAGE).status_code == 200


def test_a_user_sees_authorized_connections_alone(site: PageSite) -> None:
    """The auth manager hides one, from Airflow 3.2 on. A reader cannot start a check."""
    with site.client("reader") as client:
        page = client.get(PAGE, params={"q": "docker"}).text
        rows = client.get(JSON, params={"q": "docker"}).json()["connections"]
        refused = [client.post(f"{JSON}/{conn_id}/check", json={}) for conn_id in ("docker_default", "hidden_docker")]
    seen = {row["conn_id"] for row in rows}

    assert site.rows("docker").keys() - seen == ({"hidden_docker"} if HIDES_CONNECTIONS else set())
    assert conn_ids_in(page) == seen
    assert "data-conn-id=" not in page
    assert [answer.status_code for answer in refused] == [403, 403]


def conn_ids_in(page: str) -> set[str]:
    return set(re.findall(r'scope="row"><bdi>([^<]+)<', page))


def test_the_menu_has_the_page(site: PageSite) -> None:
    """Under Admin, as Airflow's API returns it to the UI."""
    with site.client() as client:
        (plugin,) = client.get("/api/v2/plugins").raise_for_status().json()["plugins"]
    (view,) = plugin["external_views"]

    assert (view["name"], view["category"], view["destination"]) == ("ECR connections", "admin", "nav")
    assert f"/{view['href']}" == PAGE


def test_the_page_and_the_json_show_the_host_s_cache_and_no_secret(
    site: PageSite, aws: AwsStandIn, folder: Path
) -> None:
    """Tokens, failures and other definitions of an ID. Neither calls AWS nor writes a file. The log is at DEBUG."""
    checked = [site.check(conn_id).text for conn_id in ("docker_default", "docker_denied", "docker_by_airflow")]
    before = len(aws.calls()), sorted((folder / "cache").rglob("*"))
    rows = site.rows("docker")
    with site.client() as client:
        page = client.get(PAGE, params={"q": "docker"}).text

    assert (len(aws.calls()), sorted((folder / "cache").rglob("*"))) == before
    assert {conn_id: (row["state"], *row["also_defined_in"]) for conn_id, row in rows.items()} == {
        "docker_default": ("valid", "database"),
        "docker_denied": ("failed", "environment"),
        "docker_by_airflow": ("valid",),
        "docker_by_nothing": ("failed",),
        "hidden_docker": ("none",),
        "team/docker:(1)": ("none",),
    }
    assert conn_ids_in(page) == rows.keys()
    assert rows["docker_denied"]["failure"]["code"] == "AccessDeniedException"
    for text in ("Valid", "Failed", "No token", "AccessDeniedException", "Allow ecr:GetAuthorizationToken"):
        assert text in page
    assert [call.access_key_id for call in aws.calls(region="us-west-2") if call.service == "ecr"] == [AIRFLOWS_KEY]
    log = site.airflow.printed("api-server")
    assert "Received an ECR token" in log
    secrets = {*aws.secrets(), DATABASE_PASSWORD, *site.passwords.values()}
    assert [secret for secret in secrets if secret in f"{checked}{rows}{page}{log}"] == []


def test_the_page_can_start_a_check(site: PageSite) -> None:
    """It ends with the registry's login. A section checks its own connections alone."""
    findings = site.check("docker_default", Origin=site.url).raise_for_status().json()["findings"]

    assert [(each["step"], each["state"]) for each in findings[:2]] == [("AWS identity", "good"), ("token", "good")]
    assert [each["step"] for each in findings[2:]] == ["registry: login"]
    assert site.check("bulk_00001").status_code == 404
    assert site.check("bulk_00001", section="workers").status_code == 200


def test_ten_thousand_connections_take_less_than_a_second(site: PageSite) -> None:
    total = BULK + len(CONNECTIONS)
    for path, query, expected in (
        (PAGE, {}, f"{total} connections"),
        (PAGE, {"page": "9999"}, f"Page {total // 100 + 1} of"),
        (PAGE, {"q": "BULK_09999"}, "bulk_09999"),
        (JSON, {}, "bulk_09999"),
    ):
        with site.client() as client:
            answers = [client.get(path, params=query).raise_for_status() for _ in range(3)]
        assert expected in answers[0].text
        assert min(answer.elapsed.total_seconds() for answer in answers) < 1, (path, query)

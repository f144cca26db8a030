"""The page in Airflow's UI, served by a real API server: who gets in, what they see, and what it costs."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.deployment import AIRFLOWS_KEY
from tests.airflow_version import HIDES_CONNECTIONS
from tests.sites.page_site import JSON, PAGE, PageSite, serve_page
from tests.stand_ins.aws import AwsStandIn, Delay, Error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

ACCOUNT = "123456789012.dkr.ecr"
DENIAL = 'User: <script>alert(1)</script> \u202edesrever is not "authorized" ' + "x" * 700
PROFILE = "<img src=x onerror=alert(2)>'\""
BULK = 10_000
SECONDS = 1.0
CONNECTIONS: dict[str, object] = {
    "docker_default": f"{ACCOUNT}.us-east-1.amazonaws.com",
    "docker_denied": f"{ACCOUNT}.eu-west-1.amazonaws.com",
    "docker_slow": f"{ACCOUNT}.eu-north-1.amazonaws.com",
    "docker_by_airflow": {"registry": f"{ACCOUNT}.us-west-2.amazonaws.com", "aws_conn_id": "aws_ecr"},
    "hidden_docker": f"{ACCOUNT}.us-west-1.amazonaws.com",
    "docker_by_nothing": {"registry": f"{ACCOUNT}.us-west-2.amazonaws.com", "aws_conn_id": "aws_missing"},
    "team/docker:(1)": {"region_name": "ap-south-1", "profile_name": PROFILE},
}


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        aws.script(Error("AccessDeniedException", DENIAL, region="eu-west-1"), Delay(2, region="eu-north-1"))
        yield aws


@pytest.fixture(scope="module")
def site(aws: AwsStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    """One where tasks have thousands of connections more, and others have made connections of two of the IDs."""
    folder = tmp_path_factory.mktemp("page")
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


class Rows(HTMLParser):
    """The page's table, as the texts of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def by_id(self) -> dict[str, list[str]]:
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows[1:]]
        return {row[0]: row for row in rows}


def test_nobody_is_let_in_whom_airflow_would_not_show_connections(site: PageSite) -> None:
    """The anonymous are not known, a viewer lacks the right; a token and the UI's cookie both open it."""
    for user, expected in ((None, 401), ("viewer", 403), ("op", 200), ("admin", 200)):
        with site.client(user) as client:
            assert [client.get(path).status_code for path in (PAGE, JSON)] == [expected] * 2
    for user in (None, "viewer"):
        with site.client(user) as client:
            assert client.post(f"{JSON}/docker_default/check", json={}).status_code == (401 if user is None else 403)
    with site.client(None) as client:
        client.cookies.set("_token", site.token("op"))
        assert client.get(PAGE).status_code == 200


def test_a_user_sees_what_airflow_would_let_them_see(site: PageSite) -> None:
    """A connection that the auth manager hides is hidden, from Airflow 3.2 on; who may only look is shown no button."""
    with site.client("reader") as client:
        page = client.get(PAGE, params={"q": "docker"}).text
        listed = client.get(JSON, params={"q": "docker"}).json()["connections"]
        refused = [client.post(f"{JSON}/{conn_id}/check", json={}) for conn_id in ("docker_default", "hidden_docker")]
    seen = {row["conn_id"] for row in listed}

    assert seen == Rows(page).by_id().keys()
    assert {conn_id for conn_id in site.rows("docker") if conn_id not in seen} == (
        {"hidden_docker"} if HIDES_CONNECTIONS else set()
    )
    assert "data-conn-id=" not in page
    assert [answer.status_code for answer in refused] == [403, 403]


def test_the_menu_has_the_page(site: PageSite) -> None:
    """Under Admin, as Airflow answers its UI."""
    with site.client() as client:
        (plugin,) = client.get("/api/v2/plugins").raise_for_status().json()["plugins"]
    (view,) = plugin["external_views"]

    assert (view["name"], view["category"], view["destination"]) == ("ECR connections", "admin", "nav")
    assert f"/{view['href']}" == PAGE


def test_looking_costs_nothing(site: PageSite, aws: AwsStandIn) -> None:
    """No call to AWS, and no file, however often."""
    before = len(aws.calls()), sorted(site.cache.rglob("*"))
    with site.client() as client:
        for path in (PAGE, JSON) * 3:
            client.get(path).raise_for_status()

    assert (len(aws.calls()), sorted(site.cache.rglob("*"))) == before


def test_what_the_host_s_cache_holds_is_shown(site: PageSite, aws: AwsStandIn) -> None:
    """A token, a denial with its fix, an AWS connection that is missing; the page and the JSON agree."""
    for conn_id in ("docker_default", "docker_denied", "docker_by_airflow"):
        site.check(conn_id)
    rows = site.rows("docker")
    with site.client() as client:
        shown = Rows(client.get(PAGE, params={"q": "docker"}).text).by_id()

    assert {conn_id: row["state"] for conn_id, row in rows.items() if conn_id != "docker_slow"} == {
        "docker_default": "valid",
        "docker_denied": "failed",
        "docker_by_airflow": "valid",
        "docker_by_nothing": "failed",
        "hidden_docker": "none",
        "team/docker:(1)": "none",
    }
    assert shown.keys() == rows.keys()
    words = {"valid": "Valid until", "failed": "Failed", "none": "None yet"}
    for conn_id, row in rows.items():
        _, token, registry, region, identity, section, _ = shown[conn_id]
        assert token.startswith(words[row["state"]])
        assert (registry, region) == (row["registry"] or "of the identity's account", row["region"])
        assert (identity, section) == (row["identity"], "[secrets]")
        failure = row["failure"] or {"code": "", "reason": "", "remedy": ""}
        for text in (failure["code"], failure["reason"], failure["remedy"]):
            assert " ".join(text.split()) in token
    denied = rows["docker_denied"]["failure"]
    assert denied["code"] == "AccessDeniedException"
    assert "ecr:GetAuthorizationToken" in denied["remedy"]
    assert [call.access_key_id for call in aws.calls(region="us-west-2") if call.service == "ecr"] == [AIRFLOWS_KEY]


def test_a_connection_of_the_same_id_elsewhere_is_shown(site: PageSite) -> None:
    """Processes without the backend would use it."""
    rows = site.rows("docker")

    assert {conn_id: row["also_defined_in"] for conn_id, row in rows.items() if row["also_defined_in"]} == {
        "docker_default": ["database"],
        "docker_denied": ["environment"],
    }


def test_nothing_secret_is_shown_or_logged(site: PageSite, aws: AwsStandIn) -> None:
    """At DEBUG, after checks: no token, key or password in the page, its JSON, a check's answer, or the log."""
    checked = site.check("docker_default").text
    with site.client() as client:
        texts = [checked, client.get(PAGE).text, client.get(JSON, params={"q": "docker"}).text, site.log()]
    unwanted = {*aws.secrets(), "a-password-in-the-database", *site.passwords.values()}

    assert "Received an ECR token" in texts[-1]
    assert [secret for secret in unwanted for text in texts if secret in text] == []


def test_what_others_have_written_is_text(site: PageSite) -> None:
    """A script in AWS's answer or in a profile's name is shown and does not run; a direction mark is escaped."""
    site.check("docker_denied")
    with site.client() as client:
        answer = client.get(PAGE, params={"q": "docker"})
    (nonce,) = set(re.findall(r'<(?:script|style) nonce="([^"]+)"', answer.text))
    tags = Rows(answer.text).tags

    assert f"'nonce-{nonce}'" in answer.headers["Content-Security-Policy"]
    assert (tags.count("script"), tags.count("img")) == (1, 0)
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "\u202e" not in answer.text
    with site.client() as client:
        hostile = client.get(PAGE, params={"q": '"><script>alert(3)</script>', "state": '"><script>'})
    assert Rows(hostile.text).tags.count("script") == 1


def test_browsers_keep_and_frame_nothing(site: PageSite) -> None:
    """Every answer, refusals as well; Airflow's own origin may frame the page."""
    with site.client("viewer") as client:
        refused = client.get(PAGE)
    with site.client() as client:
        answers = [refused, client.get(PAGE), client.get(JSON), client.get(f"{PAGE}nothing")]

    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
    assert [answer.status_code for answer in answers] == [403, 200, 200, 404]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_no_other_site_can_start_a_check(site: PageSite, aws: AwsStandIn, headers: dict[str, str]) -> None:
    """A browser says which site sends a request."""
    before = len(aws.calls())

    assert site.check("docker_default", **headers).status_code == 403
    assert len(aws.calls()) == before


def test_the_page_itself_can_start_a_check(site: PageSite) -> None:
    """It ends with the registry's login: an API server has no Docker engine."""
    answer = site.check("docker_default", Origin=site.url)
    found = answer.raise_for_status().json()

    assert [(each["step"], each["state"]) for each in found["findings"][:2]] == [
        ("AWS identity", "good"),
        ("token", "good"),
    ]
    assert [each["step"] for each in found["findings"][2:]] == ["registry: login"]
    assert site.check("docker_other").status_code == 404
    assert site.check("bulk_00001").status_code == 404
    assert site.check("bulk_00001", section="workers").status_code == 200


def test_one_check_runs_at_a_time(site: PageSite, aws: AwsStandIn) -> None:
    """Another request is refused at once."""
    before = len(aws.calls(region="eu-north-1"))
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(site.check, "docker_slow")
        while len(aws.calls(region="eu-north-1")) == before and not first.done():
            time.sleep(0.05)
        second = site.check("docker_default")

        assert first.result().status_code == 200
    assert second.status_code == 409


def test_ten_thousand_connections_are_no_burden(site: PageSite) -> None:
    """A page has a hundred; a filter finds one; the JSON has them all. Each within a second."""
    found: dict[str, Any] = {}
    with site.client() as client:
        for name, path, query in (
            ("first", PAGE, {}),
            ("last", PAGE, {"page": 9999}),
            ("one", PAGE, {"q": "BULK_09999"}),
            ("all", JSON, {}),
        ):
            answers = [client.get(path, params=query).raise_for_status() for _ in range(3)]
            assert min(answer.elapsed.total_seconds() for answer in answers) < SECONDS, name
            found[name] = answers[-1]

    total = BULK + len(CONNECTIONS)
    assert len(Rows(found["first"].text).by_id()) == 100
    assert len(Rows(found["last"].text).by_id()) == total % 100
    assert [*Rows(found["one"].text).by_id()] == ["bulk_09999"]
    assert f"{total} connections" in found["first"].text
    assert len(found["all"].json()["connections"]) == total


def test_without_airflow_s_own_tests_of_connections_there_is_no_check(aws: AwsStandIn, tmp_path: Path) -> None:
    """Airflow's default; here, only tasks have the backend, which the page says first."""
    sections = {"workers": {"connections": CONNECTIONS, "cache_dir": str(tmp_path / "cache")}}
    before = len(aws.calls())
    with serve_page(tmp_path, aws, sections, {}, {}) as site, site.client() as client:
        page, answer = client.get(PAGE).text, client.get(JSON).json()
        refused = site.check("docker_default", section="workers")

    assert "data-conn-id=" not in page
    assert refused.status_code == 403
    assert refused.json()["detail"] == "[core] test_connection is not Enabled."
    assert len(aws.calls()) == before
    assert not site.cache.exists()  # nobody has looked anything up
    (problem,) = answer["problems"]
    assert "no secrets backend is set in [secrets]" in problem
    assert {row["section"] for row in answer["connections"]} == {"workers"}
    assert page.index("no secrets backend is set in [secrets]") < page.index("docker_default")

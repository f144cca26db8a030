"""The page in Airflow's UI in a browser, from Airflow's login page and menu."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import closing
from importlib.resources import files
from itertools import product
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from PIL import Image, PngImagePlugin
from playwright.sync_api import sync_playwright

from tests.requirements import need_programs
from tests.sites.page_site import PAGE, PageSite, serve_page
from tests.stand_ins.aws import AwsStandIn, Error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FrameLocator, Page, StorageState

pytestmark = pytest.mark.timeout(180)

SCREENSHOT = Path(__file__).parents[2] / "docs/ui.png"
#: Of the template. The picture has it as metadata, so that a test fails if the picture is out of date.
DIGEST = hashlib.sha256(files("ecr_secrets_backend.ui").joinpath("page.html").read_bytes()).hexdigest()
ACCOUNT = "123456789012.dkr.ecr"
ROLE = "arn:aws:iam::123456789012:role/pull-images"
DENIAL = "User: arn:aws:sts::123456789012:assumed-role/airflow/i-0abc is not authorized to perform: {}"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>'\""
HOSTILE = f"{SCRIPT}\u202edesrever {'x' * 600}"
CONNECTIONS: dict[str, object] = {
    "docker_default": f"{ACCOUNT}.us-east-1.amazonaws.com",
    "docker_eu": f"{ACCOUNT}.eu-west-1.amazonaws.com",
    "docker_partner": {"registry": f"{ACCOUNT}.ap-south-1.amazonaws.com", "role_arn": ROLE},
    f"hostile_{'x' * 240}": {"region_name": "eu-north-1", "profile_name": f"{SCRIPT}{'x' * 600}"},
    "hostile": {"registry": f"{ACCOUNT}.ca-central-1.amazonaws.com"},
}
WIDE, NARROW = (1280, 720), (400, 800)
BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(17, 17, 17)"
REFRESHED_MS = 31_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_programs("chromium")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=which("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        aws.script(Error("AccessDeniedException", DENIAL.format("ecr:GetAuthorizationToken"), region="eu-west-1"))
        aws.script(Error("AccessDeniedException", HOSTILE, region="ca-central-1"))
        yield aws


@pytest.fixture(scope="module")
def site(aws: AwsStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageSite]:
    """A server with a token, a denial, and connections with hostile names and failures."""
    folder = tmp_path_factory.mktemp("page")
    sections = {"secrets": {"connections": CONNECTIONS, "cache_dir": str(folder / "cache")}}
    options = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
    with serve_page(folder, aws, sections, options, {"docker_eu": ("docker", "AWS")}) as site:
        for conn_id in ("docker_default", "docker_eu", "hostile"):
            site.check(conn_id).raise_for_status()
        yield site


@pytest.fixture(scope="module")
def login(browser: Browser, site: PageSite) -> StorageState:
    """Log in as a user does, and return what the browser stores."""
    with closing(browser.new_page()) as page:
        page.goto(f"{site.url}/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", site.passwords["admin"])
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/auth/" not in url)
        return page.context.storage_state()


@pytest.fixture
def page(browser: Browser, site: PageSite, login: StorageState) -> Iterator[Page]:
    """A tab of a user that has logged in. An error, a dialog or a request to another host fails the test."""
    place: dict[str, Any] = {"base_url": site.url, "locale": "en-GB", "timezone_id": "Europe/Berlin"}
    screen: dict[str, Any] = {"viewport": {"width": WIDE[0], "height": WIDE[1]}, "color_scheme": "light"}
    context = browser.new_context(storage_state=login, **place, **screen)
    page = context.new_page()
    errors: list[str] = []
    requested: list[str] = []
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.on("request", lambda request: requested.append(request.url))
    yield page
    context.close()
    assert errors + [url for url in requested if not re.match(f"(blob:)?{site.url}/", url)] == []


def open_by_menu(page: Page) -> FrameLocator:
    page.goto("/")
    page.get_by_role("button", name="Admin").click()
    page.get_by_role("menuitem", name="ECR connections").click()
    frame = page.frame_locator("iframe[title='ECR connections']")
    frame.get_by_role("table").wait_for()
    return frame


def find_violations(page: Page) -> list[Any]:
    """Return the serious violations that axe-core finds, and what is hidden or too wide, by scheme and size."""
    found: list[Any] = []
    for scheme, (width, height) in product(SCHEMES, (WIDE, NARROW)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        violations = Axe().run(page).response["violations"]
        serious = [each for each in violations if each["impact"] in {"serious", "critical"}]
        found += [(scheme, width, each["id"], each["nodes"][0]["html"]) for each in serious]
        shown = page.locator("tbody tr button:visible").count()
        if shown != len(CONNECTIONS) or page.evaluate("document.documentElement.scrollWidth") > width:
            found.append((scheme, width, "hidden or too wide"))
    return found


def record(page: Page) -> None:
    """Take the picture of the docs, with the template's digest."""
    information = PngImagePlugin.PngInfo()
    information.add_text("page", DIGEST)
    page.screenshot(path=SCREENSHOT)
    with Image.open(SCREENSHOT) as picture:
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(SCREENSHOT, optimize=True, pnginfo=information)


def test_the_menu_admin_opens_the_page(page: Page) -> None:
    """In a frame of Airflow's UI, with local times. A filter selects the three rows of the docs' picture."""
    frame = open_by_menu(page)
    frame.get_by_label("Find").fill("docker")
    frame.get_by_label("Find").press("Enter")
    frame.get_by_role("link", name="1 valid").wait_for()
    rows = frame.locator("tbody tr")
    rows.nth(3).wait_for(state="detached")

    assert [text.split()[0] for text in rows.all_inner_texts()] == ["docker_default", "docker_eu", "docker_partner"]
    assert re.search(r"Valid until \d+ \w+ \d{4}, \d\d:\d\d:\d\d, in 11 h 5\d min", rows.nth(0).inner_text())
    assert "AccessDeniedException" in rows.nth(1).inner_text()
    assert 'Allow ecr:GetAuthorizationToken on Resource "*"' in rows.nth(1).inner_text()
    assert "Also defined in the metadata database" in rows.nth(1).inner_text()
    assert "No token" in rows.nth(2).inner_text()
    if "RECORD" in os.environ:  # see CONTRIBUTING.md
        record(page)
    with Image.open(SCREENSHOT) as picture:
        assert (picture.size, picture.info["page"]) == (WIDE, DIGEST)


def test_the_page_follows_airflow_s_theme(page: Page) -> None:
    """At once. It follows the system's theme if the user has not set one in Airflow's menu."""
    frame = open_by_menu(page)
    body = frame.locator("body")
    assert body.evaluate(BACKGROUND) == LIGHT
    page.emulate_media(color_scheme="dark")
    assert body.evaluate(BACKGROUND) == DARK

    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="User").click()
    page.get_by_role("menuitem", name="Appearance").click()
    page.get_by_role("menuitem", name="Dark").or_(page.get_by_role("menuitemradio", name="Dark")).click()
    page.wait_for_function("() => localStorage.getItem('theme') === 'dark'")
    frame.locator("html[style*=dark]").wait_for()
    assert body.evaluate(BACKGROUND) == DARK


def test_the_page_is_accessible(page: Page) -> None:
    """With the result of a check, too."""
    page.goto(PAGE)
    page.get_by_role("table").wait_for()
    assert find_violations(page) == []

    page.get_by_role("button", name="Check docker_eu of secrets").click()
    page.get_by_text("AWS identity").last.wait_for()
    assert find_violations(page) == []


def test_a_check_needs_no_mouse(page: Page) -> None:
    """Enter starts it, a screen reader reads its steps, Escape closes it, and the focus returns."""
    page.goto(PAGE)
    button = page.get_by_role("button", name="Check docker_default of secrets")
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("(element) => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Check docker_default")
    dialog.get_by_text("✓ token").wait_for()
    assert dialog.get_by_role("status").inner_text().startswith("✓ AWS identity")
    with page.expect_response(lambda answer: answer.url.endswith(PAGE)):  # the check may have changed a row
        page.keyboard.press("Escape")

    assert not dialog.is_visible()
    page.wait_for_function("() => document.activeElement.id === 'check-secrets-docker_default'")


def test_the_page_refreshes_itself(page: Page, aws: AwsStandIn) -> None:
    """Twice a minute, without a call to AWS, and the focus stays."""
    page.clock.install()
    page.goto(PAGE)
    page.locator("#check-secrets-docker_default").focus()
    page.evaluate("() => document.querySelector('#live p').textContent = 'out of date'")
    before = len(aws.calls())
    page.clock.fast_forward(REFRESHED_MS)
    page.get_by_text("out of date").wait_for(state="detached")

    assert len(aws.calls()) == before
    assert page.evaluate("() => document.activeElement.id") == "check-secrets-docker_default"
    assert re.fullmatch(r"\d\d:\d\d:\d\d", page.locator("time[data-form]").inner_text())


def test_a_script_in_a_value_does_not_run(page: Page) -> None:
    """In the page and in the result of a check it is text, and direction marks are escaped."""
    page.goto(f"{PAGE}?q=hostile")
    row = page.locator("tbody tr").filter(has_text="ca-central-1")
    assert f"{SCRIPT}\\u202edesrever" in row.inner_text()
    page.get_by_role("button", name="Check hostile of secrets").click()
    page.get_by_role("status").get_by_text("<script>alert(1)</script>").wait_for()

    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1

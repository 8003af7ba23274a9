"""Coming in to the pages through a real OpenID provider: over HTTP what is refused, in Chromium that it works."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from playwright.sync_api import sync_playwright

from tests.server.world import ok
from tests.services import RunningService
from tests.testbed.oidc import IS_THERE, Browser, service_with_providers

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not IS_THERE, reason="there is no Node here")]
CHROMIUM = shutil.which("chromium") or ""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with service_with_providers(tmp_path_factory.mktemp("oidc")) as service:
        yield service


def leave(service: RunningService, browser: Browser, provider: str = "lab", there: str = "/ui") -> httpx2.Response:
    """What a browser gets for choosing a provider on the login form."""
    return browser.submit(browser.get(service.url + there), provider=provider)


def audit(service: RunningService, event: str) -> dict[str, object]:
    with service.client() as admin:
        return dict(ok(admin.get("/api/audit", params={"event": event}))["results"][0])


def test_a_person_comes_in_and_is_the_account_of_balsam_login(service: RunningService) -> None:
    for _ in range(2):
        with Browser() as browser:
            page = browser.get(f"{service.url}/ui/jobs?state=FAILED")
            assert "Log in with The &lt;Lab&gt;" in page.text
            policy = page.headers["content-security-policy"]
            assert "script-src 'self'" in policy and "unsafe" not in policy and "form-action 'self' http://" in policy
            page = browser.log_in_at_provider(browser.submit(page, provider="lab"), "ada")
            assert (page.status_code, page.url.path, page.url.query) == (200, "/ui/jobs", b"state=FAILED"), page.text
            assert "<span>ada</span>" in page.text
    row = audit(service, "login")
    assert row["detail"] == {"method": "lab", "username": "ada"} and row["address"] == "127.0.0.1"
    with service.client() as admin:
        names = [user["username"] for user in ok(admin.get("/api/users"))]
    assert names.count("ada") == 1


def test_who_is_on_no_list_stays_out(service: RunningService) -> None:
    for name, provider in (("unverified", "lab"), ("ada", "beam")):
        with Browser() as browser:
            page = browser.log_in_at_provider(leave(service, browser, provider), name)
            assert page.status_code == 403 and "lets in certain groups or domains" in page.text
            assert browser.get(service.url + "/ui").url.path == "/ui/login"
    assert "certain groups" in str(audit(service, "login_failed")["detail"])


def test_state_is_good_once_and_in_one_browser_only(service: RunningService) -> None:
    with Browser() as browser, Browser() as other:
        browser.follow_redirects = False
        page = browser.get(service.url + "/ui/login")
        there = browser.submit(page, provider="lab").headers["location"]
        query, issuer = parse_qs(urlsplit(there).query), "/".join(there.split("/")[:3])
        assert query["code_challenge_method"] == ["S256"] and len(query["nonce"][0]) >= 43
        state = query["state"][0]
        other.get(service.url + "/ui/login")
        fixed = other.get(f"{service.url}/login/callback?code=x&state={state}")
        assert fixed.status_code == 403 and "another browser" in fixed.text
        browser.follow_redirects = True
        refused = browser.get(f"{service.url}/login/callback?error=access_denied&state={state}")
        assert refused.status_code == 403 and "access_denied" in refused.text
        foreign = browser.get(f"{service.url}/login/callback?code=guessed&state={state}&iss=https://evil.example")
        assert foreign.status_code == 403 and "not of the provider" in foreign.text
        guessed = browser.get(f"{service.url}/login/callback?code=guessed&state={state}&iss={issuer}")
        assert guessed.status_code == 503 and "invalid_grant" in guessed.text
        page = browser.log_in_at_provider(leave(service, browser), "bob")
        assert page.url.path == "/ui"
        (used,) = [str(one.url) for one in page.history if "/ui/login/back" in str(one.url)]
        assert browser.get(used).status_code == 403, "used once"


def test_the_form_is_ours_and_leads_nowhere_else(service: RunningService) -> None:
    with Browser() as browser, Browser() as other:
        page = browser.get(service.url + "/ui/login")
        csrf = re.search(r'name="csrf" value="(\w+)"', page.text)
        assert csrf is not None
        target = service.url + "/ui/login/provider"
        for client, data, headers in (
            (browser, {}, {}),
            (browser, {"csrf": "0" * 64}, {}),
            (browser, {"csrf": csrf[1]}, {"origin": "https://evil.example"}),
            (other, {"csrf": csrf[1]}, {}),
        ):
            assert client.post(target, data={**data, "provider": "lab"}, headers=headers).status_code == 403
        assert browser.submit(page, provider="nobody").status_code == 404
        page = leave(service, browser, there="/ui/login?next=//evil.example/ui")
        assert browser.log_in_at_provider(page, "carl").url.path == "/ui"


def test_a_provider_that_is_down_stops_new_logins_and_nothing_else(service: RunningService) -> None:
    with Browser() as browser, Browser() as other:
        assert browser.log_in_at_provider(leave(service, browser), "dora").url.path == "/ui"
        down = leave(service, other, "gone")
        assert down.status_code == 503 and "does not answer" in down.text and int(down.headers["retry-after"]) > 0
        assert browser.get(service.url + "/ui/jobs").url.path == "/ui/jobs"


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_chromium_comes_in_through_the_provider(service: RunningService) -> None:
    """Its rules about forms, redirects and cookies are stricter than those of an HTTP client."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(service.url + "/ui/sites")
        page.get_by_role("button", name="Log in with The <Lab>").click()
        page.fill('input[name="login"]', "eve")
        page.fill('input[name="password"]', "any")
        page.get_by_role("button", name="Sign-in").click()
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url("**/ui/sites")
        assert page.locator(".me span").inner_text() == "eve"
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/ui/login")
        browser.close()

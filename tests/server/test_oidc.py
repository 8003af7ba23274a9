"""Logging in through a browser: the device flow of the service over the code flow with PKCE of a real provider.

The provider is npm's oidc-provider, a certified one; the person's clicks are made by an HTTP client with cookies.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from balsam.cli import server_doctor_network
from balsam.server.settings import ServerSettings
from tests.server.world import ok
from tests.services import RunningService
from tests.system.live_site import BALSAM
from tests.testbed.oidc import IS_THERE, Browser, service_with_providers

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not IS_THERE, reason="there is no Node here")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with service_with_providers(tmp_path_factory.mktemp("oidc")) as service:
        yield service


def begin(service: RunningService, client: str = "balsam on login1") -> dict[str, Any]:
    with service.client("") as nobody:
        return dict(ok(nobody.post("/api/auth/device", json={"client": client})))


def poll(service: RunningService, begun: dict[str, Any]) -> httpx2.Response:
    with service.client("") as nobody:
        return nobody.post("/api/auth/device/token", json={"device_code": begun["device_code"]})


def to_consent(
    service: RunningService, browser: Browser, begun: dict[str, Any], name: str, provider: str = "lab"
) -> httpx2.Response:
    page = browser.get(begun["verification_uri_complete"])
    assert begun["user_code"] in page.text and page.status_code == 200
    return browser.log_in_at_provider(browser.submit(page, code=begun["user_code"], provider=provider), name)


def test_a_program_is_let_in_by_a_person_in_a_browser(service: RunningService) -> None:
    begun = begin(service, "balsam <b>on</b> login1")
    assert re.fullmatch(r"[B-Z]{4}-[B-Z]{4}", begun["user_code"]) and begun["expires_in_sec"] == 300
    first = poll(service, begun)
    assert (first.status_code, first.json()["error"]["code"]) == (400, "authorization_pending")
    assert poll(service, begun).json()["error"]["code"] == "slow_down"
    with Browser() as browser:
        page = to_consent(service, browser, begun, "ada")
        assert "You are <b>ada</b>" in page.text and "balsam &lt;b&gt;on&lt;/b&gt; login1" in page.text
        assert "127.0.0.1" in page.text and begun["user_code"] in page.text and "everything" in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store" and "<script" not in page.text
        assert poll(service, begun).json()["error"]["code"] in ("authorization_pending", "slow_down")
        assert "logged in" in browser.submit(page, answer="yes").text
    login = ok(poll(service, begun))
    assert login["username"] == "ada" and login["token"].startswith("blsm_user_")
    assert poll(service, begun).json()["error"]["code"] == "expired_token"  # once
    with service.client(login["token"]) as client:
        me = ok(client.get("/api/auth/me"))
    assert (me["username"], me["is_admin"], me["scopes"]) == ("ada", False, ["all"])
    with service.client() as admin:
        row = ok(admin.get("/api/audit", params={"event": "login"}))["results"][0]
    assert row["detail"]["method"] == "lab" and row["address"] == "127.0.0.1" and login["token"] not in str(row)


def test_the_same_person_is_the_same_account_and_takes_nobody_elses(service: RunningService) -> None:
    with service.client() as admin:
        ok(admin.post("/api/users", json={"username": "eve", "password": "a long pass phrase"}))
    names = []
    for _ in range(2):
        begun = begin(service)
        with Browser() as browser:
            browser.submit(to_consent(service, browser, begun, "eve"), answer="yes")
        names.append(ok(poll(service, begun))["username"])
    assert names == ["eve@lab", "eve@lab"]


def test_who_is_on_no_list_stays_out(service: RunningService) -> None:
    for name, provider in (("unverified", "lab"), ("ada", "beam")):
        begun = begin(service)
        with Browser() as browser:
            page = to_consent(service, browser, begun, name, provider)
        assert page.status_code == 403 and "lets in certain groups or domains" in page.text
        assert poll(service, begun).json()["error"]["code"] in ("authorization_pending", "slow_down")
    begun = begin(service)
    with Browser() as browser:
        page = to_consent(service, browser, begun, "member", "beam")
        assert "You are <b>member</b>" in page.text and "<b>30 days</b>" in page.text


def test_a_refusal_is_told_to_the_program(service: RunningService) -> None:
    begun = begin(service)
    with Browser() as browser:
        browser.submit(to_consent(service, browser, begun, "ada"), answer="no")
    assert poll(service, begun).json()["error"]["code"] == "access_denied"


def test_consent_takes_the_browser_that_logged_in_and_its_form(service: RunningService) -> None:
    begun = begin(service)
    with Browser() as browser, Browser() as other:
        page = to_consent(service, browser, begun, "ada")
        action = re.search(r'action="(/login/decide[^"]*)"', page.text)
        assert action is not None
        target = service.url + action[1]
        csrf = re.search(r'name="csrf" value="(\w+)"', page.text)
        assert csrf is not None
        other.get(service.url + "/login")
        for client, fields, origin in (
            (other, {"csrf": csrf[1]}, service.url),
            (other, {}, service.url),
            (browser, {}, service.url),
            (browser, {"csrf": "x"}, service.url),
            (browser, {"csrf": csrf[1]}, "http://evil.example"),
        ):
            refused = client.post(target, data={**fields, "answer": "yes"}, headers={"origin": origin})
            assert refused.status_code == 403, refused.text
        assert poll(service, begun).json()["error"]["code"] in ("authorization_pending", "slow_down")
        again = browser.get(f"{service.url}/login/callback?code=x&state=y")
        assert again.status_code == 404


def test_state_nonce_and_code_are_good_once_and_in_one_browser_only(service: RunningService) -> None:
    begun = begin(service)
    with Browser() as browser, Browser() as other:
        browser.follow_redirects = False
        page = browser.get(begun["verification_uri_complete"])
        sent = browser.submit(page, code=begun["user_code"], provider="lab")
        query = parse_qs(urlsplit(sent.headers["location"]).query)
        assert query["code_challenge_method"] == ["S256"] and len(query["nonce"][0]) >= 43
        state = query["state"][0]
        other.get(service.url + "/login")
        fixated = other.get(f"{service.url}/login/callback?code=x&state={state}")
        assert fixated.status_code == 404
        issuer = "/".join(sent.headers["location"].split("/")[:3])
        for other_one in ("", "&iss=https://evil.example"):
            foreign = browser.get(f"{service.url}/login/callback?code=guessed&state={state}{other_one}")
            assert foreign.status_code == 403 and "not of the provider" in foreign.text
        wrong = browser.get(f"{service.url}/login/callback?code=guessed&state={state}&iss={issuer}")
        assert wrong.status_code == 503 and "invalid_grant" in wrong.text
        replayed = browser.submit(page, code=begun["user_code"], provider="lab")
        assert replayed.status_code in (400, 429)  # the code is taken; others were guessed before


def test_guessing_user_codes_ends_after_five(service: RunningService) -> None:
    begun = begin(service)
    with Browser(transport=httpx2.HTTPTransport(local_address="127.0.0.2")) as elsewhere:
        page = elsewhere.get(service.url + "/login")
        answers = [elsewhere.submit(page, code="BBBB-BBBB", provider="lab").status_code for _ in range(6)]
        assert answers == [400] * 5 + [429]
        right = elsewhere.submit(page, code=begun["user_code"], provider="lab")
        assert right.status_code == 429  # one that was found by guessing is not let in either
    with Browser() as browser:
        assert "You are <b>ada</b>" in to_consent(service, browser, begun, "ada").text


def test_a_provider_that_is_down_stops_new_logins_and_nothing_else(service: RunningService) -> None:
    begun = begin(service)
    with Browser() as browser:
        page = browser.get(begun["verification_uri_complete"])
        down = browser.submit(page, code=begun["user_code"], provider="gone")
        assert down.status_code == 503 and "does not answer" in down.text
        assert browser.submit(page, code=begun["user_code"], provider="lab").status_code == 200  # another one goes on
    with service.client() as client:
        ok(client.get("/api/jobs"))


def test_balsam_login(service: RunningService, tmp_path: Path) -> None:
    command = [str(BALSAM), "login", service.url, "--json"]
    environment = {**os.environ, "BALSAM_HOME": str(tmp_path / "home")}
    waiting = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    assert waiting.stderr is not None
    address = waiting.stderr.readline().split()[-1]
    begun = {"verification_uri_complete": address, "user_code": address.rpartition("=")[2]}
    with Browser() as browser:
        browser.submit(to_consent(service, browser, begun, "grace"), answer="yes")
    out, _ = waiting.communicate(timeout=60)
    assert '"username": "grace"' in out and waiting.returncode == 0
    assert (tmp_path / "home" / "client.yml").stat().st_mode & 0o777 == 0o600


def test_the_doctor_asks_every_provider(service: RunningService) -> None:
    settings = ServerSettings(login_file=service.home.parent / "login.yml", port=service.port)
    found = {one.check: one for one in server_doctor_network.logins(settings)}
    statuses = {check: one.status for check, one in found.items()}
    assert statuses == {"public URL": "ok", "provider lab": "ok", "provider beam": "ok", "provider gone": "problem"}
    assert "http://127.0.0.1:9" in found["provider gone"].message

"""The pages over HTTP: who gets in, what their forms refuse, what they say, and what headers they have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from tests.server.world import PASSWORD, Person, furnish, make_jobs, make_user, ok
from tests.services import RunningService, running_service

pytestmark = pytest.mark.slow

VENDORED = {
    "htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "hx-sse.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
PAGES = ("/ui", "/ui/jobs", "/ui/allocations", "/ui/sites", "/ui/tokens")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("home") / "balsam") as started:
        yield started


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    return furnish(service, make_user(service, "ann"))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Person:
    return furnish(service, make_user(service, "bob"))


def browser(service: RunningService) -> httpx2.Client:
    return httpx2.Client(base_url=service.url, timeout=30, trust_env=False, follow_redirects=True)


def fields_of(page: httpx2.Response) -> dict[str, str]:
    return {
        name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text)
    }


@contextmanager
def let_in(service: RunningService, person: Person) -> Iterator[httpx2.Client]:
    """A browser with a session of this person."""
    with service.client(person.token) as client:
        path = ok(client.post("/api/auth/browser-link"))["path"]
    with browser(service) as client:
        page = client.post("/ui/enter", data=fields_of(client.get(path)))
        assert page.status_code == 200 and str(page.url).endswith("/ui"), page.text
        yield client


@pytest.fixture(scope="module")
def anns(service: RunningService, ann: Person) -> Iterator[httpx2.Client]:
    with let_in(service, ann) as client:
        yield client


@pytest.fixture(scope="module")
def bobs(service: RunningService, bob: Person) -> Iterator[httpx2.Client]:
    with let_in(service, bob) as client:
        yield client


def test_a_password_lets_in_and_leads_back_to_where_one_was_going(service: RunningService, ann: Person) -> None:
    with browser(service) as client:
        page = client.get("/ui/jobs?state=FAILED")
        assert page.url.path == "/ui/login"
        wrong = client.post("/ui/login", data={**fields_of(page), "username": "ann", "password": "wrong password"})
        assert (wrong.status_code, "wrong user name or password" in wrong.text) == (401, True)
        page = client.post("/ui/login", data={**fields_of(wrong), "username": "ann", "password": PASSWORD})
        assert (page.status_code, page.url.path, page.url.query) == (200, "/ui/jobs", b"state=FAILED")
        ended = client.post("/ui/logout", data=fields_of(page))
        assert ended.history[0].headers["clear-site-data"] == '"cache", "storage"'
        assert ended.url.path == "/ui/login"
        assert client.get("/ui").url.path == "/ui/login"


@pytest.mark.parametrize(
    "there", ["//evil.example/ui", "https://evil.example/ui", "/\\evil.example", "/uix", "/api/jobs"]
)
def test_nobody_is_led_elsewhere_by_a_login(service: RunningService, bob: Person, there: str) -> None:
    with service.client(bob.token) as api, browser(service) as client:
        path = ok(api.post("/api/auth/browser-link"))["path"]
        given = fields_of(client.get(path)) | {"next": there}
        found = client.post("/ui/enter", data=given, follow_redirects=False)
    assert found.headers["location"] == "/ui"


def test_a_link_works_once_and_only_by_its_form(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as api:
        path = ok(api.post("/api/auth/browser-link"))["path"]
        tokens = ok(api.get("/api/tokens"))["count"]
    code = parse_qs(urlsplit(path).query)["code"][0]
    with browser(service) as client, browser(service) as other:
        page = client.get(path)
        assert client.get(path).status_code == 200, "who only looks uses nothing up"
        assert other.post("/ui/enter", data={"code": code}).status_code == 403, "without a form of ours"
        assert client.post("/ui/enter", data=fields_of(page)).url.path == "/ui"
        assert other.get(path).status_code == 403
        assert client.post("/ui/enter", data=fields_of(page)).status_code == 403
    with service.client(ann.token) as api:
        assert ok(api.get("/api/tokens"))["count"] == tokens + 1


def test_a_program_cant_make_a_link_and_its_token_is_no_session(service: RunningService, ann: Person) -> None:
    with service.client(ann.token) as api:
        made = ok(api.post("/api/tokens", json={"label": "program", "scopes": ["jobs:write"]}))["token"]
    with service.client(made) as program:
        assert program.post("/api/auth/browser-link").status_code == 403
    for token in (made, ann.site_token, ann.launcher_token):
        with browser(service) as client:
            client.cookies.set(f"balsam-session-{service.port}", token)
            assert client.get("/ui").status_code == 403


def test_a_session_ends_with_its_token(service: RunningService, bob: Person) -> None:
    with let_in(service, bob) as client, service.client(bob.token) as api:
        (row,) = [row for row in ok(api.get("/api/tokens"))["results"] if row["label"] == "browser"][-1:]
        assert client.get("/ui/sites").url.path == "/ui/sites"
        ok(api.delete(f"/api/tokens/{row['id']}"))
        assert client.get("/ui/sites").url.path == "/ui/login"
        part = client.get("/ui/jobs", headers={"HX-Request": "true"})
        assert (part.status_code, part.headers["hx-redirect"]) == (401, "/ui/login")


def test_every_form_is_refused_when_it_came_from_elsewhere(
    service: RunningService, ann: Person, anns: httpx2.Client
) -> None:
    """T14."""
    good = fields_of(anns.get(f"/ui/jobs/{ann.job_id}"))
    with service.client(ann.token) as client:
        token_id = ok(client.get("/api/tokens"))["results"][0]["id"]
    forms = ["/ui/logout", f"/ui/jobs/{ann.job_id}/cancel", f"/ui/jobs/{ann.job_id}/retry"]
    forms += [f"/ui/allocations/{ann.batch_job_id}/end", "/ui/login", "/ui/enter"]
    forms += ["/ui/tokens", f"/ui/tokens/{token_id}/revoke"]
    page = files("balsam.web").joinpath("pages.py").read_text()
    assert page.count('"POST"') == len(forms), "a form without a row"
    for path in forms:
        for data, headers in (
            ({}, {}),
            ({"csrf": "0" * 64}, {}),
            (good, {"origin": "https://evil.example"}),
            (good, {"sec-fetch-site": "cross-site"}),
            (good, {"origin": "null"}),
        ):
            assert anns.post(path, data=data, headers=headers).status_code == 403, (path, headers)
        assert anns.get(path).status_code in (200, 403, 404, 405)
    with service.client(ann.token) as client:
        assert ok(client.get(f"/api/jobs/{ann.job_id}"))["state"] != "CANCELLED"
        assert token_id in [one["id"] for one in ok(client.get("/api/tokens"))["results"]]
    assert "access-control-allow-origin" not in anns.get("/ui").headers


def test_others_things_are_not_there(service: RunningService, ann: Person, bobs: httpx2.Client) -> None:
    """S14: the same answer as for what does not exist."""
    csrf = fields_of(bobs.get("/ui"))
    for made in ("/ui/jobs/{}", "/ui/jobs/{}/cancel", "/ui/jobs/{}/retry"):
        method, data = ("GET", None) if made.endswith("{}") else ("POST", csrf)
        real, absent = (bobs.request(method, made.format(number), data=data) for number in (ann.job_id, 10**9))
        assert real.status_code == absent.status_code == 404
        assert re.sub(r"\d+", "N", real.text) == re.sub(r"\d+", "N", absent.text)
    real, absent = (bobs.post(f"/ui/allocations/{number}/end", data=csrf) for number in (ann.batch_job_id, 10**9))
    assert real.status_code == absent.status_code == 404
    assert bobs.get(f"/ui/jobs/{ann.job_id}/tail").json()["is_missing"]
    listed = bobs.get(f"/ui/jobs?site_id={ann.site_id}")
    assert "0 Jobs" in listed.text and "/ui/jobs/" not in listed.text.split("<main")[1]
    with service.client(ann.token) as client:
        assert ok(client.get(f"/api/batch-jobs/{ann.batch_job_id}"))["state"] != "pending_deletion"


def test_the_first_page_counts_and_says_why(service: RunningService, ann: Person, anns: httpx2.Client) -> None:
    page = anns.get("/ui").text
    with service.client(ann.token) as client:
        counts = ok(client.get(f"/api/jobs/counts?site_id={ann.site_id}"))["counts"]
        why = ok(client.get(f"/api/jobs/{ann.staging_job_id}/explain"))
    for state, number in counts.items():
        assert re.search(rf'site_id={ann.site_id}&amp;state={state}"><b>{number}</b> {state}', page), (state, number)
    assert why["summary"] in unescape(page)
    assert "No Job has failed." in page


def test_jobs_are_filtered_paged_and_bad_filters_named(
    service: RunningService, ann: Person, anns: httpx2.Client
) -> None:
    with service.client(ann.token) as client:
        ids = make_jobs(client, ann.app_id, 120, tags={"campaign": "many"})
    page = anns.get("/ui/jobs?tags=campaign:many&state=&workdir=")
    seen: list[int] = []
    for _ in range(3):
        seen += [int(found) for found in re.findall(r'data-label="Job"><a href="/ui/jobs/(\d+)"', page.text)]
        following = re.search(r'href="(/ui/jobs\?[^"]*after=\d+)"', page.text)
        if following:
            page = anns.get(unescape(following[1]))
    assert seen == sorted(ids, reverse=True)
    shown = anns.get("/ui/jobs?tags=campaign%3Dmany").text  # as the page itself writes a tag
    assert re.findall(r'data-label="Job"><a href="/ui/jobs/(\d+)"', shown) == [str(number) for number in seen[:50]]
    bad = anns.get("/ui/jobs?state=NONSENSE")
    assert bad.status_code == 422 and "state[0]" in bad.text
    assert anns.get("/ui/jobs?site_id=x").status_code == 422


def test_an_address_that_no_page_has_is_told_on_a_page(anns: httpx2.Client) -> None:
    answer = anns.get("/ui/nowhere/at/all")
    assert answer.status_code == 404 and "This did not work" in answer.text and "To the first page" in answer.text
    for slashed, path in (("/ui/", "/ui"), ("/ui/jobs/", "/ui/jobs")):
        answer = anns.get(slashed)
        assert (answer.status_code, answer.url.path) == (200, path)


def test_a_job_is_cancelled_and_retried_once(service: RunningService, ann: Person, anns: httpx2.Client) -> None:
    with service.client(ann.token) as client:
        (job_id,) = make_jobs(client, ann.app_id)
        csrf = fields_of(anns.get(f"/ui/jobs/{job_id}"))
        page = anns.post(f"/ui/jobs/{job_id}/cancel", data=csrf)
        assert page.url.path == f"/ui/jobs/{job_id}" and "CANCELLED" in page.text
        assert anns.post(f"/ui/jobs/{job_id}/cancel", data=csrf).status_code == 200, "again changes nothing"
        page = anns.post(f"/ui/jobs/{job_id}/retry", data=csrf)
        assert ok(client.get(f"/api/jobs/{job_id}"))["state"] == "RESTART_READY"
        assert anns.post(f"/ui/jobs/{job_id}/retry", data=csrf).status_code == 409


def test_an_allocation_is_asked_to_end(service: RunningService, bob: Person, bobs: httpx2.Client) -> None:
    page = bobs.get("/ui/allocations")
    for _ in range(2):  # a second click changes nothing
        page = bobs.post(f"/ui/allocations/{bob.batch_job_id}/end", data=fields_of(page) or fields_of(bobs.get("/ui")))
        assert page.status_code == 200
    with service.client(bob.token) as client:
        assert ok(client.get(f"/api/batch-jobs/{bob.batch_job_id}"))["state"] in ("pending_deletion", "finished")


def test_a_token_is_made_shown_once_used_and_revoked(service: RunningService, ann: Person, anns: httpx2.Client) -> None:
    page = anns.get("/ui/tokens")
    form = fields_of(page) | {"label": "<b>nightly</b>", "scope-jobs:read": "on", "days": "30", "site_id": ""}
    page = anns.post("/ui/tokens", data=form)
    (secret,) = re.findall(r"<pre>(blsm_user_[\w-]+)</pre>", page.text)
    assert page.headers["cache-control"] == "no-store" and "&lt;b&gt;nightly" in page.text
    assert secret not in anns.get("/ui/tokens").text
    with service.client(secret) as program, service.client(ann.token) as client:
        ok(program.get("/api/jobs"))
        assert program.post("/api/jobs/cancel", json={"filter": {"id": [ann.job_id]}}).status_code == 403
        (one,) = [one for one in ok(client.get("/api/tokens"))["results"] if one["label"] == "<b>nightly</b>"]
        assert (one["scopes"], one["site_id"]) == (["jobs:read"], None) and one["expires_at"] is not None
        page = anns.post(f"/ui/tokens/{one['id']}/revoke", data=form)
        assert page.url.path == "/ui/tokens" and "nightly" not in page.text
        assert program.get("/api/jobs").status_code == 401
    with service.client() as admin:
        for event in ("token_made", "token_revoked"):
            row = ok(admin.get("/api/audit", params={"event": event}))["results"][0]
            assert row["actor"] == "ann" and secret not in str(row), event


def test_a_token_that_can_t_be_is_said_in_the_form(ann: Person, anns: httpx2.Client, bobs: httpx2.Client) -> None:
    csrf = fields_of(anns.get("/ui/tokens"))
    for wrong, status in (
        ({"label": "x"}, 422),
        ({"label": "x", "scope-all": "on"}, 422),
        ({"label": "x", "scope-jobs:read": "on", "days": "0"}, 422),
        ({"label": " ", "scope-jobs:read": "on"}, 422),
        ({"label": "x", "scope-jobs:read": "on", "site_id": "999999999"}, 404),
    ):
        page = anns.post("/ui/tokens", data=csrf | wrong)
        assert (page.status_code, 'role="alert"' in page.text, "blsm_" in page.text) == (status, True, False), wrong
    kept = anns.post("/ui/tokens", data=csrf | {"label": "kept", "scope-jobs:write": "on", "days": "0"}).text
    assert 'value="kept"' in kept and re.search(r'name="scope-jobs:write" checked', kept)
    theirs = re.findall(r"/ui/tokens/(\d+)/revoke", anns.get("/ui/tokens").text)
    assert theirs and bobs.post(f"/ui/tokens/{theirs[0]}/revoke", data=fields_of(bobs.get("/ui"))).status_code == 404


def test_output_without_an_agent_says_what_to_do(ann: Person, anns: httpx2.Client) -> None:
    told = json.loads(anns.get(f"/ui/jobs/{ann.job_id}/tail").text)
    assert "balsam site start" in told["error"] and not told["is_missing"]
    assert anns.get(f"/ui/jobs/{ann.job_id}/tail?path=../../etc/passwd").json()["error"]
    assert anns.get(f"/ui/jobs/{ann.job_id}/tail?offset=-1").status_code == 422


def test_headers_of_every_page(anns: httpx2.Client) -> None:
    """T15."""
    for path in (*PAGES, "/ui/nothing", "/ui/jobs/987654321", "/ui/static/style.css"):
        headers = anns.get(path).headers
        assert headers["content-security-policy"] == POLICY or path == "/ui/nothing", path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] in ("same-origin", "no-referrer")
        if "static" not in path:
            assert headers["cache-control"] == "no-store"
    cookies = anns.cookies.jar
    assert all(cookie.has_nonstandard_attr("HttpOnly") for cookie in cookies)
    for path in PAGES:
        page = anns.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:|\sstyle=", page), path


def test_pages_have_nothing_of_others_but_these_files() -> None:
    """Vendored files are those of npm's htmx.org 4.0.1 (0BSD), without the line that names a source map."""
    static = files("balsam.web").joinpath("static")
    assert "Zero-Clause BSD" in static.joinpath("LICENSE.htmx").read_text()
    for name, digest in VENDORED.items():
        assert hashlib.sha256(static.joinpath(name).read_bytes()).hexdigest() == digest

"""The pages in Debian's Chromium: hostile text does nothing (T13), axe finds nothing, a phone can read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.server.world import Person, batch_job_body, make_jobs, make_user, ok
from tests.services import RunningService, running_service

CHROMIUM = shutil.which("chromium") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")]

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{7919*7919}}<a hx-get=/ui hx-trigger=load>"
WATCH = "window.harm = []; document.addEventListener('securitypolicyviolation', e => harm.push(e.violatedDirective))"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("home") / "balsam") as started:
        yield started


@pytest.fixture(scope="module")
def ann(service: RunningService) -> Person:
    """Somebody in whose every field stands something hostile."""
    person = make_user(service, "ann")
    short = EVIL[:60]
    with service.client(person.token) as client:
        site = {
            "name": EVIL[:100],
            "path": f"/{EVIL}",
            "hostname": EVIL,
            "allowed_queues": {short: {"max_nodes": 4, "max_walltime": 600}},
            "allowed_projects": [short],
        }
        person.site_id = ok(client.post("/api/sites", json=site))["site"]["id"]
        app = {"site_id": person.site_id, "name": "app", "command_template": "echo {{ word }}"}
        app |= {"parameters": {"word": {"required": False, "default": EVIL}}}
        person.app_id = ok(client.put("/api/apps", json=app))["id"]
        more: dict[str, Any] = {"tags": {EVIL: EVIL}, "parameters": {"word": EVIL}, "data": {EVIL: [EVIL]}}
        jobs = [{"app_id": person.app_id, "workdir": f"<img src=x onerror=alert({n})>", **more} for n in range(3)]
        person.job_id = ok(client.post("/api/jobs", json={"jobs": jobs}))["ids"][0]
        asked = batch_job_body(person.site_id) | {"queue": short, "project": short}
        person.batch_job_id = ok(client.post("/api/batch-jobs", json=asked))["id"]
        failing = {"filter": {"id": [person.job_id]}, "reason": EVIL}
        ok(client.post("/api/jobs/cancel", json=failing))
    return person


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def let_in(service: RunningService, person: Person, chromium: Browser, **options: Any) -> tuple[Page, list[str]]:
    """A page that has logged in, and the list of what it must not do."""
    with service.client(person.token) as client:
        link = ok(client.post("/api/auth/browser-link"))["path"]
    context = chromium.new_context(**options)
    context.add_init_script(WATCH)
    page, harm = context.new_page(), []
    page.set_default_timeout(30_000)

    def dialog(one: Any) -> None:
        harm.append(f"dialog {one.message}")
        one.dismiss()

    page.on("dialog", dialog)
    page.on("pageerror", lambda error: harm.append(f"error {error}"))
    page.goto(service.url + link)
    page.get_by_role("button", name="Go on as").click()
    page.wait_for_url("**/ui")
    return page, harm


def pages_of(person: Person) -> list[str]:
    jobs = [
        "/ui/jobs",
        f"/ui/jobs?workdir={EVIL}",
        f"/ui/jobs/{person.job_id}",
        f"/ui/jobs/{person.job_id + 1}?file={EVIL}",
    ]
    return [
        "/ui",
        *jobs,
        "/ui/jobs?state=NONSENSE",
        "/ui/allocations",
        "/ui/sites",
        "/ui/tokens",
        f"/ui/login?next={EVIL}",
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_hostile_text_does_nothing_and_every_page_can_be_read(
    service: RunningService, ann: Person, chromium: Browser, scheme: Any, width: int
) -> None:
    page, harm = let_in(service, ann, chromium, color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in pages_of(ann):
        page.goto(service.url + path)
        page.wait_for_function("document.readyState === 'complete'")
        for details in page.locator("details").all():
            details.locator("summary").click()
        assert page.evaluate("harm") == [] and harm == [], path
        assert page.locator("main img, main script, main a[hx-get]").count() == 0, path
        assert "62710561" not in page.locator("main").inner_text(), path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
    page.context.close()


def test_pages_change_by_themselves_and_forms_work(service: RunningService, ann: Person, chromium: Browser) -> None:
    page, harm = let_in(service, ann, chromium)
    counts = page.locator(".counts").first
    with service.client(ann.token) as client:
        (job_id,) = make_jobs(client, ann.app_id)
        expect(counts).to_contain_text("3 PREPROCESSED", timeout=30_000)
        expect(counts).to_contain_text("1 CANCELLED")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        ok(client.post("/api/jobs/cancel", json={"filter": {"id": [job_id]}}))
        expect(counts).to_contain_text("2 CANCELLED", timeout=30_000)
        assert len(asked) <= 2, "one change is one question, or two with the poll that is the safety net"
        ok(client.post("/api/jobs/retry", json={"filter": {"id": [job_id]}}))
        page.goto(f"{service.url}/ui/jobs/{job_id}")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".lead")).to_contain_text("CANCELLED")
        ok(client.post("/api/jobs/retry", json={"filter": {"id": [job_id]}}))
        expect(page.locator(".lead")).to_contain_text("RESTART_READY", timeout=30_000)
        ok(client.post("/api/jobs/delete", json={"filter": {"id": [job_id]}}))
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/ui/login")
    assert harm == []
    page.context.close()

"""An OpenID provider that is gone, late or silent: who is in stays in, and the others let people in as before."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from balsam.server.auth.outbound import TIMEOUT_SEC
from tests.server.test_oidc import begin, poll, to_consent
from tests.server.world import Person, furnish, make_jobs, ok
from tests.services import RunningService, running_service
from tests.testbed.oidc import IS_THERE, Browser, login_file, running_provider
from tests.testbed.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not IS_THERE, reason="there is no Node here")]
AT_ONCE = 12  # more logins than one provider is given connections


@dataclass
class Silent:
    """Takes connections and says nothing, until it is told to break them."""

    listener: socket.socket
    taken: list[socket.socket] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._take)
        self.thread.start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self.listener.accept()[0])
            except OSError:
                return
            if len(self.taken) >= 10:
                self.enough.set()

    def close(self) -> None:
        """A second call does nothing."""
        if self.listener.fileno() == -1:
            return
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)
        for one in self.taken:
            one.close()


@dataclass
class Group:
    """A service with three providers: `lab` is there, `late` was not when the service started, `mute` is silent."""

    service: RunningService
    lab: ExitStack
    late_port: int
    silent: Silent

    @property
    def callback(self) -> str:
        return f"{self.service.url}/login/callback"

    def late(self) -> ExitStack:
        """Start it; to be closed."""
        stack = ExitStack()
        stack.enter_context(running_provider(self.callback, self.late_port))
        return stack

    def log_in(self, name: str, provider: str) -> str:
        """By `balsam login`; the token."""
        begun = begin(self.service)
        with Browser() as browser:
            browser.submit(to_consent(self.service, browser, begun, name, provider), answer="yes")
        return str(ok(poll(self.service, begun))["token"])

    def enter(self, browser: Browser, name: str, provider: str) -> httpx2.Response:
        """Into the pages."""
        page = browser.submit(browser.get(self.service.url + "/ui"), provider=provider)
        return browser.log_in_at_provider(page, name)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    port, late_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        lab = stack.enter_context(ExitStack())
        issuer = lab.enter_context(running_provider(f"{url}/login/callback"))
        silent = Silent(socket.create_server(("127.0.0.1", 0)))
        stack.callback(silent.close)
        issuers = {
            "lab": issuer,
            "late": f"http://127.0.0.1:{late_port}",
            "mute": f"http://127.0.0.1:{silent.listener.getsockname()[1]}",
        }
        providers = [{"name": name, "issuer": where, "allow_anybody": True} for name, where in issuers.items()]
        path = login_file(tmp_path / "login.yml", url, providers)
        options = ["--login-file", str(path), "--port", str(port)]
        service = stack.enter_context(running_service(tmp_path / "balsam", options=options))
        yield Group(service, lab, late_port, silent)


def test_who_is_in_stays_in_when_the_provider_goes(group: Group) -> None:
    """Tokens of people, Sites and programs, sessions of the pages, and the login that had come back before."""
    service = group.service
    person = furnish(service, Person("ann", group.log_in("ann", "lab")))
    with Browser() as browser, Browser() as consenting, service.client(person.token) as ann:
        assert group.enter(browser, "ann", "lab").url.path == "/ui"
        begun = begin(service)
        consent = to_consent(service, consenting, begun, "ann")
        waiting = begin(service)
        group.lab.close()

        assert make_jobs(ann, person.app_id)
        given = ok(ann.post("/api/tokens", json={"label": "script", "scopes": ["jobs:read"]}))["token"]
        for token in (given, person.site_token, person.launcher_token, person.job_token):
            with service.client(token) as program:
                assert ok(program.get("/api/auth/me"))["username"] == "ann"
        assert browser.get(service.url + "/ui/jobs").url.path == "/ui/jobs"
        assert "logged in" in consenting.submit(consent, answer="yes").text
        with service.client(ok(poll(service, begun))["token"]) as program:
            assert ok(program.get("/api/auth/me"))["username"] == "ann"
        with Browser() as late:
            page = late.get(waiting["verification_uri_complete"])
            # The service knows the provider's description for an hour: the browser itself finds nobody there.
            with pytest.raises(httpx2.ConnectError):
                late.submit(page, code=waiting["user_code"], provider="lab")
        assert poll(service, waiting).json()["error"]["code"] == "authorization_pending"

        assert service.stop() == 0
        again = service.restart()  # it starts without any provider
        try:
            assert ok(ann.get("/api/auth/me"))["username"] == "ann"
            assert browser.get(again.url + "/ui/jobs").url.path == "/ui/jobs"
            with Browser() as other:
                refused = other.submit(other.get(again.url + "/ui"), provider="lab")
            assert refused.status_code == 503 and "tokens that exist go on working" in refused.text
        finally:
            assert again.stop() == 0
        assert "Traceback" not in again.log


def test_a_provider_that_comes_late_lets_people_in_without_a_restart(group: Group) -> None:
    begun = begin(group.service)
    with Browser() as browser, Browser() as pages:
        page = browser.get(begun["verification_uri_complete"])
        down = browser.submit(page, code=begun["user_code"], provider="late")
        assert down.status_code == 503 and "Tokens that exist go on working" in down.text
        assert pages.submit(pages.get(group.service.url + "/ui"), provider="late").status_code == 503
        assert group.log_in("ann", "lab")
        with group.late():
            consent = to_consent(group.service, browser, begun, "bob", "late")  # with the code it was refused with
            assert "logged in" in browser.submit(consent, answer="yes").text
            assert ok(poll(group.service, begun))["username"] == "bob"
            assert group.enter(pages, "bob", "late").url.path == "/ui"


@contextmanager
def waiting_for(group: Group, provider: str) -> Iterator[list[int]]:
    """AT_ONCE people who chose a provider that says nothing; the statuses of those who were answered."""
    statuses: list[int] = []

    def choose() -> None:
        with Browser() as browser:
            statuses.append(browser.submit(browser.get(group.service.url + "/ui"), provider=provider).status_code)

    threads = [threading.Thread(target=choose) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        group.silent.close()
        for thread in threads:
            thread.join(60)
    assert statuses == [503] * AT_ONCE


def test_a_silent_provider_takes_nothing_from_another_one(group: Group) -> None:
    assert group.log_in("ann", "lab")  # so that only what is asked for below is measured
    with waiting_for(group, "mute") as answered:
        assert group.silent.enough.wait(30)
        begun = time.monotonic()
        assert group.log_in("bob", "lab")
        with Browser() as browser:
            assert group.enter(browser, "bob", "lab").url.path == "/ui"
        assert time.monotonic() - begun < TIMEOUT_SEC and answered == []

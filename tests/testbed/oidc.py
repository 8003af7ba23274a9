"""A real OpenID provider on loopback (npm's oidc-provider, a certified one), and a browser without a screen for it.

with service_with_providers(directory) as service, Browser() as browser:
    page = browser.log_in_at_provider(browser.submit(browser.get(f"{service.url}/ui"), provider="lab"), "ada")
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
import yaml

from tests.services import RunningService, running_service
from tests.testbed.ports import free_port

DIRECTORY = Path(__file__).parent.parent / "oidc"
CLIENT = {"client_id": "balsam", "client_secret": "not a secret: of the tests"}
IS_THERE = shutil.which("npm") is not None


def install() -> None:
    """The provider's packages, once."""
    if not (DIRECTORY / "node_modules").exists():
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=DIRECTORY, check=True, capture_output=True, timeout=300)


@contextmanager
def running_provider(redirect_uri: str, port: int = 0) -> Iterator[str]:
    """Its issuer. Whoever logs in as NAME is NAME@lab.example, and is asked for no real password."""
    install()
    command = ["node", "provider.mjs", redirect_uri, str(port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    provider: subprocess.Popen[str] = subprocess.Popen(command, cwd=DIRECTORY, text=True, **pipes)
    assert provider.stdin is not None and provider.stdout is not None
    try:
        yield provider.stdout.readline().strip()
    finally:
        provider.stdin.close()
        provider.wait(10)
        provider.stdout.close()


def login_file(path: Path, public_url: str, providers: Sequence[Mapping[str, Any]]) -> Path:
    """A file for `--login-file`."""
    path.touch(0o600)
    path.write_text(yaml.safe_dump({"public_url": public_url, "providers": [CLIENT | one for one in providers]}))
    return path


@contextmanager
def service_with_providers(directory: Path) -> Iterator[RunningService]:
    """A service to which one real provider is known twice, with other rules on who comes in, and one that is down."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running_provider(f"{url}/login/callback") as issuer:
        providers = [
            {"name": "lab", "title": "The <Lab>", "issuer": issuer, "allow_domains": ["lab.example"]},
            {"name": "beam", "issuer": issuer, "allow_groups": ["beamline"]},
            {"name": "gone", "issuer": "http://127.0.0.1:9", "allow_anybody": True},
        ]
        path = login_file(directory / "login.yml", url, providers)
        with running_service(directory / "balsam", options=["--login-file", str(path), "--port", str(port)]) as service:
            yield service


class Browser(httpx2.Client):
    """Cookies, redirects and forms."""

    def __init__(self, **options: Any) -> None:
        super().__init__(timeout=30, follow_redirects=True, trust_env=False, **options)

    def submit(self, page: httpx2.Response, **fields: str) -> httpx2.Response:
        """Send the first form of a page."""
        form = re.search(r"<form[^>]*>", page.text)
        assert form is not None, page.text
        action = re.search(r'action="([^"]*)"', form[0])
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
        target = urljoin(str(page.url), unescape(action[1]) if action else "")
        parts = urlsplit(target)
        return self.post(target, data={**hidden, **fields}, headers={"origin": f"{parts.scheme}://{parts.netloc}"})

    def log_in_at_provider(self, page: httpx2.Response, name: str) -> httpx2.Response:
        page = self.submit(page, login=name, password="any")
        return self.submit(page) if "Authorize" in page.text else page

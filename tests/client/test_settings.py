"""Where the service is and with which token: order of the places, files that are refused, login and logout."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from balsam.api import default_client
from balsam.client import errors
from balsam.client.credentials import log_in, log_out, read_secret_file, write_secret_file
from balsam.client.settings import ClientSettings, normal_url
from balsam.config import ClientSettings as FromConfig
from tests.services import RunningService


def put(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_the_order_of_places(tmp_path: Path) -> None:
    places = {"BALSAM_HOME": str(tmp_path)}
    with pytest.raises(errors.NotConfigured, match=r"balsam up.*balsam login URL"):
        ClientSettings.load(places)
    put(tmp_path / "service.json", json.dumps({"url": "http://127.0.0.1:1", "token": "local"}))
    assert ClientSettings.load(places).token == "local"
    put(tmp_path / "client.yml", "url: https://far.example.org/\ntoken: login\n")
    assert ClientSettings.load(places) == ClientSettings(
        "https://far.example.org", "login", source=tmp_path / "client.yml"
    )
    explicit = put(tmp_path / "other.yml", "url: https://else.example.org\ntoken: explicit\n")
    assert ClientSettings.load({**places, "BALSAM_CLIENT_PATH": str(explicit)}).token == "explicit"
    direct = {"BALSAM_URL": "http://localhost:9", "BALSAM_TOKEN": "direct", "BALSAM_CLIENT_PATH": str(explicit)}
    assert ClientSettings.load({**places, **direct}) == ClientSettings("http://localhost:9", "direct")
    assert FromConfig is ClientSettings


@pytest.mark.parametrize("lonely", ["BALSAM_URL", "BALSAM_TOKEN"])
def test_half_an_environment_is_an_error(lonely: str, tmp_path: Path) -> None:
    with pytest.raises(errors.NotConfigured, match=f"{lonely} is set and"):
        ClientSettings.load({"BALSAM_HOME": str(tmp_path), lonely: "http://localhost"})


def test_a_missing_explicit_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.NotConfigured, match=r"nowhere.yml does not exist"):
        ClientSettings.load({"BALSAM_HOME": str(tmp_path), "BALSAM_CLIENT_PATH": str(tmp_path / "nowhere.yml")})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
@pytest.mark.parametrize("name", ["service.json", "client.yml"])
def test_a_token_file_that_others_can_read_is_refused_with_the_fix(tmp_path: Path, name: str, mode: int) -> None:
    path = put(tmp_path / name, json.dumps({"url": "http://127.0.0.1:1", "token": "secret"}), mode)
    with pytest.raises(errors.CredentialsError, match=f"chmod 600 {path}") as caught:
        ClientSettings.load({"BALSAM_HOME": str(tmp_path)})
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "client.yml", "url: https://x.example.org\ntoken: theirs\n")
    os.chown(path, 12345, -1)
    with pytest.raises(errors.CredentialsError, match="belongs to user 12345"):
        ClientSettings.load({"BALSAM_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("api_root: https://old.example.org\ntoken: x\n", "0.7"),
        ("url: https://x.example.org\n", "no token"),
        ("token: x\n", "no url"),
        ("- a\n", "no mapping"),
        ("a: [", "can't be understood"),
    ],
)
def test_a_broken_file_says_what_to_do(tmp_path: Path, content: str, says: str) -> None:
    put(tmp_path / "client.yml", content)
    with pytest.raises(errors.CredentialsError, match=says):
        ClientSettings.load({"BALSAM_HOME": str(tmp_path)})


def test_files_are_written_whole_and_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = ClientSettings("https://x.example.org", "secret").save_to_file(tmp_path / "deep" / "client.yml")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ClientSettings.load_from_file(path).token == "secret"
    inode = path.stat().st_ino
    write_secret_file(path, "url: https://y.example.org\ntoken: new\n")
    assert path.stat().st_ino != inode
    assert [entry.name for entry in path.parent.iterdir()] == ["client.yml"]
    assert read_secret_file(tmp_path / "no such file") is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "balsam.example.org",
        "ftp://x",
        "http://",
        "https://u:p@x",
        "https://x?y=1",
        "https://x:99999",
        "http://10.0.0.1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(errors.NotConfigured):
        ClientSettings(url, "t")


def test_addresses_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    assert normal_url("https://x.example.org/balsam/ ") == "https://x.example.org/balsam"
    assert normal_url("http://[::1]:8000/api/") == "http://[::1]:8000"
    monkeypatch.setenv("BALSAM_ALLOW_PLAIN_HTTP", "1")
    assert normal_url("http://10.0.0.1:8000") == "http://10.0.0.1:8000"


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(ClientSettings("https://x.example.org", "secret"))


def test_the_local_user_is_logged_in_by_the_services_file(
    own_service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BALSAM_HOME", str(own_service.home))
    client = default_client()
    assert client.who_am_i().kind == "user"
    assert client.version().wire_max >= 1
    assert default_client() is client
    assert ClientSettings.load_from_file().url == own_service.url  # as scripts of Balsam 0.7 begin
    monkeypatch.setenv("BALSAM_HOME", str(own_service.home / "elsewhere"))
    with pytest.raises(errors.NotConfigured):
        default_client()
    with pytest.raises(errors.NotConfigured, match="`balsam up`"):
        ClientSettings.load_from_file()
    client.close()


@pytest.mark.slow
def test_a_client_follows_its_local_service_to_another_port(own_service: RunningService) -> None:
    from balsam.client.client import Client
    from tests.services import start_service

    with Client(ClientSettings.load({"BALSAM_HOME": str(own_service.home)})) as client:
        before = client.url
        client.Site.objects.create(name="here", path="/here")
        own_service.stop()
        again = start_service(own_service.home)
        try:
            assert client.Site.objects.get(name="here").path == "/here"
            assert again.url == client.url != before
        finally:
            again.stop()


def test_login_and_logout(own_service: RunningService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from balsam.client.client import Client

    with Client(ClientSettings(own_service.url, own_service.token)) as admin:
        user = admin.create_user("ann", "correct horse battery")
        assert (user.username, user.is_admin) == ("ann", False)
        with pytest.raises(errors.BalsamError):
            admin.create_user("ann", "correct horse battery")
        with pytest.raises(errors.ValidationFailed, match="username"):
            admin.create_user("", "correct horse battery")
    monkeypatch.setenv("BALSAM_HOME", str(tmp_path / "ann"))
    with pytest.raises(errors.Unauthorized, match="does not accept this name and password"):
        log_in(own_service.url, "ann", "wrong")
    assert not (tmp_path / "ann").exists()
    assert log_in(own_service.url, "ann", "correct horse battery").username == "ann"
    client = default_client()
    assert client.who_am_i().username == "ann"
    assert client.Site.objects.count() == 0
    assert log_out() == own_service.url
    assert log_out() == ""
    with pytest.raises(errors.Unauthorized, match="balsam login"):
        client.who_am_i()
    with pytest.raises(errors.NotConfigured):
        ClientSettings.load()
    client.close()

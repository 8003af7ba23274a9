"""Tokens, passwords, the cache of live tokens, and the files of single-user mode, without a server."""

from __future__ import annotations

import asyncio
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from balsam.server.auth import local, needs, tokens
from balsam.server.auth.cache import TokenCache
from balsam.server.auth.passwords import Passwords
from balsam.server.errors import Forbidden, Unauthenticated
from balsam.server.principal import Principal
from balsam.server.settings import ServerSettings, SettingsError, is_loopback
from balsam.server.usecases.accounts import Authenticated

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_tokens_have_a_kind_and_256_random_bits() -> None:
    minted = {tokens.mint("site") for _ in range(100)}
    assert len(minted) == 100 and all(tokens.is_token(token) for token in minted)
    assert all(len(token.removeprefix("blsm_site_")) == 43 for token in minted)
    with pytest.raises(ValueError, match="kinds are"):
        tokens.mint("root")


@pytest.mark.parametrize("text", ["", "blsm_user_", "blsm_root_" + "a" * 43, "blsm_user_" + "a" * 44, "x" * 10_000])
def test_what_has_not_the_form_of_a_token_is_not_looked_up(text: str) -> None:
    assert not tokens.is_token(text)


@pytest.mark.slow
def test_passwords_are_argon2id_and_an_unknown_account_takes_as_long() -> None:
    async def check() -> None:
        passwords = Passwords()
        stored = await passwords.hash("correct horse")
        assert stored.startswith("$argon2id$") and "correct" not in stored
        assert await passwords.verify(stored, "correct horse")
        assert not await passwords.verify(stored, "wrong horse")
        assert not await passwords.verify(None, "correct horse")
        assert not await passwords.verify("not a hash", "correct horse")
        loop = asyncio.get_running_loop()
        start = loop.time()
        await passwords.verify(stored, "wrong horse")
        known = loop.time() - start
        start = loop.time()
        await passwords.verify(None, "wrong horse")
        assert loop.time() - start > known / 4  # the dummy is hashed too: no answer in microseconds

    asyncio.run(check())


def live(token_id: int, expires_at: datetime | None = None) -> Authenticated:
    return Authenticated(Principal(1, "ann", token_id=token_id), expires_at)


def test_the_cache_looks_up_once_and_again_after_a_revocation() -> None:
    looked_up: list[str] = []

    async def find(token: str) -> Authenticated:
        looked_up.append(token)
        return live(7)

    async def check() -> None:
        cache = TokenCache(find)
        header = "Bearer " + tokens.mint("user")
        for _ in range(3):
            assert (await cache.authenticate(header, NOW)).principal.token_id == 7
        assert len(looked_up) == 1 and cache.take_used() == {7} and cache.take_used() == set()
        cache.forget()
        await cache.authenticate(header, NOW)
        assert len(looked_up) == 2

    asyncio.run(check())


def test_a_token_revoked_while_it_is_looked_up_is_not_kept() -> None:
    looked_up = 0

    async def find(token: str) -> Authenticated:
        nonlocal looked_up
        looked_up += 1
        cache.forget()
        return live(7)

    cache = TokenCache(find)

    async def check() -> None:
        header = "Bearer " + tokens.mint("user")
        await cache.authenticate(header, NOW)
        await cache.authenticate(header, NOW)

    asyncio.run(check())
    assert looked_up == 2


def test_a_cached_token_expires() -> None:
    async def find(token: str) -> Authenticated:
        return live(7, NOW + timedelta(seconds=1))

    async def check() -> None:
        cache = TokenCache(find)
        header = "bearer " + tokens.mint("user")
        await cache.authenticate(header, NOW)
        with pytest.raises(Unauthenticated, match="expired"):
            await cache.authenticate(header, NOW + timedelta(seconds=1))
        for wrong in ("", "Bearer", "Basic abc", "Bearer x y", "Bearer blsm_user_short"):
            with pytest.raises(Unauthenticated):
                await cache.authenticate(wrong, NOW)

    asyncio.run(check())


def test_needs_refuse_other_kinds() -> None:
    site = Principal(1, "ann", kind="site", site_id=3)
    with pytest.raises(Forbidden, match="a person"):
        needs.USER.check(site)
    with pytest.raises(Forbidden, match="not an administrator"):
        needs.ADMIN.check(Principal(1, "ann"))
    needs.SITE.check(site)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = local.private_directory(tmp_path / "a" / "home")
        token = local.local_token(home)
        local.publish(home, local.ServiceFile("http://127.0.0.1:1", token, 1, "/d", "i"))
    finally:
        os.umask(before)
    assert mode(home) == 0o700
    assert [mode(home / name) for name in ("local.token", "service.json")] == [0o600, 0o600]
    assert sorted(path.name for path in home.iterdir()) == ["local.token", "service.json"]
    assert local.local_token(home) == token


def test_wider_files_and_directories_are_refused_with_the_fix(tmp_path: Path) -> None:
    home = local.private_directory(tmp_path / "home")
    local.local_token(home)
    (home / "local.token").chmod(0o640)
    with pytest.raises(SettingsError, match="rm "):
        local.local_token(home)
    home.chmod(0o750)
    with pytest.raises(SettingsError, match="chmod 700"):
        local.private_directory(home)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")
    (tmp_path / "local.token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        local.local_token(tmp_path)


def test_only_the_own_service_file_is_withdrawn(tmp_path: Path) -> None:
    local.publish(local.private_directory(tmp_path / "h"), local.ServiceFile("u", "t", 1, "/d", "mine"))
    local.withdraw(tmp_path / "h", "another")
    assert (tmp_path / "h" / "service.json").exists()
    local.withdraw(tmp_path / "h", "mine")
    local.withdraw(tmp_path / "h", "mine")
    assert not (tmp_path / "h" / "service.json").exists()


def test_plain_http_for_other_machines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--behind-proxy"):
        ServerSettings(host="0.0.0.0").check()
    with pytest.raises(SettingsError, match="together"):
        ServerSettings(tls_cert=tmp_path / "c").check()
    with pytest.raises(SettingsError, match="is not a file"):
        ServerSettings(tls_cert=tmp_path / "c", tls_key=tmp_path / "k").check()
    with pytest.raises(SettingsError, match="not a port"):
        ServerSettings(port=70_000).check()
    ServerSettings(host="0.0.0.0", behind_proxy=True).check()
    assert ServerSettings().is_single_user
    assert not ServerSettings(host="0.0.0.0", behind_proxy=True).is_single_user
    assert not ServerSettings(behind_proxy=True).is_single_user  # the world comes in from loopback then


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))

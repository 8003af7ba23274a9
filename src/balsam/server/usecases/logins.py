"""Logins through a browser: a program waits with a device code (RFC 8628), a person says yes with the user code.

begin -> (a browser takes the user code) claim -> (the provider sent the person back) identify -> decide -> collect. A
browser that wants in itself: leave -> (the provider sent the person back) arrive. The state is in the store, so that
any process of the service may carry on. Codes are kept as SHA-256, live for five minutes and are used once; whoever
approves is the browser that claimed the code.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from balsam.server.errors import Forbidden, NotFound, ServiceError, Unauthenticated
from balsam.server.store.protocol import ReadTx, Tx
from balsam.server.store.records import DeviceLoginRow, IdentityRow, UserRow, micros, moment
from balsam.server.usecases.accounts import add_user, issue_user_token, user_named
from balsam.wire.auth import DeviceLogin, Login

LIFE = timedelta(minutes=5)
INTERVAL_SEC = 2
WAITING, CLAIMED, IDENTIFIED, APPROVED, DENIED = "waiting", "claimed", "identified", "approved", "denied"
INVITED = "invited"  # the other way round: who is logged in lets a browser in
LEFT = "left"  # a browser that wants in itself went to its provider
BROWSER_STATE = "browser-"  # how its state begins: providers send all people back to one address
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._@-]")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a browser brings to a login: its own secret, and what was drawn for its way to the provider."""

    browser: str
    provider: str
    state: str
    nonce: str
    verifier: str


def hashed(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def begin(tx: Tx, device_code: str, user_code: str, client: str, address: str, url: str, now: datetime) -> DeviceLogin:
    """A program asks to be logged in; `url` is the page for the person."""
    tx.put(_new(tx, device_code, user_code, client, address, WAITING, now))
    return DeviceLogin(
        device_code=device_code,
        user_code=user_code,
        verification_uri=url,
        verification_uri_complete=f"{url}?code={user_code}",
        expires_in_sec=int(LIFE.total_seconds()),
        interval_sec=INTERVAL_SEC,
    )


def waiting_login(tx: ReadTx, user_code: str, now: datetime) -> DeviceLoginRow | None:
    """The login of a user code that nobody has taken yet."""
    found = tx.find(DeviceLoginRow, user_code=user_code, status=WAITING)
    return found[0] if found and _lives(found[0], now) else None


def claim(tx: Tx, user_code: str, claim: Claim, now: datetime) -> bool:
    """A browser takes a user code and goes to a provider; False when the code is not good (any more)."""
    row = waiting_login(tx, user_code, now)
    if row is None:
        return False
    tx.put(_claimed(row, claim, CLAIMED))
    return True


def _claimed(row: DeviceLoginRow, claim: Claim, status: str) -> DeviceLoginRow:
    row = replace(row, status=status, provider=claim.provider, nonce=claim.nonce, verifier=claim.verifier)
    return replace(row, browser_hash=hashed(claim.browser), state_hash=hashed(claim.state))


def leave(tx: Tx, claim: Claim, next_page: str, address: str, now: datetime) -> None:
    """A browser goes to a provider to be let in itself; `next_page` is where it was going."""
    unique = f"browser {hashed(claim.state)}"
    tx.put(_claimed(_new(tx, claim.state, unique, next_page, address, LEFT, now), claim, LEFT))


def left(tx: ReadTx, state: str, browser: str, now: datetime) -> DeviceLoginRow:
    """The login for which this browser left. Raises NotFound for any other browser or state."""
    return _gone_to_provider(tx, state, browser, LEFT, now)


def arrive(
    tx: Tx, login_id: int, issuer: str, subject: str, name: str, secret: str, expires_at: datetime, now: datetime
) -> Login:
    """The provider told who is at the browser: its session. Raises NotFound when that was used, Forbidden."""
    row = tx.get(DeviceLoginRow, login_id)
    if row is None or row.status != LEFT:
        raise NotFound
    user = _account(tx, issuer, subject, name, row.provider, now)
    tx.remove(DeviceLoginRow, row.id)
    return issue_user_token(tx, user.id, secret, expires_at, "browser", now)


def claimed_login(tx: ReadTx, state: str, browser: str, now: datetime) -> DeviceLoginRow:
    """The login for which this browser went to its provider. Raises NotFound for any other browser or state."""
    return _gone_to_provider(tx, state, browser, CLAIMED, now)


def _gone_to_provider(tx: ReadTx, state: str, browser: str, status: str, now: datetime) -> DeviceLoginRow:
    for row in tx.find(DeviceLoginRow, state_hash=hashed(state), browser_hash=hashed(browser), status=status):
        if _lives(row, now):
            return row
    raise NotFound


def identify(
    tx: Tx, login_id: int, issuer: str, subject: str, name: str, provider: str, now: datetime
) -> tuple[UserRow, DeviceLoginRow]:
    """The provider told who the person is."""
    row = tx.get(DeviceLoginRow, login_id)
    if row is None or row.status != CLAIMED:  # used once
        raise NotFound
    user = _account(tx, issuer, subject, name, provider, now)
    row = replace(row, status=IDENTIFIED, user_id=user.id, state_hash="", nonce="", verifier="")
    tx.put(row)
    return user, row


def _account(tx: Tx, issuer: str, subject: str, name: str, provider: str, now: datetime) -> UserRow:
    """Of this identity. One that is new gets an account of its own; it takes nobody's."""
    known = tx.find(IdentityRow, issuer=issuer, subject=subject)
    user = tx.get(UserRow, known[0].user_id) if known else None
    if user is None:
        user = add_user(tx, _free_name(tx, name, provider), None, False, now)
        tx.put(IdentityRow(tx.new_id(IdentityRow), issuer, subject, user.id, micros(now)))
    if user.disabled_at is not None:
        raise Forbidden("this account is disabled; ask the administrators of the service")
    return user


def decide(tx: Tx, login_id: int, browser: str, approved: bool, now: datetime) -> DeviceLoginRow:
    """The person says yes or no, in the browser that logged in. Raises NotFound otherwise."""
    row = tx.get(DeviceLoginRow, login_id)
    if row is None or row.status != IDENTIFIED or row.browser_hash != hashed(browser) or not _lives(row, now):
        raise NotFound
    row = replace(row, status=APPROVED if approved else DENIED)
    tx.put(row)
    return row


def collect(tx: Tx, device_code: str, secret: str, expires_at: datetime, now: datetime) -> Login | str:
    """What the waiting program gets: its token, once; or the word of RFC 8628 why not (yet)."""
    found = tx.find(DeviceLoginRow, device_hash=hashed(device_code))
    if not found or not _lives(found[0], now):
        return "expired_token"
    row = found[0]
    if row.status == DENIED:
        tx.remove(DeviceLoginRow, row.id)
        return "access_denied"
    if row.status == APPROVED and row.user_id is not None:
        tx.remove(DeviceLoginRow, row.id)
        return issue_user_token(tx, row.user_id, secret, expires_at, f"login {row.client}"[:100], now)
    early = row.polled_at is not None and now < moment(row.polled_at) + timedelta(seconds=INTERVAL_SEC / 2)
    tx.put(replace(row, polled_at=micros(now)))
    return "slow_down" if early else "authorization_pending"


def _new(tx: Tx, secret: str, user_code: str, client: str, address: str, status: str, now: datetime) -> DeviceLoginRow:
    """A login that begins now, of nobody yet."""
    return DeviceLoginRow(
        id=tx.new_id(DeviceLoginRow),
        device_hash=hashed(secret),
        user_code=user_code,
        client=client,
        address=address,
        created_at=micros(now),
        expires_at=micros(now + LIFE),
        polled_at=None,
        status=status,
        user_id=None,
        browser_hash="",
        provider="",
        state_hash="",
        nonce="",
        verifier="",
    )


def invite(tx: Tx, user_id: int, code: str, address: str, now: datetime) -> datetime:
    """A link with this code lets one browser in, as this account; returns until when. The caller is logged in."""
    unique = f"link {hashed(code)}"  # and nothing that a person could type
    tx.put(replace(_new(tx, code, unique, "browser", address, INVITED, now), user_id=user_id))
    return now + LIFE


def invited(tx: ReadTx, code: str, now: datetime) -> str | None:
    """The name of the account that a link is for, while it is good."""
    row = _invitation(tx, code, now)
    user = None if row is None or row.user_id is None else tx.get(UserRow, row.user_id)
    return None if user is None or user.disabled_at is not None else user.username


def accept(tx: Tx, code: str, secret: str, expires_at: datetime, now: datetime) -> Login:
    """Use a link up. Raises Unauthenticated when it is over."""
    row = _invitation(tx, code, now)
    if row is None or row.user_id is None or invited(tx, code, now) is None:
        raise Unauthenticated("this link is over")
    tx.remove(DeviceLoginRow, row.id)
    return issue_user_token(tx, row.user_id, secret, expires_at, "browser", now)


def _invitation(tx: ReadTx, code: str, now: datetime) -> DeviceLoginRow | None:
    found = tx.find(DeviceLoginRow, device_hash=hashed(code), status=INVITED)
    return found[0] if found and _lives(found[0], now) else None


def refused(word: str) -> ServiceError:
    """An error of the device flow."""
    texts = {
        "authorization_pending": "nobody has said yes yet; ask again",
        "slow_down": f"ask no more than once in {INTERVAL_SEC} s",
        "access_denied": "the login was refused in the browser",
        "expired_token": "this login is over: five minutes have passed, or it was used; begin anew",
    }
    return ServiceError(400, word, texts[word])


def _lives(row: DeviceLoginRow, now: datetime) -> bool:
    # Not one of the future either: a clock that has gone back would make a code live for as long as it went.
    return moment(row.created_at) - LIFE <= now < moment(row.expires_at)


def _free_name(tx: ReadTx, name: str, provider: str) -> str:
    """A name for a new account: what the provider calls the person; with the provider's where that is taken."""
    base = _NOT_IN_NAMES.sub("-", name).lstrip("._@-")[:60] or "user"
    if user_named(tx, base) is None:
        return base
    number = 1
    while user_named(tx, made := f"{base}@{provider}" + (f"-{number}" if number > 1 else "")) is not None:
        number += 1
    return made

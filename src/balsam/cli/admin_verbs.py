"""`balsam admin first`, `users`, `quota`, `disable`, `enable`, `role`, `password`, `prune` and `audit`."""

from typing import TYPE_CHECKING, Any

import click

from balsam.cli.asking import ask
from balsam.cli.output import counted, json_option, plain, print_json
from balsam.cli.password import Password, new_password_options
from balsam.cli.table import print_table

if TYPE_CHECKING:
    from balsam.client.transport import Transport

_LIMITS = ("max_jobs", "quota_bytes", "requests_per_sec")


def _transport() -> "Transport":
    from balsam.api import default_client

    return default_client().transport


@click.command()
@click.argument("url")
@click.option("--code", help="The code in the service's log. [default: is asked for]")
@click.option("-u", "--username", help="Name of the account. [default: is asked for]")
@new_password_options
@json_option
def first(url: str, code: str | None, username: str | None, password: Password, as_json: bool) -> None:
    """Become the administrator of a new service at URL; its log tells the code, which works once."""
    from balsam.client.admin import make_first_user

    code = code or ask("Code", "--code", hide_input=True)
    made = make_first_user(url, code, username or ask("Username", "--username"), password.read())
    if as_json:
        print_json(made)
    else:
        click.echo(f"Created administrator {made.username}; log in with: balsam login {url} --username {made.username}")


@click.command()
@json_option
def users(as_json: bool) -> None:
    """List accounts with what they use and their own limits."""
    from balsam.client.admin import list_users

    found = list_users(_transport())
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    columns = ("ID", "Name", "Admin", "State", "Jobs", "Max Jobs", "Bytes", "Max bytes", "Requests/s")
    rows = [
        (
            *(one.id, one.username, "yes" if one.is_admin else "no", "disabled" if one.disabled_at else "active"),
            *(one.jobs, one.max_jobs, one.used_bytes, one.quota_bytes, one.requests_per_sec),
        )
        for one in found
    ]
    print_table(columns, rows, "There are no accounts.")


class _Limit(click.ParamType[int | None]):
    """A number, or `none`: as for everybody."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "none":
            return None
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither a whole number nor none", param, ctx)
        return int(value)


@click.command()
@click.argument("username")
@click.option("--max-jobs", type=_Limit(), help="Jobs at this person's Sites, ended ones included.")
@click.option("--quota-bytes", type=_Limit(), help="Files on their way.")
@click.option("--requests-per-sec", type=_Limit(), help="Of all tokens of the account together.")
@json_option
@click.pass_context
def quota(ctx: click.Context, /, username: str, as_json: bool, **limits: int | None) -> None:
    """Set what an account may use; `none` takes its own limit away."""
    from balsam.client.admin import change_user

    default = click.core.ParameterSource.DEFAULT
    given = {name: limits[name] for name in _LIMITS if ctx.get_parameter_source(name) is not default}
    if not given:
        raise click.UsageError("say what to set: --max-jobs, --quota-bytes or --requests-per-sec")
    done = change_user(_transport(), username, **given)
    if as_json:
        print_json(done)
    else:
        told = ", ".join(f"{name} {'as for everybody' if value is None else value}" for name, value in given.items())
        click.echo(f"{plain(username)}: {told}.")


@click.command()
@click.argument("username")
@json_option
def disable(username: str, as_json: bool) -> None:
    """Disable an account: all its tokens are refused from the next request on, agents' and launchers' as well.

    Nothing is removed. Work that runs ends when its launchers have been refused for a while; its Jobs run again once
    the account is enabled.
    """
    _switch(username, as_json, disabled=True)


@click.command()
@click.argument("username")
@json_option
def enable(username: str, as_json: bool) -> None:
    """Enable an account that was disabled; its tokens work again."""
    _switch(username, as_json, disabled=False)


def _switch(username: str, as_json: bool, *, disabled: bool) -> None:
    from balsam.client.admin import change_user

    done = change_user(_transport(), username, disabled=disabled)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{plain(username)} is {'disabled' if disabled else 'enabled'}.")


@click.command()
@click.argument("username")
@click.argument("role", type=click.Choice(["admin", "user"]))
@json_option
def role(username: str, role: str, as_json: bool) -> None:
    """Make an account an administrator's (`admin`), or one like the others (`user`).

    The service keeps one administrator at least. Have two: one can give the other one another password.
    """
    from balsam.client.admin import change_user

    done = change_user(_transport(), username, is_admin=role == "admin")
    if as_json:
        print_json(done)
    else:
        click.echo(f"{plain(username)} is {'an administrator' if done.is_admin else 'no administrator'}.")


@click.command()
@click.argument("username")
@new_password_options
@json_option
def password(username: str, password: Password, as_json: bool) -> None:
    """Give an account another password, for who has forgotten it; they change it with `balsam password`.

    Logins of the account and tokens of its programs end; agents and launchers go on. The password is asked for, or
    taken from the environment variable BALSAM_PASSWORD or from --password-stdin.
    """
    from balsam.client.admin import reset_password

    reset_password(_transport(), username, password.read())
    if as_json:
        print_json({"username": username})
    else:
        click.echo(f"{plain(username)} has another password, and is logged out everywhere.")


@click.command()
@click.option("--older-than-days", type=click.IntRange(1), required=True, help="Ended, and unchanged for so long.")
@click.option("--username", help="Of this account only. [default: of all]")
@click.option("--dry-run", is_flag=True, help="Say how many, and remove none.")
@json_option
def prune(older_than_days: int, username: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove Jobs that ended long ago, with their events and results.

    Those stay that somebody needs: a child that has not ended, a client that has not collected a result, a Site that
    has not cleaned up. Files in workdirs are not touched. `balsam server up --keep-jobs-days` does it every hour.
    """
    from balsam.client.admin import prune_jobs

    removed = prune_jobs(_transport(), older_than_days=older_than_days, username=username, dry_run=dry_run)
    if as_json:
        print_json({"removed": removed, "dry_run": dry_run})
    else:
        click.echo(f"{counted(removed, 'Job')} {'would be removed' if dry_run else 'removed'}.")


@click.command()
@click.option("--event", help="Only these, for example login_failed.")
@click.option("--actor", metavar="NAME", help="Only what this account did.")
@click.option("--before", "before_id", type=click.IntRange(1), help="Only rows with smaller ids: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many rows.")
@json_option
def audit(event: str | None, actor: str | None, before_id: int | None, limit: int, as_json: bool) -> None:
    """Who did what to accounts, tokens, Sites, Apps and teams, and from where; newest first."""
    from balsam.client.admin import read_audit

    found = read_audit(_transport(), event=event, actor=actor, before_id=before_id, limit=limit)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    rows = [
        (one.id, one.at, one.event, one.actor or None, one.address or None, one.target, _words(one.detail))
        for one in found
    ]
    print_table(("ID", "At", "Event", "Actor", "Address", "Request", "About"), rows, "Nothing of that kind.")


def _words(detail: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in detail.items() if value is not None)

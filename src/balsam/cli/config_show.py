"""`balsam config show`: settings of this user and of the Site you stand in, each with where it comes from.

Flag goes before BALSAM_* variable, that before the Site's file, that before the user's file, that before the default.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balsam.cli.group import PATIENCE_IS_GIVEN
from balsam.cli.output import json_option, print_json
from balsam.cli.table import print_table

if TYPE_CHECKING:
    from balsam.site.directory import SiteDirectory
    from balsam.site.settings_view import SettingInEffect


@click.command("show")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--set", "only_set", is_flag=True, help="Leave out what has its default.")
@json_option
def show_settings(path: Path | None, only_set: bool, as_json: bool) -> None:
    """Show every setting in effect for you and for the Site in PATH (default: the Site you stand in).

    Each with its value and its origin: a file and line, an environment variable, or the default.
    """
    from balsam.site.directory import find_site
    from balsam.site.settings_view import settings_in_effect

    site = find_site(path)
    found = [*_of_user(site, path)]
    if site is not None:
        found += settings_in_effect(site.settings, os.environ)
    shown = [one for one in found if not (only_set and one.is_default)]
    if as_json:
        print_json([asdict(one) for one in shown])
        return
    print_table(
        ("Setting", "Value", "Origin"), [(one.name, _text(one.value), one.origin) for one in shown], "No setting."
    )
    if site is None:
        click.echo("You stand in no Site; those of a Site: balsam config show PATH", err=True)


def _of_user(site: "SiteDirectory | None", path: Path | None) -> "Iterator[SettingInEffect]":
    from balsam.client.credentials import balsam_home
    from balsam.client.errors import NotConfigured
    from balsam.client.settings import RETRY_FOR_SEC, ClientSettings
    from balsam.site.directory import SITE_PATH_VARIABLE
    from balsam.site.settings_view import DEFAULT, SettingInEffect

    yield SettingInEffect("home", str(balsam_home()), "BALSAM_HOME" if os.environ.get("BALSAM_HOME") else DEFAULT)
    try:
        settings = ClientSettings.load()
    except NotConfigured:
        yield SettingInEffect("service.url", None, DEFAULT)
    else:
        yield SettingInEffect(
            "service.url", settings.url, "BALSAM_URL" if settings.source is None else str(settings.source)
        )
    origin = RETRY_FOR_SEC if click.get_current_context().meta[PATIENCE_IS_GIVEN] else DEFAULT
    yield SettingInEffect("service.retry_for_sec", float(os.environ[RETRY_FOR_SEC]), origin)
    if site is not None:
        named = os.environ.get(SITE_PATH_VARIABLE)
        origin = "PATH" if path is not None else SITE_PATH_VARIABLE if named else "the directory you stand in"
        yield SettingInEffect("site", str(site.root), origin)


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

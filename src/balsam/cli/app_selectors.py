"""Which Apps are meant: by name or id, at the Sites that `--site` means."""

from typing import TYPE_CHECKING

import click

from balsam.cli.selectors import SiteScope, site_scope

if TYPE_CHECKING:
    from balsam.api import App


def apps_of(scope: SiteScope, words: tuple[str, ...] = ()) -> "list[App]":
    """The Apps of these Sites that have one of these names or ids; all when there are no words."""
    from balsam.api import App

    found = list(App.objects.filter(**scope.filter()))
    return [one for one in found if not words or one.name in words or str(one.id) in words]


def named_apps(words: tuple[str, ...], scope: SiteScope) -> "list[App]":
    """As `apps_of`, and every word must stand for one. Raises BadParameter that names what there is."""
    every = apps_of(scope)
    for word in words:
        if not any(word in (one.name, str(one.id)) for one in every):
            known = ", ".join(sorted({str(one.name) for one in every})) or "none"
            raise click.BadParameter(f"there is no App {word!r} here; there are: {known}. Others: --site all")
    return [one for one in every if one.name in words or str(one.id) in words]


def one_app(word: str, site: str | None) -> "App":
    """The one App that is meant. Raises BadParameter when there is none, or one at several Sites."""
    scope = site_scope(site, otherwise="all" if word.isdecimal() else "active")
    found = named_apps((word,), scope)
    if len(found) > 1:
        places = ", ".join(scope.name_of(one.site_id) for one in found)
        raise click.BadParameter(f"App {word!r} exists at several Sites ({places}); say which: --site NAME")
    return found[0]

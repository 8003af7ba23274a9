"""Which Apps are meant: by name or id, at the Sites that `--site` means."""

from typing import TYPE_CHECKING

import click

from balsam.cli.output import counted
from balsam.cli.selectors import SiteScope, site_scope

if TYPE_CHECKING:
    from balsam.api import App


def apps_of(scope: SiteScope) -> "list[App]":
    """The Apps of these Sites."""
    from balsam.api import App

    return list(App.objects.filter(**scope.filter()))


def named_apps(words: tuple[str, ...], scope: SiteScope) -> "list[App]":
    """Those with one of these names or ids. Raises BadParameter for a word that stands for none."""
    every = apps_of(scope)
    for word in missing(words, every):
        raise click.BadParameter(no_such_app(word, every, scope))
    return [one for one in every if one.name in words or str(one.id) in words]


def missing(words: tuple[str, ...], every: "list[App]") -> list[str]:
    """The words that stand for none of these Apps."""
    return [word for word in words if not any(word in (one.name, str(one.id)) for one in every)]


def no_such_app(word: str, every: "list[App]", scope: SiteScope) -> str:
    """That there is none: which Sites were looked at, and the nearest name or all that there are."""
    from balsam.client.values import nearest

    looked_at = [str(site.name) for site in scope.sites if scope.ids is None or site.id in scope.ids]
    place = f" at Site {looked_at[0]}" if len(looked_at) == 1 else f" at {counted(len(looked_at), 'Site')}"
    known = {str(one.name) for one in every}
    others = "" if scope.ids is None else " (other Sites: --site all)"
    return f"there is no App {word!r}{place}{nearest(word, known) if known else ', nor any other'}{others}"


def one_app(word: str, site: str | None) -> "App":
    """The one App that is meant. Raises BadParameter when there is none, or one at several Sites."""
    scope = site_scope(site, otherwise="all" if word.isdecimal() else "active")
    found = named_apps((word,), scope)
    if len(found) > 1:
        places = ", ".join(scope.name_of(one.site_id) for one in found)
        raise click.BadParameter(f"App {word!r} exists at several Sites ({places}); say which: --site NAME")
    return found[0]

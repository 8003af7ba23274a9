"""The Site of a directory, as the service that you are logged in at knows it."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from balsam.api import Site
    from balsam.site.directory import SiteIdentity


def check_login(identity: "SiteIdentity") -> "Site":
    """The service's row of this Site. Raises ClickException when you are logged in at another service.

    The number alone proves nothing: another service may have given it to another Site.
    """
    from balsam.api import Site

    site = Site.objects.get(id=identity.id)
    if site.name != identity.name:
        raise click.ClickException(
            f"the service you are logged in at knows Site {identity.id} as {site.name!r}, and this one is "
            f"{identity.name!r}; log in at its own: balsam login {identity.url}"
        )
    return site

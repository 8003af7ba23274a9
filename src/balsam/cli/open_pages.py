"""`balsam open`: the pages of the service in a browser, already logged in."""

import os
import sys

import click

from balsam.cli.output import json_option, print_json


@click.command("open")
@click.option("--print", "only_print", is_flag=True, help="Print the link only; open it yourself, on whatever machine.")
@json_option
def open_pages(only_print: bool, as_json: bool) -> None:
    """Open the pages of the service in your browser, logged in as you are here.

    The link works once and for five minutes, for whoever has it: send it to nobody.
    """
    from balsam.api import default_client
    from balsam.client.browser import browser_link

    client = default_client()
    link = browser_link(client.transport, client.settings.url)
    if as_json:
        print_json({"url": link})
        return
    click.echo(link)
    if not only_print and (not _has_screen() or click.launch(link) != 0):
        click.echo("No browser could be started here; open the link yourself.", err=True)


def _has_screen() -> bool:
    """Without one, as on a login node, what launches browsers tries a dozen and complains of each."""
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
